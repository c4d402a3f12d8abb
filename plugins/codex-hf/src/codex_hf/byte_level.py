"""Byte-level vocabularies: how bytes are written as characters, and where text is cut into pieces.

One rule: each of the 256 bytes is one character of a fixed alphabet, so no text is unknown and none is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

# Words take the character before them (a space, an opening bracket); a line break takes the indentation that follows,
# but for the space before the word: code gets one token for "new line, same depth". Line breaks are taken without a
# way back (++), which the engines could not go over millions of them.
PIECES = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|[\r\n]++[ \t]*(?= )|[\r\n]++[ \t]*"
    r"|\s+(?!\S)|\s+"
)


def _alphabet() -> dict[str, int]:
    """Return character → byte: printable bytes of Latin-1 stand for themselves, others take U+0100 and so on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _alphabet()
"""The alphabet of GPT-2, which the tokenizers library calls ByteLevel: character → byte."""


def byte_level(model: Any, *, longest_piece_bytes: int | None = None) -> tokenizers.Tokenizer:
    """Return a tokenizer around `model` that cuts text into PIECES and writes their bytes in the alphabet.

    longest_piece_bytes: cut longer pieces into parts of so many bytes; None: leave them whole.
    """
    import tokenizers
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizers.Tokenizer(model)
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    if longest_piece_bytes is not None:
        part = tokenizers.Regex(f"(?m:.{{1,{longest_piece_bytes}}})")
        steps.append(pre_tokenizers.Split(part, behavior="isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend
