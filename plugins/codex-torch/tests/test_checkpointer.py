import torch

from codex_kernel.testing import CheckpointerContract
from codex_torch.checkpointer import SafetensorsCheckpointer


class TestContract(CheckpointerContract):
    def make(self, *, every_steps, keep_last):
        return SafetensorsCheckpointer(every_steps=every_steps, keep_last=keep_last)

    def tensor(self, array):
        return torch.from_numpy(array)
