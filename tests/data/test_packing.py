import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_builders import EOS, ByteTokens, documents, make_data, slow_blocks

from codex_kernel.data.options import DataOptions
from codex_kernel.data.pack import best_fit, fill
from codex_kernel.errors import InputError, PluginError
from codex_kernel.interfaces import IGNORE_INDEX, Document
from codex_kernel.testing import RecordingReporter

TEXTS = st.lists(st.text(max_size=20), min_size=1, max_size=12)
PROMPTED = st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=10)
LENGTHS = st.integers(1, 16)


def built(pairs, seq_len, **options):
    """Build data of (prompt, text) pairs; return it with the documents that were used."""
    docs = [Document(f"d{n}", f"g{n}", text, prompt) for n, (prompt, text) in enumerate(pairs)]
    used = [document for document in docs if document.text or document.prompt]
    folder = tempfile.TemporaryDirectory()
    data = make_data(docs, Path(folder.name), seq_len=seq_len, duplicates="keep", **options)
    return data, used, folder


def trainable(pairs):
    """Say whether there is anything to train on."""
    return any(text or prompt for prompt, text in pairs)


@settings(deadline=None)
@given(PROMPTED.filter(trainable), LENGTHS)
def test_gather_equals_a_slow_reference(pairs, seq_len):
    """Inputs, targets, positions and document numbers are those of a token-by-token reference, in any order."""
    data, used, folder = built(pairs, seq_len)
    with folder:
        expected = slow_blocks(used, seq_len)
        assert len(data.train) == len(expected)
        ids = np.array([*reversed(range(len(expected))), 0, 0])
        batch = data.train.gather(ids)
        arrays = (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
        for found, rows in zip(arrays, zip(*(expected[n] for n in ids), strict=True), strict=True):
            assert found.dtype == np.int64
            assert found.tolist() == [list(row) for row in rows]
        assert np.array_equal(batch.sample_ids_B, ids)


@settings(deadline=None)
@given(TEXTS.filter(any), LENGTHS)
def test_packing_conserves_tokens(texts, seq_len):
    """Without prompts every token but the first of each document is a target once, and inputs are the stream."""
    data, used, folder = built([("", text) for text in texts], seq_len)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        real = batch.document_ids_BT >= 0
        stream = [token for document in used for token in [*document.text.encode(), EOS]]
        inputs = batch.input_ids_BT[real].tolist()
        assert inputs == stream[: len(inputs)]
        assert len(stream) - len(inputs) <= 1  # the last token may be no more than a target
        targets = batch.targets_BT[batch.targets_BT != IGNORE_INDEX]
        expected = [token for document in used for token in [*document.text.encode(), EOS][1:]]
        assert targets.tolist() == expected
        assert data.train.target_tokens == len(expected)
        facts = data.report["splits"]["train"]
        assert facts["tokens"] == len(stream)
        assert facts["padding_slots"] == int((~real).sum())


@settings(deadline=None)
@given(PROMPTED.filter(trainable), LENGTHS)
def test_targets_never_cross_documents(pairs, seq_len):
    """A document's own end-of-text is the last target in it: nothing is predicted across its border."""
    data, used, folder = built(pairs, seq_len)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        ends = (batch.targets_BT == EOS).sum()
        assert ends == len(used)
        after_end = batch.targets_BT[batch.input_ids_BT == EOS]
        assert (after_end == IGNORE_INDEX).all()


@settings(deadline=None)
@given(PROMPTED.filter(trainable), LENGTHS)
def test_prompts_are_not_trained(pairs, seq_len):
    """The targets are the bytes of the texts, first ones after a prompt included, and each end-of-text."""
    data, used, folder = built(pairs, seq_len)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        expected = [
            token
            for document in used
            for token in [*document.prompt.encode(), *document.text.encode(), EOS][
                max(1, len(document.prompt.encode())) :
            ]
        ]
        assert batch.targets_BT[batch.targets_BT != IGNORE_INDEX].tolist() == expected
        assert data.train.target_tokens == len(expected)


def test_a_document_over_two_blocks_loses_no_target(tmp_path):
    """The last position of a block predicts the first token of the next one, if that is of the same document."""
    data = make_data(documents("abcdefgh"), tmp_path, seq_len=4)
    batch = data.train.gather([0, 1])
    assert batch.targets_BT.tolist() == [list(b"bcde"), [*b"fgh", EOS]]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


@settings(deadline=None)
@given(PROMPTED.filter(trainable), st.integers(2, 16), st.sampled_from(["stream", "whole", "none"]))
def test_the_bytes_of_all_blocks_are_those_of_the_texts(pairs, seq_len, packing):
    """Blocks share the UTF-8 bytes of a document by its targets, and lose none."""
    data, used, folder = built(pairs, seq_len, packing=packing)
    with folder:
        every = np.arange(len(data.train))
        size = sum(len(document.text.encode()) for document in used)
        assert data.train.text_bytes(every) == pytest.approx(size)
        assert data.report["splits"]["train"]["bytes"] == size
        assert sum(data.train.text_bytes([n]) for n in every) == pytest.approx(size)


def test_a_block_has_the_bytes_of_its_targets(tmp_path):
    """Of a document in two blocks each has the share of its targets; a padded block has those of its texts."""
    data = make_data(documents("é" * 6, "ab"), tmp_path)  # 13 and 3 tokens, in blocks of 8
    assert data.train.text_bytes([0]) == pytest.approx(12 * 8 / 12)
    assert data.train.text_bytes([1]) == pytest.approx(12 * 4 / 12 + 2)


def test_large_vocabularies_are_kept_whole(tmp_path):
    """Ids that need more than sixteen bits come back as they are."""

    class Wide(ByteTokens):
        def encode(self, text):
            return [ord(character) for character in text]

    data = make_data(documents("🙂漢a"), tmp_path, tokenizer=Wide(vocab_size=0x110000), seq_len=4)
    assert data.train.gather([0]).input_ids_BT.tolist() == [[0x1F642, 0x6F22, 0x61, EOS]]
    assert data.report["splits"]["train"]["blocks"] == 1


@pytest.mark.parametrize("ids", [[-1], [99], [0, -5]])
def test_a_block_that_is_not_there_is_refused(tmp_path, ids):
    """A number outside of the split is an IndexError, never another block."""
    data = make_data(documents("some text that fills a few blocks"), tmp_path)
    with pytest.raises(IndexError):
        data.train.gather(ids)


# ── whole documents ───────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = st.sampled_from(["whole", "none"])


@settings(deadline=None)
@given(PROMPTED.filter(trainable), st.integers(2, 16), WHOLE)
def test_whole_documents_lose_no_target(pairs, seq_len, packing):
    """Whether packed whole or one to a block, the targets are those of the stream, in another order."""
    data, used, folder = built(pairs, seq_len, packing=packing)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        expected = [
            token
            for document in used
            for token in [*document.prompt.encode(), *document.text.encode(), EOS][
                max(1, len(document.prompt.encode())) :
            ]
        ]
        targets = batch.targets_BT[batch.targets_BT != IGNORE_INDEX]
        assert sorted(targets.tolist()) == sorted(expected)
        assert data.train.target_tokens == len(expected)
        facts = data.report["splits"]["train"]
        assert facts["padding_slots"] == int((batch.document_ids_BT < 0).sum())
        assert facts["tokens"] + facts["padding_slots"] == batch.document_ids_BT.size


@settings(deadline=None)
@given(TEXTS.filter(any), st.integers(24, 90), WHOLE)
def test_whole_documents_are_never_cut(texts, seq_len, packing):
    """A document that fits into a block lies in one, from its first token to its end-of-text, positions from 0."""
    data, used, folder = built([("", text) for text in texts], seq_len, packing=packing)
    with folder:
        batch = data.train.gather(np.arange(len(data.train)))
        found = []
        for ids, documents_T, positions in zip(
            batch.input_ids_BT, batch.document_ids_BT, batch.position_ids_BT, strict=True
        ):
            numbers = [number for number in np.unique(documents_T) if number >= 0]
            assert packing == "whole" or len(numbers) == 1
            assert numbers == list(range(len(numbers)))
            for number in numbers:
                of_one = documents_T == number
                found.append(ids[of_one].tolist())
                assert positions[of_one].tolist() == list(range(of_one.sum()))
        fitting = [
            [*document.text.encode(), EOS] for document in used if len(document.text.encode()) < seq_len
        ]
        assert all(tokens in found for tokens in fitting)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=200))
