"""Checkpoints on disk: a folder that has its final name is a whole checkpoint.

One rule: write under a temporary name, sync files and folders, rename, sync the parent; only then delete another. So a
process that is killed at any instant, or a power cut, leaves the checkpoints there were, or those and one more.

    step-00000100/          a checkpoint; checkpoint.json was written last, with the SHA-256 of all files and of itself
    .tmp-00000100-1f3a/     a save or a deletion that did not end
    .bad-00000100-1f3a/     a checkpoint that was found damaged; damage.txt says why
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from codex_kernel import (
    Checkpoint,
    CheckpointState,
    NoCheckpointError,
    PluginError,
    StorageError,
    sync_folder,
)

INDEX = "checkpoint.json"
REASON = "damage.txt"
MODEL = "model/"
_NAME = re.compile(r"step-(\d{8,})")
_ASIDE = re.compile(r"\.bad-(\d{8,})-[0-9a-f]{8}")
_LEFTOVER = re.compile(r"\.tmp-(\d{8,})-[0-9a-f]{8}")


class DamagedError(Exception):
    """A file of a checkpoint is not what was saved."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")


@frozen
class Index:
    """What a checkpoint says of itself: size and SHA-256 of each file, and the metrics that it was saved with."""

    step: int
    metrics: Mapping[str, float]
    files: Mapping[str, tuple[int, str]]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but the index."""
        return sum(size for size, _ in self.files.values())


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────


def found(folder: Path) -> list[Path]:
    """Return the checkpoints, oldest first, by the step in the name: clocks go wrong."""
    return _named(folder, _NAME)


def found_aside(folder: Path) -> list[Path]:
    """Return what was set aside, oldest first."""
    return _named(folder, _ASIDE)


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    named = ((pattern.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir())
    return [path for _, path in sorted((int(match.group(1)), path) for match, path in named if match)]


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, or will be."""
    return folder / f"step-{step:08d}"


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def prepare(state: CheckpointState) -> dict[str, bytes]:
    """Return the files of a state, as it is now; raise PluginError for a name that leads out of the checkpoint."""
    from safetensors.numpy import save

    for name in (*state.tensors, *state.values, *state.files):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or name == INDEX:
            raise PluginError(f"a file of a checkpoint cannot be named {name!r}: expected a relative path")
    return {
        **{name: save(dict(arrays)) for name, arrays in state.tensors.items()},
        **{name: json.dumps(value).encode() for name, value in state.values.items()},
        **state.files,
    }


