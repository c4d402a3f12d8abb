"""The training: predict a batch, then count it.

One rule: whatever a later step depends on is in `Totals` and the counts, and both are in every checkpoint.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import asdict, define, frozen

from codex_kernel import (
    IGNORE_INDEX,
    Batch,
    Blocks,
    CheckpointState,
    Evaluation,
    InputError,
    Parts,
    Progress,
    RunContext,
    TrainResult,
)
from codex_ngram.model import CONFIG, WEIGHTS, NGrams

if TYPE_CHECKING:
    from codex_ngram.plugin import NGramTrainer

EVALUATED_AT_ONCE = 64


@define
class Totals:
    """Where the run stands; `window_…` are sums since the last record of metrics."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    window_loss: float = 0.0
    window_tokens: int = 0
    window_seconds: float = 0.0
    window_steps: int = 0


@frozen
class Length:
    """How long the run is, in blocks, and how many of them make a step."""

    samples: int
    batch: int

    @classmethod
    def of(cls, options: NGramTrainer, train: Blocks) -> Length:
        """Return the length by the options."""
        if options.max_steps is not None:
            return cls(options.max_steps * options.global_batch_size, options.global_batch_size)
        return cls(math.ceil((options.epochs or 0) * len(train)), options.global_batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole run; the last one may be smaller."""
        return math.ceil(self.samples / self.batch)

    def progress(self, totals: Totals, train: Blocks) -> Progress:
        """Return where the run stands."""
        epoch = totals.samples / len(train)
        return Progress(totals.step, self.steps, epoch, totals.tokens, totals.samples)


def fit(
    options: NGramTrainer, run: RunContext, parts: Parts, model: NGrams, saved: CheckpointState | None
) -> TrainResult:
    """Train to the end or to a stop request, from `saved` or from the first batch; see `codex_kernel.Trainer`."""
    data, report = parts.data, run.report
    length = Length.of(options, data.train)
    totals, metrics = Totals(), dict[str, float]()
    if saved is not None:
        totals, metrics = _resume(saved, run, parts, model)
    while totals.step < length.steps:
        began = time.perf_counter()
        batch = data.train.gather(
            data.samples(totals.samples, min(length.batch, length.samples - totals.samples))
        )
        tokens = targets_of(batch)
        loss = math.fsum(model.losses(batch))
        model.count(batch)

        totals.step += 1
        totals.samples += len(batch.sample_ids_B)
        totals.tokens += tokens
        totals.window_loss += loss
        totals.window_tokens += tokens
        totals.window_steps += 1
        totals.window_seconds += time.perf_counter() - began

        progress, ended = length.progress(totals, data.train), totals.step == length.steps
        if totals.step % options.log_every == 0 or totals.step == 1 or ended:
            report.metrics(progress, _window(totals, model))
            metrics["train/loss"] = totals.window_loss / totals.window_tokens
            totals = Totals(totals.step, totals.samples, totals.tokens)
        evaluated: dict[str, float] = {}
        every = parts.evaluate.every_steps
        if data.validation is not None and (ended or (every is not None and totals.step % every == 0)):
            values = parts.evaluation_metrics(_evaluate(parts, data.validation, model, run))
            report.metrics(progress, values, split="validation")
            evaluated = {f"validation/{name}": value for name, value in values.items()}
            metrics |= evaluated
        asked = run.stop.signal_number
        if ended or asked is not None or parts.checkpointer.due(totals.step):
            state = _capture(totals, metrics, run, parts, model)
            now = {"train/loss": metrics["train/loss"], **evaluated}
            parts.checkpointer.save(totals.step, state, now, wait=ended or asked is not None)
        if asked is not None and not ended:
            reason = (
                f"stopped by {signal.Signals(asked).name} after step {totals.step} of {length.steps}, saved"
            )
            return TrainResult(progress, metrics, reason, asked)
    return TrainResult(length.progress(totals, data.train), metrics, f"all {totals.step} steps done")


def targets_of(batch: Batch) -> int:
    """Return how many targets a batch has; raise InputError where there is none to predict."""
    targets = int(np.count_nonzero(batch.targets_BT != IGNORE_INDEX))
    if not targets:
        raise InputError(
            f"no block of a step has a target: samples {batch.sample_ids_B.tolist()[:10]}",
            remedy="raise trainer.global_batch_size, or look at the prompts of the dataset",
        )
    return targets


def _window(totals: Totals, model: NGrams) -> dict[str, float]:
    """Return the metrics since the last record."""
    return {
        "loss": totals.window_loss / totals.window_tokens,
        "ngrams": float(model.parameters),
        "tokens_per_second": totals.window_tokens / totals.window_seconds,
        "step_seconds": totals.window_seconds / totals.window_steps,
    }


def _evaluate(parts: Parts, blocks: Blocks, model: NGrams, run: RunContext) -> Evaluation:
    """Return the sums over the validation split, or its first `max_blocks`."""
    count = min(len(blocks), parts.evaluate.max_blocks or len(blocks))
    sums, tokens = list[float](), 0
    for start in range(0, count, EVALUATED_AT_ONCE):
        losses = model.losses(blocks.gather(np.arange(start, min(start + EVALUATED_AT_ONCE, count))))
        sums.append(math.fsum(losses))
        tokens += len(losses)
        run.report.activity("evaluate", min(start + EVALUATED_AT_ONCE, count), count, "blocks")
    if not tokens:
        raise InputError(
            "the validation split has no target", remedy="set data.validation_fraction to 0, or raise it"
        )
    return Evaluation(math.fsum(sums), tokens, blocks.text_bytes(np.arange(count)))


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────


def _capture(
    totals: Totals, metrics: Mapping[str, float], run: RunContext, parts: Parts, model: NGrams
) -> CheckpointState:
    """Return all that the run needs to go on; the arrays are the model's own."""
    values: dict[str, Any] = {
        CONFIG: model.config(),
        "trainer.json": {"totals": asdict(totals), "metrics": dict(metrics), "data": parts.data.fingerprint},
        "report.json": dict(run.report.state_dict()),
    }
    return CheckpointState({WEIGHTS: model.tensors()}, values)


def _resume(
    saved: CheckpointState, run: RunContext, parts: Parts, model: NGrams
) -> tuple[Totals, dict[str, float]]:
    """Put the state back; raise InputError where the run has other data than the checkpoint's."""
    trainer = saved.values["trainer.json"]
    if trainer["data"] != parts.data.fingerprint:
        raise InputError(
            f"the checkpoint was trained on the data {trainer['data']}, now they are {parts.data.fingerprint}",
            remedy="go on with the dataset, tokenizer and data options that the run was started with",
        )
    model.load(saved)
    run.report.load_state_dict(saved.values["report.json"])
    return Totals(**trainer["totals"]), dict(trainer["metrics"])
