"""Telling how far a long piece of work is, often enough for a person and seldom enough to cost nothing.

One rule: at most five reports a second, and always one at the end.
"""

from __future__ import annotations

import time

from attrs import define, field

from codex_kernel.interfaces import Reporter

_INTERVAL_SECONDS = 0.2


@define(eq=False)
class Activity:
    """One piece of work that is reported under `name`, counted in `unit`; `total` None: not known."""

    report: Reporter
    name: str
    unit: str
    total: float | None = None
    _last_seconds: float = field(init=False, default=float("-inf"))

    def at(self, done: float) -> None:
        """Report that `done` units are done, unless that was reported a moment ago."""
        now = time.monotonic()
        if now - self._last_seconds >= _INTERVAL_SECONDS:
            self._last_seconds = now
            self.report.activity(self.name, done, self.total, self.unit)

    def end(self, done: float) -> None:
        """Report that all is done, which makes the number of units known."""
        self.report.activity(self.name, done, done, self.unit)
