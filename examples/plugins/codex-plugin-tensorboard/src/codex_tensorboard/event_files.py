"""The event files of one run, in a folder that no other run writes to.

One rule: a record is one write, so a process that is killed leaves whole records; and when the run goes back to a
checkpoint, what came after it is in none of the files.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from attrs import define, field

from codex_kernel import sync_folder, write_whole
from codex_tensorboard import messages
from codex_tensorboard.frames import framed, frames
from codex_tensorboard.messages import FILE_VERSION, START, message

PREFIX = "events.out.tfevents."
SPLITS = ("train", "validation", "system")


@define(eq=False)
class EventFiles:
    """Writes events to the newest file; `clock` gives seconds that only ever grow."""

    folder: Path
    flush_seconds: float
    clock: Callable[[], float] = time.monotonic
    _file: FileIO | None = field(init=False, default=None)
    _flushed: float = field(init=False, default=0.0)

    def paths(self) -> list[Path]:
        """Return the files that are there, in the order in which TensorBoard reads them."""
        return sorted(self.folder.glob(f"{PREFIX}*")) if self.folder.is_dir() else []

    def add(self, step: int, summary: Any) -> None:
        """Write a summary; in the system's hands when it returns, and on disk every `flush_seconds`."""
        file = self._file or self._open()
        _write(file, framed(_event(step, summary=summary)))
        if self.clock() - self._flushed >= self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Bring all that was written to disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._flushed = self.clock()

    def close(self) -> None:
        """Bring all to disk and let go of the file."""
        if self._file is not None:
            self.flush()
            self._file.close()
            self._file = None

    def rewind(self, step: int, kept: Iterable[Mapping[str, Any]]) -> None:
        """Go back to a step: put what is left of all files into the first, and go on in a new one.

        kept: the run's own records of metrics up to there, for those that had not yet been written here. The new file
        begins with a session from the next step on, by which a TensorBoard that has read the rest forgets it too.
        """
        self.close()
        if paths := self.paths():
            left = _left([event for path in paths for event in frames(path)], step, kept)
            write_whole(paths[0], b"".join([framed(_version(time.time())), *left]))
            for path in paths[1:]:
                path.unlink()
            sync_folder(self.folder)
        self._open(START, step + 1)

    def _open(self, session: int | None = None, step: int = 0) -> FileIO:
        """Begin a file, whose name sorts after all that are there, whatever the clock says."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stamps = [int(path.name[len(PREFIX) :].split(".")[0]) for path in self.paths()]
        stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
        path = self.folder / f"{PREFIX}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.codex"
        self._file = path.open("xb", buffering=0)
        sync_folder(self.folder)
        _write(self._file, framed(_version(time.time())))
        if session is not None:
            log = message("SessionLog")(status=session)
            _write(self._file, framed(_event(step, session_log=log)))
        self.flush()
        return self._file


def _write(file: FileIO, record: bytes) -> None:
    """Write the whole record or, where that fails, nothing of it: behind half a record nothing could be read."""
    before = os.fstat(file.fileno()).st_size
    rest = memoryview(record)
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError:
        file.truncate(before)
        file.seek(before)
        raise


def _version(now: float) -> bytes:
    data: bytes = message("Event")(wall_time=now, file_version=FILE_VERSION).SerializeToString()
    return data


def _event(step: int, now: float | None = None, **content: Any) -> bytes:
    wall_time = time.time() if now is None else now
    data: bytes = message("Event")(wall_time=wall_time, step=step, **content).SerializeToString()
    return data


# ── going back ────────────────────────────────────────────────────────────────────────────────────────────────────


def _left(
    records: Iterable[tuple[bytes, bytes]], step: int, kept: Iterable[Mapping[str, Any]]
) -> list[bytes]:
    """Return the records up to a step, in the order of steps, each once, and those that only the run itself has."""
    found: dict[tuple[int, str], bytes] = {}
    for record, data in records:
        event = message("Event").FromString(data)
        if event.step <= step and event.HasField("summary") and event.summary.value:
            tag = event.summary.value[0].tag
            split = tag.partition("/")[0]
            # A record of metrics is one event; a text grows within its step, so the last one has it all.
            found[event.step, split if split in SPLITS else tag] = record
    wanted = {(int(record["step"]), str(record["split"])): record for record in kept}
    found = {place: record for place, record in found.items() if place[1] not in SPLITS or place in wanted}
    for place, missing in wanted.items():
        if place not in found:
            summary = messages.scalars(_values(missing))
            found[place] = framed(_event(place[0], missing["time"], summary=summary))
    return [record for _, record in sorted(found.items(), key=lambda item: item[0][0])]


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record of `metrics.ndjson` by their tags; null there is one that was not finite."""
    own = ("schema", "run_id", "time", "step", "epoch", "tokens", "split", "nonfinite")
    return {
        f"{record['split']}/{name}": float("nan") if value is None else float(value)
        for name, value in record.items()
        if name not in own
    }
