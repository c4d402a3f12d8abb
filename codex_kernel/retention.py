"""Which checkpoints are kept: a pure function over what is there.

One rule: the newest is always kept, and so is the newest healthy one; age is counted in steps, never by a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    checkpoints: Iterable[Checkpoint],
    *,
    keep_last: int,
    keep_best: KeepBest | None = None,
    keep_every: int | None = None,
) -> frozenset[int]:
    """Return the steps of the checkpoints to keep; of what is not in it, all may be deleted.

    Kept are the last `keep_last`; the best by `keep_best`, where a missing or non-finite value is never the best and of
    equals the later is better; those whose step is a multiple of `keep_every`; and the last healthy one, whose metrics
    are all finite, so that a run that went astray does not push out what it could go back to.
    Raises ValueError where `keep_last` or `keep_every` is below 1, since the newest must stay.
    """
    if keep_last < 1:
        raise ValueError(f"expected keep_last >= 1, got {keep_last}")
    if keep_every is not None and keep_every < 1:
        raise ValueError(f"expected keep_every >= 1, got {keep_every}")
    known = list(checkpoints)
    steps = sorted({checkpoint.step for checkpoint in known})
    healthy = [checkpoint.step for checkpoint in known if _is_healthy(checkpoint)]
    return frozenset().union(
        steps[-keep_last:],
        [max(healthy)] if healthy else [],
        _best_steps(known, keep_best) if keep_best else [],
        [step for step in steps if keep_every is not None and step % keep_every == 0],
    )


def _is_healthy(checkpoint: Checkpoint) -> bool:
    return all(math.isfinite(value) for value in checkpoint.metrics.values())


def _best_steps(checkpoints: Iterable[Checkpoint], rule: KeepBest) -> Sequence[int]:
    sign = 1.0 if rule.mode == "max" else -1.0
    rated = [
        (sign * checkpoint.metrics[rule.metric], checkpoint.step)
        for checkpoint in checkpoints
        if math.isfinite(checkpoint.metrics.get(rule.metric, math.nan))
    ]
    return [step for _, step in sorted(rated)[-rule.count :]]
