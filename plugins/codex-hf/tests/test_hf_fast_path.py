"""Encoding through tiktoken's core: the same ids as the library's, or not at all."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from codex_hf import fast_path
from codex_hf.byte_level import PIECES, pieces_up_to
from codex_hf.fast_path import FastPath, thread_count
from codex_hf.same_ids import GPT2_PIECES, Characters, Core, UnfitError, check_pattern, proven_core
from codex_kernel import InputError
from codex_kernel.testing.source_files import read_source, standard_library
from codex_kernel.testing.tokenizer import CORPUS, PROBES
from codex_kernel.testing.toys import RecordingReporter

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NO_SPACES = r"\p{L}+|\p{N}+"


@cache
def sources() -> tuple[str, ...]:
    """Return some files of the standard library."""
    return tuple(read_source(file) for file in standard_library(every=90))


@cache
def stored(pattern: str | None = PIECES) -> str:
    """Return a byte-level BPE that cuts by a pattern; None: as ByteLevel itself cuts."""
    backend = tokenizers.Tokenizer(models.BPE())
    if pattern is None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    backend.train_from_iterator([*CORPUS, *sources()[:10], "漢字漢字 naïve naïve"], trainer)
    return backend.to_str()


def library(pattern: str | None = PIECES) -> Any:
    """Return that tokenizer, for plain text."""
    backend = tokenizers.Tokenizer.from_str(stored(pattern))
    backend.encode_special_tokens = True
    return backend


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sample of a thousand characters be enough."""
    monkeypatch.setattr(fast_path, "SAMPLE_CHARACTERS", 1000)


def proven(backend: Any) -> tuple[FastPath, RecordingReporter]:
    """Return a path after its sample was encoded."""
    report = RecordingReporter()
    path = FastPath(backend, report)
    path.encode_batch(CORPUS)
    return path, report


@pytest.mark.parametrize("pattern", [PIECES, LLAMA_3, GPT2_PIECES, None])
def test_the_ids_are_those_of_the_library(pattern):
    """Files of the standard library and probes have the library's ids, for the expressions in use."""
    backend = library(pattern)
    core = proven_core(backend, [])
    for text in (*sources(), *PROBES):
        ids = core.encode(text)
        assert ids is not None
        assert ids.tolist() == backend.encode(text, add_special_tokens=False).ids


@cache
def pair(pattern: str | None) -> tuple[Any, Core]:
    """Return the library's tokenizer and the core that was proven on it."""
    backend = library(pattern)
    return backend, proven_core(backend, [])


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.sampled_from([PIECES, LLAMA_3, None]),
    st.text(
        st.one_of(
            st.sampled_from(" \t\r\n'sSdDlL1²\u017fe\u0301漢🙂=_"),
            st.characters(exclude_categories=["Cs"], max_codepoint=0x4FFF),
        )
    ),
)
def test_any_text_has_the_ids_of_the_library(pattern, text):
    """Any Unicode text has the library's ids, or is left to the library."""
    backend, core = pair(pattern)
    ids = core.encode(text)
    assert ids is None or ids.tolist() == backend.encode(text, add_special_tokens=False).ids


def test_the_path_is_chosen_after_the_sample(small_sample):
    """Once the sample is encoded further texts go through the core, and the run's record says so."""
    path, report = proven(library())
    assert [name for name, _ in report.events] == ["tokenizer_encoder"]
    fields = report.events[0][1]
    assert fields["encoder"] == "tiktoken"
    assert fields["characters"] >= 1000
    batch = path.encode_batch(PROBES)
    assert all(ids.dtype == np.uint32 for ids in batch)
    expected = [
        encoding.ids for encoding in path.backend.encode_batch_fast(list(PROBES), add_special_tokens=False)
    ]
    assert [ids.tolist() for ids in batch] == expected
    assert [path.encode(text) for text in PROBES] == expected
    assert path.by_library == 0


def test_a_large_batch_keeps_its_order(small_sample, monkeypatch):
    """Texts that are shared out over threads come back in their order."""
    monkeypatch.setattr(fast_path, "thread_count", lambda: 3)
    path, _ = proven(library())
    texts = [*sources(), "", *PROBES]
    expected = [encoding.ids for encoding in path.backend.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in path.encode_batch(texts)] == expected


