"""The training loop.

One rule: `loop` reads from top to bottom as what happens in a run, and nothing of it happens anywhere else.
Shapes: B blocks of a micro-batch, T tokens of a block.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

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
    Parts,
    Progress,
    Reporter,
    RunContext,
    TrainResult,
)
from codex_torch import compiling, early, faults, hardware, rng, state
from codex_torch.early import Patience
from codex_torch.guard import Spikes
from codex_torch.hardware import Hardware
from codex_torch.loss import loss_sum
from codex_torch.prefetch import Prefetch
from codex_torch.schedule import Length, Schedule
from codex_torch.trained import Trained

if TYPE_CHECKING:
    from codex_torch.plugin import EarlyStopping, TorchTrainer

clock = time.perf_counter


def fit(options: TorchTrainer, run: RunContext, parts: Parts, saved: CheckpointState | None) -> TrainResult:
    """Train to the end or to a stop request, from `saved` or from the first step; see `codex_kernel.Trainer`.

    Raises NonFiniteError before an update that would spoil the weights.
    """
    where = hardware.choose(
        options.device, options.precision, options.threads, options.determinism, run.report
    )
    with where.deterministic_algorithms():
        try:
            return loop(options, where, run, parts, saved)
        except Exception as error:
            if (explained := hardware.explain(error) or compiling.explain(error)) is not None:
                raise explained from error
            raise


def loop(  # noqa: C901, PLR0912, PLR0915 - reading a run from top to bottom in one place is the point
    options: TorchTrainer, where: Hardware, run: RunContext, parts: Parts, saved: CheckpointState | None
) -> TrainResult:
    """Train on this hardware; see `fit`."""
    began_run = clock()
    data, checkpointer, report, blocks = parts.data, parts.checkpointer, run.report, options.blocks_at_once
    length = options.length(data.train)
    schedule = options.lr_schedule(length.steps)
    check_plan(options, parts, schedule, report)
    batches = Prefetch(data, where.device, ahead=where.device.type != "cpu")

    rng.seed_all(run.seed)
    trained = Trained.prepare(parts.model, options, where, report)
    model, parameters, scaler = trained.model, trained.parameters, trained.scaler
    spikes = Spikes(options.loss_spike.sigmas, options.loss_spike.window) if options.loss_spike else None
    patience = Patience(options.early_stopping) if options.early_stopping else None
    identity = state.Identity.of(options, run, parts, length, where)
    run_state = state.RunState(trained, spikes, patience, identity, run)
    totals = state.Totals() if saved is None else run_state.resume(saved)
    seconds_before, gone_back = totals.seconds, dict[int, int]()

    model.train()
    ended = end_of(totals, length, options, patience)
    while ended is None:
        began = clock()
        count = length.samples_of(totals.samples)
        batch = batches.take(totals.position, count, length.samples_of(totals.samples + count))
        targets = count_targets(batch)

        # The loss is divided by the targets of the whole step: any split into micro-batches gives the same gradient.
        trained.begin_step()
        sums = []
        for inputs in micro_batches(batch, blocks, where.device):
            with where.autocast():
                loss = loss_sum(model, *inputs)
            scaler.scale(loss / targets).backward()  # type: ignore[no-untyped-call] # torch's own
            sums.append(loss.detach())
        trained.unscale_gradients()
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])

        *sum_values, norm_value = torch.stack([*sums, norm]).tolist()  # the one wait for the device in a step
        mean_loss = math.fsum(sum_values) / targets
        fault = faults.find(batch, sum_values, norm_value, blocks, mean_loss, spikes)
        if fault is not None:
            trained.undo_step()
            if trained.lower_scale(sum_values, norm_value, report):
                continue  # fp16 has overflowed: the same samples again, at a smaller scale
            faults.record(fault, totals.step + 1, options.on_nonfinite, report)
            if options.on_nonfinite == "stop":
                raise faults.stopped(fault, totals.step + 1)
            if options.on_nonfinite == "rollback":
                checkpoint = faults.checkpoint_before(fault, totals.step + 1, checkpointer, gone_back)
                report.warning(
                    f"{fault} at step {totals.step + 1}: back to step {checkpoint.step}, past these samples"
                )
                position = totals.position + count
                totals = run_state.restore(checkpointer.load(checkpoint))
                totals.pass_over(position)
                continue
            report.warning(f"{fault}: step {totals.step + 1} is left out")
            totals.skips_in_a_row += 1
            totals.skipped_steps += 1
            faults.check_skips(fault, totals.step + 1, totals.skips_in_a_row)
            lr = schedule.lr_of(totals.step)
        else:
            if options.max_grad_norm is not None:
                clip_grads_with_norm_(parameters, options.max_grad_norm, norm)
            lr = schedule.lr_of(totals.step)
            trained.update(lr)
            if spikes is not None:
                spikes.add(mean_loss)
            totals.skips_in_a_row = 0
            totals.window.loss_sum += math.fsum(sum_values)
            totals.window.tokens += targets

        totals.step += 1
        totals.position += count
        totals.tokens += targets
        totals.window.steps += 1
        totals.window.seconds += clock() - began
        totals.seconds = seconds_before + clock() - began_run

        ended = end_of(totals, length, options, patience)
        progress = progress_of(totals, length, len(data.train))
        of_step = {"lr": lr, "grad_norm": norm_value}
        if totals.step % options.log_every == 0 or totals.step == 1 or ended:
            report_window(report, progress, totals, of_step | trained.metrics())

        evaluated: dict[str, float] = {}
        every = parts.evaluate.every_steps
        if data.validation is not None and (ended or (every is not None and totals.step % every == 0)):
            with trained.averaged():
                metrics = parts.evaluation_metrics(evaluate(model, parts, blocks, where, report))
            report.metrics(progress, metrics, split="validation")
            evaluated = {f"validation/{name}": value for name, value in metrics.items()}
            totals.metrics |= evaluated
            if patience is not None and patience.update(evaluated, totals.step):
                ended = ended or patience.reason()
                if totals.window.steps:  # the last record, which nothing had announced
                    report_window(report, progress, totals, of_step | trained.metrics())

        asked = run.stop.signal_number
        if ended or asked is not None or checkpointer.due(totals.step):
            # A validation metric of an earlier step says nothing of these weights.
            of_now = {"train/loss": totals.metrics["train/loss"], **evaluated}
            wait = bool(ended) or asked is not None
            checkpointer.save(totals.step, run_state.capture(totals), of_now, wait=wait)
        if asked is not None and not ended:
            of = "" if progress.total_steps is None else f" of {progress.total_steps}"
            reason = f"stopped by {signal.Signals(asked).name} after step {totals.step}{of}, saved"
            return TrainResult(progress, dict(totals.metrics), reason, asked)

    progress = progress_of(totals, length, len(data.train))
    return TrainResult(progress, dict(totals.metrics), ended)


# ── before the first step ─────────────────────────────────────────────────────────────────────────────────────────


def check_plan(options: TorchTrainer, parts: Parts, schedule: Schedule, report: Reporter) -> None:
    """Raise InputError where an option asks for what this run does not have; warn of what is hardly meant."""
    if options.early_stopping is not None:
        check_early_stopping(options.early_stopping, parts)
    for remark in schedule.remarks():
        report.warning(remark)


def check_early_stopping(wanted: EarlyStopping, parts: Parts) -> None:
    """Raise InputError where no evaluation could ever end the run, or none gives the metric."""
    if parts.data.validation is None:
        raise InputError(
            "early_stopping needs evaluations, and the run has no validation split",
            remedy="set data.validation_fraction above 0, or leave early_stopping out",
        )
    if parts.evaluate.every_steps is None:
        raise InputError(
            "early_stopping needs evaluations while the run trains, and evaluate.every_steps is null",
            remedy="set evaluate.every_steps, or leave early_stopping out",
        )
    # Of numbers that stand for nothing, for the names alone: else it would be known hours later.
    names = parts.evaluation_metrics(Evaluation(loss_sum=1.0, tokens=1, bytes=1.0))
    early.check_metric(wanted.metric, [f"validation/{name}" for name in names])


# ── in a step ─────────────────────────────────────────────────────────────────────────────────────────────────────


def count_targets(batch: Batch) -> int:
    """Return the trained targets of a batch; raise InputError where there are none to divide by."""
    targets = int(np.count_nonzero(batch.targets_BT != IGNORE_INDEX))
    if targets == 0:
        raise InputError(
            f"no block of an optimizer step has a target: samples {faults.listed(batch.sample_ids_B)}",
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


# ── after a step ──────────────────────────────────────────────────────────────────────────────────────────────────


def end_of(
    totals: state.Totals, length: Length, options: TorchTrainer, patience: Patience | None
) -> str | None:
    """Return why the run ends after this many steps; None where it goes on."""
    if length.steps_left(totals.step, totals.samples) == 0:
        return f"all {totals.step} steps done"
    if options.max_minutes is not None and totals.seconds >= 60 * options.max_minutes:
        return f"max_minutes {options.max_minutes:g} reached after step {totals.step}"
    if patience is not None and patience.exhausted:
        return patience.reason()
    return None


def progress_of(totals: state.Totals, length: Length, blocks: int) -> Progress:
    """Return where the run stands."""
    left = length.steps_left(totals.step, totals.samples)
    total = None if left is None else totals.step + left
    return Progress(totals.step, total, totals.position / blocks, totals.tokens, totals.samples)


def report_window(
    report: Reporter, progress: Progress, totals: state.Totals, others: Mapping[str, float]
) -> None:
    """Write a record of training since the last one, with other metrics of its last step, and begin a new window."""
    metrics = window_metrics(totals.window)
    report.metrics(progress, {**metrics, **others, **totals.metrics_of_skips()})
    totals.metrics["train/loss"] = metrics["loss"]
    totals.window = state.Window()


def window_metrics(window: state.Window) -> dict[str, float]:
    """Return the means since the last record; the time of evaluations and checkpoints is not in them.

    The loss is NaN where every step of the window was left out.
    """
    return {
        "loss": window.loss_sum / window.tokens if window.tokens else math.nan,
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
    return Evaluation(float(total), tokens, validation.text_bytes(np.arange(count)))
