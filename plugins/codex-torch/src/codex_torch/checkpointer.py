"""The checkpointer `safetensors`: tensors as safetensors, everything else as JSON, each file with its SHA-256.

One rule: the newest checkpoint that is whole can always be found; `commit` says how that is kept true. A step waits for
the copy of the state alone: one thread writes it, one save at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attrs import define, evolve, field, frozen

from codex_kernel import (
    Checkpoint,
    CheckpointState,
    CodexError,
    Damaged,
    InputError,
    KeepBest,
    PluginError,
    RunContext,
    StorageError,
    hookimpl,
    option,
    retained_steps,
)
from codex_torch import commit
from codex_torch.index import DamagedError, read_index

if TYPE_CHECKING:
    from codex_torch.staging import Staging

WAITED_SECONDS = 0.5
"""Training may wait for saves that long, in all, before the user is told that they come too often."""


@frozen
class SafetensorsCheckpointer:
    """Checkpoints without pickle, written whole or not at all, verified before they are read."""

    codex_capabilities: ClassVar[tuple[str, ...]] = ("resume",)

    every_steps: int | None = option(
        None,
        gt=0,
        help="Optimizer steps between checkpoints; null: not by steps. One is saved at the end in any case, and when "
        "the run is stopped.",
    )
    every_minutes: float | None = option(
        None, gt=0, help="Minutes between checkpoints, beside every_steps or instead; null: not by time."
    )
    keep_last: int = option(2, ge=1, help="Newest checkpoints that are kept.")
    keep_best: KeepBest | None = option(None, help="Checkpoints that are kept beside them for a metric.")
    keep_every: int | None = option(
        None, gt=0, help="Checkpoints at multiples of this many steps are kept for ever; null: none are."
    )
    asynchronous: bool = option(
        default=True,
        help="Write while training goes on, from a copy that takes as much memory as the checkpoint has bytes; false: "
        "training waits for the disk.",
    )

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path, read_only: bool) -> FolderCheckpointer:  # noqa: FBT001 - the hook's signature
        """Give the checkpointer."""
        return FolderCheckpointer(run, folder, self, read_only)

    @hookimpl
    def codex_shorten(self, steps: int) -> Mapping[str, object]:
        """Save five times in a rehearsal, counted in steps alone, so that each rehearsal saves at the same ones."""
        return {"every_steps": max(1, steps // 5), "every_minutes": None}


@define(eq=False)
class FolderCheckpointer:
    """Saves into and loads from one folder; see `codex_kernel.Checkpointer` and `codex_kernel.CheckpointArchive`.

    `clock` gives seconds that only ever grow.
    """

    run: RunContext
    folder: Path
    options: SafetensorsCheckpointer
    read_only: bool = False
    clock: Callable[[], float] = time.monotonic
    _last_save: float = field(init=False)
    _staging: Staging | None = field(init=False, default=None)
    _thread: threading.Thread | None = field(init=False, default=None)
    _error: BaseException | None = field(init=False, default=None)
    _waited: float = field(init=False, default=0.0)
    _written: set[int] = field(init=False, factory=set)
    _swept: bool = field(init=False, default=False)
    _told: set[str] = field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self._last_save = self.clock()

    # ── saving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def due(self, step: int) -> bool:
        """Say whether the step is a multiple of `every_steps`, or `every_minutes` are over since the last save."""
        steps, minutes = self.options.every_steps, self.options.every_minutes
        return (steps is not None and step % steps == 0) or (
            minutes is not None and self.clock() - self._last_save >= minutes * 60
        )

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None:
        """Copy the state and write it behind the caller's back; with `wait` write it now.

        One that is there and whole stays as it is. Then those that need not be kept are deleted. Raises StorageError
        with `wait`, where it cannot be written; without, that is a warning and an event. Raises PluginError for tensors
        that are not torch's.
        """
        self._refuse_if_read_only()
        if not wait:
            self._tell_if_waiting(step)
            self._tell_missing_metric(metrics)
        self._settle()
        self._last_save = self.clock()
        if self._is_saved(step):
            return
        self._refuse_others(state)
        metrics = dict(metrics)
        if wait:
            self._write(step, commit.prepare(state), metrics)
        elif self.options.asynchronous:
            self._start(step, commit.prepare(self._copied(state)), metrics)
        else:
            self._write_or_warn(step, commit.prepare(state), metrics)

    def _refuse_others(self, state: CheckpointState) -> None:
        from codex_torch import tensor_file  # brings torch

        tensor_file.refuse_others(state.tensors)

    def _copied(self, state: CheckpointState) -> CheckpointState:
        if self._staging is None:
            from codex_torch.staging import Staging

            self._staging = Staging()
        return evolve(state, tensors=self._staging.copy(state.tensors))

    def _start(self, step: int, contents: Sequence[commit.Content], metrics: Mapping[str, float]) -> None:
        def work() -> None:
            try:
                self._write_or_warn(step, contents, metrics)
            except BaseException as error:  # noqa: BLE001 - raised in the training thread by _settle
                self._error = error

        # No daemon: should the interpreter end without `close`, it still waits for the checkpoint.
        thread = threading.Thread(target=work, name=f"codex-checkpoint-{step}")
        thread.start()  # may fail, and what has not begun cannot be waited for
        self._thread = thread

    def _settle(self) -> None:
        """Wait for the save under way; raise what went wrong in it beyond a disk that fails."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write_or_warn(
        self, step: int, contents: Sequence[commit.Content], metrics: Mapping[str, float]
    ) -> None:
        try:
            self._write(step, contents, metrics)
        except StorageError as error:
            self.run.report.event("checkpoint_failed", step=step, reason=error.message)
            self.run.report.warning(f"{error.message}; the run goes on without it")

    def _write(self, step: int, contents: Sequence[commit.Content], metrics: Mapping[str, float]) -> None:
        self._sweep()
        checkpoint = commit.write(self.folder, step, self.run.run_id, contents, metrics)
        self._written.add(step)
        self.run.report.checkpoint_saved(checkpoint)
        self._retain()

    def _is_saved(self, step: int) -> bool:
        path = commit.path_of(self.folder, step)
        if not path.is_dir():
            return False
        if step in self._written:
            return True
        try:
            commit.verify(path)
        except DamagedError as damage:
            self._set_aside(path, damage)
            return False
        return True

    def _sweep(self) -> None:
        """Delete leftovers, once: a process that saves, or goes on, holds the run alone."""
        if self._swept:
            return
        try:
            for path in commit.sweep(self.folder):
                self.run.report.event("leftover_deleted", path=str(path))
        except OSError as error:
            self.run.report.warning(f"a leftover in {self.folder} cannot be deleted: {error}")
        self._swept = True

    def _retain(self) -> None:
        """Delete what need not be kept; where that fails the checkpoint that was just saved is as good."""
        known: list[Checkpoint] = []
        try:
            for _, path in commit.find(self.folder):
                try:
                    known.append(commit.glance(path))
                except DamagedError as damage:
                    # Not deleted: a person may want to see it. Not counted: it cannot stand in for a whole one.
                    self._set_aside(path, damage)
            kept = self.kept(known)
            for checkpoint in known:
                if checkpoint.step not in kept:
                    commit.discard(checkpoint.path)
        except (OSError, CodexError) as error:
            self.run.report.warning(f"an older checkpoint cannot be deleted: {error}")

    # ── finding and loading ───────────────────────────────────────────────────────────────────────────────────────

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint whose files are all as they were saved; None where there is none.

        A damaged one is reported and, unless the run is only read, renamed; what a process has left that was
        killed while it saved or deleted is deleted. Waits for the save under way.
        """
        self._settle()
        if not self.read_only:
            self._sweep()
        for _, path in reversed(commit.find(self.folder)):
            try:
                checkpoint = commit.verify(path)
                self._tell_extra_files(path)
            except DamagedError as damage:
                if not path.is_dir():
                    return self.newest()  # the process that trains has deleted it, for a newer one
                self._set_aside(path, damage)
                continue
            if not self.read_only:
                self._retain()
            return checkpoint
        return None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return what was saved, tensors on the CPU; wait for the save under way."""
        self._settle()
        return commit.read(checkpoint.path)

    def close(self) -> None:
        """Wait for the save under way and let go of the copy's memory."""
        try:
            self._settle()
        finally:
            if self._staging is not None:
                self._staging.free()

    def _set_aside(self, path: Path, damage: DamagedError) -> None:
        if not path.is_dir():
            return  # the process that trains has deleted it while this one was reading
        message = f"checkpoint {path.name} is damaged ({damage}) and is not used"
        if self.read_only:
            self.run.report.warning(message)
        else:
            self.run.report.warning(f"{message}; it is now {commit.set_aside(path, damage).name}")

    # ── looking at them one by one ────────────────────────────────────────────────────────────────────────────────

    def checkpoints(self) -> tuple[Sequence[Checkpoint], Sequence[Damaged]]:
        """Return all checkpoints, oldest first, and the damaged ones, by their index and the sizes of their files."""
        self._settle()
        whole: list[Checkpoint] = []
        damaged: list[Damaged] = []
        for _, path in commit.find(self.folder):
            try:
                whole.append(commit.glance(path))
            except DamagedError as damage:
                if path.is_dir():
                    damaged.append(Damaged(path, str(damage)))
            except InputError as error:  # of a later version
                damaged.append(Damaged(path, error.message))
        aside = [Damaged(path, commit.reason_of(path)) for _, path in commit.find_set_aside(self.folder)]
        return whole, damaged + aside

    def verify(self, checkpoint: Checkpoint) -> Sequence[str]:
        """Read every file; return a sentence for each that is not as it was saved."""
        self._settle()
        try:
            self._tell_extra_files(checkpoint.path)
        except DamagedError as damage:
            return [str(damage)]
        return commit.faults(checkpoint.path)

    def files(self, checkpoint: Checkpoint) -> Mapping[str, int]:
        """Return the size in bytes of each file, `checkpoint.json` apart."""
        try:
            index = read_index(checkpoint.path)
        except DamagedError as damage:
            raise StorageError(f"cannot read {checkpoint.path}: {damage}") from damage
        return {name: size for name, (size, _) in sorted(index.files.items())}

    def kept(self, checkpoints: Sequence[Checkpoint]) -> frozenset[int]:
        """Return the steps that the options would keep of these."""
        options = self.options
        return retained_steps(
            checkpoints,
            keep_last=options.keep_last,
            keep_best=options.keep_best,
            keep_every=options.keep_every,
        )

    def delete(self, path: Path) -> None:
        """Delete a checkpoint or a damaged one of this folder; raise StorageError where it cannot be deleted."""
        self._refuse_if_read_only()
        self._settle()
        if path.parent != self.folder or not commit.is_ours(path):
            raise InputError(f"expected a checkpoint in {self.folder}, got {path}")
        try:
            commit.discard(path)
        except OSError as error:
            raise StorageError(
                f"cannot delete {path}: {error.strerror or error}", remedy="mend the folder, then ask again"
            ) from error

    def export(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Copy the model's part to files in an empty folder, each one verified as it is copied."""
        self._settle()
        if any(folder.iterdir()):
            raise InputError(f"expected an empty folder to export to, got {folder}")
        commit.export(checkpoint.path, folder)

    # ── what the user is told ─────────────────────────────────────────────────────────────────────────────────────

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise PluginError("the run was opened for reading alone, its checkpoints cannot be changed")

    def _tell_extra_files(self, path: Path) -> None:
        """Name the files that someone has put into a checkpoint: they do no harm, and may be missed elsewhere."""
        if extra := commit.extra_files(path):
            self.run.report.warning(
                f"{path.name} has files that were not saved with it and are not read: {', '.join(extra)}"
            )

    def _tell_if_waiting(self, step: int) -> None:
        """Wait for a save that is still under way, and say so: it holds up training."""
        if self._thread is None or not self._thread.is_alive():
            return
        began = self.clock()
        self._thread.join()
        seconds = self.clock() - began
        self._waited += seconds
        self.run.report.event("checkpoint_waited", step=step, seconds=round(seconds, 3))
        if self._waited >= WAITED_SECONDS:
            self._tell_once(
                "waited",
                "saves take longer than the interval between them: training has waited for the last one, up to step "
                f"{step} for {self._waited:.1f} s; raise checkpointer.every_steps or every_minutes",
            )

    def _tell_missing_metric(self, metrics: Mapping[str, float]) -> None:
        rule = self.options.keep_best
        if rule is None or rule.metric in metrics:
            return
        there = ", ".join(sorted(metrics)) or "none"
        self._tell_once(
            "keep_best",
            f"keep_best: a checkpoint is saved without {rule.metric!r}, it has {there}; "
            "save at steps that are evaluated (checkpointer.every_steps, evaluate.every_steps)",
        )

    def _tell_once(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.run.report.warning(message)