def test_threads_are_those_of_the_process(monkeypatch):
    """The variable that bounds the library's threads bounds these too, and never adds any."""
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    most = thread_count()
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    assert thread_count() == 1
    for value in ("1000", "0", "many"):
        monkeypatch.setenv("RAYON_NUM_THREADS", value)
        assert thread_count() == most


def test_a_run_of_white_space_is_left_to_the_library(small_sample):
    """What tiktoken's engine could not step back over is encoded by the library, and counted in the run's record."""
    path, report = proven(library())
    text = "x" + " " * 300_000 + "y"
    ids = path.encode_batch([text, "a", text, text])
    expected = path.backend.encode(text, add_special_tokens=False).ids
    assert ids[0].tolist() == ids[2].tolist() == expected
    assert path.by_library == 3
    left = [fields["texts"] for name, fields in report.events if name == "tokenizer_encoder_left"]
    assert left == [1, 2]


@pytest.mark.slow
def test_a_file_of_line_breaks_is_one_piece():
    """Ten million line breaks, over which an expression that may step back gives up, are one piece."""
    text = "\n" * 10_100_000
    pieces = pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated").pre_tokenize_str(text)
    assert [span for _, span in pieces] == [(0, len(text))]


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(" \t\r\nx1="))
def test_line_breaks_need_no_way_back(text):
    """The expression cuts as it would if line breaks could be given back one by one."""
    cuts = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated").pre_tokenize_str(text)
        for pattern in (PIECES, PIECES.replace("++", "+"))
    ]
    assert cuts[0] == cuts[1]


@settings(max_examples=200, deadline=None, database=None)
@given(st.text("ab \t\r\n=1é", max_size=60))
def test_pieces_of_bounded_length_are_the_usual_ones_where_those_are_short(text):
    """Whatever is repeated ends after 8 characters; what is shorter is cut as ever, and nothing is lost."""
    usual, bounded = (
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated").pre_tokenize_str(text)
        for pattern in (PIECES, pieces_up_to(8))
    )
    assert "".join(piece for piece, _ in bounded) == text
    assert all(len(piece) <= 16 for piece, _ in bounded)  # line breaks, and blanks behind them
    if all(len(piece) <= 8 for piece, _ in usual):
        assert bounded == usual


def test_a_long_line_takes_the_core(small_sample):
    """A line without any space, as minified files have it, is encoded by the core."""
    path, _ = proven(library())
    text = "function(a){return a+1};" * 20_000
    assert path.encode_batch([text])[0].tolist() == path.backend.encode(text, add_special_tokens=False).ids
    assert path.by_library == 0


def test_what_an_expression_leaves_out_is_left_to_the_library(small_sample):
    """The library keeps text between the matches and tiktoken drops it: such a text is the library's."""
    path, _ = proven(library(NO_SPACES))
    before = path.by_library
    assert path.encode("one") == path.backend.encode("one", add_special_tokens=False).ids
    assert path.by_library == before
    assert path.encode("one two") == path.backend.encode("one two", add_special_tokens=False).ids
    assert path.by_library == before + 1


def test_bytes_without_a_token_are_left_to_the_library(small_sample):
    """A vocabulary that lacks some bytes takes the core, for all texts but those that have such bytes."""
    content = json.loads(stored())["model"]
    kept = {token: number for token, number in content["vocab"].items() if token not in "ñó"}
    assert len(content["vocab"]) - len(kept) == 2
    path, report = proven(changed(vocab={token: number for number, token in enumerate(kept)}))
    assert report.events[0][1]["encoder"] == "tiktoken"
    for text, left in (("def naïve(): 🙂", 0), ("a\U00040000b", 1), ("a", 0)):
        before = path.by_library
        assert path.encode(text) == path.backend.encode(text, add_special_tokens=False).ids
        assert path.by_library - before == left


