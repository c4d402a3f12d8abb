import torch

from codex_kernel.testing import CheckpointArchiveContract
from codex_torch.checkpointer import SafetensorsCheckpointer


class TestInTheBackground(CheckpointArchiveContract):
    def make(self, *, every_steps, keep_last):
        return SafetensorsCheckpointer(every_steps=every_steps, keep_last=keep_last)

    def tensor(self, array):
        return torch.from_numpy(array)


class TestInTheTrainingThread(CheckpointArchiveContract):
    def make(self, *, every_steps, keep_last):
        return SafetensorsCheckpointer(every_steps=every_steps, keep_last=keep_last, asynchronous=False)

    def tensor(self, array):
        return torch.from_numpy(array)
