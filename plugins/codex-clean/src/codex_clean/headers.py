"""Comments at the top of a source file: which lines they are, and what is left when the legal ones are taken away.

One rule: a line is taken away only as part of a paragraph about rights; shebang, encoding and all code stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from attrs import evolve, frozen

from codex_clean.documents import is_source
from codex_clean.licence_texts import licences_in, may_go_on, permitted, speaks_of_rights
from codex_clean.words import words
from codex_kernel import Cleaned, Document

HEADER_STRIPPED = "licence header"
_HEAD_CHARS = 1 << 15
_GAP_LINES = 4  # between paragraphs that belong together: two lines, an empty one before and after

_SHEBANG = re.compile(r"#!.*")
_ENCODING = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*[-\w.]+.*|.*-\*-.*-\*-.*|#.*\bvim?:.*", re.IGNORECASE)
_LINE_COMMENT = re.compile(
    r"[ \t]*(?:#(?!!|include|define|if|pragma|import|region)|//+|--(?![-\w])|--$|;+|%+)(.*)"
)
_BLOCKS = (("/*", "*/"), ("<!--", "-->"), ("(*", "*)"), ("{-", "-}"))
_MARKS = re.compile(r"^[ \t]*(?:/\*+!?|\*+/?|<!--|//+!?|#+|--|;+|%+)?[ \t]?|[ \t]*(?:\*+/|-->)?[ \t]*$")


@frozen
class Comment:
    """A comment: its first line and the one after its last; `block` where it has a beginning and an end of its own."""

    first: int
    end: int
    block: bool


@frozen(eq=False)
class LicenceFilter:
    """A pass; it remembers nothing. `allow` empty: every licence may stay."""

    strip: bool
    allow: frozenset[str]
    deny: frozenset[str]

    def clean(self, document: Document) -> Cleaned:
        """Count what a source file's top says, drop it where its licence may not stay, and strip the header."""
        if not is_source(document) or document.prompt:
            return Cleaned(document)
        head, rest = _cut(document.text)
        lines = head.splitlines(keepends=True)
        legal = legal_lines(lines)
        if not legal:
            return Cleaned(document)
        said = "\n".join(_plain(line) for first, end in legal for line in lines[first:end])
        licences = licences_in(said)
        counts = Counter(_count_name(licence) for licence in licences or ["none named"])
        if not all(self._may(licence) for licence in licences):
            return Cleaned(None, {**counts, "licence not allowed": 1})
        if not self.strip:
            return Cleaned(document, counts)
        text = _without(lines, legal) + rest
        return Cleaned(evolve(document, text=text), {**counts, HEADER_STRIPPED: 1})

    def _may(self, expression: str) -> bool:
        return permitted(
            expression, lambda licence: licence not in self.deny and (not self.allow or licence in self.allow)
        )


def comments_at_top(lines: Sequence[str]) -> Iterator[Comment]:
    """Give the comments before the first line of code, in order; shebang and encoding lines are none."""
    at = 0
    while at < len(lines):
        line = lines[at].lstrip("\ufeff")
        if not line.strip() or _is_kept(at, line):
            at += 1
            continue
        comment = _block_comment(lines, at) or _line_comments(lines, at)
        if comment is None:
            return
        yield comment
        at = comment.end


def _is_kept(number: int, line: str) -> bool:
    text = line.rstrip()
    return (number == 0 and bool(_SHEBANG.match(text))) or (number <= 1 and bool(_ENCODING.fullmatch(text)))


def _block_comment(lines: Sequence[str], first: int) -> Comment | None:
    stripped = lines[first].lstrip("\ufeff \t")
    for begin, end in _BLOCKS:
        if not stripped.startswith(begin):
            continue
        for at in range(first, len(lines)):
            text = stripped[len(begin) :] if at == first else lines[at]
            if end in text:
                after = text.split(end, 1)[1].strip()
                return None if after else Comment(first, at + 1, block=True)
    return None


def _line_comments(lines: Sequence[str], first: int) -> Comment | None:
    end = first
    while (
        end < len(lines)
        and _LINE_COMMENT.fullmatch(lines[end].lstrip("\ufeff").rstrip())
        and not _is_kept(end, lines[end])
    ):
        end += 1
    return Comment(first, end, block=False) if end > first else None


