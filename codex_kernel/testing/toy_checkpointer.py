"""A checkpointer that needs numpy alone: a folder for each checkpoint, checked by digests.

It passes `CheckpointArchiveContract`. Its tensors are files of numpy, whatever their names end in.

One rule: a checkpoint appears whole, under its name, or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import define, field, frozen

from codex_kernel.errors import CodexError, NoCheckpointError, StorageError
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import Checkpoint, CheckpointState, Damaged, RunContext
from codex_kernel.options import option
from codex_kernel.retention import retained_steps

ABOUT = "checkpoint.json"
_FOLDER = re.compile(r"step-(\d{8})")
_DAMAGED = re.compile(r"damaged-step-\d{8}")


@frozen
class ToyCheckpointer:
    """A folder for each checkpoint, written in the training thread."""

    every_steps: int | None = option(None, help="Steps between checkpoints; without it only the end.", gt=0)
    keep_last: int = option(2, help="Checkpoints that are kept.", ge=1)

    @hookimpl
    def codex_shorten(self, steps: int) -> Mapping[str, object]:
        """Save several times in a rehearsal."""
        return {"every_steps": max(1, steps // 4)}

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path, read_only: bool) -> Folders:  # noqa: FBT001
        """Give the checkpointer of a run."""
        return Folders(self, run, folder, read_only)


@define(eq=False)
class Folders:
    """The checkpoints of one run."""

    options: ToyCheckpointer
    run: RunContext
    folder: Path
    read_only: bool
    saved_last: int | None = field(init=False, default=None)

    def due(self, step: int) -> bool:
        """Say whether a checkpoint is to be saved after this step."""
        return self.options.every_steps is not None and step % self.options.every_steps == 0

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None:
        """Write the checkpoint, and delete those that are not to be kept."""
        files = _files_of(state)
        if step == self.saved_last:
            return
        try:
            checkpoint = self._write(step, files, {name: float(value) for name, value in metrics.items()})
        except OSError as error:
            reason = f"cannot write {self.folder}: {error.strerror or error}"
            if wait:
                raise StorageError(reason, remedy="make room there, or name another folder") from error
            self.run.report.warning(f"no checkpoint at step {step}: {reason}")
            self.run.report.event("checkpoint_failed", step=step, reason=reason)
            return
        self.saved_last = step
        self.run.report.checkpoint_saved(checkpoint)
        known = self.checkpoints()[0]
        kept = self.kept(known)
        for old in known:
            if old.step not in kept:
                self.delete(old.path)

    def newest(self) -> Checkpoint | None:
        """Return the newest that is whole; set aside those that are not."""
        for path in sorted(self._folders(_FOLDER), reverse=True):
            faults = _faults(path)
            if not faults:
                return _read_about(path)
            self.run.report.warning(f"the checkpoint {path.name} is damaged: {'; '.join(faults)}")
            if not self.read_only:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
        return None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return what was saved."""
        import numpy as np

        tensors, values, files = {}, {}, {}
        for name in self.files(checkpoint):
            content = (checkpoint.path / name).read_bytes()
            if name.endswith(".safetensors"):
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                    tensors[name] = {key.removeprefix("_"): arrays[key] for key in arrays}
            elif name == ABOUT:
                continue
            elif name.endswith(".json"):
                values[name] = json.loads(content)
            else:
                files[name] = content
        return CheckpointState(tensors, values, files)

    def close(self) -> None:
        """Do nothing: every save has been waited for."""

    # ── one by one ────────────────────────────────────────────────────────────────────────────────────────────────

    def checkpoints(self) -> tuple[Sequence[Checkpoint], Sequence[Damaged]]:
        """Return those that say what they are, oldest first, and the others."""
        known: list[Checkpoint] = []
        damaged = [Damaged(path, "; ".join(_faults(path))) for path in sorted(self._folders(_DAMAGED))]
        for path in sorted(self._folders(_FOLDER)):
            try:
                known.append(_read_about(path))
            except (OSError, ValueError):
                damaged.append(Damaged(path, "; ".join(_faults(path))))
        return known, damaged

    def verify(self, checkpoint: Checkpoint) -> Sequence[str]:
        """Return a sentence for each file that is not as it was saved."""
        return _faults(checkpoint.path)

    def files(self, checkpoint: Checkpoint) -> Mapping[str, int]:
        """Return the size of each file; the one that says what the others are comes last."""
        found = [path for path in checkpoint.path.rglob("*") if path.is_file()]
        found.sort(key=lambda path: (path.name == ABOUT, path))
        return {path.relative_to(checkpoint.path).as_posix(): path.stat().st_size for path in found}

    def kept(self, checkpoints: Sequence[Checkpoint]) -> frozenset[int]:
        """Return the steps that would be kept."""
        return retained_steps(checkpoints, keep_last=self.options.keep_last)

    def delete(self, path: Path) -> None:
        """Delete a checkpoint, out of its name first."""
        if self.read_only or path not in {*self._folders(_FOLDER), *self._folders(_DAMAGED)}:
            raise CodexError(f"{path} is no checkpoint to delete", remedy="name one of those that are listed")
        trash = path.with_name(f".trash-{path.name}")
        shutil.rmtree(trash, ignore_errors=True)
        path.rename(trash)
        shutil.rmtree(trash)

    def export(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Copy the model's files, where all of them are as they were saved."""
        faults = [fault for fault in _faults(checkpoint.path) if fault.startswith("model/")]
        if faults:
            raise NoCheckpointError(
                f"{checkpoint.path.name} is damaged: {faults[0]}", remedy="export another one"
            )
        shutil.copytree(checkpoint.path / "model", folder, dirs_exist_ok=True)

    def _write(self, step: int, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> Checkpoint:
        path, temporary = self.folder / f"step-{step:08d}", self.folder / f".tmp-step-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        about = json.dumps({"step": step, "metrics": metrics, "sha256": digests}).encode()
        own = hashlib.sha256(about).hexdigest().encode()
        for name, content in {**files, ABOUT: own + b"\n" + about}.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        if path.exists():
            self.delete(path)
        temporary.rename(path)
        return _read_about(path)

    def _folders(self, pattern: re.Pattern[str]) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if pattern.fullmatch(path.name))


def _files_of(state: CheckpointState) -> dict[str, bytes]:
    """Return the state as files; raise CodexError for a name that leads out of the checkpoint."""
    import numpy as np

    files = {name: json.dumps(value).encode() for name, value in state.values.items()}
    files |= state.files
    for name, tensors in state.tensors.items():
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"_{key}": np.asarray(tensor) for key, tensor in tensors.items()}
        np.savez(buffer, **arrays)
        files[name] = buffer.getvalue()
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name == ABOUT:
            raise CodexError(f"no file of a checkpoint can be called {name!r}", remedy="call it otherwise")
    return files


def _about(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself; raise OSError or ValueError where it is not as it was written."""
    own, _, about = (path / ABOUT).read_bytes().partition(b"\n")
    if hashlib.sha256(about).hexdigest().encode() != own:
        raise ValueError("not as it was saved")
    found: dict[str, Any] = json.loads(about)
    return found


def _read_about(path: Path) -> Checkpoint:
    about = _about(path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Checkpoint(about["step"], path, about["metrics"], size)


def _faults(path: Path) -> list[str]:
    """Return a sentence for each file that is missing or not as it was saved."""
    try:
        about = _about(path)
    except (OSError, ValueError) as error:
        return [f"{ABOUT}: {error.strerror if isinstance(error, OSError) else error}"]
    faults = []
    for name, digest in about["sha256"].items():
        try:
            content = (path / name).read_bytes()
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
        else:
            if hashlib.sha256(content).hexdigest() != digest:
                faults.append(f"{name}: not as it was saved")
    return faults
