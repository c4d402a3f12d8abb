"""The tokenizer `bytes`: the UTF-8 bytes of the text, one token for its end, and the special tokens asked for.

One rule: it has no vocabulary to train, so any text comes back as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from codex_kernel import InputError, Tokenizer, hookimpl, option

_EOS = 256
END_OF_TEXT = "<|endoftext|>"


@frozen
class BytesTokenizer:
    """Each byte of UTF-8 a token, and one that ends a text: 257 in all, and the special tokens; needs no training."""

    special_tokens: tuple[str, ...] = option(
        (), help="More special tokens, such as <|fim_prefix|>: one id each, which no text ever has."
    )
    pad_token: str | None = option(
        None, help="Special token that fills up padded batches; null: there is none."
    )

    @special_tokens.validator
    def _check_specials(self, _attribute: object, names: Any) -> None:
        """Raise ValueError for names that are empty, or there twice."""
        if len({*names, "", END_OF_TEXT}) != len(names) + 2:
            raise ValueError(f"expected different names, none empty and none {END_OF_TEXT}, got {names!r}")

    @pad_token.validator
    def _check_pad(self, _attribute: object, name: str | None) -> None:
        """Raise ValueError for a padding token that has another meaning already."""
        if name is not None and name in ("", END_OF_TEXT):
            raise ValueError(f"expected a name of its own for pad_token, got {name!r}")

    @hookimpl
    def codex_tokenizer(self) -> Tokenizer:
        """Give the tokenizer, the same for every run."""
        names = dict.fromkeys([END_OF_TEXT, *self.special_tokens, *filter(None, [self.pad_token])])
        return Utf8Bytes({name: _EOS + place for place, name in enumerate(names)}, self.pad_token)


@define(eq=False)
class Utf8Bytes:
    """Text as UTF-8 bytes 0 … 255; 256 is the end of a text, and above it lie the other special tokens."""

    special_tokens: Mapping[str, int] = field(factory=lambda: {END_OF_TEXT: _EOS})
    pad_token: str | None = None

    @property
    def vocab_size(self) -> int:
        """All bytes and the special tokens."""
        return _EOS + len(self.special_tokens)

    @property
    def eos_id(self) -> int:
        """The end of a text."""
        return _EOS

    @property
    def pad_id(self) -> int | None:
        """The token that fills up a padded batch; None: there is none."""
        return None if self.pad_token is None else self.special_tokens[self.pad_token]

    def encode(self, text: str) -> Sequence[int]:
        """Return the bytes of the text; raise InputError where it has a lone surrogate."""
        return list(_utf8(text))

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Any]:
        """Return the bytes of each text, as an array of uint8 that cannot be written to."""
        import numpy as np

        return [np.frombuffer(_utf8(text), np.uint8) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the bytes of the text, and for each the character that it is of."""
        ids = self.encode(text)
        return ids, [(place, place + 1) for place, letter in enumerate(text) for _ in letter.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are not UTF-8, as a model may give them, become U+FFFD.

        Raises InputError for an id that is not in the vocabulary.
        """
        return self.decode_batch([ids])[0]

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> Sequence[str]:
        """Return the text of each sequence, as `decode` does."""
        import numpy as np

        return [
            self._text(ids if getattr(ids, "dtype", None) == np.uint8 else np.array(ids, np.int64))
            for ids in sequences
        ]

    def fingerprint(self) -> str:
        """Digest of the special tokens: the rest is UTF-8, and will not change."""
        return hashlib.sha256(json.dumps([*self.special_tokens.items(), self.pad_token]).encode()).hexdigest()

    def _text(self, ids: Any) -> str:
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise InputError(f"tokenizer bytes: expected ids in 0 … {self.vocab_size - 1}, got {wrong[0]}")
        text: str = ids[ids < _EOS].astype("uint8", copy=False).tobytes().decode(errors="replace")
        return text


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"tokenizer bytes: expected Unicode text, got the lone surrogate {text[error.start]!r} at character "
            f"{error.start}",
            remedy="decode the file as UTF-8, with errors='replace' where it is damaged",
        ) from None
