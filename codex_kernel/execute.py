"""From a plan to an outcome: one run, from its folder to its last record.

One rule: however a run ends (completed, stopped, failed), `outcome.json` says so, and a run without an optimizer step
is never completed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, define, frozen

from codex_kernel import environment, yaml_writer
from codex_kernel.build import build_parts, build_source, check_same_data
from codex_kernel.errors import CodexError, NoCheckpointError, PluginError, StoppedError
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import (
    Checkpointer,
    CheckpointState,
    Outcome,
    Progress,
    RunContext,
    Trainer,
    TrainResult,
)
from codex_kernel.metric_values import as_numbers
from codex_kernel.metrics import MetricsLog, NdjsonFile
from codex_kernel.plan import Plan, changed_plugins
from codex_kernel.reporter import RunReporter
from codex_kernel.runfolder import RunFolder, read_json, write_json, write_whole
from codex_kernel.stopping import SignalStop


@frozen
class Start:
    """How a run was asked for: the manifest's text, the overrides as written, and the command line."""

    manifest_text: bytes
    overrides: Sequence[str]
    command: Sequence[str]


def start(plan: Plan, hooks: Hooks, folder: RunFolder, cache: Path, how: Start) -> Outcome:
    """Run a plan from its first step in a new folder, and return how it ended."""
    with folder.locked():
        write_whole(folder.manifest, how.manifest_text)
        if how.overrides:
            write_whole(folder.overrides, "".join(f"{line}\n" for line in how.overrides).encode())
        write_whole(folder.resolved, yaml_writer.write(plan.resolved()).encode())
        _write_environment(plan, folder, how.command)
        return _Execution(plan, folder, cache, hooks, resume=False, command=how.command).run()


def resume(plan: Plan, hooks: Hooks, folder: RunFolder, cache: Path, command: Sequence[str]) -> Outcome:
    """Go on with a run from its newest whole checkpoint, and return how it ended."""
    with folder.locked():
        return _Execution(plan, folder, cache, hooks, resume=True, command=command).run()


def _write_environment(plan: Plan, folder: RunFolder, command: Sequence[str]) -> None:
    write_json(folder.environment, environment.describe(command, plan.seed, folder.base))
    write_json(folder.plugins_lock, plan.lock())


