"""The metrics of a run as NDJSON: written by the kernel alone, and the truth that every tracker mirrors.

One rule: a record is one line, written at once; after a resume each step is there exactly once.

A record is one flat object: `schema, run_id, time, step, epoch, tokens, split`, then the metrics by their names. JSON
has no NaN and no infinity: such a value is null, and `nonfinite` lists the names.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from codex_kernel.durable import json_bytes, storage_errors, write_whole
from codex_kernel.errors import InputError, StorageError
from codex_kernel.interfaces import Progress

SCHEMA = 1
RESERVED = ("schema", "run_id", "time", "step", "epoch", "tokens", "split", "nonfinite")


@define(eq=False)
class NdjsonFile:
    """A file of records that is only ever appended to, or cut back to an earlier length; safe from any thread."""

    path: Path
    _file: IO[bytes] = field(init=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        try:
            # Unbuffered: a line is one write, so that a killed process leaves whole lines.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror}", remedy="make room or mend the folder"
            ) from error
        self._end_torn_line()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; raise StorageError where it cannot be written."""
        line = json_bytes(record) + b"\n"
        with storage_errors(self.path, needed=len(line)), self._lock:
            self._write(line)

    def _write(self, line: bytes) -> None:
        """Write the whole line or, where that fails, nothing of it: the next line must not follow a half one."""
        before = os.fstat(self._file.fileno()).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            os.ftruncate(self._file.fileno(), before)
            raise

    def durable_size(self) -> int:
        """Bring the records to disk and return how many bytes they are; raise StorageError where that fails."""
        with storage_errors(self.path), self._lock:
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> int:
        """Cut the file back to `size` bytes and keep what follows in a file beside it; return how much that was.

        Raises InputError where it is not the file that once had that length, StorageError where it cannot be cut.
        """
        with self._lock, storage_errors(self.path):
            data = self.path.read_bytes()
            _check_whole(self.path, data, size)
            tail = data[size:]
            if tail:
                kept = self.path.with_name(f"{self.path.stem}.tail-{os.urandom(4).hex()}{self.path.suffix}")
                write_whole(kept, tail)  # on disk before the cut, so that no record is ever in neither file
                os.ftruncate(self._file.fileno(), size)
                os.fsync(self._file.fileno())
            return len(tail)

    def close(self) -> None:
        """Close the file, its records safe on disk; raise StorageError where they are not."""
        with storage_errors(self.path):
            os.fsync(self._file.fileno())
            self._file.close()

    def _end_torn_line(self) -> None:
        """Cut a half line at the end: what a process that was killed in a write has left."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.ftruncate(self._file.fileno(), data.rfind(b"\n") + 1)


def _check_whole(path: Path, data: bytes, size: int) -> None:
    """Raise InputError where the first `size` bytes cannot be the records that a checkpoint was saved with."""
    if len(data) >= size and (size == 0 or data[size - 1 : size] == b"\n"):
        return
    found = f"has {len(data):,} bytes" if len(data) < size else f"has no record that ends at byte {size:,}"
    raise InputError(
        f"{path} is damaged: the checkpoint was saved when it had {size:,} bytes, it {found}",
        remedy="put the file back from a backup; or move the newest checkpoint out of checkpoints/, to go on from the "
        "one before it; or start a new run",
    )


@define(eq=False)
class MetricsLog:
    """Writes the metrics of a run; `clock` gives seconds since the epoch."""

    file: NdjsonFile
    run_id: str
    clock: Callable[[], float]

    def write(self, progress: Progress, values: Mapping[str, float], split: str) -> None:
        """Write one record; raise ValueError where a metric has the name of one of the record's own fields."""
        if taken := [name for name in values if name in RESERVED]:
            raise ValueError(f"a metric cannot be named {', '.join(taken)}: the record has that field itself")
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "time": round(self.clock(), 3),
            "step": progress.step,
            "epoch": round(progress.epoch, 6),
            "tokens": progress.tokens,
            "split": split,
        }
        record.update({name: value if math.isfinite(value) else None for name, value in values.items()})
        if nonfinite := [name for name, value in values.items() if not math.isfinite(value)]:
            record["nonfinite"] = nonfinite
        self.file.append(record)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics file; a half line at the end, still being written, is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not a JSON record: {error}") from error
            if not isinstance(record, dict):
                raise InputError(f"{path}:{number}: not a JSON record: expected an object")
            yield record


def last_steps(records: Iterator[dict[str, Any]]) -> dict[str, int]:
    """Return the last step of each split."""
    return {record["split"]: record["step"] for record in records}


def series(records: Iterator[dict[str, Any]], split: str, metric: str) -> list[tuple[int, float]]:
    """Return (step, value) of one metric of one split, without the values that were not finite."""
    return [
        (record["step"], record[metric])
        for record in records
        if record["split"] == split and record.get(metric) is not None
    ]
