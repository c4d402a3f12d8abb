"""From a plan to an outcome: one run, from its folder to its last record.

One rule: however a run ends (completed, stopped, failed), `outcome.json` says so, and a run without an optimizer step
is never completed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, define, field, fields, frozen

from codex_kernel import changes, collector, environment, metrics, yaml_reader, yaml_writer
from codex_kernel.build import build_parts, build_source, check_same_data, recorded
from codex_kernel.changes import Change
from codex_kernel.durable import read_json, storage_errors, sweep, write_json, write_whole
from codex_kernel.errors import (
    CodexError,
    NoCheckpointError,
    PluginError,
    StoppedError,
    StorageError,
    in_words,
)
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import (
    CheckpointArchive,
    Checkpointer,
    CheckpointState,
    Outcome,
    Reporter,
    RunContext,
    Trainer,
    TrainResult,
)
from codex_kernel.metric_values import as_numbers
from codex_kernel.metrics import MetricsLog, NdjsonFile
from codex_kernel.plan import Plan, changed_plugins
from codex_kernel.reporter import RunReporter
from codex_kernel.runfolder import RunFolder, check_still_there
from codex_kernel.stopping import SignalStop


@frozen
class Start:
    """How a run was asked for: the manifest's text, the overrides as written, and the command line.

    `instead_of`: the run that it is begun in place of; None: of none.
    """

    manifest_text: bytes
    overrides: Sequence[str]
    command: Sequence[str]
    instead_of: Path | None = None


@frozen
class Resumption:
    """How a run is gone on with: the keys of the manifest that may change, and the command line."""

    allowed: Collection[str]
    command: Sequence[str]


def start(plan: Plan, hooks: Hooks, folder: RunFolder, cache: Path, how: Start) -> Outcome:
    """Run a plan from its first step in a new folder, and return how it ended."""
    stop = SignalStop(
        remedy=f"nothing was trained, so there is nothing to resume: {folder.path} can be deleted"
    )
    with folder.locked(), stop.listening():
        check_still_there(folder)
        write_whole(folder.manifest, how.manifest_text)
        if how.overrides:
            write_whole(folder.overrides, "".join(f"{line}\n" for line in how.overrides).encode())
        write_whole(folder.resolved, _resolved(plan))
        _write_environment(plan, folder, how.command)
        return _Execution(plan, folder, cache, hooks, stop, how).run()


def resume(plan: Plan, hooks: Hooks, folder: RunFolder, cache: Path, how: Resumption) -> Outcome:
    """Go on with a run from its newest whole checkpoint, and return how it ended.

    Raises InputError where the plan differs from the run's manifest in what `how` does not allow.
    """
    stop = SignalStop(remedy=f"nothing is lost: codex resume {folder.path}")
    with folder.locked(), stop.listening():
        differences = checked_changes(plan, folder, how.allowed)
        allowed = {*how.allowed, *changes.allowed_before(_events(folder), plan)}
        return _Execution(plan, folder, cache, hooks, stop, how, differences, frozenset(allowed)).run()


def checked_changes(plan: Plan, folder: RunFolder, allowed: Collection[str]) -> list[Change]:
    """Return how a plan differs from the manifest of a run; raise InputError where that may not be."""
    before = yaml_reader.plain(yaml_reader.read_file(folder.begun()))
    differences = changes.between(before, plan)
    changes.check(differences, before, plan, allowed)
    return differences


def completed(folder: RunFolder) -> Outcome | None:
    """Return the outcome of a run that has come to its end by the manifest that it has still; None of any other."""
    outcome = read_json(folder.outcome)
    if outcome is None or outcome.get("status") != "completed":
        return None
    if outcome.get("resolved_sha256") != _sha256(folder):
        return None
    known = {field.name for field in fields(Outcome)}
    return Outcome(**{name: value for name, value in outcome.items() if name in known})


def has_saved(plan: Plan, folder: RunFolder, cache: Path, report: Reporter) -> bool:
    """Say whether a run has ever had a checkpoint, be it one that is damaged or gone now; changes nothing."""
    if any(event["event"] == "checkpoint_saved" for event in _events(folder)):
        return True
    run = folder.context(plan.seed, cache, report, SignalStop(), frozenset())
    checkpointer = plan.hooks().checkpointer(run, folder.checkpoints, read_only=True)
    try:
        if isinstance(checkpointer, CheckpointArchive):
            return any(checkpointer.checkpoints())
        return checkpointer.newest() is not None
    finally:
        checkpointer.close()


def _events(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the events of a run so far; raise StorageError where they cannot be read."""
    try:
        return list(metrics.read(folder.events))
    except OSError as error:
        raise StorageError(f"cannot read {folder.events}: {error.strerror or error}") from error


