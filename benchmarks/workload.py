"""What the benchmarks of the training loop train: models, batches, and runs as `codex run` has them.

One rule: nothing is timed here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from attrs import field, frozen
from torch import Tensor, nn

from codex_kernel import Batch, EvaluateOptions, Parts, Progress, RunContext
from codex_kernel.builtin.csv_logger import CsvLogger
from codex_kernel.builtin.jsonl_logger import JsonlLogger
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import Outcome
from codex_kernel.metrics import MetricsLog, NdjsonFile
from codex_kernel.reporter import RunReporter
from codex_kernel.testing import make_run
from codex_kernel.testing.training import ToyBlocks, ToyTokenizer
from codex_torch.checkpointer import SafetensorsCheckpointer
from codex_torch.plugin import LoopTrainer, TorchTrainer

SIZES = {
    "tiny": {"vocabulary": 512, "width": 64, "layers": 2, "seq_len": 32, "blocks": 4},
    "small": {"vocabulary": 8192, "width": 256, "layers": 4, "seq_len": 256, "blocks": 4},
}
"""Shapes of the models and of an optimizer step."""


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


def decoder(sizes: dict[str, int]) -> Decoder:
    """Return a decoder with its first weights."""
    torch.manual_seed(0)
    return Decoder(**{name: sizes[name] for name in ("vocabulary", "width", "layers", "seq_len")})


@frozen(eq=False)
class Endless:
    """Training data alone, in the order of their numbers; `before_step` is called as a step's batch is asked for."""

    train: Any
    validation: None = None
    fingerprint: str = "benchmark"

    def samples(self, start: int, count: int) -> Any:
        """Return the numbers from `start` on, around the split."""
        return torch.arange(start, start + count).remainder(len(self.train)).numpy()


@frozen(eq=False)
class Watched:
    """Blocks that call `before` each time a batch is asked for: what a loop does between two calls is one step."""

    blocks: ToyBlocks
    before: Any = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blocks, name)

    def __len__(self) -> int:
        return len(self.blocks)

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers."""
        self.before()
        return self.blocks.gather(sample_ids_B)


@contextmanager
def real_run(folder: Path) -> Iterator[RunContext]:
    """Give a run that reports as `codex run` does: metrics.ndjson, events.ndjson, and two loggers in their thread."""
    run = make_run(folder)
    hooks = Hooks()
    hooks.register(CsvLogger(), "logger csv")
    hooks.register(JsonlLogger(), "logger jsonl")
    log = MetricsLog(NdjsonFile(run.folder / "metrics.ndjson"), run.run_id, time.time)
    report = RunReporter(hooks, log, NdjsonFile(run.folder / "events.ndjson"))
    run = attrs.evolve(run, report=report)
    report.start(run)
    yield run
    report.settle()
    report.finish(Outcome("completed", 0, "", 1, 1, 1, 1.0, {}, None, ()))
    assert report.last_progress != Progress(0, None, 0.0, 0, 0), "nothing was reported"  # noqa: S101
    assert not report.detached, report.detached  # noqa: S101


def trainer(
    run: RunContext, model: nn.Module, data: Any, save_every: int, **options: Any
) -> tuple[LoopTrainer, Any]:
    """Return codex's trainer of a run, and the checkpointer to close: its defaults but for what is given."""
    checkpointer = SafetensorsCheckpointer(every_steps=save_every).codex_checkpointer(
        run, run.folder / "checkpoints", read_only=False
    )
    parts = Parts(ToyTokenizer(), data, model, checkpointer, EvaluateOptions(), lambda _: {})
    chosen = {"precision": "fp32", "device": "cpu", "threads": torch.get_num_threads(), **options}
    return LoopTrainer(TorchTrainer(**chosen), run, parts), checkpointer
