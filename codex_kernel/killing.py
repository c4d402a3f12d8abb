"""A run in a process of its own, watched from outside and killed at a random instant: for `codex verify-resume`.

One rule: whatever happens, no process that was started here is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from attrs import define, field, frozen

from codex_kernel.errors import StoppedError
from codex_kernel.runfolder import RunFolder

POLL_SECONDS = 0.001
"""Short beside a step of all but the smallest models, long beside a look at three small files."""


@frozen
class Kill:
    """When to kill: once `after_step` is recorded, after a part of a step's time, or of a save's, that then begins."""

    after_step: int
    in_save: bool
    part: float


def draw(chance: random.Random, count: int, first: int, last: int) -> list[Kill]:
    """Return kills in the order of their steps, `first` to `last`, about half of them in saves."""
    steps = sorted(chance.randint(first, last) for _ in range(count))
    return [Kill(step, in_save=chance.random() < 0.5, part=chance.random()) for step in steps]  # noqa: PLR2004 - half


# ── the process ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def started(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start `codex` with these arguments; what it prints goes to the end of `log`.

    It leads a session, so that a process that it started itself goes with it.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "codex_kernel",
        *arguments,
    ]  # -P: as the command codex has its path
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - codex itself
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, and wait for its end."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def signals_end_it() -> Iterator[None]:
    """Turn a signal into a StoppedError, so that everything is cleaned up; further ones do not disturb that."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        name = signal.Signals(number).name
        raise StoppedError(
            f"the rehearsal was stopped by {name}; the manifest's runs are untouched", signal_number=number
        )

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in wanted}
    for number in wanted:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ── what is seen of it ────────────────────────────────────────────────────────────────────────────────────────────


@define(eq=False)
class Watch:
    """What a run's folder shows of the process that works in it, since this watch began.

    A record is new where the file is no longer what it was: a run that is resumed cuts it back and writes on, and
    writes no record twice with the same time.
    """

    folder: RunFolder
    before: list[bytes] = field(init=False)
    names_before: frozenset[str] = field(init=False)
    _new: list[bytes] = field(init=False, factory=list)
    _stamps: dict[Path, tuple[int, int]] = field(init=False, factory=dict)
    _saved: frozenset[str] = field(init=False, default=frozenset())

    def __attrs_post_init__(self) -> None:
        self.before = whole_lines(self.folder.metrics)
        self.names_before = self.names()

    def new_records(self) -> list[dict[str, Any]]:
        """Return the records that this process has written."""
        return [json.loads(line) for line in self._new_lines()]

    def step(self) -> int:
        """Return the last step that this process has recorded; 0 where it has none yet."""
        records = (json.loads(line) for line in reversed(self._new_lines()))
        return next((record["step"] for record in records if record["split"] == "train"), 0)

    def _new_lines(self) -> list[bytes]:
        if self._changed(self.folder.metrics):
            lines = whole_lines(self.folder.metrics)
            pairs = enumerate(zip(lines, self.before, strict=False))
            same = next((i for i, (new, old) in pairs if new != old), min(len(lines), len(self.before)))
            self._new = lines[same:]
        return self._new

    def saved(self) -> frozenset[str]:
        """Return the names of the checkpoints that were reported as safe on disk, by this process or before."""
        if self._changed(self.folder.events):
            self._saved = frozenset(Path(event["path"]).name for event in saves(self.folder))
        return self._saved

    def names(self) -> frozenset[str]:
        """Return the names in the folder of checkpoints."""
        try:
            return frozenset(path.name for path in self.folder.checkpoints.iterdir())
        except FileNotFoundError:
            return frozenset()

    def saving(self) -> frozenset[str]:
        """Return the names of what this process has there that is no finished checkpoint: a save is under way."""
        return self.names() - self.names_before - self.saved()

    def _changed(self, path: Path) -> bool:
        try:
            about = path.stat()
        except FileNotFoundError:
            return False
        stamp = (about.st_size, about.st_mtime_ns)
        changed = self._stamps.get(path) != stamp
        self._stamps[path] = stamp
        return changed


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file, without a half one at its end; none where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def saves(folder: RunFolder) -> list[Mapping[str, Any]]:
    """Return the events of checkpoints that were saved."""
    events = (json.loads(line) for line in whole_lines(folder.events))
    return [event for event in events if event["event"] == "checkpoint_saved"]


# ── watching and killing ──────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Pace:
    """How long a step and a save take, in seconds."""

    step_seconds: float = 0.0
    save_seconds: float = 0.0


def undisturbed(process: subprocess.Popen[bytes], watch: Watch, seen: Callable[[int], None]) -> Pace:
    """Wait for the end of a process; return how long its steps and saves took. `seen` is told each new step."""
    saving_since, save_seconds, steps = 0.0, 0.0, [(0, time.monotonic())]
    while process.poll() is None:
        now = time.monotonic()
        if (step := watch.step()) != steps[-1][0]:
            steps.append((step, now))
            seen(step)
        if watch.saving():
            saving_since = saving_since or now
            save_seconds = max(save_seconds, now - saving_since)
        else:
            saving_since = 0.0
        time.sleep(POLL_SECONDS)
    (first, began), (last, ended) = steps[min(1, len(steps) - 1)], steps[-1]
    return Pace((ended - began) / max(1, last - first), save_seconds)


def kill_at(
    process: subprocess.Popen[bytes], watch: Watch, when: Kill, pace: Pace, seen: Callable[[int], None]
) -> bool:
    """Kill a process at that instant; False where it came to its end before.

    Never before a checkpoint is safe on disk: there would be nothing to resume.
    """
    told, names = 0, watch.names()
    while process.poll() is None:
        step = watch.step()
        if step != told:
            told = step
            seen(step)
        if step == 0 or step < when.after_step or not watch.saved():
            names = watch.names()
        elif not when.in_save:
            return _kill_after(process, when.part * pace.step_seconds)
        elif watch.names() - names:  # a save has begun since the step
            return _kill_after(process, when.part * pace.save_seconds)
        time.sleep(POLL_SECONDS)
    return False


def _kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill the process after that time; False where it came to its end before."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() >= deadline:
            kill(process)
            return process.returncode == -signal.SIGKILL
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
    return False
