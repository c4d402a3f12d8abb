"""Activation checkpointing: the activations of a layer are computed again in the backward pass instead of kept.

One rule: it changes what is kept in memory and nothing else, neither a bit of the result nor the name of a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from codex_kernel import InputError


def recompute_activations(model: nn.Module) -> int:
    """Let every layer of the model compute its activations again; return how many layers there are.

    Layers are the children of the outermost `nn.ModuleList`s that hold at least two modules of one type with
    parameters, as in every decoder. Dropout draws the same numbers both times. Raises InputError where there is none.
    """
    layers = list(_layers(model))
    if not layers:
        raise InputError(
            f"activation_checkpointing: {type(model).__name__} has no nn.ModuleList of layers",
            remedy="set trainer.activation_checkpointing to false, or keep the layers of the model in a ModuleList",
        )
    for layer in layers:
        _recompute(layer)
    return len(layers)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of the outermost lists, in order."""
    if isinstance(module, nn.ModuleList):
        kinds = {type(child) for child in module}
        if len(module) > 1 and len(kinds) == 1 and any(True for _ in module.parameters()):
            yield from module
            return
    for child in module.children():
        yield from _layers(child)


def _recompute(layer: nn.Module) -> None:
    """Put a recomputing forward before the layer's own, on this one object."""
    own = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return own(*args, **kwargs)
        return checkpoint(own, *args, use_reentrant=False, **kwargs)

    layer.forward = forward  # type: ignore[method-assign] # names and state_dict stay as they are
