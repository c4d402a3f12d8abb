"""The cleaning step `licence-headers`: under which licence a source file says it is, and what becomes of that header.

One rule: only comments before the first line of code are read and taken away; whatever else the file says stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from codex_kernel import RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_clean.headers import LicenceFilter


@frozen
class LicenceHeaders:
    """Count the licences that source files name at their top, take the headers away, or drop files by licence.

    A licence is known by its SPDX identifier, or by the words of its usual header. A file that names none is kept.
    """

    strip: bool = option(
        default=True,
        help="Whether licence and copyright comments at the top are taken away; shebang and encoding lines stay.",
    )
    allow: list[str] = option(
        factory=list,
        help="SPDX identifiers, such as MIT; files that name another licence are dropped; empty: all may stay.",
    )
    deny: list[str] = option(
        factory=list, help="SPDX identifiers, such as AGPL-3.0-only; files under one of them are dropped."
    )

    def __attrs_post_init__(self) -> None:
        """Raise ValueError for what is no SPDX identifier."""
        from codex_clean.licence_texts import canonical

        for name in ("allow", "deny"):
            for licence in getattr(self, name):
                if canonical(licence) is None:
                    raise ValueError(
                        f"{name}: expected SPDX identifiers, such as MIT, Apache-2.0 or GPL-3.0-only; got {licence!r}"
                    )

    @hookimpl
    def codex_cleaner(self, run: RunContext) -> LicenceFilter:  # noqa: ARG002 - the hook's first argument
        """Begin a pass."""
        from codex_clean.headers import LicenceFilter
        from codex_clean.licence_texts import canonical

        return LicenceFilter(
            strip=self.strip,
            allow=frozenset(str(canonical(licence)) for licence in self.allow),
            deny=frozenset(str(canonical(licence)) for licence in self.deny),
        )
