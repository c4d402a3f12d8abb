"""What `codex plugins doctor` finds: one sentence, how grave it is, and how to mend it.

One rule: whatever is not ok says what to do, or why nothing need be done.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")
"""note: good to know; warning: may go wrong, or is unsafe; problem: something does not work."""


@frozen
class Finding:
    """One thing that was looked at; `remedy` None: nothing to mend."""

    level: Level
    subject: str
    message: str
    remedy: str | None = None
