"""Special tokens of vocabularies that others made: what ends and fills texts is never text itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from codex_hf.byte_level import BYTE_OF
from codex_hf.fast_tokenizer import FastTokenizer
from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_hf.tokenizer_file import load_fast_tokenizer
from codex_kernel import InputError, UnknownToken
from codex_kernel.testing.chat import conversation
from codex_kernel.testing.toys import make_run

EOS, PAD = "</s>", "<pad>"
ECHO = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"


def by_bytes(model: Any) -> Any:
    """Return a tokenizer around a model of bytes."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def vocabulary(*more: str) -> dict[str, int]:
    """Return the bytes and further tokens, numbered."""
    return {token: number for number, token in enumerate([*BYTE_OF, *more])}


def in_the_model() -> Any:
    """Return a tokenizer whose special tokens are in its model's vocabulary, and named nowhere else."""
    return by_bytes(models.BPE(vocabulary(EOS, PAD), []))


def as_text() -> Any:
    """Return a tokenizer whose special tokens were added as words that are found in text."""
    backend = by_bytes(models.BPE(vocabulary(), []))
    backend.add_tokens([AddedToken(EOS, special=False), AddedToken(PAD, special=False, lstrip=True)])
    return backend


def load(folder: Path, backend: Any, **options: Any) -> FastTokenizer:
    """Write a vocabulary and read it."""
    file = folder / "tokenizer.json"
    backend.save(str(file))
    return load_fast_tokenizer(file, EOS, pad_token=PAD, **options)


@pytest.mark.parametrize("make", [in_the_model, as_text])
def test_what_ends_and_fills_texts_is_special(tmp_path, make):
    """However a file has them, the tokens that are named are special: they keep their ids, and no text has them."""
    tokenizer = load(tmp_path, make())
    assert tokenizer.special_tokens == {EOS: 256, PAD: 257}
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (256, 257, 258)
    text = f"a{EOS}b  {PAD}"
    assert {256, 257}.isdisjoint(tokenizer.encode(text))
    assert tokenizer.decode([*tokenizer.encode(text), 256, 257]) == text


@pytest.mark.parametrize("make", [in_the_model, as_text])
def test_conversations_end_with_the_end_of_text(tmp_path, make):
    """What the template writes is the token, and what a message spells is text."""
    tokenizer = load(tmp_path, make())
    tokenizer.chat_template = ECHO
    (chat,) = tokenizer.encode_chats([conversation(f"q{EOS}", "a")])
    assert [token for token in chat.ids if token >= 256] == [256, 256]
    assert tokenizer.decode(chat.ids) == f"q{EOS}a"


@pytest.mark.parametrize("make", [in_the_model, as_text])
def test_what_is_kept_has_the_same_fingerprint(tmp_path, make):
    """The saved tokenizer is the same one, here and for transformers."""
    tokenizer = load(tmp_path, make())
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    again = load_fast_tokenizer(tmp_path / "kept" / "tokenizer.json", EOS, pad_token=PAD)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.special_tokens == tokenizer.special_tokens
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "kept" / "tokenizer.json"), eos_token=EOS, pad_token=PAD
    )
    assert theirs.eos_token_id == 256
    assert theirs("def", add_special_tokens=False).input_ids == list(tokenizer.encode("def"))


def test_merges_left_out_at_random_are_refused(tmp_path):
    """A vocabulary that encodes a text differently each time cannot be resumed, nor kept in a cache."""
    backend = by_bytes(models.BPE(vocabulary("ab", EOS, PAD), [("a", "b")], dropout=0.1))
    with pytest.raises(InputError, match=r"leaves out merges at random \(dropout 0.1\)"):
        load(tmp_path, backend)


@pytest.mark.parametrize(
    ("model", "unknown"),
    [
        (models.BPE(vocabulary("<unk>", EOS, PAD), [], unk_token="<unk>"), 256),
        (models.WordLevel(vocabulary("<unk>", EOS, PAD), unk_token="<unk>"), 256),
        (models.WordPiece(vocabulary(EOS, PAD), unk_token="no such token"), None),
        (models.Unigram([(token, -1.0) for token in vocabulary("<unk>", EOS, PAD)], 256), 256),
        (models.BPE(vocabulary(EOS, PAD), []), None),
    ],
)
def test_the_token_for_what_is_unknown_is_told(tmp_path, model, unknown):
    """Whatever the model calls it, the token of what cannot be spelt is known, or it is known that there is none."""
    tokenizer = load(tmp_path, by_bytes(model))
    assert isinstance(tokenizer, UnknownToken)
    assert tokenizer.unk_id == unknown


@pytest.mark.parametrize("content", ['{"eos_token": "\\ud800"}', "[" * 100_000, "{", '"\xff'])
def test_a_damaged_configuration_is_named(tmp_path, content):
    """A configuration that is no JSON, nested without end, or with half a character, is an error with its file."""
    in_the_model().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not JSON"):
        HFTokenizer(path=tmp_path).codex_tokenizer(make_run(tmp_path), None, None)