def _resolved(plan: Plan) -> bytes:
    return yaml_writer.write(plan.resolved()).encode()


def _sha256(folder: RunFolder) -> str:
    return hashlib.sha256(folder.resolved.read_bytes()).hexdigest()


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
    stop: SignalStop
    how: Start | Resumption
    differences: Sequence[Change] = ()
    allowed: frozenset[str] = frozenset()
    went_on: bool = field(init=False, default=False)

    def run(self) -> Outcome:
        """Run to the end; write the outcome and tell the observers, also where an error ends it."""
        began = time.monotonic()
        reporter = RunReporter(
            self.hooks,
            MetricsLog(NdjsonFile(self.folder.metrics), self.folder.run_id, time.time),
            NdjsonFile(self.folder.events),
        )
        reporter.on_going = lambda: self._go_on(reporter)
        run = self.folder.context(self.plan.seed, self.cache, reporter, self.stop, self.allowed)
        try:
            with self.stop.insisting():
                with self.stop.holding():
                    reporter.start(run)
                result = self._train(run, reporter)
            reporter.settle()
            outcome = _ended(result, time.monotonic() - began, reporter)
            self._finish(reporter, outcome)
            reporter.raise_if_failed()  # a logger with `on_error: fail` may fail as it ends
        except BaseException as error:
            outcome = _failed(error, time.monotonic() - began, reporter)
            with _noting(error):
                # A resume that never went on leaves the outcome of before: it still holds.
                self._finish(reporter, outcome, write=self.went_on or isinstance(self.how, Start))
            raise
        return outcome

    def _train(self, run: RunContext, reporter: RunReporter) -> TrainResult:
        """Build the parts in their order and train."""
        resumes = isinstance(self.how, Resumption)
        # First: observers open there what they write to.
        reporter.run_started(environment.flat(self.plan.resolved()))
        reporter.event("run_resumed" if resumes else "run_started", command=list(self.how.command))
        for path in sweep(self.folder.path):
            reporter.event("leftover_deleted", path=str(path))
        self._tell_what_differs(reporter)
        before = recorded(self.folder.data) if resumes else None
        source = build_source(self.plan, self.hooks, run, self.folder.tokenizer, before)
        check_same_data(before, source)
        write_json(self.folder.data, source.report())
        parts = build_parts(self.plan, self.hooks, run, source, self.folder.checkpoints, materialize=True)
        try:
            trainer = self.hooks.trainer(run, parts)
            state = self._state(parts.checkpointer, reporter) if resumes else None
            self.stop.deferring = True
            collector.settle()
            result = self._fit(trainer, state)
        except BaseException as error:
            with _noting(error):
                parts.checkpointer.close()
            raise
        parts.checkpointer.close()
        return result

    def _tell_what_differs(self, reporter: RunReporter) -> None:
        """Say what a user may not expect: old or other plugins, another manifest, another run than was asked for."""
        for entry in self.plan.ageing():  # the command has said it on standard error
            reporter.event("plugin_api_older", plugin=str(entry), reason=entry.reason)
        if isinstance(self.how, Start):
            if self.how.instead_of is not None:
                reporter.event("begun_again", instead_of=str(self.how.instead_of))
            return
        for line in changed_plugins(read_json(self.folder.plugins_lock) or {"plugins": []}, self.plan):
            reporter.warning(f"plugin changed since the run began: {line}")
        if self.differences:
            reporter.warning(changes.in_words(self.differences))

    def _go_on(self, reporter: RunReporter) -> None:
        """Make the new manifest the run's own, and take away how the run ended before.

        Only now: a resume that fails before leaves the run as it was. Killed from here on, the run is interrupted.
        """
        self.went_on = True
        if self.differences:
            # First the events, on disk: killed in between, a change is recorded twice and not never.
            for change in self.differences:
                reporter.event("manifest_changed", **change.as_fields())
            reporter.events.durable_size()
            write_whole(self.folder.resolved, _resolved(self.plan))
        with storage_errors(self.folder.outcome):
            self.folder.outcome.unlink(missing_ok=True)

    def _fit(self, trainer: Trainer, state: CheckpointState | None) -> TrainResult:
        """Train; an error that is none of codex's own is the trainer's, or that of a part which it calls."""
        try:
            return trainer.fit(state)
        except (CodexError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise PluginError(
                f"{self.plan.of_kind('trainer')[0].entry} failed while training: {in_words(error)}",
                remedy=_remedy(error),
            ) from error

    def _state(self, checkpointer: Checkpointer, reporter: RunReporter) -> CheckpointState:
        """Return the state to go on from; raise NoCheckpointError where there is none."""
        checkpoint = checkpointer.newest()
        if checkpoint is None:
            found = f": {'; '.join(faults)}" if (faults := _faults(checkpointer)) else ""
            raise NoCheckpointError(
                f"{self.folder.checkpoints} has no checkpoint that can be used{found}",
                remedy=f"start again: codex run {self.folder.resolved}",
            )
        reporter.last_checkpoint = str(checkpoint.path)
        return checkpointer.load(checkpoint)

    def _finish(self, reporter: RunReporter, outcome: Outcome, *, write: bool = True) -> None:
        """Write the outcome and let the observers end, once; a second call, for a late failure, only writes."""
        try:
            if write:
                about = {"schema": 1, **_json(outcome), "resolved_sha256": _sha256(self.folder)}
                write_json(self.folder.outcome, about)
            if not reporter.finished:
                reporter.event("run_finished", status=outcome.status, reason=outcome.reason)
        finally:
            if not reporter.finished:
                reporter.finish(outcome)


@contextmanager
def _noting(first: BaseException) -> Iterator[None]:
    """Put what goes wrong after an error into its notes: the first is the one to mend, and decides the exit code."""
    try:
        yield
    except Exception as late:  # noqa: BLE001 - a plugin's own may be among them
        first.add_note(
            f"after that: {late if isinstance(late, CodexError) else f'{type(late).__name__}: {late}'}"
        )


def _faults(checkpointer: Checkpointer) -> list[str]:
    """Return what is wrong with each checkpoint of a run that has none to go on from."""
    if not isinstance(checkpointer, CheckpointArchive):
        return []
    readable, damaged = checkpointer.checkpoints()
    unsound = [f"{one.path.name}: {fault}" for one in readable for fault in checkpointer.verify(one)[:1]]
    return [*(f"{one.path.name}: {one.reason}" for one in damaged), *unsound]


def _remedy(error: Exception) -> str:
    """Say what helps against an error in training: most often the batch does not fit."""
    if isinstance(error, MemoryError) or "memory" in in_words(error).lower():
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
        failed_saves=reporter.failed_saves,
    )


def _failed(error: BaseException, seconds: float, reporter: RunReporter) -> Outcome:
    """Return the outcome of a run that an error ended; its counts are those of the last record."""
    progress = reporter.last_progress
    return Outcome(
        status="stopped" if isinstance(error, StoppedError) else "failed",
        exit_code=error.exit_code if isinstance(error, CodexError) else 1,
        reason=error.message.partition("\n")[0] if isinstance(error, CodexError) else in_words(error),
        steps=progress.step,
        tokens=progress.tokens,
        samples=progress.samples,
        seconds=round(seconds, 3),
        metrics={},
        checkpoint=reporter.last_checkpoint,
        detached=list(reporter.detached),
        failed_saves=reporter.failed_saves,
    )


def _json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as a JSON object; a metric that is not finite becomes null."""
    values = asdict(outcome)
    values["metrics"] = {
        name: value if math.isfinite(value) else None for name, value in outcome.metrics.items()
    }
    return values
