"""Which finite losses are spikes.

One rule: it follows from the losses of the last steps that were applied, which are its whole state.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from attrs import define, field

_LEAST_DEVIATION = 0.01
"""Of the mean: losses that hardly differ must not make a spike of the next digit."""
_UNITS = 2**160
"""To a nat, so that any fp32 is a whole number of them. Sums of those are exact: the same after a resume, and kept from
step to step without going through the window."""


@define(eq=False)
class Spikes:
    """A loss is a spike when it lies more than `sigmas` standard deviations above the mean of the last `window`.

    As long as fewer than half of the window is there, nothing is.
    """

    sigmas: float
    window: int
    _losses: deque[float] = field(init=False, factory=deque)
    _sum: int = field(init=False, default=0)
    _sum_of_squares: int = field(init=False, default=0)

    def is_spike(self, loss: float) -> bool:
        """Say whether this loss (nats per token) is one."""
        count = len(self._losses)
        if count < self.window // 2:
            return False
        mean = self._sum / (count * _UNITS)
        deviation = math.sqrt(count * self._sum_of_squares - self._sum**2) / (count * _UNITS)
        return loss > mean + self.sigmas * max(deviation, _LEAST_DEVIATION * abs(mean))

    def add(self, loss: float) -> None:
        """Count a step that was applied; raise ValueError where the loss is not finite."""
        if not math.isfinite(loss):
            raise ValueError(f"a loss of {loss} was applied")
        self._losses.append(loss)
        self._count(loss, 1)
        if len(self._losses) > self.window:
            self._count(self._losses.popleft(), -1)

    def state(self) -> list[float]:
        """Return the losses that are remembered, oldest first."""
        return list(self._losses)

    def load(self, state: Iterable[float]) -> None:
        """Remember these losses and no others; of more than the window, the last ones."""
        self._losses.clear()
        self._sum = self._sum_of_squares = 0
        for loss in state:
            self.add(loss)

    def _count(self, loss: float, sign: int) -> None:
        units = round(loss * _UNITS)
        self._sum += sign * units
        self._sum_of_squares += sign * units * units
