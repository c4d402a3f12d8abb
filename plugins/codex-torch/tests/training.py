"""Builders of toy runs, shared by the tests of this folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from toy_model import ToyTransformer

from codex_kernel import EvaluateOptions, Parts
from codex_kernel.testing import make_run
from codex_kernel.testing.trainer import Training
from codex_kernel.testing.training import (
    MemoryCheckpointer,
    ToyData,
    ToyTokenizer,
    evaluation_metrics,
)
from codex_torch.plugin import LoopTrainer, TorchTrainer

QUICK = {
    "global_batch_size": 4,
    "micro_batch_size": 2,
    "lr": 1e-2,
    "precision": "fp32",
    "device": "cpu",
    "log_every": 1,
}


def options(**changes: Any) -> TorchTrainer:
    """Options of a short run on the CPU; eight steps where no limit is given."""
    limit = {} if changes.keys() & {"max_steps", "epochs", "max_tokens"} else {"max_steps": 8}
    return TorchTrainer(**(QUICK | limit | changes))


def model(seed: int = 0, **changes: Any) -> ToyTransformer:
    """A toy model whose weights follow from the seed."""
    torch.manual_seed(seed)
    return ToyTransformer(**changes)


def training(
    folder: Path,
    module: Any = None,
    data: Any = None,
    evaluate: EvaluateOptions | None = None,
    **changes: Any,
) -> Training:
    """A run that has not begun."""
    run = make_run(folder)
    parts = Parts(
        tokenizer=ToyTokenizer(),
        data=data or ToyData(),
        model=model() if module is None else module,
        checkpointer=MemoryCheckpointer(run, changes.pop("every_steps", None)),
        evaluate=evaluate or EvaluateOptions(),
        evaluation_metrics=evaluation_metrics,
    )
    return Training(LoopTrainer(options(**changes), run, parts), run, parts)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's parameters."""
    return {name: copy.deepcopy(parameter.detach()) for name, parameter in module.named_parameters()}


def losses(run: Training) -> list[float]:
    """The training losses, in order."""
    return [metrics["loss"] for split, _, metrics in run.records if split == "train"]