@define(eq=False)
class _Execution:
    """One start or resume of a run, under its lock."""

    plan: Plan
    folder: RunFolder
    cache: Path
    hooks: Hooks
    resume: bool
    command: Sequence[str]

    def run(self) -> Outcome:
        """Run to the end; write the outcome and tell the observers, also where an error ends it."""
        began = time.monotonic()
        stop = SignalStop()
        reporter = RunReporter(
            self.hooks,
            MetricsLog(NdjsonFile(self.folder.metrics), self.folder.run_id, time.time),
            NdjsonFile(self.folder.events),
        )
        run = RunContext(
            run_id=self.folder.run_id,
            name=self.folder.name,
            seed=self.plan.seed,
            folder=self.folder.path,
            cache=self.cache,
            base=self.folder.base,
            report=reporter,
            stop=stop,
        )
        reporter.start(run)
        with stop.listening():
            try:
                result = self._train(run, reporter, stop)
                reporter.settle()
                outcome = _ended(result, time.monotonic() - began, reporter)
                self._finish(reporter, outcome)
                reporter.raise_if_failed()  # a logger with `on_error: fail` may fail as it ends
            except BaseException as error:
                outcome = _failed(error, time.monotonic() - began, reporter)
                # A resume that never went on leaves the outcome of before: it still holds.
                self._finish(reporter, outcome, write=stop.deferring or not self.resume)
                raise
        return outcome

    def _train(self, run: RunContext, reporter: RunReporter, stop: SignalStop) -> TrainResult:
        """Build the parts in their order and train."""
        reporter.event("run_resumed" if self.resume else "run_started", command=list(self.command))
        reporter.run_started(environment.flat(self.plan.resolved()))
        if self.resume:
            for line in changed_plugins(read_json(self.folder.plugins_lock) or {"plugins": []}, self.plan):
                reporter.warning(f"plugin changed since the run began: {line}")
        source = build_source(self.plan, self.hooks, run, self.folder.tokenizer)
        if self.resume:
            check_same_data(read_json(self.folder.data), source)
        write_json(self.folder.data, {"schema": 1, **source.data.report})
        parts = build_parts(self.plan, self.hooks, run, source, self.folder.checkpoints, materialize=True)
        try:
            trainer = self.hooks.trainer(run, parts)
            state = self._state(parts.checkpointer, reporter) if self.resume else None
            self._forget_outcome(reporter)
            stop.deferring = True
            return self._fit(trainer, state)
        finally:
            parts.checkpointer.close()

    def _fit(self, trainer: Trainer, state: CheckpointState | None) -> TrainResult:
        """Train; an error that is none of codex's own is the trainer's, or that of a part which it calls."""
        try:
            return trainer.fit(state)
        except (CodexError, KeyboardInterrupt):
            raise
        except Exception as error:
            text = str(error).strip().split("\n", maxsplit=1)[0]
            raise PluginError(
                f"{self.plan.of_kind('trainer')[0].entry} failed while training: {type(error).__name__}: {text}",
                remedy=_remedy(error),
            ) from error

    def _state(self, checkpointer: Checkpointer, reporter: RunReporter) -> CheckpointState:
        """Return the state to go on from; raise NoCheckpointError where there is none."""
        checkpoint = checkpointer.newest()
        if checkpoint is None:
            raise NoCheckpointError(
                f"{self.folder.checkpoints} has no checkpoint that can be used",
                remedy=f"start again: codex run {self.folder.resolved}",
            )
        reporter.last_checkpoint = str(checkpoint.path)
        return checkpointer.load(checkpoint)

    def _forget_outcome(self, reporter: RunReporter) -> None:
        """Take away how the run ended before: killed from here on, it is interrupted."""
        before = read_json(self.folder.outcome)
        if before is not None:
            reporter.last_progress = Progress(before["steps"], None, 0.0, before["tokens"], before["samples"])
            self.folder.outcome.unlink()

    def _finish(self, reporter: RunReporter, outcome: Outcome, *, write: bool = True) -> None:
        """Write the outcome and let the observers end, once; a second call, for a late failure, only writes."""
        try:
            if write:
                write_json(self.folder.outcome, {"schema": 1, **_json(outcome)})
            if not reporter.finished:
                reporter.event("run_finished", status=outcome.status, reason=outcome.reason)
        finally:
            if not reporter.finished:
                reporter.finish(outcome)


def _remedy(error: Exception) -> str:
    """Say what helps against an error in training: most often the batch does not fit."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "lower trainer.micro_batch_size or data.seq_len: codex plan shows what needs the memory"
    return "--debug shows the traceback; codex resume goes on from the newest checkpoint"


def _ended(result: TrainResult, seconds: float, reporter: RunReporter) -> Outcome:
    """Return the outcome of a run whose trainer came to an end; raise CodexError where it did nothing."""
    progress, number = result.progress, result.signal_number
    if progress.step == 0:
        raise CodexError("the trainer returned without an optimizer step", remedy="see trainer.max_steps")
    try:
        metrics = as_numbers(result.metrics)
    except (TypeError, ValueError) as error:
        raise PluginError(f"the trainer returned metrics that are none: {error}") from error
    return Outcome(
        status="completed" if number is None else "stopped",
        exit_code=0 if number is None else 128 + number,
        reason=result.stop_reason,
        steps=progress.step,
        tokens=progress.tokens,
        samples=progress.samples,
        seconds=round(seconds, 3),
        metrics=metrics,
        checkpoint=reporter.last_checkpoint,
        detached=list(reporter.detached),
    )


def _failed(error: BaseException, seconds: float, reporter: RunReporter) -> Outcome:
    """Return the outcome of a run that an error ended; its counts are those of the last record."""
    known = isinstance(error, CodexError)
    text = str(error).split("\n", maxsplit=1)[0]
    progress = reporter.last_progress
    return Outcome(
        status="stopped" if isinstance(error, StoppedError) else "failed",
        exit_code=error.exit_code if isinstance(error, CodexError) else 1,
        reason=text if known else f"{type(error).__name__}: {text}",
        steps=progress.step,
        tokens=progress.tokens,
        samples=progress.samples,
        seconds=round(seconds, 3),
        metrics={},
        checkpoint=reporter.last_checkpoint,
        detached=list(reporter.detached),
    )


def _json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as a JSON object; a metric that is not finite becomes null."""
    values = asdict(outcome)
    values["metrics"] = {
        name: value if math.isfinite(value) else None for name, value in outcome.metrics.items()
    }
    return values
