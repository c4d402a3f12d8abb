"""Which checkpoints are kept: a pure function over what is there.

One rule: the newest is always kept, and age is counted in steps, never by a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from attrs import frozen

from codex_kernel.interfaces import Checkpoint
from codex_kernel.options import option


@frozen
class KeepBest:
    """Keep the checkpoints that are best by a metric, however old they are."""

    metric: str = option(help="The metric that decides, such as validation/loss.")
    mode: Literal["min", "max"] = option("min", help="Whether the smallest or the largest value is the best.")
    count: int = option(1, ge=1, help="Checkpoints kept for being the best.")


def retained_steps(
    checkpoints: Iterable[Checkpoint], *, keep_last: int, keep_best: KeepBest | None = None
) -> frozenset[int]:
    """Return the steps of the checkpoints to keep: the last `keep_last`, and those that are best by `keep_best`.

    A checkpoint whose metric is missing or not finite is never among the best; of equals the later one is better.
    Raises ValueError where `keep_last` is below 1, since the newest must stay.
    """
    if keep_last < 1:
        raise ValueError(f"expected keep_last >= 1, got {keep_last}")
    known = list(checkpoints)
    last = sorted({checkpoint.step for checkpoint in known})[-keep_last:]
    return frozenset(last) | (_best_steps(known, keep_best) if keep_best else frozenset())


def _best_steps(checkpoints: Iterable[Checkpoint], rule: KeepBest) -> frozenset[int]:
    sign = 1.0 if rule.mode == "max" else -1.0
    rated = [
        (sign * checkpoint.metrics[rule.metric], checkpoint.step)
        for checkpoint in checkpoints
        if math.isfinite(checkpoint.metrics.get(rule.metric, math.nan))
    ]
    return frozenset(step for _, step in sorted(rated)[-rule.count :])
