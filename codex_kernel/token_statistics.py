"""What a tokenizer makes of a corpus: how long its tokens are, what it cannot spell, what it never uses.

One rule: every text is decoded again; a tokenizer that loses something is known by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from codex_kernel.errors import PluginError
from codex_kernel.interfaces import SpecialTokens, Tokenizer, UnknownToken
from codex_kernel.tokens import NamedText, decode_batch, encode_batch

_LONGEST = 10
_CHUNK_IDS = 1 << 20
_REPLACEMENT = "\ufffd"  # what bytes that are no character decode to


@frozen
class LongToken:
    """A token that was used: its text, and how often."""

    id: int
    text: str
    count: int


@frozen
class Loss:
    """A text that does not come back: where it begins to differ, and what stands there."""

    name: str
    character: int
    expected: str
    got: str


@define(eq=False)
class Corpus:
    """What is counted of the texts themselves, whatever the tokenizer."""

    texts: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0

    def add(self, batch: Sequence[NamedText]) -> None:
        """Count some texts; a word is what stands between white space."""
        self.texts += len(batch)
        for _, text in batch:
            self.bytes += len(text.encode())
            self.characters += len(text)
            self.words += len(text.split())


@define(eq=False)
class Tally:
    """What a tokenizer has made of the texts so far."""

    tokenizer: Tokenizer
    tokens: int = 0
    lost: int = 0
    first_loss: Loss | None = None
    _counts_V: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin with no token used."""
        import numpy as np

        self._counts_V = np.zeros(self.tokenizer.vocab_size, np.int64)

    def add(self, batch: Sequence[NamedText]) -> None:
        """Encode some texts and decode them again.

        Raises PluginError for an id that is not in the vocabulary, and whatever the tokenizer raises.
        """
        import numpy as np

        sequences = encode_batch(self.tokenizer, [text for _, text in batch])
        for ids in sequences:
            self.tokens += len(ids)
            for start in range(0, len(ids), _CHUNK_IDS):  # what counts is wider than what is counted
                counts = np.bincount(np.asarray(ids[start : start + _CHUNK_IDS], np.int64))
                if len(counts) > len(self._counts_V):
                    raise PluginError(
                        f"the tokenizer gave the id {len(counts) - 1}, its vocab_size is {len(self._counts_V)}"
                    )
                self._counts_V[: len(counts)] += counts
        for (name, text), back in zip(batch, decode_batch(self.tokenizer, sequences), strict=True):
            if back != text:
                self.lost += 1
                self.first_loss = self.first_loss or _loss(name, text, back)

    def unknown_tokens(self) -> int | None:
        """Return how often the token for what cannot be spelt was used; None: the vocabulary has none."""
        unknown = self.tokenizer.unk_id if isinstance(self.tokenizer, UnknownToken) else None
        return None if unknown is None else int(self._counts_V[unknown])

    def unused_tokens(self) -> int:
        """Return how many tokens were never used, special ones left out."""
        unused = set((self._counts_V == 0).nonzero()[0].tolist())
        return len(unused - self._specials())

    def longest(self, count: int = _LONGEST) -> list[LongToken]:
        """Return the longest tokens that were used, in characters, those that are no whole text left out."""
        specials = self._specials()
        used = [token for token in self._counts_V.nonzero()[0].tolist() if token not in specials]
        texts = decode_batch(self.tokenizer, [[token] for token in used])
        whole = [(token, text) for token, text in zip(used, texts, strict=True) if _REPLACEMENT not in text]
        whole.sort(key=lambda one: (-len(one[1]), one[0]))
        return [LongToken(token, text, int(self._counts_V[token])) for token, text in whole[:count]]

    def _specials(self) -> set[int]:
        known = self.tokenizer.special_tokens.values() if isinstance(self.tokenizer, SpecialTokens) else ()
        return {*known, self.tokenizer.eos_id}


def _loss(name: str, text: str, back: str) -> Loss:
    pairs = enumerate(zip(text, back, strict=False))
    place = next((n for n, (one, other) in pairs if one != other), min(len(text), len(back)))
    return Loss(name, place, text[place : place + 20], back[place : place + 20])


def as_json(corpus: Corpus, tally: Tally) -> dict[str, Any]:
    """Return the measures of a tokenizer on a corpus; a share that has nothing to be a share of is null."""
    tokenizer, unknown, unused = tally.tokenizer, tally.unknown_tokens(), tally.unused_tokens()
    loss = tally.first_loss
    return {
        "vocab_size": tokenizer.vocab_size,
        "tokens": tally.tokens,
        "bytes_per_token": _share(corpus.bytes, tally.tokens),
        "characters_per_token": _share(corpus.characters, tally.tokens),
        "tokens_per_word": _share(tally.tokens, corpus.words),
        "unknown_tokens": unknown,
        "unknown_rate": None if unknown is None else _share(unknown, tally.tokens),
        "unused_tokens": unused,
        "unused_share": _share(unused, tokenizer.vocab_size),
        "texts_lost": tally.lost,
        "first_loss": None
        if loss is None
        else {
            "text": loss.name,
            "character": loss.character,
            "expected": loss.expected,
            "got": loss.got,
        },
        "longest_tokens": [{"id": one.id, "text": one.text, "count": one.count} for one in tally.longest()],
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
