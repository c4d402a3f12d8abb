"""Fill-in-the-middle: documents cut in three and put together in another order, each part after its own token.

One rule: whether and where a document is cut is a pure function of the seed and the document's id.
Source: Bavarian et al., Efficient Training of Language Models to Fill in the Middle, arXiv:2207.14255 (its SPM in the
second variant, which keeps the tokens in one order).
"""

from __future__ import annotations

import hashlib

from attrs import frozen

from codex_kernel.data.options import FillInTheMiddle
from codex_kernel.errors import InputError
from codex_kernel.interfaces import Document, SpecialTokens, Tokenizer

_LEAST_CHARACTERS = 3  # one for each part


@frozen
class Cut:
    """A text in three parts; `suffix_first`: suffix, prefix, middle."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool


@frozen
class FimTokens:
    """The ids of the special tokens."""

    prefix: int
    middle: int
    suffix: int


def cut(document: Document, options: FillInTheMiddle, seed: int) -> Cut | None:
    """Cut a document at two characters chosen evenly; None where it stays as it is.

    A document with a prompt or messages, or of fewer than three characters, is never cut.
    """
    text = document.text
    if document.prompt or document.messages or len(text) < _LEAST_CHARACTERS:
        return None
    key = hashlib.sha256(f"codex.fim:{seed}".encode()).digest()
    digest = hashlib.blake2b(document.id.encode(), digest_size=32, key=key).digest()
    chosen, order, one, other = (int.from_bytes(digest[at : at + 8], "big") / 2**64 for at in (0, 8, 16, 24))
    if chosen >= options.rate:
        return None
    low, high = sorted((int(one * (len(text) + 1)), int(other * (len(text) + 1))))
    return Cut(text[:low], text[low:high], text[high:], order < options.suffix_first)


def tokens_of(tokenizer: Tokenizer, options: FillInTheMiddle) -> FimTokens:
    """Look the special tokens up; raise InputError where the tokenizer lacks one."""
    named = tokenizer.special_tokens if isinstance(tokenizer, SpecialTokens) else {}
    wanted = (options.prefix_token, options.middle_token, options.suffix_token)
    missing = [token for token in wanted if token not in named]
    if missing:
        raise InputError(
            f"data.fim: the tokenizer has no special token {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, sorted(named))) or 'none'}",
            remedy="name its own with data.fim.prefix_token, middle_token and suffix_token, or train one with them: "
            "tokenizer.special_tokens",
        )
    return FimTokens(*(named[token] for token in wanted))