def test_best_fit_puts_every_piece_into_one_block(lengths):
    """No block is overfull, no piece is left out, and no two blocks could be one."""
    room = 40
    lengths_N = np.array(lengths)
    block_N = best_fit(lengths_N, room)
    filled = np.bincount(block_N, weights=lengths_N)
    assert len(block_N) == len(lengths)
    assert (filled <= room).all()
    assert (filled > 0).all()
    assert len(filled) == 1 or np.sort(filled)[:2].sum() > room
    assert sorted(number for block in fill(lengths_N, room) for number in block) == list(range(len(lengths)))


def test_a_block_of_one_token_takes_no_whole_documents():
    """With packing whole or none a block must hold a token and its target."""
    with pytest.raises(ValueError, match="seq_len: expected at least 2 with packing whole"):
        DataOptions(seq_len=1, packing="whole")


# ── sources ───────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(2, 12),
    st.sampled_from(["stream", "whole", "none"]),
)
def test_a_block_has_one_source(first, second, seq_len, packing):
    """The blocks of a source lie together, and none holds tokens of another one."""
    docs = [Document(f"a{n}", f"a{n}", "a" * size, source="A") for n, size in enumerate(first)]
    docs += [Document(f"b{n}", f"b{n}", "b" * size, source="B") for n, size in enumerate(second)]
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(docs, Path(folder), seq_len=seq_len, packing=packing, duplicates="keep")
        (start_a, blocks_a), (start_b, blocks_b) = data.train.sources["A"], data.train.sources["B"]
        assert (start_a, start_b, start_b + blocks_b) == (0, blocks_a, len(data.train))
        batch = data.train.gather(np.arange(len(data.train)))
        letters = {EOS, ord("a")}, {EOS, ord("b")}
        assert set(batch.input_ids_BT[:blocks_a].ravel().tolist()) <= letters[0]
        assert set(batch.input_ids_BT[blocks_a:].ravel().tolist()) <= letters[1]
        targets = batch.targets_BT[batch.targets_BT != IGNORE_INDEX]
        assert len(targets) == sum(first) + sum(second)


