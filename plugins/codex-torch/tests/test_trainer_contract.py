import torch
from attrs import evolve
from toy_model import HeadedToy, ToyTransformer

from codex_kernel.testing import TrainerContract
from codex_torch.plugin import TorchTrainer

torch.set_num_threads(1)


class TestPlainModule(TrainerContract):
    def make(self, *, max_steps):
        return TorchTrainer(
            max_steps=max_steps, global_batch_size=3, micro_batch_size=2, lr=1e-2, warmup_steps=2, log_every=1,
            precision="fp32", device="cpu",
        )  # fmt: skip

    def model(self):
        return ToyTransformer()


class TestModelWithHead(TestPlainModule):
    def model(self):
        return HeadedToy()


class TestBf16(TestModelWithHead):
    def make(self, *, max_steps):
        return evolve(super().make(max_steps=max_steps), precision="bf16")
