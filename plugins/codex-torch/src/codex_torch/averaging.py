"""An exponential moving average of the weights in training.

One rule: it stands beside the weights and never changes them; whoever wants it in the model's place swaps pointers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from attrs import define, field
from torch import Tensor, nn


@define(eq=False)
class Average:
    """After each update: average = decay · average + (1 - decay) · weights.

    The decay rises with the number of updates, `min(decay, (1 + updates) / (10 + updates))`, so that the first weights
    are soon forgotten (as in TensorFlow's ExponentialMovingAverage). It costs one copy of the weights in memory, one
    pass over them in a step, and waits for no device.
    """

    decay: float
    updates: int
    _parameters: Mapping[str, nn.Parameter] = field(repr=False)
    _averages: dict[str, Tensor] = field(repr=False)
    _swapped: bool = field(init=False, default=False)

    @classmethod
    def of(cls, parameters: Mapping[str, nn.Parameter], decay: float) -> Average:
        """Begin with the parameters as they are; their names are those of the tensors."""
        copies = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        return cls(decay, 0, dict(parameters), copies)

    def update(self) -> None:
        """Move towards the weights, after an update of them."""
        self._require_unswapped()
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages themselves, by the names of their parameters."""
        self._require_unswapped()
        return dict(self._averages)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take these averages, made by that many updates.

        Raises ValueError, and changes nothing, where a name or a shape is not that of the parameters.
        """
        self._require_unswapped()
        if differing := sorted(tensors.keys() ^ self._averages.keys()):
            raise ValueError(f"the average is of other parameters: {', '.join(differing[:5])}")
        for name, average in self._averages.items():
            if tensors[name].shape != average.shape:
                raise ValueError(
                    f"the average of {name} has shape {list(tensors[name].shape)}, expected {list(average.shape)}"
                )
        self.updates = updates
        for name, average in self._averages.items():
            average.copy_(tensors[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Let the model have the averages until the block ends; nothing is copied.

        A tensor that was taken from a parameter in the block is the average's after it, too.
        """
        self._require_unswapped()
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._averages[name] = self._averages[name], parameter.data
        self._swapped = not self._swapped

    def _require_unswapped(self) -> None:
        if self._swapped:
            raise RuntimeError("the averages are in the place of the parameters now")