def write(folder: Path, step: int, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> Checkpoint:
    """Put a checkpoint on disk and return it once it is safe there; raises OSError, and leaves nothing of it then."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        sync_folder(missing.parent)
    target = path_of(folder, step)
    temporary = _beside(target, "tmp")
    index = Index(
        step, dict(metrics), {name: (len(data), _digest(data)) for name, data in sorted(files.items())}
    )
    try:
        temporary.mkdir()
        for name, data in [*files.items(), (INDEX, _dumped(index))]:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _write(temporary / name, data)
        for inner in [path for path in temporary.rglob("*") if path.is_dir()]:
            sync_folder(inner)
        sync_folder(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room back
        raise
    sync_folder(folder)
    return Checkpoint(step, target, index.metrics, index.size_bytes)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _dumped(index: Index) -> bytes:
    """Return the index as it is written; JSON has neither NaN nor infinity, so those stand as strings."""
    metrics = {name: value if math.isfinite(value) else str(value) for name, value in index.metrics.items()}
    body = {"step": index.step, "metrics": metrics, "files": {k: list(v) for k, v in index.files.items()}}
    text = json.dumps(body, allow_nan=False)
    return json.dumps({"sha256": _digest(text.encode()), "index": text}).encode()


def index_of(path: Path) -> Index:
    """Return the index of a checkpoint; raise DamagedError where it is not what was written."""
    written = _read(path, INDEX)
    try:
        body = json.loads(json.loads(written)["index"])
        metrics = {name: float(value) for name, value in body["metrics"].items()}
        index = Index(
            body["step"], metrics, {name: (size, digest) for name, (size, digest) in body["files"].items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(INDEX, "not what was written") from error
    if _dumped(index) != written:
        raise DamagedError(INDEX, "its own digest does not match")
    return index


def glance(path: Path) -> Checkpoint:
    """Return a checkpoint by its index and the sizes of its files; raise DamagedError where one is wrong."""
    index = index_of(path)
    if path.name != path_of(path.parent, index.step).name:
        raise DamagedError(INDEX, f"it is of step {index.step}")
    for name, (size, _) in index.files.items():
        file = path / name
        if not file.is_file():
            raise DamagedError(name, "missing")
        if file.stat().st_size != size:
            raise DamagedError(name, f"expected {size:,} bytes, got {file.stat().st_size:,}")
    return Checkpoint(index.step, path, index.metrics, index.size_bytes)


def verified(path: Path) -> Checkpoint:
    """Read every file of a checkpoint and return it; raise DamagedError at the first that differs."""
    checkpoint = glance(path)
    index = index_of(path)
    for name in index.files:
        content(path, name, index)
    return checkpoint


def faults(path: Path) -> list[str]:
    """Return `file: what is wrong` for each file that is not as it was saved."""
    problems: list[str] = []
    try:
        index = index_of(path)
    except DamagedError as damage:
        return [str(damage)]
    for name in index.files:
        try:
            content(path, name, index)
        except DamagedError as damage:
            problems.append(str(damage))
    return problems


def content(path: Path, name: str, index: Index) -> bytes:
    """Return the bytes of a file; raise DamagedError where they are not those that were saved."""
    size, digest = index.files[name]
    data = _read(path, name)
    if len(data) != size or _digest(data) != digest:
        raise DamagedError(name, "its SHA-256 is not that of the file that was saved")
    return data


def read(path: Path) -> CheckpointState:
    """Return the state in a checkpoint; raise StorageError where it is no longer whole."""
    from safetensors.numpy import load

    tensors: dict[str, Mapping[str, Any]] = {}
    values: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    try:
        index = index_of(path)
        for name in index.files:
            data = content(path, name, index)
            if name.endswith(".safetensors"):
                tensors[name] = load(data)
            elif name.endswith(".json"):
                values[name] = json.loads(data)
            else:
                files[name] = data
    except DamagedError as damage:
        raise StorageError(f"cannot read {path}: {damage}", remedy="ask again") from damage
    return CheckpointState(tensors, values, files)


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(name, "missing") from error
    except OSError as error:  # it may be whole: nothing is set aside for a disk or a permission
        raise StorageError(f"cannot read {path / name}: {error.strerror}") from error


def export(path: Path, folder: Path) -> None:
    """Write the model's files to an empty folder; raise NoCheckpointError, with nothing written, for a damaged one."""
    try:
        index = index_of(path)
        names = [name for name in index.files if name.startswith(MODEL)]
        files = {name.removeprefix(MODEL): content(path, name, index) for name in names}
    except DamagedError as damage:
        raise NoCheckpointError(f"{path} is damaged and was not exported: {damage}") from damage
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _write(folder / name, data)
    sync_folder(folder)


# ── deleting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def discard(path: Path) -> None:
    """Delete a checkpoint; renamed first, so that half of it never looks like one."""
    trash = path.rename(_beside(path, "tmp"))
    sync_folder(path.parent)
    shutil.rmtree(trash)


def set_aside(path: Path, damage: DamagedError) -> Path:
    """Rename a damaged checkpoint, so that it is never taken for one again; return where it is now."""
    bad = path.rename(_beside(path, "bad"))
    sync_folder(path.parent)
    (bad / REASON).write_text(f"{damage}\n", encoding="utf-8")
    return bad


def reason_of(path: Path) -> str:
    """Return why a checkpoint was set aside."""
    try:
        return (path / REASON).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return "found damaged, it is no longer known why"


def sweep(folder: Path) -> None:
    """Delete what interrupted saves and deletions have left, and nothing that has another name."""
    for path in _named(folder, _LEFTOVER):
        shutil.rmtree(path)


def _beside(path: Path, kind: str) -> Path:
    match = _NAME.fullmatch(path.name) or _ASIDE.fullmatch(path.name)
    step = match.group(1) if match else path.name
    return path.with_name(f".{kind}-{step}-{secrets.token_hex(4)}")
