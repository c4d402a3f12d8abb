"""What a run will need, and what is wrong with it, before it starts: for `codex plan`.

One rule: what can be counted is counted on the real data and the real model; a guess is said to be one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from codex_kernel.build import Source, build_parts, build_source
from codex_kernel.errors import CodexError, PluginError, in_words
from codex_kernel.interfaces import Estimate, Estimates, Probe, Probes, Reporter, RunContext, Trainer
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

    @property
    def seconds(self) -> float | None:
        """How long the run will train; None where that is not known."""
        steps, per_step = self.estimate.steps, self.estimate.seconds_per_step
        return None if steps is None or per_step is None else per_step * steps

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        estimate = asdict(self.estimate)
        estimate["seconds"] = None if self.seconds is None else round(self.seconds, 1)
        return {"schema_version": 1, "vocab_size": self.vocab_size, "estimate": estimate, "data": self.data}


@frozen(eq=False)
class PlannedRun:
    """A run that is built and not started."""

    plan: Plan
    source: Source
    trainer: Trainer

    def foretell(self, *, measure: bool) -> Foretold:
        """Ask the trainer for its estimate; with `measure` a few steps are timed.

        Raises PluginError where the trainer cannot estimate.
        """
        if not isinstance(self.trainer, Estimates):
            raise PluginError(
                f"{self._trainer_name} cannot estimate a run", remedy="codex validate checks the rest"
            )
        estimate = self.trainer.estimate(measure=measure)
        return Foretold(estimate, self.source.data.report, self.source.tokenizer.vocab_size)

    def require_probes(self) -> Probes:
        """Return the trainer as one that can probe; raise PluginError where it cannot."""
        if not isinstance(self.trainer, Probes):
            raise PluginError(
                f"{self._trainer_name} cannot probe a run",
                remedy="leave --probe out, or choose another trainer",
            )
        return self.trainer

    def probe(self) -> Iterator[Probe]:
        """Yield what each of the trainer's checks found, as it is found; raise PluginError where one breaks."""
        probes = self.require_probes()
        try:
            yield from probes.probe()
        except CodexError:
            raise
        except Exception as error:
            raise PluginError(
                f"{self._trainer_name} failed while probing: {in_words(error)}",
                remedy="--debug shows where",
            ) from error

    @property
    def _trainer_name(self) -> str:
        return str(self.plan.of_kind("trainer")[0].entry)


@contextmanager
def planned(
    plan: Plan, base: Path, cache: Path, report: Reporter, *, materialize: bool
) -> Iterator[PlannedRun]:
    """Build the run's parts in a folder that is thrown away.

    With `materialize` the model gets its weights; without, it has shapes only. The encoded data stays in the cache,
    where the run finds it.
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
            plan, hooks, run, source, folder / "checkpoints", materialize=materialize, read_only=True
        )
        try:
            yield PlannedRun(plan, source, hooks.trainer(run, parts))
        finally:
            parts.checkpointer.close()
