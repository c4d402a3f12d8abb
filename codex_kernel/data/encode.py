"""Documents to token ids, many at a time where the tokenizer can.

One rule: what a tokenizer gives is checked before it is used, and a fault names the document.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from attrs import define, field, frozen

from codex_kernel.data import fim
from codex_kernel.data.fim import Cut, FimTokens
from codex_kernel.data.options import DataOptions
from codex_kernel.errors import CodexError, ConversationError, InputError, PluginError, in_words
from codex_kernel.interfaces import BatchTokenizer, ChatIds, ChatTokenizer, Document, Tokenizer

_BATCH_DOCUMENTS = 512
_BATCH_CHARACTERS = 1 << 21

_PROBE = (
    'def probe(x):\n\treturn f"{x!r:>8}"  # naïve Ünïcode → 漢字 🙂\r\n\n    if x != 0x1F and not None:\n'
)


@frozen(eq=False)
class Encoded:
    """A document as tokens: `ids` (int64), end-of-text or end-of-turn included; `read` (bool) marks those only read.

    `read` None: all are trained. `text_bytes` counts the UTF-8 bytes that the trained ids stand for; `rearranged` says
    that the document was cut for fill-in-the-middle.
    """

    document: Document
    ids: Any
    read: Any
    text_bytes: int
    rearranged: bool = False


@define(eq=False)
class Encoder:
    """A tokenizer at work on the documents of a run."""

    tokenizer: Tokenizer
    options: DataOptions
    seed: int
    _fim: FimTokens | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        check_eos(self.tokenizer)
        if self.options.fim is not None:
            self._fim = fim.tokens_of(self.tokenizer, self.options.fim)

    def encode(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        """Encode documents in their order.

        Prompt and text, and the parts of a document that is rearranged, are encoded each by itself, so that where one
        ends is certain; a conversation is encoded by the tokenizer's chat template. Raises PluginError where the
        tokenizer fails or gives ids that are not in 0 … vocab_size - 1, InputError where it has no chat template.
        """
        for batch in _batches(documents):
            cuts = [self._cut(document) for document in batch]
            chats = iter(self._chats([document for document in batch if document.messages]))
            parts = [_parts(document, cut) for document, cut in zip(batch, cuts, strict=True)]
            owners = [document for document, texts in zip(batch, parts, strict=True) for _ in texts]
            ids = iter(_encode_texts(list(chain.from_iterable(parts)), owners, self.tokenizer))
            for document, cut in zip(batch, cuts, strict=True):
                if document.messages:
                    yield self._conversation(document, next(chats))
                elif cut is not None:
                    yield self._rearranged(document, cut, [next(ids) for _ in range(3)])
                else:
                    yield self._plain(document, next(ids), next(ids))

    def _cut(self, document: Document) -> Cut | None:
        return None if self.options.fim is None else fim.cut(document, self.options.fim, self.seed)

    def _plain(self, document: Document, prompt: Any, text: Any) -> Encoded:
        ids = np.concatenate([prompt, text, [self.tokenizer.eos_id]])
        read = None
        if len(prompt) and self.options.loss_on == "targets":
            read = np.arange(len(ids)) < len(prompt)
        trained = document.text if read is not None else document.prompt + document.text
        return Encoded(document, ids, read, len(trained.encode()))

    def _rearranged(self, document: Document, cut: Cut, parts: Sequence[Any]) -> Encoded:
        prefix, middle, suffix = parts
        tokens = self._fim
        assert tokens is not None  # noqa: S101 - there is no cut without them
        if cut.suffix_first:
            order = [[tokens.prefix, tokens.suffix], suffix, [tokens.middle], prefix, middle]
        else:
            order = [[tokens.prefix], prefix, [tokens.suffix], suffix, [tokens.middle], middle]
        ids = np.concatenate([*order, [self.tokenizer.eos_id]]).astype(np.int64)
        return Encoded(document, ids, None, len(document.text.encode()), rearranged=True)

    def _conversation(self, document: Document, chat: object) -> Encoded:
        size: Any = getattr(chat, "text_bytes", None)
        if not isinstance(chat, ChatIds) or not isinstance(size, int) or size < 0:
            raise PluginError(
                f"the tokenizer gave {reprlib.repr(chat)} for the conversation {document.id!r}, expected a "
                "codex_kernel.ChatIds with a whole number of bytes"
            )
        ids = _checked_ids(chat.ids, document, self.tokenizer.vocab_size)
        trained = np.asarray(chat.trained, bool)
        if trained.shape != ids.shape:
            raise PluginError(
                f"the tokenizer gave {len(ids)} ids and {trained.size} marks for the conversation {document.id!r}"
            )
        if self.options.loss_on == "all":
            return Encoded(document, ids, None, sum(len(turn.content.encode()) for turn in document.messages))
        return Encoded(document, ids, ~trained, chat.text_bytes)

    def _chats(self, documents: Sequence[Document]) -> Sequence[ChatIds]:
        """Encode conversations; where that fails, find out which one it is."""
        if not documents:
            return []
        if not isinstance(self.tokenizer, ChatTokenizer):
            raise InputError(
                f"document {documents[0].id!r} is a conversation, and this tokenizer has no chat template",
                remedy="choose a tokenizer that has one (hf) or is given one (chat_template of hf-bpe), or give prompt "
                "and completion instead of messages",
            )
        try:
            chats = list(self.tokenizer.encode_chats([document.messages for document in documents]))
        except ConversationError as error:
            _blame(error, documents[error.index])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about one of these
            if len(documents) > 1:
                half = len(documents) // 2
                return [*self._chats(documents[:half]), *self._chats(documents[half:])]
            _blame(error, documents[0])
        if len(chats) != len(documents):
            raise PluginError(f"the tokenizer gave {len(chats)} encodings for {len(documents)} conversations")
        return chats


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


def _parts(document: Document, cut: Cut | None) -> tuple[str, ...]:
    """Return the texts of a document that are encoded each by itself."""
    if document.messages:
        return ()
    return (document.prompt, document.text) if cut is None else (cut.prefix, cut.middle, cut.suffix)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text) + len(document.prompt)
        characters += sum(len(turn.content) for turn in document.messages)
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_texts(texts: Sequence[str], owners: Sequence[Document], tokenizer: Tokenizer) -> list[Any]:
    """Return an array of ids for each text; an empty text has none and the tokenizer is not asked."""
    places = [place for place, text in enumerate(texts) if text]
    encoded = [np.empty(0, np.int64) for _ in texts]
    if not places:
        return encoded
    if isinstance(tokenizer, BatchTokenizer):
        answers = _call_batch(tokenizer, [texts[place] for place in places], owners)
    else:
        answers = (_call(tokenizer, texts[place], owners[place]) for place in places)
    for place, ids in zip(places, answers, strict=True):
        encoded[place] = _checked_ids(ids, owners[place], tokenizer.vocab_size)
    return encoded


def _call_batch(tokenizer: BatchTokenizer, texts: list[str], owners: Sequence[Document]) -> Iterable[Any]:
    where = f"documents {owners[0].id!r} … {owners[-1].id!r}"
    try:
        answers = list(tokenizer.encode_batch(texts))
    except CodexError:
        raise
    except Exception as error:
        raise PluginError(f"the tokenizer failed on {where}: {in_words(error)}") from error
    if len(answers) != len(texts):
        raise PluginError(f"the tokenizer gave {len(answers)} encodings for {len(texts)} texts, {where}")
    return answers


def _call(tokenizer: Tokenizer, text: str, document: Document) -> Any:
    try:
        return tokenizer.encode(text)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is about this document
        _blame(error, document)


def _blame(error: Exception, document: Document) -> NoReturn:
    """Raise an error that names the document which the tokenizer failed on."""
    if isinstance(error, InputError):
        raise InputError(f"document {document.id!r}: {error.message}", remedy=error.remedy) from error
    if isinstance(error, CodexError):
        raise error
    raise PluginError(f"the tokenizer failed on document {document.id!r}: {in_words(error)}") from error


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
