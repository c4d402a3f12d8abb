"""A reporter for commands that build parts of a run without running it.

One rule: warnings and the names of long work go to standard error, nothing else goes anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from attrs import define

from codex_kernel.interfaces import Checkpoint, Progress


@define(eq=False)
class TerminalReporter:
    """The reporter of commands that build parts of a run without running it: warnings and activities to stderr."""

    _last: str = ""

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Leave metrics out: nothing is trained."""

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:  # noqa: ARG002
        """Name each piece of work once."""
        if name != self._last:
            self._last = name
            click.echo(f"{name} …", err=True)

    def event(self, name: str, **fields: Any) -> None:
        """Leave events out: there is no run to record them in."""

    def warning(self, message: str) -> None:
        """Show the warning."""
        click.echo(f"warning: {message}", err=True)

    def checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        """Leave it out: nothing is saved."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return nothing: there is no record to rewind."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rewind nothing."""
