"""When a run ends since an evaluation metric no longer improves.

One rule: only evaluations count, and what they have counted up to is the whole state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import define

from codex_kernel import InputError

if TYPE_CHECKING:
    from codex_torch.plugin import EarlyStopping


def check_metric(name: str, given: Iterable[str]) -> None:
    """Raise InputError where the metric is none of those that an evaluation gives."""
    names = sorted(given)
    if name not in names:
        raise InputError(
            f"early_stopping: expected the metric {name!r}, the evaluation gives {', '.join(names)}",
            remedy="set trainer.early_stopping.metric to one of them, or add its plugin to evaluate.metrics",
        )


@define(eq=False)
class Patience:
    """What the evaluations have come to: the best value, its step, and how many since then were no better."""

    options: EarlyStopping
    best: float | None = None
    best_step: int = 0
    worse: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether as many evaluations as `patience` brought no improvement."""
        return self.worse >= self.options.patience

    def update(self, metrics: Mapping[str, float], step: int) -> bool:
        """Count an evaluation and say whether the patience is exhausted; NaN is no improvement.

        Raises InputError where the evaluation does not give the metric.
        """
        name = self.options.metric
        check_metric(name, metrics)
        if self._improves(metrics[name]):
            self.best, self.best_step, self.worse = metrics[name], step, 0
        else:
            self.worse += 1
        return self.exhausted

    def reason(self) -> str:
        """Say why the run ends."""
        best = "never finite" if self.best is None else f"best {self.best:.4f} at step {self.best_step}"
        evaluations = "1 evaluation" if self.worse == 1 else f"{self.worse} evaluations"
        return f"{self.options.metric} has not improved in {evaluations} ({best})"

    def state(self) -> dict[str, Any]:
        """Return what was counted, as JSON values."""
        metric = {"metric": self.options.metric, "mode": self.options.mode}
        return {**metric, "best": self.best, "best_step": self.best_step, "worse": self.worse}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave; of another metric or mode nothing, for the two cannot be compared."""
        if (state["metric"], state["mode"]) != (self.options.metric, self.options.mode):
            return
        self.best, self.best_step, self.worse = state["best"], state["best_step"], state["worse"]

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.options.mode == "max" else self.best - value
        return gain > self.options.min_delta
