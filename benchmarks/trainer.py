"""Tokens per second of codex and of the Trainer of transformers: the same Llama, the same packed batches.

    python benchmarks/trainer.py [--size tiny|small] [--steps N] [--rounds 3]

One rule: the two take turns step by step in one process, each in a thread of its own, so that a busy machine slows both
alike. Times are CPU seconds; those of codex are all that the process did outside the Trainer's thread. Both log every
tenth step, save at the same steps and keep two checkpoints; the rest is what each has for a default. The first losses
of both are compared before anything is printed: they do the same work.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import define, field
from loop import WARM_UP, Clocks, Turns
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from workload import Endless, Watched, real_run, trainer

from codex_hf.module import wrap
from codex_kernel import IGNORE_INDEX
from codex_kernel.testing.training import ToyBlocks

SIZES = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "layers": 2, "seq_len": 32, "blocks": 4},
    "small": {"vocab_size": 8192, "hidden_size": 256, "layers": 4, "seq_len": 256, "blocks": 4},
}
DEFAULT_STEPS = {"tiny": 300, "small": 15}
SAVES = 3
LOG_EVERY = 10
LR = 1e-3


def llama(sizes: dict[str, int]) -> LlamaForCausalLM:
    """Return a model with its first weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden_size"],
            intermediate_size=2 * sizes["hidden_size"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=4,
            max_position_embeddings=sizes["seq_len"],
            tie_word_embeddings=True,
        )
    )


def rows_of(blocks: ToyBlocks, count: int) -> list[dict[str, torch.Tensor]]:
    """Return blocks as the Trainer takes them: it shifts the labels itself, and knows documents by positions."""
    rows = []
    for number in range(count):
        batch = blocks.gather([number % len(blocks)])
        ids, targets, positions, documents = (
            torch.from_numpy(array[0])
            for array in (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
        )
        labels = torch.full_like(targets, IGNORE_INDEX)
        labels[1:] = targets[:-1]
        rows.append(
            {"input_ids": ids, "labels": labels, "position_ids": positions.masked_fill(documents < 0, 0)}
        )
    return rows


@define(eq=False)
class OtherThread(TrainerCallback):
    """Runs the Trainer in a thread that takes a step each time it is asked; `losses` are those it logs."""

    rows: Any = field(repr=False)
    model: Any = field(repr=False)
    options: dict[str, Any]
    losses: list[float] = field(init=False, factory=list)
    error: BaseException | None = field(init=False, default=None)
    turn: threading.Semaphore = field(init=False, factory=lambda: threading.Semaphore(0))
    done: threading.Semaphore = field(init=False, factory=lambda: threading.Semaphore(0))
    seconds: float = field(init=False, default=0.0)
    before: float = field(init=False, default=0.0)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Give the turn back."""
        self.seconds = time.thread_time() - self.before
        self.done.release()
        self.turn.acquire()
        self.before = time.thread_time()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Keep a loss."""
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))

    def work(self) -> None:
        """Train to the end."""
        self.turn.acquire()
        self.before = time.thread_time()
        try:
            arguments = TrainingArguments(**self.options)
            Trainer(self.model, arguments, train_dataset=self.rows, callbacks=[self]).train()
        except BaseException as error:  # noqa: BLE001 - said by whoever waits for this thread
            self.error = error
        self.done.release()

    def steps(self) -> Iterator[float]:
        """Let it take a step each time, and yield the CPU seconds of that step."""
        thread = threading.Thread(target=self.work, daemon=True)
        thread.start()
        while True:
            self.turn.release()
            self.done.acquire()
            if self.error is not None:
                raise self.error
            yield self.seconds


def first_loss(metrics: Path) -> float:
    """Return the loss of the first record."""
    return float(json.loads(metrics.read_text().splitlines()[0])["loss"])


def measure(size: str, steps: int) -> tuple[float, float]:
    """Train both in turns; return the mean CPU seconds of a step of codex and of the Trainer."""
    sizes = SIZES[size]
    blocks, save_every = ToyBlocks(64, seq_len=sizes["seq_len"]), max(steps // SAVES, 2)
    all_steps = steps + WARM_UP + 1
    model = llama(sizes)
    with tempfile.TemporaryDirectory() as name, real_run(Path(name)) as run:
        theirs = OtherThread(
            rows_of(blocks, (all_steps + 1) * sizes["blocks"]),
            copy.deepcopy(model),
            {
                "output_dir": str(Path(name) / "trainer"),
                "max_steps": all_steps + 1,  # it never comes to its end
                "per_device_train_batch_size": sizes["blocks"],
                "train_sampling_strategy": "sequential",
                "learning_rate": LR,
                "lr_scheduler_type": "cosine",
                "adam_beta2": 0.95,
                "weight_decay": 0.1,
                "logging_steps": LOG_EVERY,
                "logging_first_step": True,
                "save_steps": save_every,
                "save_total_limit": 2,
                "report_to": "none",
                "use_cpu": True,
            },
        )
        turns = Turns(Clocks.of(1), {"Trainer": theirs.steps()})
        mine, checkpointer = trainer(
            run,
            wrap(model, "a benchmark"),
            Endless(Watched(blocks, turns)),
            save_every,
            max_steps=all_steps,
            global_batch_size=sizes["blocks"],
            lr=LR,
            log_every=LOG_EVERY,
        )
        mine.fit(None)
        checkpointer.close()
        ours = first_loss(run.folder / "metrics.ndjson")
        saved = len(list((Path(name) / "trainer").glob("checkpoint-*")))
    if not math.isclose(ours, theirs.losses[0], rel_tol=1e-3) or saved != 2:  # noqa: PLR2004 - save_total_limit
        raise SystemExit(f"not the same work: losses {ours}, {theirs.losses[0]}; {saved} of its checkpoints")
    return turns.of_codex(), statistics.fmean(turns.seconds["Trainer"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", choices=SIZES, action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in arguments.size or SIZES:
        ratios, costs = [], []
        for number in range(1, arguments.rounds + 1):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ours, theirs = measure(size, arguments.steps or DEFAULT_STEPS[size])
            ratios.append(theirs / ours)
            costs.append((ours - theirs) * 1e3)
            print(
                f"{size} round {number}: codex {ours * 1e3:.2f} ms, Trainer {theirs * 1e3:.2f} ms", flush=True
            )
        print(
            f"{size}: tokens/s x {statistics.median(ratios):.3f} of the Trainer's, "
            f"{statistics.median(costs):+.2f} ms a step, load {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
