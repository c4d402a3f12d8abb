"""The checkpointer `safetensors`: tensors as safetensors, everything else as JSON, each file with its SHA-256.

One rule: the newest checkpoint that is whole can always be found; `commit` says how that is kept true.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import define, field, frozen

from codex_kernel import (
    Checkpoint,
    CheckpointState,
    KeepBest,
    PluginError,
    RunContext,
    hookimpl,
    option,
    retained_steps,
)
from codex_torch import commit


@frozen
class SafetensorsCheckpointer:
    """Checkpoints without pickle, written whole or not at all, verified before they are read."""

    every_steps: int | None = option(
        None,
        gt=0,
        help="Optimizer steps between checkpoints; null saves at the end and when the run is stopped.",
    )
    keep_last: int = option(2, ge=1, help="Newest checkpoints that are kept.")
    keep_best: KeepBest | None = option(None, help="Checkpoints that are kept beside them for a metric.")

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path, read_only: bool) -> FolderCheckpointer:  # noqa: FBT001 - the hook's signature
        """Give the checkpointer."""
        return FolderCheckpointer(run, folder, self, read_only)


@define(eq=False)
class FolderCheckpointer:
    """Saves into and loads from one folder; see `codex_kernel.Checkpointer`."""

    run: RunContext
    folder: Path
    options: SafetensorsCheckpointer
    read_only: bool = False
    _swept: bool = field(init=False, default=False)
    _told_missing_metric: bool = field(init=False, default=False)

    def due(self, step: int) -> bool:
        """Say whether the step is a multiple of `every_steps`."""
        return self.options.every_steps is not None and step % self.options.every_steps == 0

    def save(self, step: int, state: CheckpointState, metrics: Mapping[str, float]) -> None:
        """Write a checkpoint, then delete those that need not be kept; one that is there and whole stays as it is.

        Raises StorageError where it cannot be written.
        """
        if self.read_only:
            raise PluginError("the run was opened for reading alone, a checkpoint cannot be saved")
        self._sweep()
        if self._is_saved(step):
            return
        self._tell_missing_metric(metrics)
        checkpoint = commit.write(self.folder, step, self.run.run_id, state, metrics)
        self.run.report.checkpoint_saved(checkpoint)
        self._retain()

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint whose files are all as they were saved; None where there is none.

        A damaged one is reported and, unless the run is only read, renamed.
        """
        for _, path in reversed(commit.find(self.folder)):
            try:
                return commit.verify(path)
            except commit.DamagedError as damage:
                self._set_aside(path, damage)
        return None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return what was saved, tensors on the CPU."""
        return commit.read(checkpoint.path)

    def close(self) -> None:
        """Do nothing: a save is over when `save` returns."""

    def _is_saved(self, step: int) -> bool:
        path = commit.path_of(self.folder, step)
        if not path.is_dir():
            return False
        try:
            commit.verify(path)
        except commit.DamagedError as damage:
            self._set_aside(path, damage)
            return False
        return True

    def _set_aside(self, path: Path, damage: Exception) -> None:
        if not path.is_dir():
            return  # the process that trains has deleted it while this one was reading
        message = f"checkpoint {path.name} is damaged ({damage}) and is not used"
        if self.read_only:
            self.run.report.warning(message)
        else:
            self.run.report.warning(f"{message}; it is now {commit.set_aside(path).name}")

    def _sweep(self) -> None:
        """Delete leftovers, once: by the first save this process holds the run alone."""
        if self._swept:
            return
        try:
            for path in commit.sweep(self.folder):
                self.run.report.event("leftover_deleted", path=str(path))
        except OSError as error:
            self.run.report.warning(f"a leftover in {self.folder} cannot be deleted: {error}")
        self._swept = True

    def _retain(self) -> None:
        known: list[Checkpoint] = []
        for step, path in commit.find(self.folder):
            try:
                index = commit.read_index(path)
            except commit.DamagedError as damage:
                # Not deleted: a person may want to see it. Not counted: it cannot stand in for a whole one.
                self._set_aside(path, damage)
            else:
                known.append(Checkpoint(step, path, index.metrics, index.size_bytes))
        kept = retained_steps(known, keep_last=self.options.keep_last, keep_best=self.options.keep_best)
        for checkpoint in known:
            if checkpoint.step not in kept:
                self._discard(checkpoint)

    def _discard(self, checkpoint: Checkpoint) -> None:
        try:
            commit.discard(checkpoint.path)
        except OSError as error:
            self.run.report.warning(f"the checkpoint {checkpoint.path} cannot be deleted: {error}")

    def _tell_missing_metric(self, metrics: Mapping[str, float]) -> None:
        rule = self.options.keep_best
        if rule is None or rule.metric in metrics or self._told_missing_metric:
            return
        self._told_missing_metric = True
        there = ", ".join(sorted(metrics)) or "none"
        self.run.report.warning(
            f"keep_best: a checkpoint is saved without {rule.metric!r}, it has {there}; "
            "save at steps that are evaluated (checkpointer.every_steps, evaluate.every_steps)"
        )
