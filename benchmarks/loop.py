"""What the training loop costs, against a bare torch loop over the same model and batches.

    python benchmarks/loop.py [--size tiny|small] [--steps N] [--rounds 3] [--threads 1]

One rule: the loops take turns step by step in one process, so that a busy machine slows all of them alike, and only
differences and ratios within a round count. Times are CPU seconds (wall clock with more than one thread): those of
codex are all that the process did outside the other loops, its logger and checkpoint threads included.

`lean` is the bare loop as most people write it: mean loss over all logits, clip, AdamW, the loss read once a step.
`same loss` has codex's own loss function in it, so that the rest of the difference is what the framework costs.
codex runs with its defaults (`determinism: strict` among them), real metrics files, two loggers and checkpoints.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from attrs import define, field, frozen
from torch import Tensor, nn
from workload import SIZES, Decoder, Endless, Watched, decoder, real_run, trainer

from codex_kernel import IGNORE_INDEX
from codex_kernel.testing.training import ToyBlocks
from codex_torch.loss import loss_sum

WARM_UP = 3
"""Steps before anything is counted."""
SAVE_EVERY = 100
"""Steps between checkpoints, one percent of a run of 10,000; what a save costs is for checkpoint.py to say."""
DEFAULT_STEPS = {"tiny": 300, "small": 12}


def bare(model: Decoder, data: Endless, blocks: int, loss_of: Callable[..., Tensor]) -> Iterator[None]:
    """Train with a bare loop, a step each time it is asked."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},  # noqa: PLR2004 - vectors
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    model.train()
    position = 0
    while True:
        batch = data.train.gather(data.samples(position, blocks))
        arrays = (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
        loss = loss_of(model, *map(torch.from_numpy, arrays))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        position += blocks
        yield


def mean_of_all_logits(model: Decoder, ids: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
    """Return the loss as most loops take it."""
    return F.cross_entropy(model(ids, *rest).flatten(0, 1), targets.flatten())


def mean_of_ours(model: Decoder, ids: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
    """Return the loss of codex."""
    return loss_sum(model, ids, targets, *rest) / (targets != IGNORE_INDEX).sum()


LOOPS = {"lean": mean_of_all_logits, "same loss": mean_of_ours}


@frozen
class Clocks:
    """Seconds of this thread and of the whole process; with several torch threads both are the wall clock."""

    thread: Callable[[], float]
    process: Callable[[], float]

    @classmethod
    def of(cls, threads: int) -> Clocks:
        """Return the clocks that count all the work of a loop with that many threads."""
        if threads == 1:
            return cls(time.thread_time, time.process_time)
        return cls(time.perf_counter, time.perf_counter)


def timed(loop: Iterator[None], clock: Callable[[], float]) -> Iterator[float]:
    """Take a step each time, and yield its seconds."""
    while True:
        before = clock()
        next(loop)
        yield clock() - before


@define(eq=False)
class Turns:
    """Gives the other loops a step each between two steps of codex, and keeps the seconds of each step."""

    clocks: Clocks
    others: dict[str, Iterator[float]]
    seconds: dict[str, list[float]] = field(init=False)
    total: float = field(init=False, default=0.0)
    _left: float = field(init=False, default=0.0)
    _began: float = field(init=False, default=0.0)
    _calls: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.seconds = {name: [] for name in ("codex", *self.others)}

    def __call__(self) -> None:
        """Be called where a step of codex ends and the next one begins."""
        self._calls += 1
        if self._calls > WARM_UP + 1:
            self.seconds["codex"].append(self.clocks.thread() - self._left)
        if self._calls == WARM_UP + 1:
            self._began = self.clocks.process()
        names = list(self.others)
        turn = self._calls % len(names)
        with as_torch_is():
            for name in names[turn:] + names[:turn]:
                seconds = next(self.others[name])
                if self._calls > WARM_UP:
                    self.seconds[name].append(seconds)
        self.total = self.clocks.process() - self._began
        self._left = self.clocks.thread()

    def of_codex(self) -> float:
        """Return the mean seconds of a step of codex, the work of its other threads included."""
        others = sum(sum(self.seconds[name]) for name in self.others)
        return (self.total - others) / len(self.seconds["codex"])


class as_torch_is:  # noqa: N801 - a context manager
    """Within it torch is as a bare loop finds it, whatever codex has set: its determinism costs codex alone."""

    def __enter__(self) -> None:
        self.strict = torch.are_deterministic_algorithms_enabled()
        self.warn = torch.is_deterministic_algorithms_warn_only_enabled()
        self.fill = torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(mode=False)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self.strict, warn_only=self.warn)
        torch.utils.deterministic.fill_uninitialized_memory = self.fill


def measure(size: str, steps: int, threads: int, **options: Any) -> Turns:
    """Train codex and the bare loops in turns, and return what their steps took."""
    sizes = SIZES[size]
    blocks = ToyBlocks(64, seq_len=sizes["seq_len"])
    clocks = Clocks.of(threads)
    others = {
        name: timed(bare(decoder(sizes), Endless(blocks), sizes["blocks"], loss_of), clocks.thread)
        for name, loss_of in LOOPS.items()
    }
    turns = Turns(clocks, others)
    data = Endless(Watched(blocks, turns))
    with tempfile.TemporaryDirectory() as folder, real_run(Path(folder)) as run:
        mine, checkpointer = trainer(
            run,
            decoder(sizes),
            data,
            save_every=SAVE_EVERY,
            max_steps=steps + WARM_UP + 1,
            global_batch_size=sizes["blocks"],
            betas=(0.9, 0.95),
            **options,
        )
        mine.fit(None)
        checkpointer.close()
    return turns


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in arguments.size or SIZES:
        steps = arguments.steps or DEFAULT_STEPS[size]
        ratios: dict[str, list[float]] = {name: [] for name in LOOPS}
        costs: dict[str, list[float]] = {name: [] for name in LOOPS}
        typical: dict[str, list[float]] = {name: [] for name in LOOPS}
        ours = []
        for number in range(1, arguments.rounds + 1):
            turns = measure(size, steps, arguments.threads, log_every=arguments.log_every)
            mine = turns.of_codex()
            ours.append(mine)
            for name in LOOPS:
                theirs = statistics.fmean(turns.seconds[name])
                ratios[name].append(theirs / mine)
                costs[name].append((mine - theirs) * 1e3)
                pairs = zip(turns.seconds["codex"], turns.seconds[name], strict=False)
                typical[name].append(statistics.median(a - b for a, b in pairs) * 1e3)
            print(
                f"{size} round {number}: codex {mine * 1e3:.2f} ms, "
                + ", ".join(f"{n} {statistics.fmean(turns.seconds[n]) * 1e3:.2f} ms" for n in LOOPS),
                flush=True,
            )
        tokens = SIZES[size]["blocks"] * SIZES[size]["seq_len"]
        print(f"{size}: {tokens / statistics.median(ours):,.0f} tokens/s, load {os.getloadavg()[0]:.1f}")
        for name in LOOPS:
            print(
                f"  against {name}: tokens/s x {statistics.median(ratios[name]):.3f}, "
                f"{statistics.median(costs[name]):+.3f} ms a step in all, "
                f"{statistics.median(typical[name]):+.3f} ms in the median step"
            )


if __name__ == "__main__":
    main()
