"""Byte-level vocabularies: how bytes are written as characters, and where text is cut into pieces.

One rule: each of the 256 bytes is one character of a fixed alphabet, so no text is unknown and none is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers


def _pieces(some: str = "+", maybe: str = "*", breaks: str = "++") -> str:
    """Return the expression that finds pieces; what they repeat is told how often it may.

    Words take the character before them (a space, an opening bracket); a line break takes the indentation that follows,
    but for the space before the word: code gets one token for "new line, same depth". Line breaks are taken without a
    way back (++), which the engines could not go over millions of them.
    """
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]{some}"
        r"|\p{N}{1,3}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]{some}"
        rf"|[\r\n]{breaks}[ \t]{maybe}(?= )|[\r\n]{breaks}[ \t]{maybe}"
        rf"|\s{some}(?!\S)|\s{some}"
    )


PIECES = _pieces()


def pieces_up_to(characters: int) -> str:
    """Return PIECES, but that a repetition in them ends after so many characters: a longer piece becomes several."""
    some = f"{{1,{characters}}}"
    return _pieces(some, f"{{0,{characters}}}", some)


def _alphabet() -> dict[str, int]:
    """Return character → byte: printable bytes of Latin-1 stand for themselves, others take U+0100 and so on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _alphabet()
"""The alphabet of GPT-2, which the tokenizers library calls ByteLevel: character → byte."""


def byte_level(
    model: Any, *, pieces: str = PIECES, longest_piece_bytes: int | None = None
) -> tokenizers.Tokenizer:
    """Return a tokenizer around `model` that cuts text into pieces and writes their bytes in the alphabet.

    longest_piece_bytes: cut longer pieces into parts of so many bytes, which takes as long as finding the pieces; None:
    leave them whole.
    """
    import tokenizers
    from tokenizers import decoders, pre_tokenizers

    backend = tokenizers.Tokenizer(model)
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(pieces), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    if longest_piece_bytes is not None:
        part = tokenizers.Regex(f"(?m:.{{1,{longest_piece_bytes}}})")
        steps.append(pre_tokenizers.Split(part, behavior="isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend
