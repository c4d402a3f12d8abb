"""The optimizers of a run, all of them torch's own.

One rule: every trained parameter belongs to exactly one optimizer, and every group's `lr` is set by the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Muon, Optimizer

from codex_kernel import HiddenStates, InputError

if TYPE_CHECKING:
    from codex_torch.plugin import TorchTrainer

ADAMW_BETAS = (0.9, 0.95)
SGD_MOMENTUM = 0.9
MUON_MOMENTUM = 0.95
_MATRIX = 2
"""Dimensions of a matrix; what has as many or more decays."""


def make_optimizers(model: nn.Module, options: TorchTrainer) -> list[Optimizer]:
    """Return the optimizers over the parameters that require a gradient: two for muon, else one; none is empty.

    Raises InputError where muon has no matrix to work on.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer == "muon":
        return _muon(model, trained, options)
    make = {"adamw": _adamw, "sgd": _sgd, "adafactor": _adafactor}[options.optimizer]
    return [make(trained, options)]


def begin_anew(optimizer: Optimizer) -> None:
    """Take an optimizer to its state before the first step."""
    optimizer.state.clear()
    if isinstance(optimizer, SGD) and optimizer.defaults["momentum"] > 0:
        # The fused step fails where one parameter has its first gradient later than another one; from zeros the first
        # step is the same, bit by bit.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def state_numbers(optimizers: Iterable[Optimizer]) -> int:
    """Return how many numbers the optimizers keep once every parameter has had a gradient.

    Counted from shapes, so that parameters on the meta device are enough; each parameter's step counter is left out.
    """
    return sum(
        _state_numbers(optimizer, parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


# ── each of them ──────────────────────────────────────────────────────────────────────────────────────────────────


def _adamw(parameters: list[nn.Parameter], options: TorchTrainer) -> Optimizer:
    betas = options.betas or ADAMW_BETAS
    return AdamW(_groups(parameters, options), lr=options.lr, betas=betas, fused=True)


def _sgd(parameters: list[nn.Parameter], options: TorchTrainer) -> Optimizer:
    momentum = SGD_MOMENTUM if options.momentum is None else options.momentum
    optimizer = SGD(_groups(parameters, options), lr=options.lr, momentum=momentum, fused=True)
    begin_anew(optimizer)
    return optimizer


def _adafactor(parameters: list[nn.Parameter], options: TorchTrainer) -> Optimizer:
    return Adafactor(_groups(parameters, options), lr=options.lr)


def _muon(model: nn.Module, trained: list[nn.Parameter], options: TorchTrainer) -> list[Optimizer]:
    is_end = _ends(model)
    inner = [parameter for parameter in trained if parameter.ndim == _MATRIX and not is_end(parameter)]
    if not inner:
        raise InputError(
            "optimizer muon has nothing to do: no trained matrix lies between the embeddings and the head",
            remedy="use optimizer: adamw",
        )
    muon = Muon(
        inner,
        lr=options.lr,
        weight_decay=options.weight_decay,
        momentum=MUON_MOMENTUM if options.momentum is None else options.momentum,
        # Its updates are then as large as AdamW's, and one lr fits both.
        adjust_lr_fn="match_rms_adamw",
    )
    taken = {id(parameter) for parameter in inner}
    rest = [parameter for parameter in trained if id(parameter) not in taken]
    return [muon, _adamw(rest, options)] if rest else [muon]


def _groups(parameters: list[nn.Parameter], options: TorchTrainer) -> list[dict[str, Any]]:
    """Return the matrices, which decay, and the vectors (norms, biases), which do not; neither group is empty."""
    groups: tuple[dict[str, Any], ...] = (
        {"params": [p for p in parameters if p.ndim >= _MATRIX], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < _MATRIX], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def _ends(model: nn.Module) -> Callable[[nn.Parameter], bool]:
    """Return what says whether a parameter is an embedding or the head: no matrix that maps hidden states to others.

    Those are the weight of every `nn.Embedding` (a tied head is one of them), and each matrix outside the layers (the
    `nn.ModuleList`s) with as many rows as the head has. Where the model has no `head_weight()` to ask, the head has as
    many rows as one of the embeddings.
    """
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    known = {id(weight) for weight in embeddings}
    heads = [model.head_weight()] if isinstance(model, HiddenStates) else embeddings
    rows = {weight.shape[0] for weight in heads}
    # A hidden layer may have the rows of a head by chance, as one of 1,024 units beside 1,024 positions.
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inside = {id(parameter) for layers in lists for parameter in layers.parameters()}
    return lambda parameter: (
        id(parameter) in known or (parameter.shape[0] in rows and id(parameter) not in inside)
    )


def _state_numbers(optimizer: Optimizer, parameter: Tensor) -> int:
    if isinstance(optimizer, AdamW):
        return 2 * parameter.numel()
    if isinstance(optimizer, SGD):
        return parameter.numel() if optimizer.defaults["momentum"] > 0 else 0
    if isinstance(optimizer, Adafactor) and parameter.ndim >= _MATRIX:
        # A mean for each row and for each column.
        return parameter.numel() // parameter.shape[-1] + parameter.numel() // parameter.shape[-2]
    return parameter.numel()
