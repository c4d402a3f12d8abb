"""The tokenizers of codex-hf: the contract, and what each does of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from codex_hf.bpe import HFBPETokenizer
from codex_hf.byte_level import BYTE_OF
from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_hf.trained import EOS_TOKEN
from codex_hf.unigram import HFUnigramTokenizer
from codex_hf.unigram_training import Lattice, prune
from codex_hf.wordpiece import CONTINUING, HFWordPieceTokenizer
from codex_kernel import (
    BatchDecoder,
    BatchTokenizer,
    InputError,
    OffsetTokenizer,
    SavedTokenizer,
    SpecialTokens,
    TrainedTokenizer,
)
from codex_kernel.testing.source_files import files_changed, read_source, standard_library
from codex_kernel.testing.tokenizer import CORPUS, PROBES, TokenizerContract
from codex_kernel.testing.toys import make_run


def trained(folder: Path, corpus: Any = CORPUS, **options: Any) -> Any:
    """Train a small vocabulary."""
    plugin = HFBPETokenizer(**{"vocab_size": 300, **options})
    return plugin.codex_tokenizer(make_run(folder), corpus, None)


def stored(folder: Path, change: Any = None, *, eos_token: Any = EOS_TOKEN) -> Path:
    """Write a tokenizer folder as a pretrained model has it, after `change` to its tokenizer.json."""
    folder.mkdir(parents=True)
    backend = tokenizers.Tokenizer.from_str(trained(folder.parent).backend.to_str())
    if change is not None:
        change(backend)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": eos_token, "model_max_length": 77})
    )
    return folder


def load(folder: Path, **options: Any) -> Any:
    """Load a tokenizer folder."""
    return HFTokenizer(path=folder, **options).codex_tokenizer(make_run(folder.parent), None, None)


class TestTrainedBPE(TokenizerContract):
    def make(self, folder):
        return HFBPETokenizer(vocab_size=400)


class TestTrainedBPEWithSpecialTokens(TokenizerContract):
    examples = 20

    def make(self, folder):
        return HFBPETokenizer(vocab_size=300, special_tokens=["<pad>", "<|im_end|>"], eos_token="</s>")


class TestTrainedUnigram(TokenizerContract):
    examples = 50

    def make(self, folder):
        return HFUnigramTokenizer(vocab_size=400, pad_token="<|pad|>")


class TestTrainedWordPiece(TokenizerContract):
    examples = 50

    def make(self, folder):
        return HFWordPieceTokenizer(vocab_size=700, special_tokens=["<|fim_prefix|>"])


class TestBPEOfAFile(TokenizerContract):
    examples = 20

    def make(self, folder):
        if not (folder / "stored").exists():
            stored(folder / "stored")
        return HFBPETokenizer(path=Path("stored/tokenizer.json"))


class TestPretrained(TokenizerContract):
    examples = 20

    def make(self, folder):
        if not (folder / "stored").exists():
            stored(folder / "stored")
        return HFTokenizer(path=Path("stored"))


def test_training_gives_the_same_bytes(tmp_path):
    """Two trainings on one corpus write the same file, byte for byte; so does what was loaded from it."""
    for name in ("one", "two", "again"):
        (tmp_path / name).mkdir()
    trained(tmp_path).save(tmp_path / "one")
    trained(tmp_path).save(tmp_path / "two")
    plugin = HFBPETokenizer(vocab_size=300)
    plugin.codex_tokenizer(make_run(tmp_path), None, tmp_path / "one").save(tmp_path / "again")
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("one", "two", "again")]
    assert files[0] == files[1] == files[2]


def test_a_special_token_in_a_document_is_text(tmp_path):
    """A document that spells a special token out has no special id, one by one and in a batch."""
    tokenizer = trained(tmp_path, special_tokens=["<pad>"])
    text = "x = '<|endoftext|>' + '<pad>'"
    assert tokenizer.backend.token_to_id("<pad>") == 1
    for ids in (tokenizer.encode(text), *tokenizer.encode_batch([text, text])):
        assert {0, 1}.isdisjoint(ids)
        assert tokenizer.decode(ids) == text


def test_a_line_break_takes_its_indentation(tmp_path):
    """In code, a new line at the same depth is one token."""
    corpus = ["def f():\n    a = 1\n    b = 2\n    return a\n\n\n" * 50]
    pieces = trained(tmp_path, corpus).backend.encode("    a = 1\n    b = 2").tokens
    assert "Ċ\u0120\u0120\u0120" in pieces


def test_training_takes_long_words_in_parts(tmp_path):
    """The library's training takes the square of a word's length, so it gets parts of a kilobyte; encoding does not."""
    tokenizer = trained(tmp_path, ["a" * 8192])
    assert max(map(len, tokenizer.backend.get_vocab())) == 1024
    assert tokenizer.backend.to_str() == trained(tmp_path, ["a" * 1024] * 8).backend.to_str()
    assert "1024" not in str(tokenizer.backend.pre_tokenizer)


def test_too_small_a_corpus_is_reported(tmp_path):
    """A corpus that yields fewer tokens than asked for is a warning with the real size, never padding."""
    run = make_run(tmp_path)
    tokenizer = HFBPETokenizer(vocab_size=5000).codex_tokenizer(run, ["ab" * 5], None)
    assert tokenizer.vocab_size < 5000
    assert f"yields {tokenizer.vocab_size} tokens, fewer than vocab_size 5000" in run.report.warnings[0]


def test_training_reports_its_activity(tmp_path):
    """Training tells how many documents were read, and when the vocabulary is learned."""
    run = make_run(tmp_path)
    HFBPETokenizer(vocab_size=300).codex_tokenizer(run, CORPUS, None)
    assert ("train tokenizer", 60, 60) in run.report.activities
    assert run.report.activities[-1] == ("learn vocabulary", 1, 1)


@pytest.mark.parametrize("corpus", [None, [], [""]])
def test_nothing_to_train_on_is_an_error(tmp_path, corpus):
    """Without corpus, file and earlier run, and with an empty corpus, the run ends."""
    with pytest.raises(InputError, match=r"nothing to train on|no text to train on"):
        trained(tmp_path, corpus)


def test_a_failing_corpus_fails_the_training(tmp_path):
    """An exception of the dataset in the midst of training is not swallowed."""

    def texts():
        yield "abc"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        trained(tmp_path, texts())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 257, "special_tokens": ["a", "b"]}, "at least 259"),
        ({"vocab_size": 100}, "expected a number >= 257, got 100"),
        ({"special_tokens": ["a", "a"]}, "differ from one another"),
        ({"special_tokens": ["<|endoftext|>"]}, "differ from one another and from eos_token"),
        ({"special_tokens": [""]}, "at least one character"),
    ],
)
def test_impossible_options_are_refused(options, message):
    """Options that no training could satisfy are refused when the manifest is read."""
    with pytest.raises(ValueError, match=message):
        HFBPETokenizer(**options)


def test_a_lossy_file_is_refused_for_training_data(tmp_path):
    """hf-bpe refuses a file whose normaliser loses text, before any of it is trained on."""
    folder = stored(
        tmp_path / "lossy", lambda backend: setattr(backend, "normalizer", normalizers.Lowercase())
    )
    with pytest.raises(InputError, match="the tokenizer loses text"):
        HFBPETokenizer(path=folder / "tokenizer.json").codex_tokenizer(make_run(tmp_path), CORPUS, None)


def test_a_file_that_is_missing_or_broken_is_named(tmp_path):
    """A path to nothing, or to no tokenizer.json, is an error; the preflight finds the first."""
    plugin = HFBPETokenizer(path=Path("none.json"))
    assert plugin.codex_preflight(tmp_path) == [f"tokenizer.path: there is no file {tmp_path / 'none.json'}"]
    with pytest.raises(InputError, match=r"there is no tokenizer file .*none\.json"):
        plugin.codex_tokenizer(make_run(tmp_path), None, None)
    (tmp_path / "none.json").write_text("{}")
    assert plugin.codex_preflight(tmp_path) == []
    with pytest.raises(InputError, match=r"none\.json is not a tokenizer\.json"):
        plugin.codex_tokenizer(make_run(tmp_path), None, None)


def test_a_file_of_another_kind_is_refused(tmp_path):
    """A vocabulary of BPE is no vocabulary of WordPiece, though it could be loaded."""
    file = stored(tmp_path / "source") / "tokenizer.json"
    with pytest.raises(InputError, match="is a vocabulary of BPE, and tokenizer hf-wordpiece is one of Word"):
        HFWordPieceTokenizer(path=file).codex_tokenizer(make_run(tmp_path), None, None)


def test_other_tools_open_what_is_kept(tmp_path):
    """AutoTokenizer opens the saved folder, with the same ids and end of text."""
    tokenizer = trained(tmp_path)
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert opened.eos_token_id == tokenizer.eos_id
    assert opened(PROBES[0], add_special_tokens=False).input_ids == list(tokenizer.encode(PROBES[0]))


def test_the_protocols_are_offered(tmp_path):
    """The tokenizer encodes and decodes batches, knows offsets and special tokens, and can be kept."""
    tokenizer = trained(tmp_path)
    for protocol in (
        BatchTokenizer,
        BatchDecoder,
        OffsetTokenizer,
        SpecialTokens,
        SavedTokenizer,
        TrainedTokenizer,
    ):
        assert isinstance(tokenizer, protocol)


@pytest.mark.parametrize("kind", [HFBPETokenizer, HFUnigramTokenizer, HFWordPieceTokenizer])
def test_training_gives_the_same_bytes_in_another_process(tmp_path, kind):
    """Trainings on one corpus write the same file, byte for byte, whatever seed and threads a process has."""
    size = 800
    program = (
        f"from {kind.__module__} import {kind.__name__} as Kind; from pathlib import Path; import sys\n"
        "from codex_kernel.testing.toys import make_run; from codex_kernel.testing.tokenizer import CORPUS\n"
        f"tokenizer = Kind(vocab_size={size}).codex_tokenizer(make_run(Path(sys.argv[1])), CORPUS, None)\n"
        "print(tokenizer.fingerprint())\n"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", program, tmp_path],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(prints) == 1
    assert len(prints.pop().strip()) == 64


def test_only_what_was_trained_is_trained(tmp_path):
    """`trained` is True for a vocabulary of this corpus, and False for one that was read from a file."""
    tokenizer = trained(tmp_path)
    assert tokenizer.trained
    folder = stored(tmp_path / "stored")
    assert not load(folder).trained
    of_a_file = HFBPETokenizer(path=folder / "tokenizer.json")
    assert not of_a_file.codex_tokenizer(make_run(tmp_path), CORPUS, None).trained
    assert not HFBPETokenizer(vocab_size=300).codex_tokenizer(make_run(tmp_path), CORPUS, folder).trained


def test_offsets_are_characters(tmp_path):
    """Offsets count characters, not bytes; tokens of one emoji or one combining mark share it."""
    text = "é 🙂e\u0301\n  漢"
    ids, spans = trained(tmp_path).encode_with_offsets(text)
    assert len(ids) == len(spans)
    assert sorted(set(spans)) == list(dict.fromkeys(spans))
    covered = {place for start, stop in spans for place in range(start, stop)}
    assert covered == set(range(len(text)))
    assert spans.count((2, 3)) == 4
    assert spans.count((4, 5)) == 2
    assert spans.count((8, 9)) == 3


def test_offsets_are_not_trimmed(tmp_path):
    """A post-processor that takes white space out of offsets is left out of them, and stays in the file."""
    folder = stored(
        tmp_path / "trimming",
        lambda backend: setattr(backend, "post_processor", processors.ByteLevel(trim_offsets=True)),
    )
    tokenizer = load(folder)
    ids, spans = tokenizer.encode_with_offsets("a  b")
    assert "".join("a  b"[start:stop] for start, stop in spans) == "a  b"
    assert list(ids) == list(tokenizer.encode("a  b"))
    assert "trim_offsets" in tokenizer.backend.to_str()


@pytest.mark.parametrize("kind", [HFBPETokenizer, HFUnigramTokenizer, HFWordPieceTokenizer])
def test_special_tokens_are_named(tmp_path, kind):
    """Tokens of fill-in-the-middle and padding have ids, and padding is None unless it is asked for."""
    fim = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
    plugin = kind(vocab_size=600, special_tokens=fim, pad_token="<|pad|>")
    tokenizer = plugin.codex_tokenizer(make_run(tmp_path), CORPUS, None)
    assert list(tokenizer.special_tokens) == [EOS_TOKEN, *fim, "<|pad|>"]
    assert tokenizer.pad_id == tokenizer.special_tokens["<|pad|>"]
    assert kind(vocab_size=600).codex_tokenizer(make_run(tmp_path), CORPUS, None).pad_id is None
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert opened.pad_token_id == tokenizer.pad_id
    assert opened(PROBES[0], add_special_tokens=False).input_ids == list(tokenizer.encode(PROBES[0]))
    assert opened.decode(tokenizer.encode(PROBES[0])) == PROBES[0]


@pytest.mark.parametrize("token", ["def", "a", "Ġreturn"])
def test_a_special_token_that_text_is_made_of_is_refused(tmp_path, token):
    """A special token that would be the id of ordinary text ends the training with an error."""
    corpus = ["def f(a):\n    return a\n" * 30]
    with pytest.raises(InputError, match="the tokenizer loses text") as refused:
        trained(tmp_path, corpus, special_tokens=[token], vocab_size=320)
    assert "<|name|>" in refused.value.remedy


def test_every_byte_continues_a_word_piece(tmp_path):
    """A WordPiece vocabulary has each byte twice, for the beginning of a piece and for its inside."""
    tokenizer = HFWordPieceTokenizer(vocab_size=520).codex_tokenizer(make_run(tmp_path), ["ab"], None)
    vocabulary = tokenizer.backend.get_vocab()
    assert all({byte, CONTINUING + byte} <= set(vocabulary) for byte in BYTE_OF)
    assert not any(CONTINUING in byte for byte in BYTE_OF)
    assert tokenizer.decode(tokenizer.encode("##x ‿y ‿")) == "##x ‿y ‿"


def test_unigram_keeps_what_text_is_made_of(tmp_path):
    """The tokens of a unigram vocabulary are those that write the corpus in few, likeliest first."""
    words = {"abab": 50, "ab": 30, "xyz": 20, "q": 1}
    letters = sorted(BYTE_OF)
    candidates = sorted({*letters, "ab", "abab", "ba", "bab", "xy", "xyz", "yz"})
    tokens = prune(words, candidates, letters, 259, make_run(tmp_path).report)
    assert {token for token, _ in tokens[:3]} == {"abab", "ab", "xyz"}
    assert {token for token, _ in tokens} == {*letters, "abab", "ab", "xyz"}
    assert tokens == sorted(tokens, key=lambda pair: (-pair[1], pair[0]))
    assert sum(math.exp(score) for _, score in tokens) == pytest.approx(1, abs=1e-4)


def test_expected_counts_are_those_of_all_ways(tmp_path):
    """The expected count of a candidate is that over every way to write a word, weighed by its probability."""
    candidates = ["a", "b", "ab", "ba"]
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    lattice = Lattice.of(["aba", "b"], candidates)
    ways = {("a", "b", "a"): 0.4 * 0.3 * 0.4, ("ab", "a"): 0.2 * 0.4, ("a", "ba"): 0.4 * 0.1}
    total = sum(ways.values())
    expected = [5 * sum(way.count(c) * p for way, p in ways.items()) / total for c in candidates]
    expected[1] += 2
    assert lattice.expected_counts(probabilities, np.array([5.0, 2.0])) == pytest.approx(expected)
    assert np.exp(lattice.best_scores(probabilities)) == pytest.approx([max(ways.values()), 0.3])


def replaced(change: Any) -> Any:
    """Return a change of a tokenizer that edits its JSON."""

    def apply(backend):
        content = json.loads(backend.to_str())
        change(content)
        edited = tokenizers.Tokenizer.from_str(json.dumps(content))
        for part in ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder"):
            setattr(backend, part, getattr(edited, part))

    return apply


def swap_merges(content: Any) -> None:
    """Put the last two merges in the other order."""
    merges = content["model"]["merges"]
    merges[-2:] = merges[:-3:-1]


def swap_tokens(content: Any) -> None:
    """Let two tokens change their ids."""
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def test_each_part_decides_the_fingerprint(tmp_path):
    """Vocabulary, merges, normaliser, pre-tokeniser, decoder, special tokens, padding, template: each changes it."""
    parts = {
        "nothing": None,
        "vocabulary": replaced(swap_tokens),
        "merges": replaced(swap_merges),
        "normaliser": lambda backend: setattr(backend, "normalizer", normalizers.NFC()),
        "pre-tokeniser": lambda backend: setattr(
            backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False)
        ),
        "decoder": lambda backend: setattr(
            backend, "decoder", decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
        ),
        "special token": lambda backend: backend.add_special_tokens(["<|more|>"]),
        "post-processor": lambda backend: setattr(backend, "post_processor", processors.ByteLevel()),
    }
    prints = {
        name: load(stored(tmp_path / name / "folder", change), on_loss="warn").fingerprint()
        for name, change in parts.items()
    }
    folder = tmp_path / "nothing" / "folder"
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    prints["template"] = load(folder).fingerprint()
    (folder / "chat_template.jinja").write_text("{{ messages | length }}")
    prints["other template"] = load(folder).fingerprint()
    (folder / "chat_template.jinja").unlink()
    prints["padding"] = load(tmp_path / "special token" / "folder", pad_token="<|more|>").fingerprint()
    assert len(set(prints.values())) == len(prints)
    assert load(folder).fingerprint() == prints["nothing"]


# ── hf ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_vocabulary_is_not_changed(tmp_path):
    """Loading adds no token, and the saved tokenizer.json has the vocabulary that was loaded."""
    folder = stored(tmp_path / "source")
    tokenizer = load(folder)
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    before, after = (json.loads((at / "tokenizer.json").read_text()) for at in (folder, tmp_path / "kept"))
    assert before == after
    assert json.loads((tmp_path / "kept" / "tokenizer_config.json").read_text())["model_max_length"] == 77


def test_truncation_padding_and_template_are_switched_off(tmp_path):
    """Truncation, padding and beginning-of-text tokens stored in the file change neither ids nor fingerprint."""

    def bake(backend):
        backend.enable_truncation(4)
        backend.enable_padding(length=64)
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )

    def template(backend):
        backend.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )

    baked, plain = (
        load(stored(tmp_path / "a" / "baked", bake)),
        load(stored(tmp_path / "b" / "plain", template)),
    )
    assert list(baked.encode(PROBES[0])) == list(plain.encode(PROBES[0]))
    assert [list(ids) for ids in baked.encode_batch(["a", PROBES[0]])] == [
        list(plain.encode("a")),
        list(plain.encode(PROBES[0])),
    ]
    assert baked.fingerprint() == plain.fingerprint()


def test_the_end_of_text_decides_the_digest(tmp_path):
    """Another end-of-text token gives other training data, so another fingerprint."""
    folder = stored(tmp_path / "source", lambda backend: backend.add_special_tokens(["<end>"]))
    assert load(folder).eos_id == 0
    assert load(folder, eos_token="<end>").eos_id == 300
    assert load(folder).fingerprint() != load(folder, eos_token="<end>").fingerprint()


def test_the_end_of_text_may_be_written_as_an_object(tmp_path):
    """tokenizer_config.json may hold the token as an object with its content."""
    assert (
        load(stored(tmp_path / "source", eos_token={"content": "<|endoftext|>", "lstrip": False})).eos_id == 0
    )


def test_a_missing_end_of_text_is_an_error(tmp_path):
    """A tokenizer that names no end of text, or one that it has not, is an error with the way out."""
    folder = stored(tmp_path / "source", eos_token=None)
    with pytest.raises(InputError, match="names no end-of-text token"):
        load(folder)
    with pytest.raises(InputError, match=r"has no token '</s>'.*<\|endoftext\|>"):
        load(folder, eos_token="</s>")
    assert load(folder, eos_token="<|endoftext|>").eos_id == 0


def test_a_lossy_tokenizer_is_refused(tmp_path):
    """A pretrained tokenizer that loses text ends the run, and is used as it is where the manifest allows that."""
    folder = stored(
        tmp_path / "lossy", lambda backend: setattr(backend, "normalizer", normalizers.Lowercase())
    )
    with pytest.raises(InputError, match=r"this tokenizer loses text: .* became") as refused:
        HFTokenizer(path=folder).codex_tokenizer(make_run(tmp_path), CORPUS, None)
    assert "tokenizer.on_loss" in refused.value.remedy
    run = make_run(tmp_path)
    HFTokenizer(path=folder, on_loss="warn").codex_tokenizer(run, CORPUS, None)
    assert "this tokenizer loses text" in run.report.warnings[0]


def test_gaps_in_the_ids_count(tmp_path):
    """vocab_size covers the largest id, even where ids are left out."""
    vocab = {"a": 0, "b": 7, "</s>": 3}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "gaps"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    assert load(folder, eos_token="</s>", on_loss="warn").vocab_size == 8


def test_a_vocabulary_without_tokenizer_json_is_converted(tmp_path):
    """A folder with vocab.json and merges.txt alone is read through transformers, with equal ids."""
    source = trained(tmp_path)
    folder = tmp_path / "slow"
    folder.mkdir()
    source.backend.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})
    )
    tokenizer = load(folder)
    assert tokenizer.eos_id == source.eos_id
    for text in PROBES:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_folder_without_tokenizer_is_an_error(tmp_path):
    """A folder that holds no tokenizer at all, or a damaged configuration, is named."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for options in ({}, {"eos_token": "</s>"}):
        with pytest.raises(InputError, match="no tokenizer in") as caught:
            load(folder, **options)
        assert "\n" not in caught.value.message
        assert "tokenizer.json" in caught.value.remedy
    (folder / "tokenizer_config.json").write_text("[")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not JSON"):
        load(folder)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"vocab.json": b"{", "merges.txt": b"a b"}, "GPT2Tokenizer"),
        ({"vocab.json": b"{}", "merges.txt": b"\xff\xfe"}, "GPT2Tokenizer"),
        ({"tokenizer.model": b"junk"}, "LlamaTokenizer"),
    ],
)
def test_a_damaged_vocabulary_is_an_error_of_one_line(tmp_path, files, kind, capfd):
    """Whatever the parsers raise, and they write nothing of their own."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(InputError, match="no tokenizer in") as caught:
        load(tmp_path, eos_token="</s>")
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("option", [{"vocab_size": 300}, {"min_frequency": 3}, {"special_tokens": ["<pad>"]}])
def test_options_of_training_beside_a_path_are_refused(option):
    """What a loaded vocabulary would leave unread is an error when the manifest is read."""
    with pytest.raises(ValueError, match=f"expected no {next(iter(option))} beside path"):
        HFBPETokenizer(path=Path("tokenizer.json"), **option)


def test_padding_is_what_the_tokenizer_names(tmp_path):
    """The padding token is the one of the configuration, or of the manifest, and never the end of text."""
    more = lambda backend: backend.add_special_tokens(["<|pad|>", "<|fill|>"])  # noqa: E731
    folder = stored(tmp_path / "source", more)
    assert load(folder).pad_id is None
    config = folder / "tokenizer_config.json"
    for named, wanted in (("<|pad|>", 300), ({"content": "<|pad|>"}, 300), (EOS_TOKEN, None), (None, None)):
        config.write_text(json.dumps({"eos_token": EOS_TOKEN, "pad_token": named}))
        assert load(folder).pad_id == wanted
        assert load(folder, pad_token="<|fill|>").pad_id == 301
    with pytest.raises(InputError, match=r"has no token '<none>', which was to fill rows"):
        load(folder, pad_token="<none>")
    for plugin in (HFBPETokenizer, partial(HFTokenizer, path=folder)):
        with pytest.raises(ValueError, match="pad_token: expected another token than eos_token"):
            plugin(pad_token="</s>", eos_token="</s>")


def shared_id(content: Any) -> None:
    """Give a second token an id that is taken."""
    content["model"]["vocab"]["zzz"] = 290


def far_id(content: Any) -> None:
    """Give a token an id far beyond the others."""
    content["model"]["vocab"]["zzz"] = 2**31


def moved_id(content: Any) -> None:
    """Give an added token an id that is not where the vocabulary ends."""
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<|x|>", "id": 290})


def emptied(content: Any) -> None:
    """Take all tokens away."""
    content["model"].update(vocab={}, merges=[])
    content["added_tokens"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shared_id, "two tokens the id 290: '.*' and '.*'"),
        (far_id, "but an id of 2,147,483,648"),
        (moved_id, r"the added token '<\|x\|>' the id 290, but its place is 300"),
        (emptied, "an empty vocabulary"),
    ],
)
def test_a_vocabulary_that_is_wrong_is_refused(tmp_path, change, message):
    """Ids that are shared, far off or not where the library puts them, and no tokens at all, are errors."""
    folder = stored(tmp_path / "source")
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load(folder)


def test_a_damaged_file_never_passes_for_another(tmp_path):
    """A file cut anywhere, of bytes that are none of JSON, or much too large, is an error and nothing else."""
    folder = stored(tmp_path / "source")
    file = folder / "tokenizer.json"
    whole = file.read_bytes()
    for content in (
        b"",
        b"\xff\xfe" * 50,
        b"[" * 100_000,
        *(whole[:end] for end in range(0, len(whole) - 2, 1009)),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer\.json that"):
            load(folder)
    with file.open("wb") as sparse:
        sparse.truncate(1 << 31)
    with pytest.raises(InputError, match="has 2,147,483,648 bytes, expected at most"):
        load(folder)
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match="no tokenizer in"):
        load(folder)


# ── the standard library ──────────────────────────────────────────────────────────────────────────────────────────


KINDS = [HFBPETokenizer, HFUnigramTokenizer, HFWordPieceTokenizer]


def changed_files(folder: Path, kind: Any, files: Any) -> Any:
    """Return the files that a small vocabulary does not give back, some at a time: the library needs much memory."""
    plugin = kind(vocab_size=1000)
    corpus = [read_source(file) for file in standard_library(every=200)]
    tokenizer = plugin.codex_tokenizer(make_run(folder), corpus, None)
    parts = (files[start : start + 100] for start in range(0, len(files), 100))
    return [file for part in parts for file in files_changed(tokenizer, part)]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_standard_library_come_back(tmp_path, kind):
    """Every fiftieth file of Python's standard library comes back, byte for byte."""
    files = standard_library(every=50)
    assert len(files) > 20
    assert changed_files(tmp_path, kind, files) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_standard_library_comes_back(tmp_path, kind):
    """Every file of Python's standard library comes back, byte for byte."""
    files = standard_library()
    assert len(files) > 1000
    assert changed_files(tmp_path, kind, files) == []


