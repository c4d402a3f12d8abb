"""Rules that find something in a text: regular expressions with a name, a gate and a check.

One rule: a rule depends on the text alone, and its work grows no faster than the text, however long a line is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

from attrs import define, field, frozen

_LINE_CHARS = 1 << 14
_OVERLAP_CHARS = 1 << 11
_MARGIN_CHARS = 64
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{24,}")
_LONG_LINE = re.compile(rf"[^\n]{{{_LINE_CHARS}}}")


@frozen
class Finding:
    """What a rule found: its name, and the stretches [start, end) of the text, each within a line."""

    rule: str
    spans: tuple[tuple[int, int], ...]


@define(eq=False)
class Searched:
    """A text in which rules look, and what several of them need of it."""

    text: str

    @cached_property
    def lowered(self) -> str:
        """The text in lower case, to look for gates in; not of the same length in every language."""
        return self.text.lower()

    @cached_property
    def longest_word(self) -> int:
        """Length of the longest run of ASCII letters, digits, `_` and `-`, rulers aside; 0: none has 24."""
        words = _LONG_WORD.findall(self.text)
        return max((len(word) for word in words if 2 * sum(map(word.count, "-_")) <= len(word)), default=0)

    @cached_property
    def windows(self) -> list[tuple[int, str]]:
        """The text whole, or in overlapping windows where it has a very long line, each with where it starts.

        So an expression whose work grows with the square of a line's length is safe on any text.
        """
        if len(self.text) <= _LINE_CHARS or not _LONG_LINE.search(self.text):
            return [(0, self.text)]
        step = _LINE_CHARS - _OVERLAP_CHARS
        return [(start, self.text[start : start + _LINE_CHARS]) for start in range(0, len(self.text), step)]

    def matches(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
        """Give the matches of an expression, and where in the text the string that each one was found in starts."""
        for start, window in self.windows:
            first, last = start == 0, start + len(window) == len(self.text)
            for match in pattern.finditer(window):
                # At a cut the expression does not see what stands around a match; the window beside it does.
                cut = (not first and match.start() < _MARGIN_CHARS) or (
                    not last and match.end() > len(window) - _MARGIN_CHARS
                )
                if not cut or match.end() - match.start() > _OVERLAP_CHARS // 2:
                    yield start, match


class Rule(Protocol):
    """Finds one kind of thing."""

    @property
    def name(self) -> str:
        """Its name in manifests, counts and placeholders: lower-case words and hyphens."""

    def find(self, searched: Searched) -> Iterator[Finding]:
        """Give what is in the text; the same thing twice does no harm."""


def _compiled(given: str | Sequence[str | re.Pattern[str]]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in ([given] if isinstance(given, str) else given))


@frozen(eq=False)
class Expression:
    """A rule by regular expressions.

    `gate`: strings of which one is in every match, in the expression's own case; empty: it has none. `word`: every
    match has this many letters, digits, `_` and `-` in a row (24 at least; 0: not so). Both are quicker to look for.
    `group`: what of a match is meant, where that group took part; else the whole match. `accept`: says of a match
    whether it is one; None: all are.
    """

    name: str
    patterns: Sequence[re.Pattern[str]] = field(converter=_compiled)
    gate: Sequence[str] = ()
    word: int = 0
    group: int = 0
    accept: Callable[[re.Match[str]], bool] | None = None

    def find(self, searched: Searched) -> Iterator[Finding]:
        """Give what the expressions match and `accept` lets pass."""
        if not self._may_match(searched):
            return
        for pattern in self.patterns:
            group = self.group if self.group <= pattern.groups else 0
            for start, match in searched.matches(pattern):
                if self.accept is None or self.accept(match):
                    first, last = match.span(group if match[group] else 0)
                    yield Finding(self.name, ((start + first, start + last),))

    def _may_match(self, searched: Searched) -> bool:
        if self.gate:
            any_case = any(pattern.flags & re.IGNORECASE for pattern in self.patterns)
            text = searched.lowered if any_case else searched.text
            if not any((word.lower() if any_case else word) in text for word in self.gate):
                return False
        return searched.longest_word >= self.word if self.word else True
