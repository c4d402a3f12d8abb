"""A step that must not change the weights: its loss or its gradient is not finite, or its loss is a spike.

One rule: it is found before the update, the samples are written down, and what is done about it is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import frozen

from codex_kernel import Batch, Checkpoint, Checkpointer, NonFiniteError, Reporter

if TYPE_CHECKING:
    from codex_torch.guard import Spikes

SKIPS_IN_A_ROW = 10
"""Steps left out one after another that end the run: by then it is not the samples."""
ROLLBACKS = 3
"""Times that a run goes back to the same checkpoint before it ends."""
_SHOWN = 16


@frozen(eq=False)
class Fault:
    """What is wrong with a step, and the samples (int64) that it comes from."""

    what: str
    sample_ids: Any

    def __str__(self) -> str:
        return f"{self.what}, samples {listed(self.sample_ids)}"


def find(  # noqa: PLR0913 - all that may be wrong with a step
    batch: Batch, sums: Sequence[float], norm: float, blocks: int, mean_loss: float, spikes: Spikes | None
) -> Fault | None:
    """Return what is wrong with a step; None where it may be applied.

    sums: the loss of each micro-batch of `blocks` blocks; norm: that of the whole gradient; mean_loss: nats per target.
    """
    ids = np.asarray(batch.sample_ids_B)
    bad = [i for i, value in enumerate(sums) if not math.isfinite(value)]
    if bad:
        of_bad = np.concatenate([ids[i * blocks : (i + 1) * blocks] for i in bad])
        return Fault(f"the loss is {sums[bad[0]]}", of_bad)
    if not math.isfinite(norm):
        return Fault(f"the norm of the gradient is {norm}, with a finite loss", ids)
    if spikes is not None and spikes.is_spike(mean_loss):
        return Fault(f"the loss {mean_loss:.4f} is a spike", ids)
    return None


def record(fault: Fault, step: int, action: str, report: Reporter) -> None:
    """Write down the step, the reason and the samples; `action` is what is done about it."""
    ids = [int(i) for i in fault.sample_ids]
    report.event("nonfinite", step=step, reason=fault.what, sample_ids=ids, action=action)


def stopped(fault: Fault, step: int) -> NonFiniteError:
    """Return the error that ends the run, with the weights as they were before the step."""
    return NonFiniteError(
        f"{fault.what} at step {step}, samples {listed(fault.sample_ids)}; the weights were not updated",
        remedy="every checkpoint is from before: lower lr or max_grad_norm, raise warmup_steps, look at the samples, "
        "or set trainer.on_nonfinite to skip or rollback",
    )


def check_skips(fault: Fault, step: int, in_a_row: int) -> None:
    """Raise NonFiniteError where so many steps in a row were left out that it cannot be the samples."""
    if in_a_row >= SKIPS_IN_A_ROW:
        raise NonFiniteError(
            f"{in_a_row} steps in a row were left out, the last one, {step}, since {fault}",
            remedy="the last checkpoint is from before or among them: lower lr or max_grad_norm, or use rollback",
        )


def checkpoint_before(
    fault: Fault, step: int, checkpointer: Checkpointer, gone_back: dict[int, int]
) -> Checkpoint:
    """Return the checkpoint to go back to, and count that in `gone_back` (step of a checkpoint → times).

    Raises NonFiniteError where there is none, or where the run went back to it too often.
    """
    checkpoint = checkpointer.newest()
    if checkpoint is None:
        raise NonFiniteError(
            f"{fault} at step {step}, and there is no checkpoint to go back to; the weights were not updated",
            remedy="set checkpointer.every_steps, so that there is one early in the run",
        )
    gone_back[checkpoint.step] = gone_back.get(checkpoint.step, 0) + 1
    if gone_back[checkpoint.step] > ROLLBACKS:
        raise NonFiniteError(
            f"{fault} at step {step}, after {ROLLBACKS} rollbacks to step {checkpoint.step}",
            remedy="other samples do not help: lower lr or max_grad_norm, or raise warmup_steps",
        )
    return checkpoint


def listed(ids: Any) -> str:
    """Return sample ids as text, the first of many."""
    shown = ", ".join(str(int(i)) for i in ids[:_SHOWN])
    return shown if len(ids) <= _SHOWN else f"{shown} … ({len(ids)} in all)"
