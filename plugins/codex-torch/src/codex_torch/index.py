"""`checkpoint.json`: what a checkpoint says of itself.

One rule: it was written last and names every other file with its size and SHA-256, and itself by a digest; so nothing
in a checkpoint can change unseen.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from codex_kernel import InputError, StorageError

FORMAT = 1
INDEX = "checkpoint.json"

_PASSING = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of reading that say nothing of the file: the user may mend them, and then it is whole."""


class DamagedError(Exception):
    """A checkpoint is not what was saved: `file` of it, and why."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.file = file
        self.why = why


@frozen
class Index:
    """The step, the run, the metrics it was saved with, and size and SHA-256 of each file."""

    step: int
    run_id: str
    metrics: Mapping[str, float]
    files: Mapping[str, tuple[int, str]]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of the checkpoint, but `checkpoint.json`."""
        return sum(size for size, _ in self.files.values())


def dump(index: Index) -> bytes:
    """Return what is written to `checkpoint.json`."""
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
    return (json.dumps({**body, "digest": digest_of(body)}, indent=1, allow_nan=False) + "\n").encode()


def digest_of(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the index without its digest, so that a flipped bit in it is found too."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_index(path: Path) -> Index:
    """Return a checkpoint's index; raise DamagedError where it is not what was written."""
    try:
        body = json.loads((path / INDEX).read_bytes())
        written = body.pop("digest")
        if written != digest_of(body):
            raise DamagedError(INDEX, "its own digest does not match")
        if body["format"] != FORMAT:
            raise InputError(
                f"{path} has checkpoint format {body['format']}, expected {FORMAT}",
                remedy="use the version of codex-torch that wrote it",
            )
        index = Index(
            step=body["step"],
            run_id=body["run_id"],
            metrics={name: float(value) for name, value in body["metrics"].items()},
            files={name: (entry["size"], entry["sha256"]) for name, entry in body["files"].items()},
        )
    except OSError as error:
        raise unreadable(path / INDEX, INDEX, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(INDEX, "not what was written") from error
    for name in index.files:
        if not is_inside(name):
            raise DamagedError(INDEX, f"it names a file outside of the checkpoint: {name!r}")
    return index


def unreadable(path: Path, name: str, error: OSError) -> DamagedError | StorageError:
    """Return what an error of reading a file means: damage, or a reason that may pass."""
    if isinstance(error, FileNotFoundError):
        return DamagedError(name, "missing")
    if error.errno in _PASSING:
        return StorageError(
            f"cannot read {path}: {error.strerror}",
            remedy="the checkpoint may be whole: mend that, then ask again",
        )
    return DamagedError(name, f"cannot be read: {error.strerror}")


def is_inside(name: str) -> bool:
    """Say whether the name of a file stays within the checkpoint's folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
