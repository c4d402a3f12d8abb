"""What the data benchmarks share: ways of doing a thing that take turns, and the rows of the table.

One rule: a ratio is taken within a round, and the median over the rounds is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from attrs import frozen


@frozen
class Row:
    """One result: what was measured, how much, its ratio to the reference of the same round, and what is asked for."""

    case: str
    what: str
    value: float
    unit: str
    ratio: float | None = None
    to: str = ""
    target: str = ""


def in_turns(
    ways: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each way, round by round, after a first round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = clock()
            way()
            if number:
                seconds[name].append(clock() - began)
    return seconds


def ratio(of: list[float], to: list[float]) -> float:
    """Return how many times as long the second takes as the first: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(of, to, strict=True))


def shown(row: Row) -> str:
    """Return a row of the table."""
    digits = 0 if row.value >= 1000 else 3 if row.unit in {"filled", "share", "s"} else 1  # noqa: PLR2004
    against = f"{row.ratio:6.2f} x {row.to}" if row.ratio is not None else ""
    target = f"  ({row.target})" if row.target else ""
    return f"{row.case:<8} {row.what:<58} {row.value:>12,.{digits}f} {row.unit:<10} {against}{target}"