def test_a_file_that_changes_is_found(tmp_path):
    """What compares files finds one that does not come back, in UTF-8 and in other bytes."""

    class Lossy:
        vocab_size, eos_id = 0x110000, 0

        def encode(self, text):
            return list(map(ord, text.replace("é", "e")))

        def decode(self, ids):
            return "".join(map(chr, ids))

    for name, content in {"good.py": "x = 1\r\n", "bad.py": "# é\n"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    files = sorted(tmp_path.glob("*.py"))
    assert [file.name for file in files_changed(Lossy(), files)] == ["bad.py", "latin.py"]


def test_a_tokenizer_in_the_manner_of_sentencepiece_is_used_as_it_is(tmp_path):
    """A vocabulary with a mark for spaces and bytes to fall back on, as Llama 2 has, loses nothing and stays."""
    letters = sorted(set("".join(CORPUS)) - {" "})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {t: n for n, t in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    (tmp_path / "llama").mkdir()
    backend.save(str(tmp_path / "llama" / "tokenizer.json"))
    tokenizer = load(tmp_path / "llama", eos_token="</s>")
    assert [tokenizer.decode(tokenizer.encode(text)) for text in CORPUS] == list(CORPUS)
    ids, spans = tokenizer.encode_with_offsets("a b")
    assert list(ids) == list(tokenizer.encode("a b"))
    assert spans[-1] == (2, 3)
