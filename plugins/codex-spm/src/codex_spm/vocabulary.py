"""A SentencePiece model as a tokenizer that loses nothing, and how it is kept on disk.

One rule: text that a model cannot carry is refused with its reason, never changed.

SentencePiece writes a space as U+2581, so it gives back a U+2581 of the text as a space. Here that one character is
spelt in its three UTF-8 bytes, by a detour: it enters as a character that the model has no piece for, which byte
fallback spells in bytes, and those ids are replaced by the bytes of U+2581.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from codex_kernel import CodexError, InputError, StorageError

MODEL_FILE = "tokenizer.model"
RECORD_FILE = "spm.json"
RECORD_SCHEMA = 1
SPACE_MARK = "\u2581"
_PRIVATE_USE = range(0xE000, 0xF900)

PROBES = (
    "",
    " ",
    "\n",
    "def f(x):\n\treturn  x  # two spaces\n\n\n",
    "    indented\r\n\r\tmixed \t\n ",
    "\ufeffbyte order mark",
    "na\u00efve \u00e9 e\u0301 \ufb01 \uff21 \u4e2d\u6587 \U0001f600",  # what Unicode normalisation would change
    "<s>x</s> <unk><pad> <0x41>",
    "nul\0 and \u2581 and \u2585 \ue000",
)


@define(eq=False)
class Vocabulary:
    """A tokenizer over the bytes of a SentencePiece model; made by `open_model`.

    `encode` raises InputError for lone surrogates, which are not text: UTF-8 has no bytes for them.
    """

    model: bytes = field(repr=False)
    eos_id: int
    _processor: Any = field(repr=False)
    _bytes: tuple[int, ...] = field(init=False, repr=False)
    _stand_ins: tuple[str, ...] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Look up the byte pieces, and the characters that can stand for U+2581."""
        self._bytes = tuple(self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self._stand_ins = tuple(
            chr(code)
            for code in _PRIVATE_USE
            if self._processor.piece_to_id(chr(code)) == self._processor.unk_id()
        )

    @property
    def vocab_size(self) -> int:
        """Pieces of the model, bytes and control pieces included."""
        return int(self._processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, on as many threads as there are processors."""
        stand_ins = [self._stand_in(text) if SPACE_MARK in text else None for text in texts]
        carried = [
            text.replace(SPACE_MARK, other or SPACE_MARK)
            for text, other in zip(texts, stand_ins, strict=True)
        ]
        try:
            encoded = self._processor.encode(carried)
        except (RuntimeError, TypeError):
            for text in texts:
                check_unicode(text, "tokenizer spm")
            raise
        return [
            list(ids) if other is None else _replace(ids, self._spelt(other), self._spelt(SPACE_MARK))
            for ids, other in zip(encoded, stand_ins, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; control pieces stand for none, bytes that are no UTF-8 for U+FFFD."""
        return str(self._processor.decode([int(token) for token in ids]))

    def save(self, folder: Path) -> None:
        """Write the model and a record of its digest and end-of-text id."""
        record = {"schema": RECORD_SCHEMA, "sha256": _sha256(self.model), "eos_id": self.eos_id}
        try:
            (folder / MODEL_FILE).write_bytes(self.model)
            (folder / RECORD_FILE).write_text(json.dumps(record) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write the tokenizer to {folder}: {error.strerror}") from error

    def fingerprint(self) -> str:
        """Digest of the model's bytes and of what this class adds to them."""
        added = json.dumps({"schema": RECORD_SCHEMA, "eos_id": self.eos_id}).encode()
        return hashlib.sha256(hashlib.sha256(self.model).digest() + added).hexdigest()

    def _stand_in(self, text: str) -> str:
        """Choose a character that can take the place of U+2581; any that the text has not gives the same ids."""
        for character in self._stand_ins:
            if character not in text:
                return character
        raise InputError(
            "tokenizer spm: a text holds U+2581 and every private-use character from U+E000 to U+F8FF",
            remedy="take U+2581 out of that document, or use a byte-level tokenizer",
        )

    def _spelt(self, character: str) -> list[int]:
        return [self._bytes[byte] for byte in character.encode()]


def open_model(
    model: bytes, *, origin: str, eos_piece: str | None = None, eos_id: int | None = None
) -> Vocabulary:
    """Make a tokenizer of a model's bytes; `origin` says in errors where they are from.

    Without `eos_piece` and `eos_id` the model's own end-of-text piece is taken. Raises InputError where the bytes are
    no model, where the model has no byte fallback or no end of text, or where it changes a probe text.
    """
    import sentencepiece

    sentencepiece.set_min_log_level(2)  # the exceptions say the same as its lines on stderr
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(model) and processor.LoadFromSerializedProto(model)
    except RuntimeError:
        loaded = False
    if not loaded:
        raise InputError(f"{origin}: expected a SentencePiece model, got {len(model)} bytes that are none")
    if any(not processor.is_byte(processor.piece_to_id(f"<0x{byte:02X}>")) for byte in range(256)):
        raise InputError(
            f"{origin}: the model has no byte fallback, so it cannot give back every text",
            remedy="use a model trained with byte_fallback=true, or let codex train one (leave out tokenizer.path)",
        )
    if eos_id is None:
        eos_id = _find_eos(processor, eos_piece, origin)
    vocabulary = Vocabulary(model=model, eos_id=eos_id, processor=processor)
    check_round_trip(vocabulary, PROBES, origin=origin)
    return vocabulary


def load_file(path: Path, *, sha256: str | None = None, eos_piece: str | None = None) -> Vocabulary:
    """Load a `.model` file; raise InputError where it cannot be read, differs from `sha256`, or loses text."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the SentencePiece model: {error.strerror}") from error
    if sha256 is not None and _sha256(model) != sha256.lower():
        raise InputError(f"{path}: expected the digest sha256 {sha256}, got {_sha256(model)}")
    return open_model(model, origin=str(path), eos_piece=eos_piece)


def load_saved(folder: Path) -> Vocabulary:
    """Load what `Vocabulary.save` wrote; raise StorageError where it is damaged."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        model = (folder / MODEL_FILE).read_bytes()
        schema, digest, eos_id = record["schema"], record["sha256"], record["eos_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder}: the saved tokenizer cannot be read: {error}") from error
    if schema != RECORD_SCHEMA:
        raise StorageError(f"{folder / RECORD_FILE}: expected schema {RECORD_SCHEMA}, got {schema!r}")
    if _sha256(model) != digest:
        raise StorageError(
            f"{folder / MODEL_FILE}: damaged: expected the digest sha256 {digest}, got {_sha256(model)}",
            remedy="bring the file back from a copy of the run folder",
        )
    return open_model(model, origin=str(folder / MODEL_FILE), eos_id=eos_id)


def check_round_trip(
    vocabulary: Vocabulary, texts: Iterable[str], *, origin: str, error: type[CodexError] = InputError
) -> None:
    """Raise `error` for the first text that does not come back unchanged."""
    for text in texts:
        back = vocabulary.decode(vocabulary.encode(text))
        if back != text:
            raise error(
                f"{origin}: the tokenizer changes text: expected {text!r} back, got {back!r}",
                remedy="use a model trained with normalization_rule_name=identity and "
                "remove_extra_whitespaces=false, or let codex train one (leave out tokenizer.path)",
            )


def check_unicode(text: str, origin: str) -> None:
    """Raise InputError for a lone surrogate, which no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{origin}: expected Unicode text, got the lone surrogate {text[error.start]!r} at character {error.start}",
            remedy="decode the file as UTF-8, with errors='replace' where it is damaged",
        ) from None


def _find_eos(processor: Any, eos_piece: str | None, origin: str) -> int:
    if eos_piece is None:
        if processor.eos_id() >= 0:
            return int(processor.eos_id())
        raise InputError(
            f"{origin}: the model names no end-of-text piece",
            remedy="name a control piece of it with tokenizer.eos_piece",
        )
    eos_id = int(processor.piece_to_id(eos_piece))
    if not processor.is_control(eos_id):
        raise InputError(
            f"{origin}: expected eos_piece to be a control piece of the model, got {eos_piece!r}"
        )
    return eos_id


def _replace(ids: Sequence[int], old: list[int], new: list[int]) -> list[int]:
    replaced: list[int] = []
    position = 0
    while position < len(ids):
        found = list(ids[position : position + len(old)]) == old
        replaced.extend(new if found else ids[position : position + 1])
        position += len(old) if found else 1
    return replaced


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