def legal_lines(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return the lines of the comments at the top that are about rights, as stretches [first, end).

    A block is one paragraph; of line comments each stretch between empty ones is one. Those that speak of rights are
    legal, those beside them that go on about conditions, and a line or two between (an address, a link).
    """
    stretches: list[tuple[int, int]] = []
    paragraphs = [
        (comment, span) for comment in comments_at_top(lines) for span in _paragraphs(lines, comment)
    ]
    said = ["\n".join(_plain(line) for line in lines[slice(*span)]) for _, span in paragraphs]
    legal = [speaks_of_rights(text) for text in said]
    for order in (range(len(legal)), range(len(legal) - 1, -1, -1)):
        for number, before in pairwise(order):
            legal[before] = legal[before] or (legal[number] and may_go_on(said[before]))
    for (comment, (first, end)), is_legal in zip(paragraphs, legal, strict=True):
        if not is_legal:
            continue
        if stretches and comment.first <= stretches[-1][1] and first - stretches[-1][1] <= _GAP_LINES:
            stretches[-1] = (stretches[-1][0], end)
        else:
            begins = all(map(_is_ruler, lines[comment.first : first]))
            stretches.append((comment.first if begins else first, end))
    return [(first, _past_ruler(lines, end)) for first, end in stretches]


def _past_ruler(lines: Sequence[str], end: int) -> int:
    """Return the line after the empty comment lines and rulers that end a stretch, where no comment follows them."""
    after = end
    while after < len(lines) and lines[after].strip() and _is_ruler(lines[after]):
        after += 1
    return after if after == len(lines) or not _LINE_COMMENT.fullmatch(lines[after].rstrip()) else end


def _paragraphs(lines: Sequence[str], comment: Comment) -> Iterator[tuple[int, int]]:
    if comment.block:
        yield comment.first, comment.end
        return
    start = comment.first
    for at in range(comment.first, comment.end + 1):
        if at == comment.end or _is_ruler(lines[at]):
            if at > start:
                yield start, at
            start = at + 1


def _is_ruler(line: str) -> bool:
    """Say whether a line of a comment is empty, or drawn of signs."""
    return not _plain(line).strip("#*-=/ ")


def _plain(line: str) -> str:
    return _MARKS.sub("", line.rstrip("\r\n"))


def _without(lines: Sequence[str], legal: Sequence[tuple[int, int]]) -> str:
    """Leave the lines out, and the blank ones after each of them."""
    kept: list[str] = []
    gone = {number for first, end in legal for number in range(first, end)}
    after = False
    for number, line in enumerate(lines):
        if number in gone:
            after = True
        elif not (after and not line.strip()):
            kept.append(line)
            after = False
    return "".join(kept)


def _cut(text: str) -> tuple[str, str]:
    """Part a text into its top, in whole lines, and the rest."""
    if len(text) <= _HEAD_CHARS:
        return text, ""
    end = text.rfind("\n", 0, _HEAD_CHARS) + 1
    return text[:end], text[end:]


_COMMON = words(
    "0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 "
    "CC-BY-4.0 CC-BY-SA-4.0 CC0-1.0 CDDL-1.0 ECL-2.0 EPL-1.0 EPL-2.0 EUPL-1.2 GPL-2.0 GPL-2.0-only "
    "GPL-2.0-or-later GPL-3.0 GPL-3.0-only GPL-3.0-or-later HPND ISC LGPL-2.0-or-later LGPL-2.1 LGPL-2.1-only "
    "LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later LicenseRef-BSD-style LicenseRef-proprietary "
    "LicenseRef-unknown MIT MIT-0 MPL-2.0 MS-PL MulanPSL-2.0 NCSA OFL-1.1 OSL-3.0 PSF-2.0 PostgreSQL "
    "Python-2.0 UPL-1.0 Unlicense WTFPL Zlib"
)


def _count_name(expression: str) -> str:
    """Return what an expression is called in the counts: an expression of unusual licences is `other`."""
    if expression == "none named":
        return "licence not named"
    parts = re.findall(r"[^\s()]+", expression)
    if len(parts) <= 5 and all(part in _COMMON or part in ("AND", "OR", "WITH") for part in parts):  # noqa: PLR2004
        return f"licence {expression}"
    return "licence other"
