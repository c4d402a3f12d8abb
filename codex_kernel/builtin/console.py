"""The logger `console`: what a person sees of a run while it runs, on standard error.

One rule: a terminal gets one live display that is gone or final when the run ends; anything else (a pipe, a file, a
CI job, a dumb terminal) gets plain lines, few enough to read.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from codex_kernel import Outcome, Progress, RunContext, hookimpl, option
from codex_kernel.builtin.console_views import LiveView, PlainView


@define(eq=False)
class _Pace:
    """How fast steps go, measured from the first record on."""

    clock: Callable[[], float]
    _first: tuple[float, int] | None = field(init=False, default=None)

    def remaining_seconds(self, progress: Progress, step_seconds: float | None) -> float | None:
        """Estimate the time to the last step; None where it is not known."""
        now = self.clock()
        self._first = self._first or (now, progress.step)
        began, first_step = self._first
        if progress.step > first_step:
            step_seconds = (now - began) / (progress.step - first_step)
        if progress.total_steps is None or step_seconds is None or not math.isfinite(step_seconds):
            return None
        return max(0, progress.total_steps - progress.step) * step_seconds


@define(eq=False)
class ConsoleLogger:
    """Progress bar on a terminal, plain lines elsewhere: loss, tokens/s, time left, evaluations, warnings."""

    every: float = option(
        10.0, ge=0, help="Seconds between two lines of progress where there is no terminal."
    )
    _view: LiveView | PlainView | None = field(init=False, default=None)
    _pace: _Pace | None = field(init=False, default=None)

    @hookimpl
    def codex_run_started(self, run: RunContext) -> None:  # noqa: ARG002 - the hook's first argument
        """Choose how to show the run."""
        self._shown()

    @hookimpl
    def codex_activity(self, name: str, done: float, total: float | None, unit: str) -> None:
        """Show work outside the training loop."""
        self._shown().activity(name, done, total, unit)

    @hookimpl
    def codex_metrics(self, step: int, metrics: Mapping[str, float], split: str, progress: Progress) -> None:
        """Show where training stands, and what an evaluation found."""
        view = self._shown()
        if split == "train":
            self._pace = self._pace or _Pace(time.monotonic)
            remaining = self._pace.remaining_seconds(progress, metrics.get("step_seconds"))
            view.progress(step, progress.total_steps, train_words(metrics), remaining)
        elif split == "validation":
            view.line(f"step {step}: {evaluation_words(metrics)}")

    @hookimpl
    def codex_event(self, name: str, fields: Mapping[str, object]) -> None:
        """Show warnings."""
        if name == "warning":
            self._shown().line(f"warning: {fields.get('message', '')}", style="yellow")

    @hookimpl
    def codex_run_finished(self, outcome: Outcome) -> None:  # noqa: ARG002 - the command tells how the run ended
        """Give the terminal back."""
        if self._view is not None:
            atexit.unregister(self._view.close)
            self._view.close()
        self._view = self._pace = None

    def _shown(self) -> LiveView | PlainView:
        if self._view is None:
            self._view = LiveView() if on_terminal() else PlainView(self.every, time.monotonic)
            atexit.register(self._view.close)  # a process that ends early must not leave the cursor hidden
        return self._view


def on_terminal() -> bool:
    """Say whether a person watches standard error on a terminal that can redraw a line."""
    dumb = os.environ.get("TERM", "").lower() in {"", "dumb", "unknown"}
    return sys.stderr.isatty() and not dumb and not os.environ.get("CI")


def train_words(metrics: Mapping[str, float]) -> list[str]:
    """Return what a line of progress says of a training record, where the record has it."""
    forms: dict[str, Callable[[Any], str]] = {
        "loss": lambda value: f"loss {value:.4f}",
        "tokens_per_second": lambda value: f"{value:,.0f} tokens/s",
    }
    return [form(metrics[name]) for name, form in forms.items() if name in metrics]


def evaluation_words(metrics: Mapping[str, float]) -> str:
    """Return a sentence of all metrics of an evaluation, the loss first."""
    others = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items() if name != "loss"]
    loss = [f"loss {metrics['loss']:.4f}"] if "loss" in metrics else []
    return "validation " + ", ".join([*loss, *others])
