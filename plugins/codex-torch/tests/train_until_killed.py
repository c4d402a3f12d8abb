"""Train a toy run with real checkpoints, in a process of its own, until it is killed or done.

Called as `train_until_killed.py FOLDER [STEP OPERATION]`: goes on from the newest checkpoint where there is one. With
STEP, the process kills itself after that step's record, or, with OPERATION above 0, before that file operation of the
save after it. It prints the losses as hex floats, a line each, at once. To count its operations a save is made in the
training thread; else they are made in the background.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from attrs import evolve
from fault_points import fault
from training import model, options

from codex_kernel import EvaluateOptions, Parts
from codex_kernel.testing import make_run
from codex_kernel.testing.training import ActingReporter, ToyData, ToyTokenizer, evaluation_metrics
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer
from codex_torch.plugin import LoopTrainer


class Reporter(ActingReporter):
    """Prints each training loss."""

    def metrics(self, progress, values, *, split="train"):
        if split == "train":
            print(progress.step, values["loss"].hex(), flush=True)
        super().metrics(progress, values, split=split)

    def load_state_dict(self, state):
        """The parent process rewinds what was printed."""


def main() -> None:
    """Train."""
    folder = Path(sys.argv[1])
    step, operation = (int(argument) for argument in sys.argv[2:4]) if len(sys.argv) > 2 else (0, 0)
    torch.set_num_threads(1)

    waiting = fault(operation, "kill")  # kept: it would be undone with its last reference

    def die() -> None:
        if operation == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        waiting.__enter__()

    run = evolve(make_run(folder), report=Reporter(at_step=step, act=die))
    saves = SafetensorsCheckpointer(every_steps=2, asynchronous=operation == 0)
    checkpointer = FolderCheckpointer(run, run.folder / "checkpoints", saves)
    parts = Parts(
        ToyTokenizer(), ToyData(), model(), checkpointer, EvaluateOptions(every_steps=3), evaluation_metrics
    )
    newest = checkpointer.newest()
    LoopTrainer(options(max_steps=10), run, parts).fit(checkpointer.load(newest) if newest else None)
    checkpointer.close()


if __name__ == "__main__":
    main()
