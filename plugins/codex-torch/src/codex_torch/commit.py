"""Checkpoints on disk: a folder is a checkpoint when it has its final name, and then it is whole.

One rule: write under a temporary name, sync files and folder, rename, sync the parent; only then delete another. So
a process that is killed at any instant leaves the checkpoints it had, or those and one more.

    step-00000100/                      a checkpoint; checkpoint.json was written last and has the SHA-256 of all
    .tmp-00000100-1f3a/                 a save that did not end
    .trash-00000100-1f3a/               a deletion that did not end
    .bad-00000100-1f3a/                 a checkpoint that was found damaged; kept for a person to look at
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from codex_kernel import Checkpoint, CheckpointState, InputError, PluginError, StorageError, sync_folder

FORMAT = 1
INDEX = "checkpoint.json"

_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.(?:tmp|trash)-\d{8,}-[0-9a-f]+")
_CHUNK_BYTES = 1 << 20
_ROOM = 1.1
"""Free bytes asked for before a save, per byte of it: folders and the file system's own tables need some."""


class DamagedError(Exception):
    """A checkpoint is not what was saved: `file` of it, and why."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.file = file
        self.why = why


@frozen
class Index:
    """What `checkpoint.json` says: the step, the run, the metrics, and size and SHA-256 of each file."""

    step: int
    run_id: str
    metrics: Mapping[str, float]
    files: Mapping[str, tuple[int, str]]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the checkpoint, but `checkpoint.json`."""
        return sum(size for size, _ in self.files.values())


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────


