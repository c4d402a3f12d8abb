"""How far long work is, on standard error: a line that is written over on a terminal, now and then a line in a pipe.

One rule: what is left is said only where the whole is known.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click
from attrs import define, field

from codex_kernel.cli.quiet import TerminalReporter
from codex_kernel.cli.terminal import duration

PIPE_SECONDS = 30.0


@define(eq=False)
class ProgressReporter(TerminalReporter):
    """A reporter for commands whose work takes long: shares and the time left on a terminal."""

    clock: Callable[[], float] = time.monotonic
    _name: str = ""
    _begun_seconds: float = field(init=False, default=0.0)
    _told_seconds: float = field(init=False, default=0.0)
    _open_line: bool = field(init=False, default=False)

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:
        """Write how far the work is over what was written before."""
        now = self.clock()
        begins = name != self._name
        if begins:
            self.close()
            self._name, self._begun_seconds, self._told_seconds = name, now, now
        line = progress(name, done, total, unit, now - self._begun_seconds)
        if not sys.stderr.isatty():
            if begins or now - self._told_seconds >= PIPE_SECONDS:
                self._told_seconds = now
                click.echo(f"{name} …" if begins else line, err=True)
            return
        click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        self._open_line = True
        if total is not None and done >= total:
            self.close()

    def warning(self, message: str) -> None:
        """Show the warning on a line of its own."""
        self.close()
        super().warning(message)

    def close(self) -> None:
        """End the line that is written over, so that what follows has a line of its own."""
        if self._open_line:
            click.echo(err=True)
        self._open_line = False


def progress(name: str, done: float, total: float | None, unit: str, seconds: float) -> str:
    """Say how far a piece of work is: `encode: 120 of 480 documents, 25 %, 3 s left`."""
    if total == 1:  # one thing, which has begun or is done
        return f"{name} …" if done < 1 else f"{name}: {duration(seconds)}"
    if total is None:
        return f"{name}: {done:,.0f} {unit}".rstrip() if done > 1 else f"{name} …"
    parts = [f"{name}: {done:,.0f} of {total:,.0f} {unit}".rstrip()]
    if total:
        parts.append(f"{100 * done / total:.0f} %")
    if 0 < done < total:
        parts.append(f"{duration(seconds * (total - done) / done)} left")
    return ", ".join(parts)
