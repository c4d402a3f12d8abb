"""Files that are there whole or not at all, and names that last.

One rule: what was written outlives a power cut, and where it cannot be written the error says the path, the bytes
needed and those free.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_kernel.errors import InputError, StorageError

NOT_ENOUGH_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = re.compile(r"\.tmp-.+-[0-9a-f]{8}")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk; raises OSError where that fails."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring all files and names below a folder to disk; raises OSError where that fails."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def make_folder(path: Path, *, exist_ok: bool) -> None:
    """Make a folder and those above it, names on disk; raises OSError where that fails."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for each in missing:
        sync_folder(each.parent)


def beside(path: Path) -> Path:
    """Return a place beside another that nobody else takes: what is made there is renamed when it is whole."""
    # Not by the module secrets, which costs a start more than all else here.
    return path.with_name(f".tmp-{path.name}-{os.urandom(4).hex()}")


def write_whole(path: Path, data: bytes) -> None:
    """Put the file in place whole or not at all; raise StorageError where it cannot be written."""
    temporary = beside(path)
    with storage_errors(path, needed=len(data)):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sweep(folder: Path) -> list[Path]:
    """Delete the files that a process left in a folder that was killed in `write_whole`, and return them.

    Only who holds the folder may call it: another process may be about to rename such a file.
    """
    with storage_errors(folder):
        left = [
            path for path in sorted(folder.iterdir()) if _TEMPORARY.fullmatch(path.name) and path.is_file()
        ]
        for path in left:
            path.unlink()
    return left


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object whole, for people too: indented, in the order given."""
    write_whole(path, json_bytes(value, indent=2) + b"\n")


def json_bytes(value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """Return a JSON object as UTF-8; raises ValueError where a number is not finite.

    A path can hold bytes that are not UTF-8, in Python lone surrogates: they become the escapes that JSON has for them.
    """
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False).encode(
        errors="backslashreplace"
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of a run, or None where the run has not written it."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} cannot be read: expected an object")
    return value


@contextmanager
def storage_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the path, the bytes needed and those free."""
    try:
        yield
    except OSError as error:
        wanted = "" if needed is None else f", {needed:,} bytes needed"
        free = f", {_free_bytes(path):,} free" if error.errno in NOT_ENOUGH_SPACE else ""
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}{wanted}{free}",
            remedy="make room, mend the permissions, or choose another folder",
        ) from error


def _free_bytes(path: Path) -> int:
    """Return the free bytes of the file system that the path lies on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
