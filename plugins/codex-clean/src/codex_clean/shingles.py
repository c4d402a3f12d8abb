"""Runs of n tokens of a text as 64-bit hashes, and the tokens they are made of.

One rule: the same text gives the same hashes in every process on every machine; a text of any size is gone through in
pieces of a bounded one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from attrs import frozen

Unit = Literal["words", "code", "characters"]

_PIECE_CHARS = 1 << 18
_TOKENS = {"words": re.compile(r"\w+"), "code": re.compile(r"\w+|[^\w\s]")}
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that each token's place counts


@frozen(eq=False)
class Piece:
    """Some tokens of a text that follow one another, and a checksum of each (uint64)."""

    tokens: list[str]
    checksums: Any

    def hashes(self, n: int) -> Any:
        """Return the hash of each run of n tokens (uint64): `hashes[i]` is of the tokens i … i + n - 1."""
        count = max(len(self.tokens) - n + 1, 0)
        hashes = np.zeros(count, dtype=np.uint64)
        for place in range(n if count else 0):
            hashes = hashes * _MULTIPLIER + self.checksums[place : place + count]
        hashes ^= hashes >> np.uint64(32)
        return hashes * _MULTIPLIER


def pieces(text: str, unit: Unit, overlap: int) -> Iterator[Piece]:
    """Give a text's tokens in pieces, in order; each but the first begins with the last `overlap` of those before.

    unit: `words` are lower-case words without punctuation; `code` are words and signs as they are written;
        `characters` are characters, each stretch of white space as one space.
    """
    kept: list[str] = []
    for tokens in _tokens(text, unit):
        kept += tokens
        yield _piece(kept)
        kept = kept[max(len(kept) - overlap, 0) :]


def tokens_of(text: str, unit: Unit) -> list[str]:
    """Return all tokens of a text."""
    return [token for tokens in _tokens(text, unit) for token in tokens]


def hash_of(tokens: list[str]) -> int:
    """Return the hash of a run of exactly these tokens."""
    return int(_piece(tokens).hashes(len(tokens))[0])


def _tokens(text: str, unit: Unit) -> Iterator[list[str]]:
    for piece in _cut(text):
        if unit == "characters":
            yield list(re.sub(r"\s+", " ", piece))
        else:
            yield _TOKENS[unit].findall(piece.lower() if unit == "words" else piece)


def _cut(text: str) -> Iterator[str]:
    """Cut a text before white space, where there is some within the size of a piece."""
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARS
        if end < len(text):
            cut = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = cut if cut > start else end
        yield text[start:end]
        start = end


def _piece(tokens: list[str]) -> Piece:
    checksum_of = {token: zlib.crc32(token.encode("utf-8", "surrogatepass")) for token in set(tokens)}
    checksums = np.fromiter(map(checksum_of.__getitem__, tokens), dtype=np.uint64, count=len(tokens))
    return Piece(tokens, checksums)