def find(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint, oldest first; by the step in the name, for clocks go wrong."""
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match.group(1)), path) for match, path in named if match and path.is_dir())


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, or will be."""
    return folder / f"step-{step:08d}"


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def write(
    folder: Path, step: int, run_id: str, state: CheckpointState, metrics: Mapping[str, float]
) -> Checkpoint:
    """Put a checkpoint on disk and return it once it is safe there; raise StorageError where that fails.

    The checkpoint must not exist yet.
    """
    contents = _contents(state)
    needed = sum(content.size for content in contents)
    target = path_of(folder, step)
    with _storage_errors(target, needed):
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(target, needed)
        temporary = folder / f".tmp-{step:08d}-{secrets.token_hex(4)}"
        try:
            index = _write_files(temporary, Index(step, run_id, dict(metrics), {}), contents)
            temporary.rename(target)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room back
            raise
        sync_folder(folder)
    return Checkpoint(step, target, index.metrics, index.size_bytes)


@frozen(eq=False)
class _Content:
    """A file to be written: its name, about how many bytes it has, and where they come from."""

    name: str
    size: int
    pieces: Iterable[memoryview]


def _contents(state: CheckpointState) -> list[_Content]:
    from codex_torch import tensor_file  # brings torch, which finding and verifying do not need

    contents = [
        _Content(name, tensor_file.size_bytes(tensors), tensor_file.pieces(tensors))
        for name, tensors in state.tensors.items()
    ]
    blobs = {name: (json.dumps(value, indent=1) + "\n").encode() for name, value in state.values.items()}
    blobs |= state.files
    contents += [_Content(name, len(blob), [memoryview(blob)]) for name, blob in blobs.items()]
    for content in contents:
        if not _is_inside(content.name) or content.name == INDEX:
            raise PluginError(
                f"a file of a checkpoint cannot be named {content.name!r}: expected a relative path"
            )
    return contents


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _write_files(folder: Path, index: Index, contents: Iterable[_Content]) -> Index:
    """Write all files and the index, each of them synced, then sync the folders."""
    folder.mkdir()
    folders = {folder}
    files: dict[str, tuple[int, str]] = {}
    for content in contents:
        path = folder / content.name
        path.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        files[content.name] = _write_file(path, content.pieces)
    whole = Index(index.step, index.run_id, index.metrics, files)
    _write_file(folder / INDEX, [memoryview(_dump(whole))])
    for inner in folders:
        sync_folder(inner)
    return whole


def _write_file(path: Path, pieces: Iterable[memoryview]) -> tuple[int, str]:
    """Write a file through to the disk; return its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb", buffering=0) as file:
        for piece in pieces:
            for start in range(0, len(piece), _CHUNK_BYTES):
                chunk = piece[start : start + _CHUNK_BYTES]
                digest.update(chunk)
                _write_all(file.fileno(), chunk)
                size += len(chunk)
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def _write_all(descriptor: int, chunk: memoryview) -> None:
    while len(chunk):  # write(2) may take less than it is given
        chunk = chunk[os.write(descriptor, chunk) :]


def _check_room(target: Path, needed: int) -> None:
    free, wanted = shutil.disk_usage(target.parent).free, int(needed * _ROOM)
    if free < wanted:
        raise _no_storage(target, "the disk is too full", wanted, free)


@contextmanager
def _storage_errors(target: Path, needed: int) -> Iterator[None]:
    """Turn an operating system error into a StorageError with the path, the bytes needed and the bytes free."""
    try:
        yield
    except OSError as error:
        try:
            free: int | None = shutil.disk_usage(target.parent).free
        except OSError:
            free = None  # the folder itself is out of reach; the first error says why
        raise _no_storage(target, error.strerror or str(error), needed, free) from error


def _no_storage(target: Path, why: str, needed: int, free: int | None) -> StorageError:
    left = "unknown" if free is None else f"{free:,}"
    return StorageError(
        f"cannot save the checkpoint {target}: {why}; {needed:,} bytes needed, {left} free",
        remedy="make room or mend the folder, then codex resume; earlier checkpoints are as they were",
    )


# ── the index ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _dump(index: Index) -> bytes:
    body = {
        "format": FORMAT,
        "step": index.step,
        "run_id": index.run_id,
        # JSON has neither NaN nor infinity: those stand as strings.
        "metrics": {
            name: value if math.isfinite(value) else str(value) for name, value in index.metrics.items()
        },
        "files": {
            name: {"size": size, "sha256": digest} for name, (size, digest) in sorted(index.files.items())
        },
    }
    return (json.dumps({**body, "digest": _digest(body)}, indent=1, allow_nan=False) + "\n").encode()


def _digest(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the index without its digest, so that a flipped bit in it is found too."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_index(path: Path) -> Index:
    """Return a checkpoint's index; raise DamagedError where it is not what was written."""
    try:
        body = json.loads((path / INDEX).read_bytes())
        written = body.pop("digest")
        if written != _digest(body):
            raise DamagedError(INDEX, "its own digest does not match")
        if body["format"] != FORMAT:
            raise InputError(
                f"{path} has checkpoint format {body['format']}, expected {FORMAT}",
                remedy="use the version of codex-torch that wrote it",
            )
        return Index(
            step=body["step"],
            run_id=body["run_id"],
            metrics={name: float(value) for name, value in body["metrics"].items()},
            files={name: (entry["size"], entry["sha256"]) for name, entry in body["files"].items()},
        )
    except FileNotFoundError as error:
        raise DamagedError(INDEX, "missing") from error
    except OSError as error:
        raise DamagedError(INDEX, f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(INDEX, "not what was written") from error


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


def verify(path: Path) -> Checkpoint:
    """Read every file of a checkpoint and return it; raise DamagedError, naming the file, where one differs."""
    index = read_index(path)
    if path.name != path_of(path.parent, index.step).name:
        raise DamagedError(INDEX, f"it is of step {index.step}")
    for name, (size, digest) in index.files.items():
        _verify_file(path, name, size, digest)
    return Checkpoint(index.step, path, index.metrics, index.size_bytes)


def _verify_file(path: Path, name: str, size: int, digest: str) -> None:
    if not _is_inside(name):
        raise DamagedError(INDEX, f"it names a file outside of the checkpoint: {name!r}")
    try:
        found = (path / name).stat().st_size
        if found != size:
            raise DamagedError(name, f"expected {size:,} bytes, got {found:,}")
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DamagedError(name, "its SHA-256 is not that of the file that was saved")
    except FileNotFoundError as error:
        raise DamagedError(name, "missing") from error
    except OSError as error:
        raise DamagedError(name, f"cannot be read: {error.strerror}") from error


def read(path: Path) -> CheckpointState:
    """Return the state in a checkpoint that `verify` has found whole."""
    from codex_torch import tensor_file

    names = list(read_index(path).files)
    tensors = [name for name in names if name.endswith(".safetensors")]
    values = [name for name in names if name.endswith(".json")]
    return CheckpointState(
        tensors={name: tensor_file.read(path / name) for name in tensors},
        values={name: json.loads((path / name).read_bytes()) for name in values},
        files={name: (path / name).read_bytes() for name in names if name not in {*tensors, *values}},
    )


# ── deleting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def discard(path: Path) -> None:
    """Delete a checkpoint; renamed first, so that half of it never looks like a checkpoint. Raises OSError."""
    trash = _beside(path, "trash")
    path.rename(trash)
    shutil.rmtree(trash)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is never taken for one again; return where it is now."""
    bad = _beside(path, "bad")
    with _storage_errors(path, 0):
        path.rename(bad)
        sync_folder(path.parent)
    return bad


def sweep(folder: Path) -> list[Path]:
    """Delete what interrupted saves and deletions have left, and return it; nothing that has another name."""
    if not folder.is_dir():
        return []
    leftovers = [path for path in sorted(folder.iterdir()) if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        shutil.rmtree(path)
    return leftovers


def _beside(path: Path, kind: str) -> Path:
    step = path.name.removeprefix("step-")
    return path.with_name(f".{kind}-{step}-{secrets.token_hex(4)}")
