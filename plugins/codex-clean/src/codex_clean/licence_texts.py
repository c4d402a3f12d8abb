"""Which licence a comment names: by an SPDX expression, or by the words of the usual headers.

One rule: an identifier is SPDX's own (https://spdx.org/licenses), or begins with `LicenseRef-`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n]{1,200})", re.IGNORECASE)
_RIGHTS = re.compile(
    r"copyright|\(c\) ?\d{4}|©|all rights reserved|spdx-filecopyrighttext|"
    r"licen[sc]ed (?:under|to)|under the terms of|see (?:the )?(?:accompanying )?licen[sc]e|"
    r"(?:bsd|mit|apache|gpl)[- ](?:style )?licen[sc]e",
    re.IGNORECASE,
)
_LEGAL_WORDS = re.compile(
    r"licen[sc]e|warrant(?:y|ies)|redistribut|permission|\bas[- ]is\b|merchantab|disclaim|liab(?:le|ility)|"
    r"\bauthors?\b|\bcontact\b|\bwritten by\b|provided that",
    re.IGNORECASE,
)
_LATER = "any later version"

HEADERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Apache-2.0", ("apache license, version 2.0",), ()),
    ("Apache-2.0", ("apache license version 2.0",), ()),
    ("Apache-2.0", ("apache.org/licenses/license-2.0",), ()),
    ("MIT", ("permission is hereby granted, free of charge, to any person obtaining a copy",), ()),
    ("MIT", ("licensed under the mit license",), ()),
    ("MIT", ("under the terms of the mit license",), ()),
    ("MIT", ("released under the mit license",), ()),
    ("MIT", ("opensource.org/licenses/mit",), ()),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote"), ()),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",), ("endorse or promote",)),
    ("LicenseRef-BSD-style", ("governed by a bsd-style license",), ()),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software", "copyright notice"), ()),
    (
        "ISC",
        ("permission to use, copy, modify, and distribute this software", "with or without fee"),
        ("suitability",),
    ),
    ("HPND", ("permission to use, copy, modify, and distribute this software", "suitability"), ()),
    (
        "HPND",
        ("permission to use, copy, modify, and distribute this software and its", "without fee"),
        ("suitability",),
    ),
    ("0BSD", ("permission to use, copy, modify, and/or distribute this software",), ("copyright notice",)),
    ("AGPL-3.0-or-later", ("gnu affero general public license", _LATER), ()),
    ("AGPL-3.0-only", ("gnu affero general public license",), (_LATER,)),
    ("LGPL-3.0-or-later", ("gnu lesser general public license", "version 3", _LATER), ()),
    ("LGPL-2.1-or-later", ("gnu lesser general public license", "version 2.1", _LATER), ()),
    ("LGPL-2.0-or-later", ("gnu library general public license", _LATER), ()),
    ("LGPL-3.0-only", ("gnu lesser general public license", "version 3"), (_LATER,)),
    ("LGPL-2.1-only", ("gnu lesser general public license", "version 2.1"), (_LATER,)),
    ("GPL-3.0-or-later", ("gnu general public license", "version 3", _LATER), ("affero", "lesser")),
    (
        "GPL-2.0-or-later",
        ("gnu general public license", "version 2", _LATER),
        ("affero", "lesser", "version 3"),
    ),
    ("GPL-3.0-only", ("gnu general public license", "version 3"), ("affero", "lesser", _LATER)),
    ("GPL-2.0-only", ("gnu general public license", "version 2"), ("affero", "lesser", "version 3", _LATER)),
    ("MPL-2.0", ("mozilla public license, v. 2.0",), ()),
    ("MPL-2.0", ("mozilla public license, version 2.0",), ()),
    ("BSL-1.0", ("boost software license, version 1.0",), ()),
    ("EPL-2.0", ("eclipse public license v2.0",), ()),
    ("EPL-2.0", ("eclipse public license 2.0",), ()),
    ("EPL-1.0", ("eclipse public license v1.0",), ()),
    ("Unlicense", ("free and unencumbered software released into the public domain",), ()),
    ("CC0-1.0", ("cc0 1.0 universal",), ()),
    ("CC0-1.0", ("creativecommons.org/publicdomain/zero/1.0",), ()),
    ("PSF-2.0", ("licensed to psf under a contributor agreement",), ()),
    ("PSF-2.0", ("python software foundation license",), ()),
    ("Zlib", ("as-is", "in no event will the authors be held liable", "altered source versions"), ()),
    ("LicenseRef-proprietary", ("proprietary and confidential",), ()),
    ("LicenseRef-proprietary", ("confidential and proprietary",), ()),
    ("LicenseRef-proprietary", ("unauthorized copying of this file",), ()),
)
"""Licence, what its header says in lower case and single spaces, and what it does not say."""


def licences_in(comment: str) -> list[str]:
    """Return the SPDX expressions that a comment names, each once; `comment` is without its comment signs."""
    found = [_expression(match[1]) for match in _SPDX.finditer(comment)]
    if not found:
        words = " ".join(comment.lower().split())
        found = [
            licence
            for licence, present, absent in HEADERS
            if all(phrase in words for phrase in present) and not any(phrase in words for phrase in absent)
        ]
    return list(dict.fromkeys(found))


def speaks_of_rights(paragraph: str) -> bool:
    """Say whether a paragraph of a comment names a licence or an owner."""
    return bool(_RIGHTS.search(paragraph) or licences_in(paragraph))


def may_go_on(paragraph: str) -> bool:
    """Say whether a paragraph beside one about rights belongs to it: conditions, warranties, authors."""
    return bool(_LEGAL_WORDS.search(paragraph))


@lru_cache(maxsize=4096)
def canonical(expression: str) -> str | None:
    """Return an SPDX expression as SPDX writes it; None: it is none."""
    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression:
        return None


def _expression(text: str) -> str:
    """Read what follows `SPDX-License-Identifier:`, with the end of a comment perhaps."""
    text = re.sub(r"(?:\*+/|-->|\*\)|#\})?\s*$", "", text.strip()).strip()
    return canonical(text) or "LicenseRef-unknown"


def permitted(expression: str, may: Callable[[str], bool]) -> bool:
    """Say whether an expression can be chosen so that each licence in it may: OR needs one side, AND both.

    `X WITH Y` may where X may.
    """
    tokens = re.findall(r"\(|\)|[^\s()]+", expression)
    return _either(tokens, may)


def _either(tokens: list[str], may: Callable[[str], bool]) -> bool:
    answer = _both(tokens, may)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        answer = _both(tokens, may) or answer
    return answer


def _both(tokens: list[str], may: Callable[[str], bool]) -> bool:
    answer = _one(tokens, may)
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        answer = _one(tokens, may) and answer
    return answer


def _one(tokens: list[str], may: Callable[[str], bool]) -> bool:
    token = tokens.pop(0)
    if token == "(":  # noqa: S105 - a token of the expression
        answer = _either(tokens, may)
        tokens.pop(0)
        return answer
    if tokens and tokens[0] == "WITH":
        del tokens[:2]
    return may(token)
