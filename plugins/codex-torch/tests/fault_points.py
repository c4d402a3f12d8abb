"""Kill a process at each file operation of a save in turn, and leave the folders for a test to look at.

Called as `fault_points.py FOLDER MODE`; MODE is `kill` (before the operation) or `tear` (after half of a write). For
the n-th operation of a save that also deletes an old checkpoint there is then FOLDER/n, a run with what was left; it
prints how many there are. Each death is that of a forked process, so that torch is imported once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from codex_kernel import CheckpointState
from codex_kernel.testing import make_run
from codex_torch import commit
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer

OPERATIONS = (
    (os, "write"),
    (os, "fsync"),
    (os, "open"),
    (os, "rmdir"),
    (os, "unlink"),
    (os, "rename"),
    (os, "mkdir"),
)


def state(number: int) -> CheckpointState:
    """A state whose parts all have a number."""
    return CheckpointState(
        tensors={
            "model/model.safetensors": {"w": torch.full((300,), float(number))},
            "optimizer.safetensors": {"exp_avg/w": torch.full((300,), float(number))},
        },
        values={"trainer.json": {"step": number}},
    )


def checkpointer(folder: Path) -> FolderCheckpointer:
    """A checkpointer that keeps two, over a run in this folder."""
    run = make_run(folder)
    return FolderCheckpointer(run, run.folder / "checkpoints", SafetensorsCheckpointer(keep_last=2))


@contextmanager
def fault(at: int, mode: str) -> Iterator[list[str]]:
    """Let the `at`-th file operation (from 1) die, or tear; yield the names of those that passed."""
    passed: list[str] = []
    originals = [(module, name, getattr(module, name)) for module, name in OPERATIONS]

    def wrap(name: str, original: Any) -> Any:
        def operation(*args: Any, **kwargs: Any) -> Any:
            if len(passed) + 1 == at:
                if mode == "tear" and name == "write":
                    original(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            passed.append(name)
            return original(*args, **kwargs)

        return operation

    for module, name, original in originals:
        setattr(module, name, wrap(name, original))
    try:
        yield passed
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def die_in_save(folder: Path, at: int, mode: str) -> bool:
    """Save steps 1 and 2, then step 3 in a process of its own that dies; say whether it did."""
    mine = checkpointer(folder)
    for step in (1, 2):
        mine.save(step, state(step), {}, wait=True)
    child = os.fork()
    if child == 0:
        with fault(at, mode):
            mine.save(3, state(3), {})
            mine.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    """Die at every operation in turn."""
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    number = 1
    while die_in_save(folder / str(number), number, mode):
        number += 1
    print(number - 1)


assert commit.os is os, "the operations above are those that a save calls"
if __name__ == "__main__":
    main()
