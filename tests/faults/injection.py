"""Faults of the disk and the clock: the C shim, what it is asked for, and the log of what it saw.

One rule: a fault is named by the number of a file operation, so that a sweep over all numbers meets every instant.
"""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

MODES = ("count", "kill", "tear", "fail", "short", "slow", "signal", "clock")
CHECKPOINTS = "/checkpoints"
OTHERS = f"!{CHECKPOINTS}"
"""For `Fault.containing`: the files of checkpoints, and all others of a run. Each kind comes in one order."""


@frozen
class Fault:
    """What goes wrong with file operations in the run's folder, from number `at` (from 1) on.

    `mode`: `count` nothing; `kill` dies before the operation; `tear` dies after half of the write; `fail` the operation
    fails with errno `value`, and so do the `times - 1` after it (0: all); `short` writes take half of what they are
    given; `slow` each takes `value` milliseconds more; `signal` raises signal `value`, and once more after `times`
    operations (0: once); `clock` shifts the clock by `value` seconds.
    `containing` limits it to paths that contain this text or, with a `!` before it, do not.
    """

    mode: str = "count"
    at: int = 1
    times: int = 0
    value: int = 0
    containing: str = ""

    def request(self, run: Path, log: Path) -> dict[str, object]:
        """Return what the fork server wants to know."""
        numbers = [MODES.index(self.mode), self.at, self.times, self.value]
        return {"log": str(log), "below": str(run), "containing": self.containing, "numbers": numbers}

    def __str__(self) -> str:
        what = {"fail": errno.errorcode.get(self.value, "?")}.get(self.mode, str(self.value))
        return f"{self.mode} at operation {self.at} (times {self.times}, value {what}) {self.containing}"


@frozen
class Operation:
    """A file operation: its number (0: not counted), when (milliseconds, monotonic), thread, name, bytes and path."""

    number: int
    milliseconds: int
    thread: int
    name: str
    bytes: int
    path: str

    def __str__(self) -> str:
        return f"#{self.number} {self.name} {self.bytes or ''} {self.path}"


def read_log(path: Path) -> list[Operation]:
    """Return the operations in a log."""
    if not path.exists():
        return []
    split = (line.split(" ", 5) for line in path.read_text().splitlines())
    return [
        Operation(int(number), int(time), int(thread), name, int(size), place)
        for number, time, thread, name, size, place in split
    ]


def step_of(operation: Operation) -> int | None:
    """Return the step of the checkpoint that the operation works on, by the number in its folder's name; else None."""
    inside = operation.path.partition(f"{CHECKPOINTS}/")[2].split("/")[0]
    found = re.search(r"\d{8,}", inside)
    return int(found.group()) if found else None


def numbered(operations: Sequence[Operation], containing: str = "") -> list[Operation]:
    """Return those operations that a fault with this `containing` counts, with the numbers that it gives them."""
    wanted = [one for one in operations if _is_wanted(one.path, containing)]
    return [evolve(operation, number=number) for number, operation in enumerate(wanted, start=1)]


def _is_wanted(path: str, containing: str) -> bool:
    return containing[1:] not in path if containing.startswith("!") else containing in path


def save_of(operations: Sequence[Operation], step: int) -> list[Operation]:
    """Return the operations on checkpoints of one save: from the first on its folder until the next save begins.

    They are numbered as a fault that contains CHECKPOINTS counts. The deletions that follow a save are among them.
    """
    counted = numbered(operations, CHECKPOINTS)
    begins = next(i for i, operation in enumerate(counted) if step_of(operation) == step)
    after = (i for i, operation in enumerate(counted) if (step_of(operation) or 0) > step)
    return counted[begins : next(after, len(counted))]


def build_shim(folder: Path) -> Path:
    """Compile the shim; a compiler must be there."""
    source, library = Path(__file__).with_name("shim.c"), folder / "shim.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", library, source, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library
