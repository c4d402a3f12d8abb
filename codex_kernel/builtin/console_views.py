"""The two ways of the console logger to show a run: a live display, and plain lines.

One rule: both are asked the same things and write to standard error alone; what comes from outside (names, messages)
is shown as text, never read as markup or as commands to the terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from attrs import Factory, define, field

_WIDE = 100  # columns of a terminal that has room for a long bar beside the words


@define(eq=False)
class _Pace:
    """How quickly pieces of work go, from where each was first heard of."""

    clock: Callable[[], float]
    _begun: dict[str, tuple[float, float]] = field(init=False, factory=dict)

    def words(self, name: str, done: float, total: float | None) -> str:
        """Return the time that is left in words; nothing where that is not known, or the work is done."""
        begun, done_before = self._begun.setdefault(name, (self.clock(), done))
        if done < done_before or (total is not None and done >= total):
            del self._begun[name]
            return ""
        if total is None or done == done_before:
            return ""
        return f"ETA {duration((self.clock() - begun) * (total - done) / (done - done_before))}"


@define(eq=False)
class LiveView:
    """A bar for training and one for each piece of work before or beside it, redrawn in place by rich."""

    _progress: Any = field(init=False)
    _training: Any = field(init=False, default=None)
    _activities: dict[str, Any] = field(init=False, factory=dict)
    _pace: _Pace = field(init=False, factory=lambda: _Pace(time.monotonic))

    def __attrs_post_init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30 if console.width >= _WIDE else 12),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[words]}", markup=False),
            console=console,
            redirect_stdout=False,  # standard output may be data for another program
            refresh_per_second=5,
        )
        self._progress.start()

    def activity(self, name: str, done: float, total: float | None, unit: str) -> None:
        """Show or move the bar of a piece of work; once training goes on, it goes away when the work is done."""
        finished = total is not None and done >= total
        if name not in self._activities:
            if finished and self._training is not None:
                return
            self._activities[name] = self._progress.add_task(printable(name), total=None, count="", words="")
        task = self._activities[name]
        count = printable(_count(done, total, unit))
        words = self._pace.words(name, done, total)
        self._progress.update(task, completed=done, total=total, count=count, words=words)
        if finished and self._training is not None:
            self._progress.remove_task(self._activities.pop(name))

    def progress(
        self, step: int, total_steps: int | None, words: Sequence[str], remaining: float | None
    ) -> None:
        """Show or move the bar of training."""
        if self._training is None:
            self._leave_preparation()
            self._training = self._progress.add_task("train", total=None, count="", words="")
        shown = [*words, f"ETA {duration(remaining)}"] if remaining is not None else list(words)
        count = f"step {step}/{total_steps}" if total_steps is not None else f"step {step}"
        self._progress.update(
            self._training, completed=step, total=total_steps, count=count, words="  ".join(shown)
        )

    def line(self, text: str, *, style: str | None = None) -> None:
        """Write a line above the bars."""
        from rich.text import Text

        self._progress.console.print(Text(printable(text), style=style or ""), soft_wrap=True)

    def close(self) -> None:
        """Stop drawing; the last state of the bars stays on the screen and the cursor is back."""
        self._progress.stop()

    def _leave_preparation(self) -> None:
        """Turn the bars of the work before training into lines: the bar of training stands alone."""
        for name, number in self._activities.items():
            task = next(task for task in self._progress.tasks if task.id == number)
            self._progress.remove_task(number)
            took = duration(task.finished_time or task.elapsed or 0.0)
            self.line(
                f"{name}: {task.fields['count']} in {took}" if task.fields["count"] else f"{name}: {took}"
            )
        self._activities.clear()


@define(eq=False)
class PlainView:
    """Lines without colour: the first and the last one of a piece of work, and one every so many seconds."""

    every_seconds: float
    clock: Callable[[], float]
    _pace: _Pace = field(init=False, default=Factory(lambda self: _Pace(self.clock), takes_self=True))
    _last: dict[str, float] = field(init=False, factory=dict)
    _training: bool = field(init=False, default=False)

    def activity(self, name: str, done: float, total: float | None, unit: str) -> None:
        """Write a line, if it is time for one or the work is done."""
        finished = total is not None and done >= total
        begun = name in self._last
        left = self._pace.words(name, done, total)
        # Beside training (saving, evaluating) only work that takes long is worth a line.
        wanted = self._due(name) if begun else not self._training
        if not begun:
            self._last[name] = self.clock()
        if wanted or (finished and not self._training):
            count = _count(done, total, unit)
            if count or not finished:  # one thing alone is named when it begins
                self.line(f"{name}: {count}  {left}".rstrip() if count else f"{name} …")
        if finished:
            self._last.pop(name, None)

    def progress(
        self, step: int, total_steps: int | None, words: Sequence[str], remaining: float | None
    ) -> None:
        """Write a line, if it is time for one or the last step is done."""
        self._training = True
        if not self._due("train") and step != total_steps:
            return
        count = f"step {step}/{total_steps}" if total_steps is not None else f"step {step}"
        left = [f"ETA {duration(remaining)}"] if remaining is not None else []
        self.line("  ".join([count, *words, *left]))

    def line(self, text: str, *, style: str | None = None) -> None:  # noqa: ARG002 - lines have no colour
        """Write a line."""
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201 - this is the place that prints

    def close(self) -> None:
        """Nothing is left open."""

    def _due(self, name: str) -> bool:
        now = self.clock()
        if name in self._last and now - self._last[name] < self.every_seconds:
            return False
        self._last[name] = now
        return True


def printable(text: str) -> str:
    """Return the text with control characters written out, newlines aside."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float) -> str:
    """Write seconds as 0:07, 12:05 or 3:00:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _count(done: float, total: float | None, unit: str) -> str:
    """Write how much is done, `20/288 documents`; nothing where there is only one thing to do, or has hardly begun."""
    if total == 1 or (total is None and done <= 1):
        return ""
    count = f"{_number(done)}/{_number(total)}" if total is not None else _number(done)
    return f"{count} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
