"""Token stores: folders under `cache/tokens/`, named by everything that decides what is in them.

One rule: a folder that has its final name is whole. It is filled under a temporary name, brought to disk, and renamed,
all under a lock that other builders of the same data wait for. What a disk or a hand did to it later is found when it
is opened, by the sha256 of each file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from codex_kernel.data import order
from codex_kernel.data.blocks import MappedBlocks
from codex_kernel.data.pack import FileFacts, SplitFacts
from codex_kernel.durable import sync_folder
from codex_kernel.errors import StorageError

FORMAT = 2
_META = "meta.json"


@frozen(eq=False)
class TokenData:
    """The data of a run, read from a token store; it satisfies `interfaces.Data`.

    `report` is what `data.json` holds: a JSON object with counts and fingerprints, equal for equal data.
    """

    train: MappedBlocks
    validation: MappedBlocks | None
    fingerprint: str
    seed: int
    report: Mapping[str, Any] = field(repr=False)

    def samples(self, start: int, count: int) -> Any:
        """Return `count` sample ids of the endless training order from position `start` on."""
        return order.samples(start, count, n=len(self.train), seed=self.seed)


@frozen(eq=False)
class Meta:
    """What `meta.json` says of a token store."""

    key: str
    fingerprint: str
    seed: int
    splits: dict[str, SplitFacts]
    report: dict[str, Any]


class DamagedError(Exception):
    """A token store is not what its `meta.json` says; the message says how."""


def read(folder: Path, key: str) -> TokenData:
    """Open a token store; raise FileNotFoundError where there is none and DamagedError where it is not whole."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        meta = _parse(json.loads((folder / _META).read_bytes()))
        _check(folder, meta, key)
        splits = {name: MappedBlocks.open(folder, name, facts) for name, facts in meta.splits.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return TokenData(splits["train"], splits.get("validation"), meta.fingerprint, meta.seed, meta.report)


def commit(temporary: Path, folder: Path, meta: Meta) -> None:
    """Give a filled folder its final name, once all of it is on disk; may raise OSError."""
    with (temporary / _META).open("x", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **attrs.asdict(meta)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(temporary)
    temporary.rename(folder)
    sync_folder(folder.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a token store, once whoever holds it lets go; it ends with its process."""
    with storage(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = (folder.parent / f"{folder.name}.lock").open("ab")
    with file:
        with storage(folder.parent):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make an empty folder beside a token store, under its lock, and remove what is left of it in the end."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    with storage(folder.parent):
        remove_leftovers(folder)
        temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what builders that were killed left of a token store, under its lock."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(leftover)


def set_aside(folder: Path) -> None:
    """Take its name from a damaged token store, under its lock; it is removed with the next leftovers."""
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
            f"{path}: cannot keep the tokens there: {error.strerror or error}{needed}, {_free(path)}",
            remedy="free some space, or choose a cache folder on another disk",
        ) from error


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(path).free:,} bytes are free"
    except OSError:
        return "how much is free is not known"


def _parse(value: Any) -> Meta:
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']}, expected {FORMAT}")
    splits = {name: _split_facts(facts) for name, facts in value["splits"].items()}
    return Meta(value["key"], value["fingerprint"], value["seed"], splits, value["report"])


def _split_facts(value: dict[str, Any]) -> SplitFacts:
    return SplitFacts(
        **{**value, "files": {name: FileFacts(**facts) for name, facts in value["files"].items()}}
    )


def _check(folder: Path, meta: Meta, key: str) -> None:
    if meta.key != key:
        raise ValueError(f"it holds {meta.key}")
    for facts in meta.splits.values():
        for name, file in facts.files.items():
            _check_file(folder / name, file)


def _check_file(path: Path, written: FileFacts) -> None:
    with path.open("rb") as file:
        found_bytes = os.fstat(file.fileno()).st_size
        if found_bytes != written.bytes:
            raise ValueError(f"{path.name} has {found_bytes:,} bytes, expected {written.bytes:,}")
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != written.sha256:
        raise ValueError(f"{path.name} has sha256 {found}, expected {written.sha256}")
