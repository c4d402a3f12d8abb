"""How long a run is, and the learning rate of each of its steps: pure functions.

One rule: both follow from the options and the size of the data alone, so that a resumed run has nothing to remember.
"""

from __future__ import annotations

import math
from typing import Literal

from attrs import frozen

from codex_kernel import Blocks, InputError

ScheduleName = Literal["cosine", "linear", "constant"]


@frozen
class Length:
    """The extent of a run: its optimizer steps, and the blocks they take together.

    Every step takes `global_batch_size` blocks; the last one may take fewer.
    """

    steps: int
    samples: int
    global_batch_size: int

    def samples_of(self, position: int) -> int:
        """Return how many blocks the step takes that begins at this position of the training order."""
        return min(self.global_batch_size, self.samples - position)

    @classmethod
    def of(
        cls,
        train: Blocks,
        global_batch_size: int,
        *,
        max_steps: int | None = None,
        epochs: float | None = None,
        max_tokens: int | None = None,
    ) -> Length:
        """Work out the extent from the one limit that is given; raise InputError where that makes no step.

        `max_tokens` counts targets: whole steps of the training split's mean number of targets, rounded up.
        """
        if train.target_tokens == 0:
            raise InputError(
                "the training split has no target", remedy="give documents with text to train on"
            )
        if max_steps is not None:
            steps, samples = max_steps, max_steps * global_batch_size
        elif epochs is not None:
            samples = math.ceil(round(epochs * len(train), 6))  # 0.1 · 30 is a little above 3
            steps = math.ceil(samples / global_batch_size)
        elif max_tokens is not None:
            steps = -(-max_tokens * len(train) // (train.target_tokens * global_batch_size))
            samples = steps * global_batch_size
        else:
            steps = samples = 0
        if steps == 0:
            raise InputError(
                "the run has no optimizer step", remedy="set max_steps, epochs or max_tokens above 0"
            )
        return cls(steps, samples, global_batch_size)


@frozen
class Schedule:
    """The learning rate over a run: a linear warm-up to `lr`, then the named way down to `min_lr_ratio` of it."""

    name: ScheduleName
    lr: float
    warmup_steps: int
    min_lr_ratio: float
    total_steps: int

    def lr_of(self, step: int) -> float:
        """Return the learning rate of the step after `step` done ones; the last step has the lowest."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        rest = self.total_steps - self.warmup_steps
        passed = (step + 1 - self.warmup_steps) / rest if rest > 0 else 1.0
        return self.lr * (self.min_lr_ratio + (1 - self.min_lr_ratio) * self._share(min(passed, 1.0)))

    def _share(self, passed: float) -> float:
        """Return what is left of the way down, from 1 to 0, when a share of it has passed."""
        if self.name == "cosine":
            return (1 + math.cos(math.pi * passed)) / 2
        return 1 - passed if self.name == "linear" else 1.0
