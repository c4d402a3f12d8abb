"""Folders of the cache that are named by what decides their content: corpora, tokenizers, token stores.

One rule: a folder that has its final name is whole. It is filled under a temporary name, brought to disk, and renamed,
all under a lock that other builders of the same thing wait for. What a disk or a hand did to it later is found when it
is opened, by the sha256 of each file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from attrs import asdict, define, field, frozen

from codex_kernel.durable import sync_folder
from codex_kernel.errors import StorageError
from codex_kernel.interfaces import Reporter

META = "meta.json"
_BUFFER_BYTES = 1 << 20
_WAIT = "wait for another process that builds the same data"
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class DamagedError(Exception):
    """A folder is not what its `meta.json` says; the message says how."""


@frozen
class FileFacts:
    """A file as it was written."""

    bytes: int
    sha256: str


@define(eq=False)
class DigestedFile:
    """A new file whose sha256 is taken as it is written; every method may raise OSError."""

    path: Path
    written_bytes: int = field(init=False, default=0)
    _file: IO[bytes] = field(init=False)
    _sha256: Any = field(init=False, factory=hashlib.sha256)

    def __attrs_post_init__(self) -> None:
        self._file = self.path.open("xb", buffering=_BUFFER_BYTES)

    def write(self, data: bytes) -> None:
        """Append."""
        self._sha256.update(data)
        self.written_bytes += len(data)
        self._file.write(data)

    def finish(self) -> FileFacts:
        """Bring it safely to disk, close it, and say what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileFacts(self.written_bytes, self._sha256.hexdigest())

    def abandon(self) -> None:
        """Let go of the file, whether it is whole or not; what is not yet written is of no use to anybody."""
        if not self._file.closed:
            self._file.raw.close()  # type: ignore[attr-defined] # closing the buffer would write, and fail, again


def digest(**parts: Any) -> str:
    """Return the name of a folder: a digest of all that decides what is in it, as JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_meta(folder: Path, key: str, form: int) -> dict[str, Any]:
    """Return what a folder says of itself, once its files were compared with it.

    Raises FileNotFoundError where there is no such folder, DamagedError where it is not whole or not the one meant.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_bytes())
        if meta["format"] != form:
            raise DamagedError(f"format {meta['format']}, expected {form}")
        if meta.pop("sha256") != digest(**meta):
            raise DamagedError(f"{META} is not as it was written")
        if meta["key"] != key:
            raise DamagedError(f"it holds {meta['key']}")
        for name, facts in meta["files"].items():
            _check_file(folder / name, FileFacts(**facts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return meta


def commit(  # noqa: PLR0913 - what is said of a folder
    temporary: Path,
    folder: Path,
    key: str,
    form: int,
    files: Mapping[str, FileFacts],
    about: Mapping[str, Any],
) -> None:
    """Give a filled folder its final name, once all of it is on disk; may raise OSError."""
    meta = {
        "format": form,
        "key": key,
        "files": {name: asdict(facts) for name, facts in files.items()},
        **about,
    }
    with (temporary / META).open("x", encoding="utf-8") as file:
        json.dump({"sha256": digest(**meta), **meta}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)


@contextmanager
def locked(folder: Path, report: Reporter) -> Iterator[None]:
    """Hold the lock of a folder, once whoever holds it lets go; it ends with its process.

    Where nothing can be written, nothing can be built or removed either: a folder that is there is read without it.
    """
    lock = folder.parent / f"{folder.name}.lock"
    with storage(folder.parent):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("ab")
        except OSError as error:
            if error.errno not in _READ_ONLY or not folder.is_dir():
                raise
            file = None
    if file is None:
        yield
        return
    with file:
        with storage(folder.parent):
            _wait_for(file, folder, report)
            os.utime(file.fileno())  # when the folder was last used
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # also for processes that were forked meanwhile and live on


def _wait_for(file: IO[bytes], folder: Path, report: Reporter) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report.event("data_awaited", folder=str(folder))
        report.activity(_WAIT, 0, 1)
        fcntl.flock(file, fcntl.LOCK_EX)
        report.activity(_WAIT, 1, 1)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make an empty folder beside the one to be built, under its lock, and remove what is left of it in the end."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    with storage(folder.parent):
        remove_leftovers(folder)
        temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what builders that were killed left of a folder, under its lock."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)


def set_aside(folder: Path) -> None:
    """Take its name from a damaged folder, under its lock; it is removed with the next leftovers."""
    with storage(folder.parent):
        remove_leftovers(folder)
        folder.rename(folder.with_name(f".{folder.name}.damaged"))


@contextmanager
def storage(path: Path, needed_bytes: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn an OSError of writing under `path` into a StorageError that says how much room there is."""
    try:
        yield
    except OSError as error:
        needed = f"; about {needed_bytes():,} bytes are needed" if needed_bytes else ""
        raise StorageError(
            f"{path}: cannot keep the data there: {error.strerror or error}{needed}, {_free(path)}",
            remedy="free some space (codex data prune), or choose a folder on another disk with CODEX_CACHE",
        ) from error


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path).free:,} bytes are free"
    except OSError:
        return "how much is free is not known"


def _check_file(path: Path, written: FileFacts) -> None:
    with path.open("rb") as file:
        found_bytes = os.fstat(file.fileno()).st_size
        if found_bytes != written.bytes:
            raise ValueError(f"{path.name} has {found_bytes:,} bytes, expected {written.bytes:,}")
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != written.sha256:
        raise ValueError(f"{path.name} has sha256 {found}, expected {written.sha256}")
