"""What lies in the cache, and what of it may go: corpora, tokenizers, token stores, and what killed builders left.

One rule: only folders that have our names are looked at, and one is deleted under its lock alone; whoever needs it
afterwards builds it again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from codex_kernel.data import corpus, kept, store
from codex_kernel.errors import StorageError

TOKENIZERS = "tokenizers"
KINDS = {store.FOLDER: "tokens", corpus.FOLDER: "corpus", TOKENIZERS: "tokenizer"}
_KEY = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.([0-9a-f]{64})\.(\d+|damaged|deleted)")


@frozen
class Kept:
    """A folder of the cache; `leftover`: of a builder that was killed, or set aside as damaged.

    `last_used` is in seconds since 1970. `holds` says in a few words what it is; None where its record cannot be read.
    `needed_by` names what it must stay for; None: it may go.
    """

    kind: str
    key: str
    path: Path
    size_bytes: int
    last_used: float
    leftover: bool
    holds: str | None
    needed_by: str | None = None


def entries(cache: Path) -> list[Kept]:
    """Return all folders of ours, the last used first; raise StorageError where the cache cannot be looked through."""
    found = []
    for folder, kind in KINDS.items():
        try:
            paths = sorted((cache / folder).iterdir()) if (cache / folder).exists() else []
            found += [one for path in paths if (one := _entry(path, kind))]
        except OSError as error:
            raise StorageError(f"{cache / folder} cannot be looked through: {error.strerror}") from error
    return sorted(found, key=lambda one: -one.last_used)


def _entry(path: Path, kind: str) -> Kept | None:
    """Return what is known of a folder; None where it is none of ours."""
    leftover = _LEFTOVER.fullmatch(path.name)
    if path.is_symlink() or not path.is_dir() or not (leftover or _KEY.fullmatch(path.name)):
        return None
    key = leftover[1] if leftover else path.name
    holds = "left by a build" if leftover else _holds(path, kind)
    return Kept(kind, key, path, _size(path), _last_used(path, key), bool(leftover), holds)


def _last_used(path: Path, key: str) -> float:
    """Return when the folder was made or its lock last held, whichever came later."""
    times = [path.stat().st_mtime]
    lock = path.with_name(f"{key}.lock")
    if lock.exists():
        times.append(lock.stat().st_mtime)
    return max(times)


def _size(path: Path) -> int:
    return sum(os.lstat(Path(at, name)).st_size for at, _, names in os.walk(path) for name in names)


def _holds(path: Path, kind: str) -> str | None:
    try:
        meta = json.loads((path / kept.META).read_bytes())
        return _words(meta, kind)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _words(meta: Mapping[str, Any], kind: str) -> str:
    if kind == "corpus":
        return f"{sum(split['documents'] for split in meta['splits'].values()):,} documents"
    if kind == "tokens":
        blocks, seq_len = meta["splits"]["train"]["blocks"], meta["splits"]["train"]["seq_len"]
        return f"{blocks:,} blocks of {seq_len:,}"
    return ", ".join(sorted(meta["files"]))


def with_reasons(
    found: Collection[Kept], needed: Mapping[str, str], *, unused_since: float | None
) -> list[Kept]:
    """Say of each why it must stay: a run (`needed`: key → which) has it, it was used lately, a process works on it.

    `unused_since`: only what was not used since that time may go; None: anything may.
    """
    return [evolve(one, needed_by=_reason(one, needed, unused_since)) for one in found]


def _reason(one: Kept, needed: Mapping[str, str], unused_since: float | None) -> str | None:
    if not one.leftover and one.key in needed:
        return needed[one.key]
    if unused_since is not None and one.last_used > unused_since:
        return "used lately"
    with _locked_at_once(one) as is_ours:
        return None if is_ours else "a process that builds"


def delete(one: Kept) -> bool:
    """Delete a folder; say whether that was done, or another process works on it.

    Raises StorageError where it cannot be deleted.
    """
    trash = one.path if one.leftover else one.path.with_name(f".{one.key}.deleted")
    with _locked_at_once(one) as is_ours:
        if not is_ours:
            return False
        try:
            if not one.leftover:
                shutil.rmtree(trash, ignore_errors=True)
                one.path.rename(trash)  # at once: what is half deleted has no name that is believed
            shutil.rmtree(trash)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise StorageError(f"{one.path} cannot be deleted: {error.strerror}") from error
    return True


@contextmanager
def _locked_at_once(one: Kept) -> Iterator[bool]:
    """Hold the lock of a folder and say so, without waiting for whoever has it."""
    path = one.path.with_name(f"{one.key}.lock")
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # nobody has ever locked it
        yield True
        return
    except OSError as error:
        raise StorageError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(file)
