"""The tokenizer `bytes`: the UTF-8 bytes of the text, and one token more for its end.

One rule: it has no vocabulary to train, so any text comes back as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from codex_kernel import Tokenizer, hookimpl

_EOS = 256


@frozen
class BytesTokenizer:
    """Each byte of UTF-8 a token, 257 tokens in all; needs no training."""

    @hookimpl
    def codex_tokenizer(self) -> Tokenizer:
        """Give the tokenizer, the same for every run."""
        return Utf8Bytes()


@frozen
class Utf8Bytes:
    """Text as UTF-8 bytes 0 … 255; 256 is the end of a text."""

    @property
    def vocab_size(self) -> int:
        """All bytes and the end of a text."""
        return _EOS + 1

    @property
    def eos_id(self) -> int:
        """The end of a text."""
        return _EOS

    def encode(self, text: str) -> Sequence[int]:
        """Return the bytes of the text; raise UnicodeEncodeError where it has a lone surrogate."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are not UTF-8, as a model may give them, become U+FFFD.

        Raises ValueError for an id that is not 0 … 256.
        """
        return bytes(token for token in ids if token != _EOS).decode(errors="replace")
