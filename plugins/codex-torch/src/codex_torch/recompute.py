"""Activation checkpointing: the activations of a layer are computed again in the backward pass instead of kept.

One rule: it changes what is kept in memory and nothing else, neither a bit of the result nor the name of a parameter;
but a layer that counts its forward passes in a buffer, as BatchNorm does, counts each of them twice.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from codex_kernel import InputError


def recompute_activations(model: nn.Module) -> int:
    """Let every layer of the model compute its activations again; return how many layers there are.

    Dropout draws the same numbers both times. Only in training and with gradients is anything computed twice. Doing it
    again changes nothing. Raises InputError where the model has no layers, see `layers_of`.
    """
    layers = layers_of(model)
    if not layers:
        raise InputError(
            f"activation_checkpointing: {type(model).__name__} has no nn.ModuleList of two or more layers",
            remedy="set trainer.activation_checkpointing to false, or keep the layers of the model in a ModuleList",
        )
    for layer in layers:
        # Its class rather than a function of its own, which a copy of the model would share with the original.
        layer.__class__ = _recomputed(type(layer))  # type: ignore[arg-type] # a class can be hashed
    return len(layers)


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Do so in the block alone."""
    kinds = [(layer, type(layer)) for layer in layers_of(model)]
    recompute_activations(model)
    try:
        yield
    finally:
        for layer, kind in kinds:
            layer.__class__ = kind


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers in order, each once: the children with parameters of the outermost `nn.ModuleList`s of layers.

    A list is one of layers where at least two of its children have parameters and are of one type, as in any decoder.
    """
    return list(dict.fromkeys(_layers(model)))


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.ModuleList):
        layers = [child for child in module if any(True for _ in child.parameters())]
        if max(Counter(type(layer) for layer in layers).values(), default=0) > 1:
            yield from layers
            return
    for child in module.children():
        yield from _layers(child)


@functools.cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class that a layer of this class becomes; one that has become it stays."""
    return kind if issubclass(kind, _Recomputed) else type(kind.__name__, (_Recomputed, kind), {})


class _Recomputed(nn.Module):
    """What a layer becomes: the class that stands before the layer's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = super().__call__
        if not (self.training and torch.is_grad_enabled()):
            return call(*args, **kwargs)
        return checkpoint(call, *args, use_reentrant=False, **kwargs)
