"""Batches over any tokenizer: padding, truncation, and special tokens that a text spells."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer, Utf8Bytes
from codex_kernel.errors import InputError, PluginError
from codex_kernel.testing.source_files import files_changed, standard_library
from codex_kernel.tokens import (
    decode_batch,
    decode_with_specials,
    encode_batch,
    encode_with_offsets,
    encode_with_specials,
    pad,
    truncate,
)

SEQUENCES = st.lists(st.lists(st.integers(1, 999), max_size=9), max_size=6)
SIDES = st.sampled_from(["left", "right"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MARKED = st.lists(TEXT | st.sampled_from(["<a>", "<ab>", "<a", "<|endoftext|>", "é"]), max_size=8).map(
    "".join
)


class Plain:
    """A byte tokenizer that offers nothing but what every tokenizer must."""

    vocab_size = 257
    eos_id = 256

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(token for token in ids if token < 256).decode(errors="replace")


def marked() -> Utf8Bytes:
    """Make a tokenizer with special tokens that begin alike."""
    return BytesTokenizer(special_tokens=("<a>", "<ab>"), pad_token="<pad>").codex_tokenizer()


# ── padding ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(SEQUENCES, st.none() | st.integers(1, 5), SIDES)
def test_padding_adds_to_one_side_and_the_mask_marks_the_tokens(sequences, multiple_of, side):
    """Every row is its sequence with padding on one side, and the mask is True on the sequence alone."""
    padded = pad(sequences, pad_id=0, multiple_of=multiple_of, side=side)
    assert padded.mask_BT.sum() == sum(map(len, sequences))
    for row, mask, ids in zip(padded.ids_BT.tolist(), padded.mask_BT.tolist(), sequences, strict=True):
        filling = [0] * (len(row) - len(ids))
        assert row == (ids + filling if side == "right" else filling + ids)
        assert [token for token, real in zip(row, mask, strict=True) if real] == ids


@given(SEQUENCES, st.integers(9, 20), st.none() | st.integers(1, 5))
def test_rows_have_the_length_that_is_asked_for(sequences, length, multiple_of):
    """A length gives rows of it, or of its next multiple; without one they are as long as the longest."""
    asked = pad(sequences, pad_id=0, length=length, multiple_of=multiple_of).ids_BT.shape
    free = pad(sequences, pad_id=0, multiple_of=multiple_of).ids_BT.shape
    step = multiple_of or 1
    longest = max(map(len, sequences), default=0)
    assert asked[0] == free[0] == len(sequences)
    for width, least in ((asked[1], length), (free[1], longest)):
        assert width % step == 0
        assert least <= width < least + step


def test_arrays_are_int64_and_bool():
    """The ids are int64 and the mask is bool, whatever the sequences were."""
    padded = pad(Utf8Bytes().encode_batch(["ab", "c"]), pad_id=300)
    assert (padded.ids_BT.dtype, padded.mask_BT.dtype) == ("int64", "bool")
    assert padded.ids_BT.tolist() == [[97, 98], [99, 300]]


@pytest.mark.parametrize("sequences", [[[1, 2], [3]], [[1], [2]], []])
def test_padding_needs_a_token_for_it(sequences):
    """Without a padding token it is an error, also where nothing would be filled: never end-of-text, never 0."""
    with pytest.raises(InputError, match="no padding token") as caught:
        pad(sequences, pad_id=None)
    assert "pad_token" in caught.value.remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 2}, "a sequence has 3"),
        ({"length": 0}, "length of 1 or more, got 0"),
        ({"multiple_of": 0}, "multiple_of of 1 or more, got 0"),
    ],
)
def test_padding_cuts_nothing(options, message):
    """A sequence that is too long, and a length that is none, are errors."""
    with pytest.raises(InputError, match=message):
        pad([[1, 2, 3], [4]], pad_id=0, **options)


# ── truncation ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(0, 9)), st.integers(0, 12), SIDES)
def test_truncation_keeps_one_end_and_counts_the_rest(ids, length, side):
    """What is kept is a prefix (or a suffix) of the asked length, and what was dropped is counted."""
    cut = truncate(ids, length, side)
    assert len(cut.ids) == min(len(ids), length)
    assert cut.dropped == len(ids) - len(cut.ids)
    assert cut.ids == (ids[: len(cut.ids)] if side == "right" else ids[len(ids) - len(cut.ids) :])


def test_a_negative_length_is_refused():
    """It would count from the other end, as Python's slices do."""
    with pytest.raises(InputError, match="length of 0 or more, got -1"):
        truncate([1, 2], -1)


# ── special tokens ────────────────────────────────────────────────────────────────────────────────────────────────


@given(MARKED)
def test_what_is_spelt_comes_back(text):
    """Special tokens that a text spells are ids, of those that begin alike the longest, and decode to the text."""
    tokenizer = marked()
    ids = encode_with_specials(tokenizer, text)
    assert decode_with_specials(tokenizer, ids) == text
    assert ids.count(tokenizer.special_tokens["<ab>"]) == text.count("<ab>")
    assert ids.count(tokenizer.special_tokens["<a>"]) == text.count("<a>")
    assert tokenizer.decode(ids) == re.sub(r"<ab>|<a>|<pad>|<\|endoftext\|>", "", text)


@given(MARKED, st.booleans())
def test_offsets_are_those_of_the_text(text, specials):
    """Ids with offsets are the same ids, and the spans lie where the tokens are in the whole text."""
    tokenizer = marked()
    ids, spans = encode_with_offsets(tokenizer, text, specials=specials)
    assert ids == (encode_with_specials(tokenizer, text) if specials else tokenizer.encode(text))
    for token, (start, end) in zip(ids, spans, strict=True):
        if token in tokenizer.special_tokens.values():
            assert tokenizer.special_tokens[text[start:end]] == token
        else:
            assert token in text[start:end].encode()


def test_a_tokenizer_without_names_for_its_tokens_says_so():
    """Special tokens and offsets cannot be made up."""
    with pytest.raises(InputError, match="what its special tokens are called"):
        encode_with_specials(Plain(), "a")
    with pytest.raises(InputError, match="where its tokens lie"):
        encode_with_offsets(Plain(), "a")


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(TEXT, max_size=5))
def test_every_tokenizer_does_batches(texts):
    """A tokenizer with a batch of its own and one without give the same."""
    plain, fast = encode_batch(Plain(), texts), encode_batch(Utf8Bytes(), texts)
    assert [list(ids) for ids in plain] == [list(ids) for ids in fast]
    assert decode_batch(Plain(), plain) == decode_batch(Utf8Bytes(), fast) == texts


def test_the_standard_library_comes_back_from_its_bytes():
    """Every file of Python's library comes back, byte for byte."""
    files = standard_library()
    assert len(files) > 1000
    assert files_changed(Utf8Bytes(), files) == []


def test_a_batch_that_loses_texts_is_an_error():
    """As many answers as questions, or the plugin is to blame."""

    class Losing(Utf8Bytes):
        def encode_batch(self, texts):
            return super().encode_batch(texts[1:])

        def decode_batch(self, sequences):
            return super().decode_batch(sequences)[1:]

    with pytest.raises(PluginError, match="gave 1 encodings for 2 texts"):
        encode_batch(Losing(), ["a", "b"])
    with pytest.raises(PluginError, match="gave 1 texts for 2 sequences"):
        decode_batch(Losing(), [[1], [2]])
