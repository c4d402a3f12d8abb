"""Tokenizers `hf-bpe` and `hf`: the contract, and what each does of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors

from codex_hf.bpe import HFBPETokenizer
from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_hf.trained import EOS_TOKEN
from codex_hf.unigram import HFUnigramTokenizer
from codex_hf.wordpiece import HFWordPieceTokenizer
from codex_kernel import BatchTokenizer, InputError, PluginError, SavedTokenizer
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
    def make(self, folder):
        if not (folder / "stored").exists():
            stored(folder / "stored")
        return HFBPETokenizer(path=Path("stored/tokenizer.json"))


class TestPretrained(TokenizerContract):
    def make(self, folder):
        if not (folder / "stored").exists():
            stored(folder / "stored")
        return HFTokenizer(path=Path("stored"))


def test_both_protocols_are_offered(tmp_path):
    """The tokenizer encodes batches and can be kept."""
    tokenizer = trained(tmp_path)
    assert isinstance(tokenizer, BatchTokenizer)
    assert isinstance(tokenizer, SavedTokenizer)


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


def test_too_small_a_corpus_is_reported(tmp_path):
    """A corpus that yields fewer tokens than asked for is a warning with the real size, never padding."""
    run = make_run(tmp_path)
    tokenizer = HFBPETokenizer(vocab_size=5000).codex_tokenizer(run, ["ab" * 5], None)
    assert tokenizer.vocab_size < 5000
    assert f"yields {tokenizer.vocab_size} tokens, fewer than vocab_size 5000" in run.report.warnings[0]


def test_training_reports_its_activity(tmp_path):
    """Training tells how many documents were read."""
    run = make_run(tmp_path)
    HFBPETokenizer(vocab_size=300).codex_tokenizer(run, CORPUS, None)
    assert run.report.activities[-1] == ("train tokenizer", 60, 60)


@pytest.mark.parametrize("corpus", [None, [], [""]])
def test_nothing_to_train_on_is_an_error(tmp_path, corpus):
    """Without corpus, file and earlier run, and with an empty corpus, the run ends."""
    with pytest.raises(PluginError, match=r"nothing to train on|no text to train on"):
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
    with pytest.raises(PluginError, match="the tokenizer loses text"):
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


def test_other_tools_open_what_is_kept(tmp_path):
    """AutoTokenizer opens the saved folder, with the same ids and end of text."""
    tokenizer = trained(tmp_path)
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert opened.eos_token_id == tokenizer.eos_id
    assert opened(PROBES[0], add_special_tokens=False).input_ids == list(tokenizer.encode(PROBES[0]))


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
    with pytest.raises(InputError, match="no tokenizer in"):
        load(folder, eos_token="</s>")
    (folder / "tokenizer_config.json").write_text("[")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not JSON"):
        load(folder)


@pytest.mark.parametrize("option", [{"vocab_size": 300}, {"min_frequency": 3}, {"special_tokens": ["<pad>"]}])
def test_options_of_training_beside_a_path_are_refused(option):
    """What a loaded vocabulary would leave unread is an error when the manifest is read."""
    with pytest.raises(ValueError, match=f"expected no {next(iter(option))} beside path"):
        HFBPETokenizer(path=Path("tokenizer.json"), **option)
