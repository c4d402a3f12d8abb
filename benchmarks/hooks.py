"""How long it takes to tell five observers, as a multiple of calling their bound methods in a plain loop.

    python benchmarks/hooks.py [--calls 1000] [--rounds 100] [--check]

Untraced, traced into a file, and by pluggy's own call. The candidates take turns, and of all rounds the quickest
counts: what is slower was disturbed by others. `--check` exits 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pluggy
from attrs import define

from codex_kernel import hookimpl, hookspecs, tracing
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import Progress
from codex_kernel.testing import make_run

OBSERVERS = 5
CALLS_OF_A_STEP = 10  # metrics, the machine's metrics, an activity, some events: more than a step ever has
LIMITS = {"a call, untraced": 1.0, "a step, untraced": 100.0}


@define(eq=False)
class Observer:
    """An observer that does next to nothing."""

    step: int = 0

    @hookimpl
    def codex_metrics(self, step: int, metrics: Mapping[str, float], split: str) -> None:  # noqa: ARG002
        """Keep the step."""
        self.step = step


def hooks_of(observers: list[Observer]) -> Hooks:
    """Register observers, traced or not."""
    hooks = Hooks()
    for number, observer in enumerate(observers):
        hooks.register(observer, f"logger 'observer-{number}' (benchmark 1.0)")
    return hooks


def microseconds(call: Callable[[], None], calls: int) -> float:
    """Return the time of one call."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def candidates(folder: Path) -> dict[str, Callable[[], None]]:
    """Return what is measured, by name."""
    run, progress, values = make_run(folder), Progress(1, 10, 0.1, 5, 1), {"loss": 1.0, "lr": 1e-3}
    observers = [Observer() for _ in range(OBSERVERS)]
    bound = [observer.codex_metrics for observer in observers]
    manager = pluggy.PluginManager("codex")
    for specs in hookspecs.SPECS:
        manager.add_hookspecs(specs)
    for observer in observers:
        manager.register(observer)
    untraced = hooks_of(observers)
    tracing.start(folder / "trace.ndjson")
    traced = hooks_of(observers)
    arguments: dict[str, Any] = {
        "run": run,
        "step": 1,
        "metrics": values,
        "split": "train",
        "progress": progress,
    }

    def loop() -> None:
        for method in bound:
            method(1, values, "train")

    return {
        "a plain loop": loop,
        "a call, untraced": lambda: untraced.metrics(run, 1, values, "train", progress),
        "a call, traced": lambda: traced.metrics(run, 1, values, "train", progress),
        "a call, by pluggy": lambda: manager.hook.codex_metrics(**arguments),
    }


def main() -> int:
    """Print the times and the ratios beside their limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--check", action="store_true", help="exit 1 where a limit is passed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        calls = candidates(Path(name))
        times: dict[str, list[float]] = {what: [] for what in calls}
        for _ in range(arguments.rounds):
            for what, call in calls.items():
                times[what].append(microseconds(call, arguments.calls))
        tracing.stop()
    best = {what: min(values) for what, values in times.items()}
    best["a step, untraced"] = CALLS_OF_A_STEP * best["a call, untraced"]
    print(f"{OBSERVERS} observers, quickest of {arguments.rounds} rounds of {arguments.calls:,} calls")
    for what, value in best.items():
        limit = f"  (limit {LIMITS[what]:g} µs)" if what in LIMITS else ""
        print(f"  {what:<20} {value:8.3f} µs {value / best['a plain loop']:7.2f}x{limit}")
    return int(arguments.check and any(best[what] > limit for what, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
