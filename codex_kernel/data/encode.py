"""Texts to token ids, many at a time where the tokenizer can.

One rule: what a tokenizer gives is checked before it is used, and a fault names the document.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from codex_kernel.errors import CodexError, PluginError
from codex_kernel.interfaces import BatchTokenizer, Document, Tokenizer

_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 1 << 21

_PROBE = (
    'def probe(x):\n\treturn f"{x!r:>8}"  # naïve Ünïcode → 漢字 🙂\r\n\n    if x != 0x1F and not None:\n'
)


@frozen(eq=False)
class Encoded:
    """A document as tokens: `ids` (int64) are prompt, text and end-of-text; the first `prompt_tokens` are only read."""

    document: Document
    ids: Any
    prompt_tokens: int


def encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Encode documents in their order; prompt and text each by itself, so that where the text begins is certain.

    Raises PluginError where the tokenizer fails or gives ids that are not in 0 … vocab_size - 1.
    """
    for batch in _batches(documents):
        prompts = _encode_texts([document.prompt for document in batch], batch, tokenizer)
        texts = _encode_texts([document.text for document in batch], batch, tokenizer)
        eos = np.array([tokenizer.eos_id], np.int64)
        for document, prompt, text in zip(batch, prompts, texts, strict=True):
            yield Encoded(document, np.concatenate([prompt, text, eos]), len(prompt))


def default_fingerprint(tokenizer: Tokenizer, description: str) -> str:
    """Return a fingerprint for a tokenizer that has none of its own.

    `description` must hold all that it is made from (plugin, version, options); vocabulary size, end-of-text and the
    ids of a fixed piece of code are added. Raises PluginError where the tokenizer fails on it.
    """
    check_eos(tokenizer)
    digest = hashlib.sha256()
    probe = Document("probe", "probe", _PROBE)
    ids = _checked_ids(_call(tokenizer, _PROBE, probe), probe, tokenizer.vocab_size).tolist()
    for part in (description, tokenizer.vocab_size, tokenizer.eos_id, ids):
        digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def check_eos(tokenizer: Tokenizer) -> None:
    """Raise PluginError where the end-of-text token is not one of the tokenizer's ids."""
    for name in ("vocab_size", "eos_id"):
        value = getattr(tokenizer, name)
        if not isinstance(value, int):
            raise PluginError(f"the tokenizer's {name} is {value!r}, expected an integer")
    if not 0 <= tokenizer.eos_id < tokenizer.vocab_size:
        raise PluginError(
            f"the tokenizer's eos_id is {tokenizer.eos_id}, expected one of its ids, 0 … {tokenizer.vocab_size - 1}"
        )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text) + len(document.prompt)
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_texts(texts: Sequence[str], batch: Sequence[Document], tokenizer: Tokenizer) -> list[Any]:
    """Return an array of ids for each text; an empty text has none and the tokenizer is not asked."""
    places = [place for place, text in enumerate(texts) if text]
    encoded = [np.empty(0, np.int64) for _ in texts]
    if not places:
        return encoded
    if isinstance(tokenizer, BatchTokenizer):
        answers = _call_batch(tokenizer, [texts[place] for place in places], batch)
    else:
        answers = (_call(tokenizer, texts[place], batch[place]) for place in places)
    for place, ids in zip(places, answers, strict=True):
        encoded[place] = _checked_ids(ids, batch[place], tokenizer.vocab_size)
    return encoded


def _call_batch(tokenizer: BatchTokenizer, texts: list[str], batch: Sequence[Document]) -> Iterable[Any]:
    where = f"documents {batch[0].id!r} … {batch[-1].id!r}"
    try:
        answers = tokenizer.encode_batch(texts)
    except CodexError:
        raise
    except Exception as error:
        raise PluginError(f"the tokenizer failed on {where}: {type(error).__name__}: {error}") from error
    if len(answers) != len(texts):
        raise PluginError(f"the tokenizer gave {len(answers)} encodings for {len(texts)} texts, {where}")
    return answers


def _call(tokenizer: Tokenizer, text: str, document: Document) -> Any:
    try:
        return tokenizer.encode(text)
    except CodexError:
        raise
    except Exception as error:
        raise PluginError(
            f"the tokenizer failed on document {document.id!r}: {type(error).__name__}: {error}"
        ) from error


def _checked_ids(ids: Any, document: Document, vocab_size: int) -> Any:
    try:
        array = np.asarray(list(ids) if isinstance(ids, bytes) else ids)
    except (TypeError, ValueError) as error:  # lists of different lengths, arrays of other devices
        raise _not_ids(ids, document) from error
    if array.shape == (0,):
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise _not_ids(ids, document)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= vocab_size:
        raise PluginError(
            f"the tokenizer gave id {low if low < 0 else high} for document {document.id!r}, "
            f"expected ids in 0 … {vocab_size - 1} (its vocab_size is {vocab_size})"
        )
    return array.astype(np.int64)


def _not_ids(ids: Any, document: Document) -> PluginError:
    return PluginError(
        f"the tokenizer gave {reprlib.repr(ids)} for document {document.id!r}, expected a sequence of integers"
    )
