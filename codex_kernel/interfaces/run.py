"""A run: where it stands, whom it reports to, what it is made of and how it ends.

One rule: whatever is written to the run folder is plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

from codex_kernel.interfaces.data import Data, Tokenizer
from codex_kernel.interfaces.model import Checkpoint, Checkpointer, CheckpointState, Model


@frozen
class Progress:
    """How far a run is: optimizer steps done, of how many (None: not known before), epochs, tokens and samples seen.

    `tokens` counts trained targets, `samples` blocks.
    """

    step: int
    total_steps: int | None
    epoch: float
    tokens: int
    samples: int


class Reporter(Protocol):
    """Where the parts of a run report to; cheap, never blocking, and safe to call from any thread."""

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Write one record of metrics and tell the loggers; call it at logging steps, not for each token."""

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:
        """Tell how far a piece of work outside the training loop is, such as ("encode", 20, 288, "documents")."""

    def event(self, name: str, **fields: Any) -> None:
        """Write one record to the run's events: something that a person may ask about later."""

    def warning(self, message: str) -> None:
        """Write an event and show it to the user."""

    def checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        """Tell that a checkpoint is safe on disk."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a checkpoint must hold so that the metrics can be rewound to it (a JSON value)."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rewind the metrics to the checkpoint that holds this state."""


class StopRequest(Protocol):
    """Whether someone asked the run to stop after the optimizer step under way."""

    @property
    def signal_number(self) -> int | None:
        """The signal that asked; None as long as nobody did."""


@frozen(eq=False)
class RunContext:
    """The run that a hook is called for.

    `folder` is the run's own folder (a plugin may write files of its own there), `cache` a folder shared by all runs,
    `base` the folder that relative paths of the manifest start from: where the run was first started.
    `rank` and `world_size` number the processes of the run; loggers are active on rank 0 only. `allowed_changes` are
    the keys of the manifest (`trainer.lr`) that the user lets differ from what the checkpoint was saved with.
    """

    run_id: str
    name: str
    seed: int
    folder: Path
    cache: Path
    base: Path
    report: Reporter
    stop: StopRequest
    rank: int = 0
    world_size: int = 1
    allowed_changes: frozenset[str] = frozenset()


@frozen
class EvaluateOptions:
    """When the model is evaluated on the validation split; None: only at the end. `max_blocks` None: all of it."""

    every_steps: int | None = None
    max_blocks: int | None = None


@frozen
class Evaluation:
    """Sums over an evaluation: `loss_sum` in nats, `tokens` targets, `bytes` of UTF-8 text those targets stand for."""

    loss_sum: float
    tokens: int
    bytes: float


@frozen(eq=False)
class Parts:
    """What a trainer is given: everything that the run built before it.

    `evaluation_metrics` asks all metric plugins of the manifest; it always has `loss` (nats per token).
    """

    tokenizer: Tokenizer
    data: Data
    model: Model
    checkpointer: Checkpointer
    evaluate: EvaluateOptions
    evaluation_metrics: Callable[[Evaluation], dict[str, float]]


@frozen
class TrainResult:
    """How training ended: totals over the whole run, the last metrics, and why it stopped.

    `metrics` has `train/loss` and, where there is a validation split, `validation/…`. `signal_number` is None unless a
    signal stopped the run.
    """

    progress: Progress
    metrics: Mapping[str, float]
    stop_reason: str
    signal_number: int | None = None


class Trainer(Protocol):
    """Trains the model of its Parts."""

    def fit(self, state: CheckpointState | None) -> TrainResult:
        """Train to the end, or to a stop request; go on from `state` where it is given, else start."""


@frozen
class Estimate:
    """What `codex plan` says of a run before it starts; None: not known (a run that time ends) or not measured.

    `memory_bytes` maps a part (weights, gradients, optimizer, activations, logits) to its size on the training device.
    """

    parameters: int
    trainable_parameters: int
    memory_bytes: Mapping[str, int]
    steps: int | None
    tokens: int | None
    checkpoint_bytes: int
    seconds_per_step: float | None = None
    notes: Sequence[str] = ()


@runtime_checkable
class Estimates(Protocol):
    """A trainer that can foretell its needs; `codex plan` asks it."""

    def estimate(self, *, measure: bool) -> Estimate:
        """Estimate the run; with `measure`, time a few real steps. Leaves no trace in the run."""


@frozen
class Probe:
    """What a check on the real model found: `passed` None where it does not apply; `detail` is one sentence."""

    name: str
    passed: bool | None
    detail: str


@runtime_checkable
class Probes(Protocol):
    """A trainer that can check the run's own model and data before the run; `codex plan --probe` asks it."""

    def probe(self) -> Iterator[Probe]:
        """Yield what each check found, as it is found; takes seconds and leaves no trace in the run."""


@frozen
class GenerateRequest:
    """What `codex generate` was asked for; `temperature` 0 takes the likeliest token, None for a limit means off.

    `context_tokens` is the length that the model was trained on: no more tokens than that are read at once.
    """

    prompt: str
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    context_tokens: int


@frozen
class Outcome:
    """How a run ended, as written to `outcome.json`.

    `status`: completed (steps > 0 and the limit reached), stopped (by a signal, can be resumed) or failed.
    `failed_saves` counts the checkpoints that could not be written and that the run went on without.
    """

    status: str
    exit_code: int
    reason: str
    steps: int
    tokens: int
    samples: int
    seconds: float
    metrics: Mapping[str, float]
    checkpoint: str | None
    detached: Sequence[str]
    failed_saves: int = 0


TextPieces = Iterator[str]
"""Generated text, piece by piece."""