@pytest.mark.parametrize("size", [7, 8, 9])
def test_the_end_of_a_source_makes_no_block_without_targets(tmp_path, size):
    """A last token that is no more than a target takes one place of the next source's first block, not all of it."""
    docs = [Document("a", "a", "a" * size, source="A"), Document("b", "b", "b" * size, source="B")]
    report = RecordingReporter()
    data = make_data(docs, tmp_path, report=report)
    batch = data.train.gather(np.arange(len(data.train)))
    assert (batch.targets_BT != IGNORE_INDEX).any(axis=1).all()
    assert (batch.targets_BT == ord("a")).sum() == (batch.targets_BT == ord("b")).sum() == size - 1
    assert (batch.targets_BT == EOS).sum() == 2
    assert data.train.text_bytes(np.arange(len(data.train))) == 2 * size
    assert report.warnings == []


def test_a_source_that_comes_again_is_refused(tmp_path):
    """A dataset gives the documents of a source one after the other."""
    docs = [Document("1", "1", "x", source="A"), Document("2", "2", "y", source="B")]
    docs.append(Document("3", "3", "z", source="A"))
    with pytest.raises(PluginError, match="documents of source 'A' again"):
        make_data(docs, tmp_path)


# ── documents that are too long ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("on_overflow", "kept"),
    [("truncate_right", b"0123456789abcdef"[:8]), ("truncate_left", [*b"9abcdef", EOS])],
)
def test_a_cut_document_keeps_one_end(tmp_path, on_overflow, kept):
    """Truncation keeps the first or the last seq_len tokens; what is lost is counted, listed and told."""
    report = RecordingReporter()
    data = make_data(documents("0123456789abcdef"), tmp_path, report=report, on_overflow=on_overflow)
    assert data.train.gather([0]).input_ids_BT.tolist() == [list(kept)]
    facts = data.report["splits"]["train"]
    assert (facts["documents"], facts["documents_truncated"], facts["tokens_dropped"]) == (1, 1, 9)
    assert facts["overlong"] == [{"id": "d0", "tokens": 17}]
    assert facts["target_tokens"] == 7
    assert any("9 tokens are lost" in warning for warning in report.warnings)


@settings(deadline=None)
@given(
    st.integers(2, 80),
    st.integers(0, 80),
    st.integers(2, 12),
    st.sampled_from(["stream", "whole"]),
    st.sampled_from(["truncate_left", "truncate_right"]),
)
def test_truncation_is_a_prefix_or_a_suffix(size, prompt, seq_len, packing, on_overflow):
    """Whatever the packing, the document that is left is the beginning or the end of the whole one."""
    texts = Document("d", "d", "".join(chr(33 + n) for n in range(size)), "p" * prompt)
    whole = [*texts.prompt.encode(), *texts.text.encode(), EOS]
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = make_data([texts], Path(folder), seq_len=seq_len, packing=packing, on_overflow=on_overflow)
        except InputError as error:
            assert prompt >= seq_len, error  # noqa: PT017 - only then nothing may be left to train
            assert "nothing is trained in 1 of 1 documents" in error.message  # noqa: PT017
            return
        batch = data.train.gather([0])
        left = batch.input_ids_BT[batch.document_ids_BT >= 0].tolist()
        size = min(seq_len, len(whole))
        assert left == (whole[-size:] if on_overflow == "truncate_left" else whole[:size])
