"""The toys of the test kit keep the contracts of their kinds, so that a run with them is a run."""

from __future__ import annotations

import numpy as np

from codex_kernel.testing import CheckpointArchiveContract, DatasetContract, TrainerContract
from codex_kernel.testing.toy_checkpointer import ToyCheckpointer
from codex_kernel.testing.toy_plugins import NextToken, ToyDataset, ToyTrainer
from codex_kernel.testing.training import VOCABULARY


class TestToyDataset(DatasetContract):
    def make(self, folder):
        return ToyDataset()


class TestToyTrainer(TrainerContract):
    def make(self, *, max_steps):
        return ToyTrainer(max_steps=max_steps)

    def model(self):
        return NextToken(np.zeros((VOCABULARY, VOCABULARY), dtype=np.float32))


class TestToyCheckpointer(CheckpointArchiveContract):
    def make(self, *, every_steps, keep_last):
        return ToyCheckpointer(every_steps=every_steps, keep_last=keep_last)

    def tensor(self, array):
        return array
