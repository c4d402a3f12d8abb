"""The contracts of `codex_kernel.testing`, kept by the model, the trainer and the checkpointer."""

from __future__ import annotations

from codex_ngram.model import NGrams
from codex_ngram.plugin import NGramModel, NGramTrainer, NumpyCheckpointer

from codex_kernel.testing import CheckpointArchiveContract, PluginContract, TrainerContract
from codex_kernel.testing.training import VOCABULARY


class TestModel(PluginContract):
    kind = "model"

    def plugin(self, folder):
        return NGramModel(order=3)


class TestTrainer(TrainerContract):
    def make(self, *, max_steps):
        return NGramTrainer(max_steps=max_steps, global_batch_size=3, log_every=1)

    def model(self):
        return NGrams(3, VOCABULARY)


class TestCheckpointer(CheckpointArchiveContract):
    def make(self, *, every_steps, keep_last):
        return NumpyCheckpointer(every_steps=every_steps, keep_last=keep_last)

    def tensor(self, array):
        return array
