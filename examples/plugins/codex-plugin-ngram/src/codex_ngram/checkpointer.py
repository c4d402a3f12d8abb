"""The checkpointer `numpy`: one folder a checkpoint, saved while the run waits.

One rule: what is found damaged is told and set aside, never deleted and never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import define, field

from codex_kernel import (
    Checkpoint,
    CheckpointState,
    CodexError,
    Damaged,
    InputError,
    PluginError,
    RunContext,
    StorageError,
)
from codex_ngram import folders
from codex_ngram.folders import DamagedError


@define(eq=False)
class CheckpointFolder:
    """Saves into and loads from one folder; see `codex_kernel.Checkpointer` and `codex_kernel.CheckpointArchive`.

    `kept_steps` says which steps of some checkpoints are to be kept.
    """

    run: RunContext
    folder: Path
    kept_steps: Callable[[Sequence[Checkpoint]], frozenset[int]]
    every_steps: int | None = None
    read_only: bool = False
    _written: set[int] = field(init=False, factory=set)

    # ── saving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def due(self, step: int) -> bool:
        """Say whether the step is a multiple of `every_steps`."""
        return self.every_steps is not None and step % self.every_steps == 0

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None:
        """Write the state; a step that is there and whole stays as it is. Then delete what need not be kept."""
        self._refuse_if_read_only()
        try:
            if self._is_saved(step):
                return
            folders.sweep(self.folder)
            checkpoint = folders.write(self.folder, step, folders.prepare(state), metrics)
        except (OSError, StorageError) as error:
            path = folders.path_of(self.folder, step)
            failed = StorageError(
                f"cannot save the checkpoint {path}: {_reason(error)}", remedy="make room or mend the folder"
            )
            if wait:
                raise failed from error
            self.run.report.event("checkpoint_failed", step=step, reason=failed.message)
            self.run.report.warning(f"{failed.message}; the run goes on without it")
            return
        self._written.add(step)
        self.run.report.checkpoint_saved(checkpoint)
        self._retain()

    def _is_saved(self, step: int) -> bool:
        path = folders.path_of(self.folder, step)
        if not path.is_dir():
            return False
        if step in self._written:
            return True
        try:
            folders.verified(path)
        except DamagedError as damage:
            self._set_aside(path, damage)
            return False
        return True

    def _retain(self) -> None:
        """Delete what need not be kept; where that fails the checkpoint that was just saved is as good."""
        known: list[Checkpoint] = []
        try:
            for path in folders.found(self.folder):
                try:
                    known.append(folders.glance(path))
                except DamagedError as damage:
                    self._set_aside(path, damage)
            for checkpoint in known:
                if checkpoint.step not in self.kept(known):
                    folders.discard(checkpoint.path)
        except (OSError, CodexError) as error:
            self.run.report.warning(f"an older checkpoint cannot be deleted: {error}")

    # ── finding and loading ───────────────────────────────────────────────────────────────────────────────────────

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint whose files are all as they were saved; None where there is none."""
        if not self.read_only:
            folders.sweep(self.folder)
        for path in reversed(folders.found(self.folder)):
            try:
                return folders.verified(path)
            except DamagedError as damage:
                if not path.is_dir():
                    return self.newest()  # the process that trains has deleted it, for a newer one
                self._set_aside(path, damage)
        return None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return what was saved."""
        return folders.read(checkpoint.path)

    def close(self) -> None:
        """Do nothing: no save is ever under way."""

    def _set_aside(self, path: Path, damage: DamagedError) -> None:
        message = f"checkpoint {path.name} is damaged ({damage}) and is not used"
        if self.read_only:
            self.run.report.warning(message)
        else:
            self.run.report.warning(f"{message}; it is now {folders.set_aside(path, damage).name}")

    # ── looking at them one by one ────────────────────────────────────────────────────────────────────────────────

    def checkpoints(self) -> tuple[Sequence[Checkpoint], Sequence[Damaged]]:
        """Return all checkpoints, oldest first, and the damaged ones."""
        whole: list[Checkpoint] = []
        damaged: list[Damaged] = []
        for path in folders.found(self.folder):
            try:
                whole.append(folders.glance(path))
            except DamagedError as damage:
                damaged.append(Damaged(path, str(damage)))
        aside = folders.found_aside(self.folder)
        return whole, damaged + [Damaged(path, folders.reason_of(path)) for path in aside]

    def verify(self, checkpoint: Checkpoint) -> Sequence[str]:
        """Read every file; return a sentence for each that is not as it was saved."""
        return folders.faults(checkpoint.path)

    def files(self, checkpoint: Checkpoint) -> Mapping[str, int]:
        """Return the size in bytes of each file, the index apart."""
        try:
            return {name: size for name, (size, _) in folders.index_of(checkpoint.path).files.items()}
        except DamagedError as damage:
            raise StorageError(f"cannot read {checkpoint.path}: {damage}") from damage

    def kept(self, checkpoints: Sequence[Checkpoint]) -> frozenset[int]:
        """Return the steps that the options would keep of these."""
        return self.kept_steps(checkpoints)

    def delete(self, path: Path) -> None:
        """Delete a checkpoint or a damaged one of this folder."""
        self._refuse_if_read_only()
        if path not in [*folders.found(self.folder), *folders.found_aside(self.folder)]:
            raise InputError(f"expected a checkpoint in {self.folder}, got {path}")
        try:
            folders.discard(path)
        except OSError as error:
            raise StorageError(f"cannot delete {path}: {_reason(error)}") from error

    def export(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Copy the model's part to files in an empty folder, each one verified."""
        try:
            folders.export(checkpoint.path, folder)
        except OSError as error:
            raise StorageError(f"cannot export to {folder}: {_reason(error)}") from error

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise PluginError("the run was opened for reading alone, its checkpoints cannot be changed")


def _reason(error: OSError | StorageError) -> str:
    return error.message if isinstance(error, StorageError) else error.strerror or str(error)
