"""Checkpoints on disk: a folder is a checkpoint when it has its final name, and then it is whole.

One rule: write under a temporary name, sync files and folder, rename, sync the parent; only then delete another. So
a process that is killed at any instant, or a power cut, leaves the checkpoints there were, or those and one more.

    step-00000100/                      a checkpoint; checkpoint.json was written last and has the SHA-256 of all
    .tmp-00000100-1f3a/                 a save that did not end
    .trash-00000100-1f3a/               a deletion that did not end
    .bad-00000100-1f3a/                 a checkpoint that was found damaged; kept for a person, damage.txt says why
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from attrs import frozen

from codex_kernel import (
    Checkpoint,
    CheckpointState,
    NoCheckpointError,
    PluginError,
    StorageError,
    sync_folder,
)
from codex_torch.index import INDEX, DamagedError, Index, dump, is_inside, read_index, unreadable

REASON = "damage.txt"
MODEL = "model/"

_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.(?:tmp|trash)-\d{8,}-[0-9a-f]+")
_ASIDE = re.compile(r"\.bad-(\d{8,})-[0-9a-f]+")
_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 1 << 16
_ROOM = 1.1
"""Free bytes asked for before a save, per byte of it: folders and the file system's own tables need some."""


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────


def find(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint, oldest first; by the step in the name, for clocks go wrong."""
    return _named(folder, _NAME)


def find_set_aside(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint that was found damaged before, oldest first."""
    return _named(folder, _ASIDE)


def _named(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    named = ((pattern.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match.group(1)), path) for match, path in named if match and path.is_dir())


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, or will be."""
    return folder / f"step-{step:08d}"


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen(eq=False)
class Content:
    """A file to be written: its name, about how many bytes it has, and where they come from."""

    name: str
    size: int
    pieces: Iterable[memoryview]


def prepare(state: CheckpointState) -> list[Content]:
    """Return the files of a state, the JSON values as they are now; the tensors are read when they are written.

    Raises PluginError for a name that leads out of the checkpoint, TypeError for what JSON or safetensors lack.
    """
    from codex_torch import tensor_file  # brings torch, which finding and verifying do not need

    for name in (*state.tensors, *state.values, *state.files):
        if not is_inside(name) or name == INDEX:
            raise PluginError(f"a file of a checkpoint cannot be named {name!r}: expected a relative path")
    # On one line: with an indent json falls back to Python, which takes ten times as long, in the training thread.
    blobs = {name: (json.dumps(value) + "\n").encode() for name, value in state.values.items()}
    blobs |= state.files
    return [
        Content(name, tensor_file.size_bytes(tensors), tensor_file.pieces(tensors))
        for name, tensors in state.tensors.items()
    ] + [Content(name, len(blob), [memoryview(blob)]) for name, blob in blobs.items()]


def write(
    folder: Path, step: int, run_id: str, contents: Iterable[Content], metrics: Mapping[str, float]
) -> Checkpoint:
    """Put a checkpoint on disk and return it once it is safe there; raise StorageError where that fails.

    The checkpoint must not exist yet.
    """
    contents = list(contents)
    needed = sum(content.size for content in contents)
    target = path_of(folder, step)
    with _storage_errors(target, needed):
        _make_folder(folder)
        _check_room(target, needed)
        temporary = _beside(target, "tmp")
        try:
            index = _write_files(temporary, Index(step, run_id, dict(metrics), {}), contents)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room back
            raise
        sync_folder(folder)
    return Checkpoint(step, target, index.metrics, index.size_bytes)


def _make_folder(folder: Path) -> None:
    """Make the folder of all checkpoints, so that it outlives a power cut too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def _write_files(folder: Path, index: Index, contents: Iterable[Content]) -> Index:
    """Write all files and the index, each of them synced, then sync the folders."""
    folder.mkdir()
    folders = {folder}
    files: dict[str, tuple[int, str]] = {}
    for content in contents:
        above = [folder / parent for parent in PurePosixPath(content.name).parents]
        if above[0] not in folders:
            above[0].mkdir(parents=True, exist_ok=True)
            folders.update(above)
        files[content.name] = _write_file(folder / content.name, content.pieces)
    whole = Index(index.step, index.run_id, index.metrics, files)
    _write_file(folder / INDEX, [memoryview(dump(whole))])
    for inner in sorted(folders, reverse=True):
        sync_folder(inner)
    return whole


def _write_file(path: Path, pieces: Iterable[memoryview]) -> tuple[int, str]:
    """Write a new file through to the disk; return its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for chunk in _chunks(pieces):
            digest.update(chunk)
            _write_all(descriptor, chunk)
            size += len(chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size, digest.hexdigest()


def _chunks(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield the bytes of the pieces, in order: large pieces are cut, small ones are put together."""
    small = bytearray()
    for piece in pieces:
        if len(piece) <= _SMALL_BYTES:
            small += piece
        if small and (len(piece) > _SMALL_BYTES or len(small) >= _CHUNK_BYTES):
            yield memoryview(small)
            small = bytearray()  # the former is the reader's now
        if len(piece) > _SMALL_BYTES:
            yield from (piece[start : start + _CHUNK_BYTES] for start in range(0, len(piece), _CHUNK_BYTES))
    if small:
        yield memoryview(small)


def _write_all(descriptor: int, chunk: memoryview) -> None:
    while len(chunk):  # write(2) may take less than it is given
        chunk = chunk[os.write(descriptor, chunk) :]


def _check_room(target: Path, needed: int) -> None:
    free, wanted = shutil.disk_usage(target.parent).free, int(needed * _ROOM)
    if free < wanted:
        raise _no_storage("save the checkpoint", target, "the disk is too full", wanted, free)


@contextmanager
def _storage_errors(target: Path, needed: int, doing: str = "save the checkpoint") -> Iterator[None]:
    """Turn an operating system error into a StorageError with the path, the bytes needed and the bytes free."""
    try:
        yield
    except OSError as error:
        try:
            free: int | None = shutil.disk_usage(target.parent).free
        except OSError:
            free = None  # the folder itself is out of reach; the first error says why
        raise _no_storage(doing, target, error.strerror or str(error), needed, free) from error


def _no_storage(doing: str, target: Path, why: str, needed: int, free: int | None) -> StorageError:
    left = "unknown" if free is None else f"{free:,}"
    return StorageError(
        f"cannot {doing} {target}: {why}; {needed:,} bytes needed, {left} free",
        remedy="make room or mend the folder, then codex resume; earlier checkpoints are as they were",
    )


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


def glance(path: Path) -> Checkpoint:
    """Return a checkpoint without reading its tensors; raise DamagedError where the index or a size is wrong."""
    index = read_index(path)
    if path.name != path_of(path.parent, index.step).name:
        raise DamagedError(INDEX, f"it is of step {index.step}")
    for name, (size, _) in index.files.items():
        _check_size(path, name, size)
    return Checkpoint(index.step, path, index.metrics, index.size_bytes)


def verify(path: Path) -> Checkpoint:
    """Read every file of a checkpoint and return it; raise DamagedError, naming the file, where one differs."""
    checkpoint = glance(path)
    for name, (_, digest) in read_index(path).files.items():
        _check_digest(path, name, digest)
    return checkpoint


def faults(path: Path) -> list[str]:
    """Return `file: what is wrong` for each file that is not as it was saved."""
    found: list[str] = []
    try:
        index = read_index(path)
    except DamagedError as damage:
        return [str(damage)]
    for name, (size, digest) in sorted(index.files.items()):
        try:
            _check_size(path, name, size)
            _check_digest(path, name, digest)
        except DamagedError as damage:
            found.append(str(damage))
    return found


def extra_files(path: Path) -> list[str]:
    """Return the names of the files that are in a checkpoint and not in its index; raise DamagedError if it is gone."""
    index = read_index(path)
    try:
        there = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    except OSError as error:
        raise unreadable(path, path.name, error) from error
    return [name for name in there if name != INDEX and name not in index.files]


def _check_size(path: Path, name: str, size: int) -> None:
    try:
        found = (path / name).stat().st_size
    except OSError as error:
        raise unreadable(path / name, name, error) from error
    if found != size:
        raise DamagedError(name, f"expected {size:,} bytes, got {found:,}")


def _check_digest(path: Path, name: str, digest: str) -> None:
    try:
        with (path / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path / name, name, error) from error
    if found != digest:
        raise DamagedError(name, "its SHA-256 is not that of the file that was saved")


def read(path: Path) -> CheckpointState:
    """Return the state in a checkpoint that `verify` has found whole; raise StorageError where it has gone since."""
    from codex_torch import tensor_file

    try:
        names = list(read_index(path).files)
        tensors = [name for name in names if name.endswith(".safetensors")]
        values = [name for name in names if name.endswith(".json")]
        return CheckpointState(
            tensors=tensor_file.TensorFiles(path, tensors),
            values={name: json.loads((path / name).read_bytes()) for name in values},
            files={name: (path / name).read_bytes() for name in names if name not in {*tensors, *values}},
        )
    except (OSError, DamagedError) as error:
        raise _gone(path, error) from error


def _gone(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"cannot read {path}: {error}",
        remedy="ask again: the run that saves there may have deleted it for a newer one",
    )


def export(path: Path, folder: Path) -> None:
    """Copy the model's part of a checkpoint to files in an empty folder, synced; see `CheckpointArchive.export`."""
    try:
        _copy_model(path, folder)
    except BaseException as error:
        # Half a model, or a damaged one, must not be taken for the model.
        for half in folder.iterdir():
            shutil.rmtree(half) if half.is_dir() else half.unlink()
        if isinstance(error, DamagedError):
            if not path.is_dir():
                raise _gone(path, error) from error
            raise NoCheckpointError(
                f"{path} is damaged and was not exported: {error}", remedy="codex checkpoints list"
            ) from error
        raise


def _copy_model(path: Path, folder: Path) -> None:
    """Copy file by file, each one hashed as it is read; raise DamagedError where one is not what was saved."""
    files = {name: entry for name, entry in read_index(path).files.items() if name.startswith(MODEL)}
    if not files:
        raise NoCheckpointError(f"{path} has no model: no file of it lies under {MODEL}")
    with _storage_errors(folder, sum(size for size, _ in files.values()), "export the model to"):
        for name, saved in files.items():
            copy = folder / name.removeprefix(MODEL)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if _write_file(copy, _chunks_of(path, name)) != saved:
                raise DamagedError(name, "not what was saved")
        for inner in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
            sync_folder(inner)


def _chunks_of(path: Path, name: str) -> Iterator[memoryview]:
    try:
        with (path / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield memoryview(chunk)
    except OSError as error:
        raise unreadable(path / name, name, error) from error


# ── deleting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def discard(path: Path) -> None:
    """Delete a checkpoint; renamed first, so that half of it never looks like a checkpoint. Raises OSError."""
    trash = path.rename(_beside(path, "trash"))
    sync_folder(path.parent)  # else a power cut may leave the name, and only some of the files
    _remove(trash)


def _remove(path: Path) -> None:
    """Delete a folder; of one that a person has moved elsewhere and linked to, the link alone."""
    path.unlink() if path.is_symlink() else shutil.rmtree(path)


def set_aside(path: Path, damage: DamagedError) -> Path:
    """Rename a damaged checkpoint, so that it is never taken for one again; return where it is now."""
    bad = _beside(path, "bad")
    with _storage_errors(path, 0, "set aside the damaged checkpoint"):
        path.rename(bad)
        sync_folder(path.parent)
    with contextlib.suppress(OSError):  # a word for the list; the run's events have it too
        _write_file(bad / REASON, [memoryview(f"{damage}\n".encode())])
    return bad


def reason_of(path: Path) -> str:
    """Return why a checkpoint was set aside."""
    try:
        return (path / REASON).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return "found damaged, it is no longer known why"


def sweep(folder: Path) -> list[Path]:
    """Delete what interrupted saves and deletions have left, and return it; nothing that has another name."""
    if not folder.is_dir():
        return []
    leftovers = [path for path in sorted(folder.iterdir()) if _LEFTOVER.fullmatch(path.name)]
    for path in leftovers:
        _remove(path)
    return leftovers


def is_ours(path: Path) -> bool:
    """Say whether a folder is named as a checkpoint or as one that was set aside."""
    return bool(_NAME.fullmatch(path.name) or _ASIDE.fullmatch(path.name))


def _beside(path: Path, kind: str) -> Path:
    match = _NAME.fullmatch(path.name) or _ASIDE.fullmatch(path.name)
    step = match.group(1) if match else path.name
    return path.with_name(f".{kind}-{step}-{secrets.token_hex(4)}")