def test_a_lone_surrogate_is_refused(small_sample):
    """A string that is no Unicode text is an error that says where, before and after the choice."""
    path = FastPath(library())
    for _ in range(2):
        with pytest.raises(InputError, match=r"lone surrogate '\\ud800' at character 1"):
            path.encode_batch(["ab", "a\ud800"])
        path.encode_batch(CORPUS)


def test_engines_that_class_characters_otherwise_are_found():
    """A class with other members in the two engines is found in the blocks of characters that have such."""
    word = Characters([r"\w"])
    assert not word.alike("x²")
    assert word.alike("漢字")
    assert Characters([r"\p{L}", r"\s"]).alike("x² 漢字 🙂\u3000")


@pytest.mark.parametrize(
    "pattern",
    [r"\w+", r"\p{N}{1,3}+", r"a$", r"(?<=a)b", r"[a&&b]", r"[[a]]", r"(?i:ss)", r".+", r"\p{Han}", r"a{,3}"],
)
def test_expressions_that_engines_read_otherwise_are_refused(pattern):
    """An expression is refused where the engines may read it differently."""
    with pytest.raises(UnfitError, match="may read differently"):
        check_pattern(pattern)


def changed(**parts: Any) -> Any:
    """Return the tokenizer with parts of its model replaced."""
    content = json.loads(stored())
    content["model"].update(parts)
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def with_part(name: str, part: Any) -> Any:
    """Return the tokenizer with another part."""
    backend = library()
    setattr(backend, name, part)
    return backend


def swapped() -> Any:
    """Return the tokenizer with two merges in the other order."""
    merges = json.loads(stored())["model"]["merges"]
    return changed(merges=[merges[1], merges[0], *merges[2:]])


def unreachable() -> Any:
    """Return the tokenizer with a token that no merge makes."""
    content = json.loads(stored())["model"]
    return changed(vocab={**content["vocab"], "zqzq": len(content["vocab"])})


def detour() -> Any:
    """Return a vocabulary in which 'abc' is merged of 'a' and 'bc', but its bytes become 'ab' and 'c' first."""
    content = json.loads(stored())["model"]
    tokens = [token for token, number in content["vocab"].items() if number < 257]
    vocab = {token: number for number, token in enumerate([*tokens, "ab", "bc", "abc"])}
    return changed(vocab=vocab, merges=[["a", "b"], ["b", "c"], ["a", "bc"]])


def with_text_token() -> Any:
    """Return the tokenizer with an added token that is found in text."""
    backend = library()
    backend.add_tokens([AddedToken("def ", special=False)])
    return backend


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (lambda: with_part("normalizer", normalizers.NFC()), "normaliser"),
        (lambda: with_part("pre_tokenizer", pre_tokenizers.Whitespace()), "pre-tokeniser is Whitespace"),
        (lambda: with_part("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)), "adds a space"),
        (lambda: changed(dropout=0.1), "BPE with dropout"),
        (lambda: changed(byte_fallback=True), "not plain BPE"),
        (swapped, "not in the order of the ids"),
        (unreachable, "neither bytes nor made by a merge"),
        (detour, "do not make the token 'abc'"),
        (with_text_token, "added tokens that are text"),
        (lambda: tokenizers.Tokenizer(models.Unigram([("a", 0.0)])), "the model is Unigram"),
    ],
)
def test_an_unfit_vocabulary_stays_with_the_library(backend, reason, small_sample):
    """A vocabulary that the core could not do alike is encoded by the library, and the record says why."""
    built = backend()
    with pytest.raises(UnfitError, match=reason):
        proven_core(built, [])
    report = RecordingReporter()
    path = FastPath(built, report)
    text = "a" * 1500
    expected = None if built.model.__class__ is models.BPE and built.model.dropout else path.encode(text)
    path.encode_batch([text])
    assert [fields["encoder"] for _, fields in report.events] == ["tokenizers"]
    assert reason in report.events[0][1]["reason"]
    if expected is not None:
        assert path.encode_batch([text]) == [expected]


def test_other_ids_for_the_sample_are_found():
    """A text of the sample with other ids than the core's keeps the vocabulary with the library."""
    with pytest.raises(UnfitError, match="other ids for a text of the corpus: 'def'"):
        proven_core(library(), [("def", [1, 2, 3])])
