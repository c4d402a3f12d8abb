"""An exponential moving average of the weights in training.

One rule: it stands beside the weights and never changes them; whoever wants it in the model's place swaps pointers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from attrs import define
from torch import Tensor, nn


@define(eq=False)
class Average:
    """After each update: average = decay · average + (1 - decay) · weights.

    The decay rises with the number of updates, `min(decay, (1 + updates) / (10 + updates))`, so that the first weights
    are soon forgotten (as in TensorFlow's ExponentialMovingAverage).
    """

    decay: float
    updates: int
    _parameters: Mapping[str, nn.Parameter]
    _averages: dict[str, Tensor]

    @classmethod
    def of(cls, parameters: Mapping[str, nn.Parameter], decay: float) -> Average:
        """Begin with the parameters as they are; their names are those of the tensors."""
        return cls(decay, 0, parameters, {name: p.detach().clone() for name, p in parameters.items()})

    def update(self) -> None:
        """Move towards the weights, after an update of them; waits for no device."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take these averages, made by that many updates."""
        self.updates = updates
        for name, average in self._averages.items():
            average.copy_(tensors[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the model have the averages until the block ends; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._averages[name] = self._averages[name], parameter.data
