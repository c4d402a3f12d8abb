"""Tokens per second of the training loop, against a bare torch loop over the same model and batches.

    python benchmarks/loop.py [--rounds 5] [--steps 12] [--size tiny|small] [--threads 1]

One rule: all loops train the same steps in turn, round by round, and only the ratio within a round counts: a busy
machine changes the times, which are of this process alone, but hardly the ratio. Above 1 the loop of codex is faster.
`lean` is the bare loop as most people write it: mean loss over all logits, clip, AdamW. `same loss` has codex's own
loss function in it, so that the rest of the difference is what the framework costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from attrs import define, field, frozen
from torch import Tensor, nn

from codex_kernel import EvaluateOptions, Parts
from codex_kernel.testing import RecordingReporter, make_run
from codex_kernel.testing.training import ToyBlocks, ToyTokenizer
from codex_torch.loss import loss_sum
from codex_torch.plugin import LoopTrainer, TorchTrainer

clock = time.process_time
"""Seconds of this process's own work: on a shared machine the wall clock counts the others' too."""

SIZES = {
    "tiny": {"vocabulary": 512, "width": 64, "layers": 2, "seq_len": 32, "blocks": 4},
    "small": {"vocabulary": 8192, "width": 256, "layers": 4, "seq_len": 256, "blocks": 4},
}


class Decoder(nn.Module):
    """A small decoder with tied embeddings; attention stays within a document."""

    def __init__(self, vocabulary: int, width: int, layers: int, seq_len: int) -> None:
        super().__init__()
        self.heads = 4
        self.embed, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(seq_len, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers + 1))
        self.qkvs = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(layers))
        self.outs = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        nn.init.normal_(self.embed.weight, std=0.02)

    def hidden(self, input_ids_BT: Tensor, position_ids_BT: Tensor, document_ids_BT: Tensor) -> Tensor:
        """Return the hidden states before the head."""
        B, T = input_ids_BT.shape
        same_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
        mask_B1TT = same_BTT.tril()[:, None]
        hidden_BTD = self.embed(input_ids_BT) + self.positions(position_ids_BT)
        for number, (qkv, out, feed) in enumerate(zip(self.qkvs, self.outs, self.feeds, strict=True)):
            parts = (
                qkv(self.norms[2 * number](hidden_BTD)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            )
            seen = F.scaled_dot_product_attention(*parts, attn_mask=mask_B1TT)
            hidden_BTD = hidden_BTD + out(seen.transpose(1, 2).reshape(B, T, -1))
            hidden_BTD = hidden_BTD + feed(self.norms[2 * number + 1](hidden_BTD))
        final: Tensor = self.norms[-1](hidden_BTD)
        return final

    def head_weight(self) -> Tensor:
        """Return the tied embedding."""
        return self.embed.weight

    def forward(self, input_ids_BT: Tensor, position_ids_BT: Tensor, document_ids_BT: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(self.hidden(input_ids_BT, position_ids_BT, document_ids_BT), self.head_weight())


@frozen(eq=False)
class Endless:
    """Training data alone, in the order of their numbers."""

    train: ToyBlocks
    validation: None = None
    fingerprint: str = "benchmark"

    def samples(self, start: int, count: int) -> Any:
        """Return the numbers from `start` on, around the split."""
        return torch.arange(start, start + count).remainder(len(self.train)).numpy()


@frozen
class NoCheckpoints:
    """A checkpointer that keeps nothing: saves have a benchmark of their own."""

    def due(self, step: int) -> bool:  # noqa: ARG002
        """Say no."""
        return False

    def save(self, *_: Any, wait: bool = False) -> None:
        """Keep nothing."""


@define(eq=False)
class StepTimes(RecordingReporter):
    """A reporter that keeps the time of each record; the first step is the warm-up."""

    times: list[float] = field(init=False, factory=list)

    def metrics(self, progress: Any, values: Any, *, split: str = "train") -> None:
        """Keep the time and the record."""
        self.times.append(clock())
        super().metrics(progress, values, split=split)


@frozen
class Case:
    """The model, the data and the steps that all loops train."""

    sizes: dict[str, int]
    steps: int

    def model(self) -> Decoder:
        """Return the model with its first weights."""
        torch.manual_seed(0)
        names = ("vocabulary", "width", "layers", "seq_len")
        return Decoder(**{name: self.sizes[name] for name in names})

    def data(self) -> Endless:
        """Return the data."""
        return Endless(ToyBlocks(64, seq_len=self.sizes["seq_len"]))


def codex(case: Case) -> float:
    """Train with codex, a record every step; return the mean seconds of a step after the first."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        report = StepTimes()
        options = TorchTrainer(
            max_steps=case.steps,
            global_batch_size=case.sizes["blocks"],
            lr=1e-3,
            schedule="constant",
            precision="fp32",
            device="cpu",
            log_every=1,
        )
        parts = Parts(
            ToyTokenizer(), case.data(), case.model(), NoCheckpoints(), EvaluateOptions(), lambda _: {}
        )
        object.__setattr__(run, "report", report)
        LoopTrainer(options, run, parts).fit(None)
    return (report.times[-1] - report.times[0]) / (case.steps - 1)


def bare(case: Case, loss_of: Callable[..., Tensor]) -> float:
    """Train with a bare loop; return the mean seconds of a step after the first."""
    model, data, blocks = case.model(), case.data(), case.sizes["blocks"]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},  # noqa: PLR2004 - vectors
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    model.train()
    began = 0.0
    for step in range(case.steps):
        batch = data.train.gather(data.samples(step * blocks, blocks))
        arrays = (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
        loss = loss_of(model, *map(torch.from_numpy, arrays))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        if step == 0:
            began = clock()
    return (clock() - began) / (case.steps - 1)


def mean_of_all_logits(model: Decoder, ids: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
    """Return the loss as most loops take it."""
    return F.cross_entropy(model(ids, *rest).flatten(0, 1), targets.flatten())


def mean_of_ours(model: Decoder, ids: Tensor, targets: Tensor, *rest: Tensor) -> Tensor:
    """Return the loss of codex."""
    return loss_sum(model, ids, targets, *rest) / (targets != -100).sum()  # noqa: PLR2004 - the ignored target


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in arguments.size or SIZES:
        case = Case(SIZES[size], arguments.steps or (150 if size == "tiny" else 6))
        lean, same, cost, ours = [], [], [], []
        loops = {
            "codex": lambda case=case: codex(case),
            "lean": lambda case=case: bare(case, mean_of_all_logits),
            "same loss": lambda case=case: bare(case, mean_of_ours),
        }
        for number in range(arguments.rounds):
            names = list(loops)
            names = names[number % 3 :] + names[: number % 3]  # none of them is always the first
            seconds = {name: loops[name]() for name in names}
            mine = seconds["codex"]
            ours.append(mine)
            lean.append(seconds["lean"] / mine)
            same.append(seconds["same loss"] / mine)
            cost.append((mine - seconds["same loss"]) * 1e3)
            print(f"{size} round {number + 1}: " + ", ".join(f"{n} {seconds[n] * 1e3:.2f} ms" for n in loops))
        tokens = SIZES[size]["blocks"] * SIZES[size]["seq_len"]
        print(
            f"{size}: {tokens / statistics.median(ours):,.0f} tokens/s; ratio to the lean loop "
            f"{statistics.median(lean):.3f}, to the same loss {statistics.median(same):.3f}; "
            f"cost per step {statistics.median(cost):+.2f} ms"
        )


if __name__ == "__main__":
    main()
