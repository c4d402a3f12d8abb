"""What happens to a document in which rules find something: the run ends, the document goes, or the places do.

One rule: what was found is in no error, count or record; the rule's name, the document's id and the line are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal

from attrs import frozen

from codex_clean.documents import texts, with_texts
from codex_clean.rules import Finding, Rule, Searched
from codex_kernel import Cleaned, Document, InputError

Action = Literal["redact", "drop", "block"]
ACTION_HELP = (
    "What happens where something is found: redact puts <REDACTED:rule> in its place, drop leaves the document out, "
    "block ends the run and names the document, the rule and the line."
)
ALLOW_HELP = "Regular expressions of what may stay: one that matches the whole of what a rule found."


@frozen(eq=False)
class Scrubber:
    """A pass of rules over documents; it remembers nothing."""

    type: str
    rules: Sequence[Rule]
    action: Action
    allow: Sequence[re.Pattern[str]]
    version: str

    def fingerprint(self) -> str:
        """Name the version of the library that the rules are from."""
        return self.version

    def clean(self, document: Document) -> Cleaned:
        """Redact, drop or refuse the document; raise InputError where the action is `block`."""
        found = {name: places for name, text in texts(document) if (places := self.places(text))}
        if not found:
            return Cleaned(document)
        if self.action == "block":
            raise self._refusal(document, found)
        rules = Counter(rule for places in found.values() for _, _, rule in places)
        if self.action == "drop":
            return Cleaned(None, {f"found {rule}": count for rule, count in rules.items()})
        redacted = with_texts(document, lambda name, text: _redacted(text, found.get(name, [])))
        return Cleaned(redacted, {f"redacted {rule}": count for rule, count in rules.items()})

    def places(self, text: str) -> list[Place]:
        """Return what is to be redacted in a text, in order, apart from one another."""
        searched = Searched(text)
        findings = [finding for rule in self.rules for finding in rule.find(searched)]
        return _apart(finding for finding in findings if not self._allowed(text, finding))

    def _allowed(self, text: str, finding: Finding) -> bool:
        return any(
            all(pattern.fullmatch(text, start, end) for start, end in finding.spans) for pattern in self.allow
        )

    def _refusal(self, document: Document, found: dict[str, list[Place]]) -> InputError:
        name, places = next(iter(found.items()))
        start, _, rule = places[0]
        line = dict(texts(document))[name].count("\n", 0, start) + 1
        more = sum(map(len, found.values())) - 1
        return InputError(
            f"document {document.id!r}: {name}, line {line}: found {rule}"
            + (f", and {more} more" if more else ""),
            remedy=f"remove it from the data, or set the action of {self.type} to redact or drop",
        )


Place = tuple[int, int, str]
"""Start, end, and the rule that found it."""


def _apart(findings: Iterable[Finding]) -> list[Place]:
    """Join what overlaps, under the name of what starts first, the longest of these."""
    spans = sorted({(start, -end, finding.rule) for finding in findings for start, end in finding.spans})
    places: list[Place] = []
    for start, negative_end, rule in spans:
        if places and start < places[-1][1]:
            places[-1] = (places[-1][0], max(places[-1][1], -negative_end), places[-1][2])
        else:
            places.append((start, -negative_end, rule))
    return places


def _redacted(text: str, places: Sequence[Place]) -> str:
    pieces, at = [], 0
    for start, end, rule in places:
        pieces += [text[at:start], f"<REDACTED:{rule}>"]
        at = end
    return "".join([*pieces, text[at:]])


def compiled_allow(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Compile an allow list; raise ValueError naming an expression that is none."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"allow: {pattern!r} is not a regular expression: {error}") from error
    return compiled


def chosen(names: Sequence[str], known: Sequence[str], option: str) -> None:
    """Raise ValueError where a name is not that of a rule."""
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"{option}: expected names of rules, got {name!r} ({hint})")
