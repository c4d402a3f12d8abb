"""What a run will need, before it starts: for `codex plan`.

One rule: what can be counted is counted on the real data and the real model; a guess is said to be one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from codex_kernel.build import build_parts, build_source
from codex_kernel.errors import PluginError
from codex_kernel.interfaces import Estimate, Estimates, Reporter, RunContext
from codex_kernel.plan import Plan, preflight


@frozen
class NeverStop:
    """A run that is only planned is not asked to stop."""

    signal_number: int | None = None


@frozen
class Foretold:
    """The needs of a run, and what became of its data."""

    estimate: Estimate
    data: Mapping[str, Any]
    vocab_size: int

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        estimate = asdict(self.estimate)
        per_step = self.estimate.seconds_per_step
        estimate["seconds"] = None if per_step is None else round(per_step * self.estimate.steps, 1)
        return {"schema_version": 1, "vocab_size": self.vocab_size, "estimate": estimate, "data": self.data}


def foretell(plan: Plan, base: Path, cache: Path, report: Reporter, *, measure: bool) -> Foretold:
    """Build the run's parts in a folder that is thrown away, and ask the trainer for its estimate.

    With `measure` the model gets its weights and a few steps are timed; without, it has shapes only. The encoded data
    stays in the cache, where the run finds it.
    """
    hooks = preflight(plan, base, cache)
    with tempfile.TemporaryDirectory(prefix="codex-plan-") as name:
        folder = Path(name)
        run = RunContext(
            run_id="plan",
            name=plan.name,
            seed=plan.seed,
            folder=folder,
            cache=cache,
            base=base,
            report=report,
            stop=NeverStop(),
        )
        source = build_source(plan, hooks, run, folder / "tokenizer")
        parts = build_parts(
            plan, hooks, run, source, folder / "checkpoints", materialize=measure, read_only=True
        )
        try:
            trainer = hooks.trainer(run, parts)
            if not isinstance(trainer, Estimates):
                chosen = plan.of_kind("trainer")[0]
                raise PluginError(
                    f"{chosen.entry} cannot estimate a run", remedy="codex validate checks the rest"
                )
            return Foretold(
                trainer.estimate(measure=measure), source.data.report, source.tokenizer.vocab_size
            )
        finally:
            parts.checkpointer.close()
