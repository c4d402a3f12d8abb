"""A SentencePiece model as a tokenizer that loses nothing.

One rule: text that a model cannot carry is refused with its reason, never changed.

SentencePiece writes a space as U+2581, so it gives back a U+2581 of the text as a space. Here that one character is
spelt in its three UTF-8 bytes, by a detour: it enters as a character that the model has no piece for, which byte
fallback spells in bytes, and those ids are replaced by the bytes of U+2581.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from codex_kernel import CodexError, InputError, StorageError

MODEL_FILE = "tokenizer.model"
RECORD_FILE = "spm.json"
RECORD_SCHEMA = 1
SPACE_MARK = "\u2581"
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
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

    `special_tokens` are the model's control pieces. `trained` says that a run's corpus made it, not a file.
    `encode` raises InputError for lone surrogates, which are not text: UTF-8 has no bytes for them.
    """

    model: bytes = field(repr=False)
    eos_id: int
    pad_id: int | None
    _processor: Any = field(repr=False)
    trained: bool = False
    special_tokens: Mapping[str, int] = field(init=False, repr=False)
    _bytes: tuple[int, ...] = field(init=False, repr=False)
    _stand_ins: tuple[str, ...] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Look up the control pieces, the byte pieces, and the characters that can stand for U+2581."""
        pieces = range(self.vocab_size)
        self.special_tokens = {
            self._processor.id_to_piece(token): token for token in pieces if self._processor.is_control(token)
        }
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
        encoded = self._carried(texts, stand_ins, int)
        return [
            list(ids) if other is None else _replace(ids, self._spelt(other), self._spelt(SPACE_MARK))
            for ids, other in zip(encoded, stand_ins, strict=True)
        ]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of the text, and for each the characters [start, end) that it covers.

        The space that some models put before a text covers none.
        """
        stand_in = self._stand_in(text) if SPACE_MARK in text else None  # a character for a character
        (found,) = self._carried([text], [stand_in], "offset_mapping")
        ids, spans = list(found["ids"]), _whole_characters(found["offsets"], found["pieces"])
        return ids if stand_in is None else _replace(
            ids, self._spelt(stand_in), self._spelt(SPACE_MARK)
        ), spans

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; control pieces stand for none, bytes that are no UTF-8 for U+FFFD.

        Raises InputError for an id that is not in the vocabulary.
        """
        return self.decode_batch([ids])[0]

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sequence, as `decode` does, on as many threads as there are processors."""
        plain = [[int(token) for token in ids] for ids in sequences]
        size = self.vocab_size
        for ids in plain:
            if ids and (min(ids) < 0 or max(ids) >= size):
                wrong = next(token for token in ids if not 0 <= token < size)
                raise InputError(f"tokenizer spm: expected ids in 0 … {size - 1}, got {wrong}")
        # An empty sequence among others would be taken for one of pieces, not of ids.
        filled = iter(self._processor.decode([ids for ids in plain if ids]) if any(plain) else ())
        return [next(filled) if ids else "" for ids in plain]

    def save(self, folder: Path) -> None:
        """Write the model and a record of its digest and special ids; `files.load_saved` reads them."""
        record = {
            "schema": RECORD_SCHEMA,
            "sha256": sha256(self.model),
            "eos_id": self.eos_id,
            "pad_id": self.pad_id,
            "trained": self.trained,
        }
        try:
            (folder / MODEL_FILE).write_bytes(self.model)
            (folder / RECORD_FILE).write_text(json.dumps(record) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write the tokenizer to {folder}: {error.strerror}") from error

    def fingerprint(self) -> str:
        """Digest of the model's bytes and of what this class adds to them."""
        added = json.dumps({"schema": RECORD_SCHEMA, "eos_id": self.eos_id, "pad_id": self.pad_id}).encode()
        return hashlib.sha256(hashlib.sha256(self.model).digest() + added).hexdigest()

    def _carried(self, texts: Sequence[str], stand_ins: Sequence[str | None], kind: Any) -> Any:
        """Encode texts in which a stand-in takes the place of U+2581; `kind` is what SentencePiece returns."""
        carried = [
            text.replace(SPACE_MARK, other or SPACE_MARK)
            for text, other in zip(texts, stand_ins, strict=True)
        ]
        try:
            return self._processor.encode(carried, return_type=kind)
        except (RuntimeError, TypeError):
            for text in texts:
                check_unicode(text, "tokenizer spm")
            raise

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
    model: bytes,
    *,
    origin: str,
    eos: str | int | None = None,
    pad: str | int | None = None,
    trained: bool = False,
) -> Vocabulary:
    """Make a tokenizer of a model's bytes; `origin` says in errors where they are from.

    eos, pad: the control pieces that end a text and fill up padded batches, or their ids; None: the model's own. It may
    name none for padding. Raises InputError where the bytes are no model, where the model has no byte fallback or no
    end of text, or where it changes a probe text.
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
    eos_id = _control_id(processor, processor.eos_id() if eos is None else eos, "end-of-text", origin)
    if eos_id is None:
        raise InputError(
            f"{origin}: the model names no end-of-text piece",
            remedy="name a control piece of it with tokenizer.eos_piece",
        )
    pad_id = _control_id(processor, processor.pad_id() if pad is None else pad, "padding", origin)
    vocabulary = Vocabulary(model=model, eos_id=eos_id, pad_id=pad_id, processor=processor, trained=trained)
    check_round_trip(vocabulary, PROBES, origin=origin)
    return vocabulary


def _control_id(processor: Any, piece: str | int, role: str, origin: str) -> int | None:
    """Return the id of a control piece, None for -1, as SentencePiece writes none; raise InputError for another."""
    if piece == -1:
        return None
    token = processor.piece_to_id(piece) if isinstance(piece, str) else piece
    if not 0 <= token < processor.vocab_size() or not processor.is_control(token):
        raise InputError(f"{origin}: expected the {role} piece to be a control piece, got {piece!r}")
    return int(token)


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


def _whole_characters(spans: Sequence[tuple[int, int]], pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Let each byte of a character cover it; SentencePiece says so of the last one, the others cover nothing."""
    whole = list(spans)
    for place in range(len(whole) - 2, -1, -1):
        start, end = whole[place]
        if start == end and _BYTE_PIECE.fullmatch(pieces[place]):
            whole[place] = whole[place + 1]
    return whole


def _replace(ids: Sequence[int], old: list[int], new: list[int]) -> list[int]:
    replaced: list[int] = []
    position = 0
    while position < len(ids):
        found = list(ids[position : position + len(old)]) == old
        replaced.extend(new if found else ids[position : position + 1])
        position += len(old) if found else 1
    return replaced


def sha256(data: bytes) -> str:
    """Return the digest of a model's bytes."""
    return hashlib.sha256(data).hexdigest()
