"""Peak memory and time of the loss over a large vocabulary: by chunks, as codex takes it, and over all logits.

    python benchmarks/memory.py [--vocabulary 50257] [--tokens 2048 --tokens 4096] [--rounds 3]

One rule: each case is a process of its own, and what counts is the peak that one training step adds to what the process
held before it. The first step is not timed: it faults its pages in; the time is that of the steps after it, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor
from workload import Decoder

from codex_torch.hardware import peak_memory_bytes
from codex_torch.loss import loss_sum

SEQ_LEN = 512
CPU = torch.device("cpu")
TIMED_STEPS = 2


def all_logits(model: Decoder, ids: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
    """Return the summed loss over the logits of all tokens, as most loops take it."""
    return F.cross_entropy(model(ids, *rest).flatten(0, 1), targets.flatten(), reduction="sum")


LOSSES = {"chunks": loss_sum, "all logits": all_logits}


def one_case(name: str, vocabulary: int, tokens: int, width: int) -> None:
    """Take some steps, and print the peak that the first one adds and the CPU seconds of the others."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Decoder(vocabulary, width, 2, SEQ_LEN)
    shape = (tokens // SEQ_LEN, SEQ_LEN)
    ids, targets = (torch.randint(vocabulary, shape) for _ in range(2))
    rest = (torch.arange(SEQ_LEN).expand(shape), torch.zeros(shape, dtype=torch.long))
    # The gradients are there in any case; they are not what the loss adds.
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, seconds = peak_memory_bytes(CPU), []
    for step in range(1 + TIMED_STEPS):
        began = time.process_time()
        loss = LOSSES[name](model, ids, targets, *rest) / tokens
        loss.backward()
        if step == 0:
            added = peak_memory_bytes(CPU) - before
        else:
            seconds.append(time.process_time() - began)
    print(json.dumps({"bytes": added, "seconds": statistics.fmean(seconds), "loss": loss.item()}))


def in_a_process(*case: object) -> dict[str, float]:
    """Return what a case says that runs in a process of its own."""
    done = subprocess.run(  # noqa: S603 - this file
        [sys.executable, __file__, "--case", *map(str, case)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(vocabulary: int, tokens: int, width: int, rounds: int) -> None:
    """Measure both ways in turns, and print."""
    peaks: dict[str, list[float]] = {name: [] for name in LOSSES}
    ratios = []
    for _ in range(rounds):
        found = {name: in_a_process(name, vocabulary, tokens, width) for name in LOSSES}
        difference = abs(found["chunks"]["loss"] - found["all logits"]["loss"])
        if difference > 1e-4:  # noqa: PLR2004 - fp32, and the mean of thousands of tokens
            raise SystemExit(f"the two losses differ by {difference}")
        for name in LOSSES:
            peaks[name].append(found[name]["bytes"] / 2**20)
        ratios.append(found["chunks"]["seconds"] / found["all logits"]["seconds"])
    chunks, logits = (statistics.median(peaks[name]) for name in LOSSES)
    print(
        f"V {vocabulary:,}, {tokens:,} tokens, width {width}: {chunks:,.0f} MB by chunks, {logits:,.0f} MB by all "
        f"logits, ratio {chunks / logits:.2f}; time ratio {statistics.median(ratios):.2f}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--tokens", type=int, action="append", help=f"a multiple of {SEQ_LEN}")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, *numbers = arguments.case
        one_case(name, *map(int, numbers))
        return
    for width in arguments.width or (256,):
        for tokens in arguments.tokens or (2048, 4096):
            compare(arguments.vocabulary, tokens, width, arguments.rounds)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
