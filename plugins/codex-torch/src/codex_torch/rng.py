"""The state of every random generator that a training step may draw from: Python's, numpy's, torch's on each device.

One rule: what was captured can be put back without pickle, and then the same numbers follow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor


@frozen(eq=False)
class RngState:
    """`tensors` holds torch's generators (`cpu`, `cuda:0`, …) as bytes, `values` the others as JSON values."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def seed_all(seed: int) -> None:
    """Seed every generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - models that draw from numpy draw from its global generator
    torch.manual_seed(seed)


def capture() -> RngState:
    """Return the state of every generator."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch's own
        tensors |= {f"cuda:{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - as in seed_all
    return RngState(
        tensors,
        {
            "python": [version, list(numbers), gauss],
            "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        },
    )


def restore(state: RngState) -> None:
    """Put a captured state back; devices that this machine does not have are left out."""
    for name, tensor in state.tensors.items():
        if name == "cpu":
            torch.set_rng_state(tensor)
        elif torch.device(name).index < torch.cuda.device_count():
            torch.cuda.set_rng_state(tensor, name)
    version, numbers, gauss = state.values["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state.values["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave every generator after the block as it was before it."""
    before = capture()
    try:
        yield
    finally:
        restore(before)
