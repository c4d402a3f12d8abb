"""How long a run is, and the learning rate of each of its steps: pure functions.

One rule: both follow from the options and the size of the data alone, so that a resumed run has nothing to remember.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from attrs import frozen

from codex_kernel import Blocks, InputError

ScheduleName = Literal["cosine", "linear", "constant", "inverse-sqrt", "wsd"]
ENDLESS = ("constant", "inverse-sqrt")
"""Schedules that need not know how long the run will be."""


@frozen
class Length:
    """The extent of a run: its optimizer steps, and the blocks they take together.

    Both are None where a clock alone ends the run. Every step takes `global_batch_size` blocks; the last one may take
    fewer where the run is as long as its blocks. `by_steps`: it is as long as its steps. Where the batch has another
    size since a resume, the two end a run at different places.
    """

    steps: int | None
    samples: int | None
    global_batch_size: int
    by_steps: bool = False

    def samples_of(self, done: int) -> int:
        """Return how many blocks the step takes that begins after `done` blocks."""
        if self.samples is None or self.by_steps:
            return self.global_batch_size
        return min(self.global_batch_size, self.samples - done)

    def steps_left(self, step: int, done: int) -> int | None:
        """Return how many steps come after `step` steps over `done` blocks; None where a clock alone ends the run."""
        if self.steps is None or self.samples is None:
            return None
        left = (
            self.steps - step if self.by_steps else math.ceil((self.samples - done) / self.global_batch_size)
        )
        return max(0, left)

    @classmethod
    def of(  # noqa: PLR0913 - each limit has its name
        cls,
        train: Blocks,
        global_batch_size: int,
        *,
        max_steps: int | None = None,
        epochs: float | None = None,
        max_tokens: int | None = None,
        max_minutes: float | None = None,
    ) -> Length:
        """Work out the extent from the one limit that is given; raise InputError where that makes no step.

        `max_tokens` counts targets: whole steps of the training split's mean number of targets, rounded up.
        `max_minutes` may stand beside another limit, and says nothing of the extent; alone it leaves it open.
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
        elif max_minutes is not None:
            return cls(None, None, global_batch_size)
        else:
            steps = samples = 0
        if steps == 0:
            raise InputError(
                "the run has no optimizer step",
                remedy="set max_steps, epochs, max_tokens or max_minutes above 0",
            )
        return cls(steps, samples, global_batch_size, by_steps=max_steps is not None)


@frozen
class Schedule:
    """The learning rate over a run: a linear warm-up to `lr`, then the named way on, never below `min_lr_ratio` of it.

    `cosine`, `linear`: down over the rest of the run, whose last step has the lowest rate.
    `constant`: `lr` to the end.
    `inverse-sqrt`: `lr · sqrt(warmup_steps / step)` (Vaswani et al. 2017, arXiv 1706.03762).
    `wsd`: `lr`, and down in the last `decay_steps` (None: a tenth of the run, at least 1) with the shape 1 - sqrt
    (Hägele et al. 2024, arXiv 2405.18392). A way down that does not fit in after the warm-up begins right after it.

    `total_steps` None: the run has no known end; raises ValueError where the schedule needs one.
    """

    name: ScheduleName
    lr: float
    warmup_steps: int
    min_lr_ratio: float
    total_steps: int | None
    decay_steps: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.total_steps is None and self.name not in ENDLESS:
            raise ValueError(f"the schedule {self.name} needs the number of steps of the run")

    def lr_of(self, step: int) -> float:
        """Return the learning rate of the step after `step` done ones."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.name == "inverse-sqrt":
            return self.lr * max(self.min_lr_ratio, math.sqrt(self.warmup_steps / (step + 1)))
        return self.lr * (self.min_lr_ratio + (1 - self.min_lr_ratio) * self._share(step + 1))

    def remarks(self) -> Iterator[str]:
        """Say in what the run is too short for the schedule that was asked for; nothing where it is not."""
        if self.total_steps is None:
            return
        if self.warmup_steps >= self.total_steps:
            yield f"the run ends in its warm-up: {self.total_steps} steps, warmup_steps {self.warmup_steps}"
        elif self.decay_steps is not None and self._decay_steps < self.decay_steps:
            yield (
                f"the way down of wsd takes {self._decay_steps} steps instead of decay_steps {self.decay_steps}: "
                f"the run has {self.total_steps}, {self.warmup_steps} of them to warm up"
            )

    def _share(self, step: int) -> float:
        """Return what is left of the way from 1 (`lr`) down to 0 (the lowest) in this step, counted from 1."""
        if self.total_steps is None or self.name == "constant":
            return 1.0
        down = self._decay_steps if self.name == "wsd" else self.total_steps - self.warmup_steps
        passed = (step - (self.total_steps - down)) / down if down > 0 else 1.0
        passed = min(max(passed, 0.0), 1.0)
        if self.name == "cosine":
            return (1 + math.cos(math.pi * passed)) / 2
        return 1 - passed if self.name == "linear" else 1 - math.sqrt(passed)

    @property
    def _decay_steps(self) -> int:
        """The steps that wsd takes down, all of them after the warm-up."""
        assert self.total_steps is not None  # noqa: S101 - only called with an end
        asked = max(1, self.total_steps // 10) if self.decay_steps is None else self.decay_steps
        return max(0, min(asked, self.total_steps - self.warmup_steps))
