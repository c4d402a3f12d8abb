"""The training loop.

One rule: `fit` reads from top to bottom as what happens in a run, and nothing of it happens anywhere else.
Shapes: B blocks of a micro-batch, T tokens of a block.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from codex_kernel import (
    IGNORE_INDEX,
    Batch,
    CheckpointState,
    Evaluation,
    InputError,
    Model,
    NonFiniteError,
    Parts,
    PluginError,
    Progress,
    Reporter,
    RunContext,
    TrainResult,
)
from codex_torch import hardware, rng, state
from codex_torch.hardware import Hardware
from codex_torch.loss import loss_sum
from codex_torch.schedule import Length

if TYPE_CHECKING:
    from codex_torch.plugin import TorchTrainer

clock = time.perf_counter


def fit(  # noqa: C901, PLR0915 - reading a run from top to bottom in one place is the point
    options: TorchTrainer, run: RunContext, parts: Parts, saved: CheckpointState | None
) -> TrainResult:
    """Train to the end or to a stop request, from `saved` or from the first step; see `codex_kernel.Trainer`.

    Raises NonFiniteError before an update that would spoil the weights.
    """
    data, checkpointer = parts.data, parts.checkpointer
    where = hardware.choose(
        options.device, options.precision, options.threads, options.determinism, run.report
    )
    length = options.length(data.train)
    schedule = options.lr_schedule(length.steps)
    if options.warmup_steps >= length.steps:
        run.report.warning(
            f"the run ends in its warm-up: {length.steps} steps, warmup_steps {options.warmup_steps}"
        )

    rng.seed_all(run.seed)
    model = prepare(parts.model, where, run.report)
    optimizer = make_optimizer(model, options)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = state.Trained(model, optimizer)
    identity = state.Identity.of(options, run, parts, length, where)
    totals = state.Totals() if saved is None else state.restore(saved, trained, identity, run)

    model.train()
    while totals.step < length.steps:
        began = clock()
        batch = data.train.gather(data.samples(totals.position, length.samples_of(totals.position)))
        targets = count_targets(batch)

        # The loss is divided by the targets of the whole step: any split into micro-batches gives the same gradient.
        sums = []
        for inputs in micro_batches(batch, options.blocks_at_once, where.device):
            with where.autocast():
                loss = loss_sum(model, *inputs)
            (loss / targets).backward()  # type: ignore[no-untyped-call] # torch's own
            sums.append(loss.detach())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = get_total_norm(gradients)

        *sum_values, norm_value = torch.stack([*sums, norm]).tolist()  # the one wait for the device in a step
        if not math.isfinite(sum(sum_values) + norm_value):
            raise not_finite(
                totals.step + 1, batch, sum_values, norm_value, options.blocks_at_once, run.report
            )
        if options.max_grad_norm is not None:
            clip_grads_with_norm_(parameters, options.max_grad_norm, norm)
        lr = schedule.lr_of(totals.step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        totals.step += 1
        totals.position += len(batch.sample_ids_B)
        totals.tokens += targets
        totals.window.loss_sum += sum(sum_values)
        totals.window.tokens += targets
        totals.window.steps += 1
        totals.window.seconds += clock() - began

        last = totals.step == length.steps
        progress = progress_of(totals, length, len(data.train))
        if totals.step % options.log_every == 0 or totals.step == 1 or last:
            metrics = window_metrics(totals.window) | {"lr": lr, "grad_norm": norm_value}
            run.report.metrics(progress, metrics)
            totals.metrics["train/loss"] = metrics["loss"]
            totals.window = state.Window()

        evaluated: dict[str, float] = {}
        every = parts.evaluate.every_steps
        if data.validation is not None and (last or (every is not None and totals.step % every == 0)):
            metrics = parts.evaluation_metrics(
                evaluate(model, parts, options.blocks_at_once, where, run.report)
            )
            run.report.metrics(progress, metrics, split="validation")
            evaluated = {f"validation/{name}": value for name, value in metrics.items()}
            totals.metrics |= evaluated

        asked = run.stop.signal_number
        if last or asked is not None or checkpointer.due(totals.step):
            # A validation metric of an earlier step says nothing of these weights.
            of_now = {"train/loss": totals.metrics["train/loss"], **evaluated}
            checkpointer.save(totals.step, state.capture(trained, totals, identity, run), of_now)
        if asked is not None and not last:
            name = signal.Signals(asked).name
            reason = f"stopped by {name} after step {totals.step} of {length.steps}, saved"
            return TrainResult(progress, dict(totals.metrics), reason, asked)

    progress = progress_of(totals, length, len(data.train))
    return TrainResult(progress, dict(totals.metrics), f"all {length.steps} steps done")


# ── before the first step ─────────────────────────────────────────────────────────────────────────────────────────


def prepare(model: Model, where: Hardware, report: Reporter) -> nn.Module:
    """Return the model on its device, its trained parameters in fp32; raise PluginError where it cannot be trained."""
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"the trainer torch needs a torch.nn.Module, got a {type(model).__name__}",
            remedy="choose another model",
        )
    module = model.to(where.device)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise PluginError(
            "the model has no parameter that requires a gradient", remedy="see model and adapters"
        )
    half = [parameter for parameter in trainable if parameter.dtype in {torch.float16, torch.bfloat16}]
    if half:
        # A step is often smaller than the spacing of bf16 numbers, and would be rounded away.
        report.warning(f"{len(half)} trained parameters are in {half[0].dtype}; they are trained in fp32")
        for parameter in half:
            parameter.data = parameter.data.float()
    return module


def make_optimizer(model: nn.Module, options: TorchTrainer) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require a gradient; only matrices decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = (
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": options.weight_decay},  # noqa: PLR2004 - a matrix
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},  # noqa: PLR2004
    )
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.lr,
        betas=options.betas or (0.9, 0.95),
        fused=True,
    )


# ── in a step ─────────────────────────────────────────────────────────────────────────────────────────────────────


def count_targets(batch: Batch) -> int:
    """Return the trained targets of a batch; raise InputError where there are none to divide by."""
    targets = int(np.count_nonzero(batch.targets_BT != IGNORE_INDEX))
    if targets == 0:
        raise InputError(
            f"no block of an optimizer step has a target: samples {_listed(batch.sample_ids_B)}",
            remedy="raise trainer.global_batch_size, or look at the prompts of the dataset",
        )
    return targets


def micro_batches(
    batch: Batch, blocks: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield input ids, targets, positions and document ids of that many blocks at a time, on the device."""
    arrays = (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
    tensors = [torch.from_numpy(array).to(device, non_blocking=True) for array in arrays]
    yield from zip(*(torch.split(tensor, blocks) for tensor in tensors), strict=True)


def not_finite(  # noqa: PLR0913 - all that the message says
    step: int, batch: Batch, sums: Sequence[float], norm: float, blocks: int, report: Reporter
) -> NonFiniteError:
    """Write down which samples made a loss or the gradient not finite; return the error that says so."""
    ids = np.asarray(batch.sample_ids_B)
    bad = [i for i, value in enumerate(sums) if not math.isfinite(value)]
    if bad:
        what = f"the loss is {sums[bad[0]]}"
        ids = np.concatenate([ids[i * blocks : (i + 1) * blocks] for i in bad])
    else:
        what = f"the norm of the gradient is {norm}, with a finite loss"
    report.event("nonfinite", step=step, reason=what, sample_ids=[int(i) for i in ids])
    return NonFiniteError(
        f"{what} at step {step}, samples {_listed(ids)}; the weights were not updated",
        remedy="the last checkpoint is healthy: lower lr or max_grad_norm, raise warmup_steps, or look at the samples",
    )


def _listed(ids: Any) -> str:
    shown = ", ".join(str(int(i)) for i in ids[:16])
    return shown if len(ids) <= 16 else f"{shown} … ({len(ids)} in all)"  # noqa: PLR2004 - as many as a line holds


# ── after a step ──────────────────────────────────────────────────────────────────────────────────────────────────


def progress_of(totals: state.Totals, length: Length, blocks: int) -> Progress:
    """Return where the run stands."""
    return Progress(totals.step, length.steps, totals.position / blocks, totals.tokens, totals.position)


def window_metrics(window: state.Window) -> dict[str, float]:
    """Return the means since the last record; the time of evaluations and checkpoints is not in them."""
    return {
        "loss": window.loss_sum / window.tokens,
        "tokens_per_second": window.tokens / window.seconds,
        "step_seconds": window.seconds / window.steps,
    }


def evaluate(model: nn.Module, parts: Parts, blocks: int, where: Hardware, report: Reporter) -> Evaluation:
    """Return the sums of the loss over the validation split, or its first `max_blocks`; changes nothing.

    Raises InputError where there is no target.
    """
    validation = parts.data.validation
    count = 0 if validation is None else min(len(validation), parts.evaluate.max_blocks or len(validation))
    total, tokens = torch.zeros((), dtype=torch.float64, device=where.device), 0
    model.eval()
    with rng.undisturbed(), torch.no_grad(), where.autocast():
        for start in range(0, count, blocks):
            assert validation is not None  # noqa: S101 - count is 0 without it
            batch = validation.gather(np.arange(start, min(start + blocks, count)))
            tokens += int(np.count_nonzero(batch.targets_BT != IGNORE_INDEX))
            for inputs in micro_batches(batch, blocks, where.device):
                total += loss_sum(model, *inputs)
            report.activity("evaluate", min(start + blocks, count), count, "blocks")
    model.train()
    if tokens == 0 or validation is None:
        raise InputError(
            "the validation split has no target", remedy="set data.validation_fraction to 0, or raise it"
        )
    return Evaluation(loss_sum=float(total), tokens=tokens, bytes=tokens * validation.bytes_per_token)
