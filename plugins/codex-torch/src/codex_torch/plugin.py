"""The trainer `torch`: its options, and the hooks that lead to the loop.

One rule: no heavy import here; torch comes in when a hook is called.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import define, field, frozen

from codex_kernel import (
    CheckpointState,
    Estimate,
    GenerateRequest,
    InputError,
    Model,
    Parts,
    Probe,
    RunContext,
    TextPieces,
    Tokenizer,
    TrainResult,
    hookimpl,
    option,
)

if TYPE_CHECKING:
    from codex_kernel import Blocks
    from codex_torch.schedule import Length, Schedule

LIMITS = ("max_steps", "epochs", "max_tokens")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_ENDLESS = ("constant", "inverse-sqrt")
"""Schedules that need not know how long the run will be."""


@frozen
class LossSpike:
    """When a finite loss counts as a spike, which `on_nonfinite` then deals with."""

    sigmas: float = option(
        6.0,
        gt=0,
        help="Standard deviations above the mean of the last losses that make a step's loss a spike.",
    )
    window: int = option(
        128, ge=8, help="Optimizer steps that mean and deviation are taken over; half of them must be there."
    )


@frozen
class EarlyStopping:
    """When a run ends before its limit, since an evaluation metric no longer improves."""

    patience: int = option(ge=1, help="Evaluations without an improvement after which the run ends.")
    metric: str = option(
        "validation/loss", help="The evaluation metric that decides, such as validation/loss."
    )
    mode: Literal["min", "max"] = option("min", help="Whether a smaller or a larger value is better.")
    min_delta: float = option(0.0, ge=0, help="What a value must be better by to count as an improvement.")


@frozen
class TorchTrainer:
    """One loop on torch alone: token-weighted loss over the whole step, evaluation, checkpoints, exact resume."""

    codex_capabilities: ClassVar[tuple[str, ...]] = ("gpu", "resume", "generate")

    max_steps: int | None = option(None, gt=0, help="Optimizer steps of the run.")
    epochs: float | None = option(None, gt=0, help="Passes over the training split; may be a fraction.")
    max_tokens: int | None = option(
        None, gt=0, help="Targets to train on, in whole optimizer steps of the split's mean size, rounded up."
    )
    max_minutes: float | None = option(
        None,
        gt=0,
        on_resume="harmless",
        help="Minutes of training, over all resumes, after which the run ends, evaluated and saved; may stand beside "
        "another limit, or alone with a schedule that has no end.",
    )
    global_batch_size: int = option(16, gt=0, help="Blocks of one optimizer step.")
    micro_batch_size: int | None = option(
        None,
        gt=0,
        on_resume="harmless",
        help="Blocks that go through the model at once; gradients add up to the global batch. null: at most 8.",
    )
    optimizer: Literal["adamw", "sgd", "adafactor", "muon"] = option(
        "adamw",
        help="torch's optimizer; muon takes the matrices between embeddings and head, adamw the rest.",
    )
    lr: float = option(3e-4, gt=0, help="The highest learning rate.")
    schedule: Literal["cosine", "linear", "constant", "inverse-sqrt", "wsd"] = option(
        "cosine", help="How the learning rate goes on after the warm-up; wsd: constant, then down at the end."
    )
    warmup_steps: int = option(0, ge=0, help="Optimizer steps in which the learning rate rises to lr.")
    decay_steps: int | None = option(
        None, gt=0, help="Optimizer steps at the end in which wsd lowers it; null: a tenth of the run."
    )
    min_lr_ratio: float = option(
        0.1, ge=0, le=1, help="The lowest learning rate of the schedule, as a share of lr."
    )
    weight_decay: float = option(0.1, ge=0, help="Decay of matrices; vectors (norms, biases) have none.")
    betas: tuple[float, float] | None = option(
        None, ge=0, lt=1, help="Decay rates of AdamW's two moments, also beside muon; null: 0.9 and 0.95."
    )
    momentum: float | None = option(
        None, ge=0, lt=1, help="Momentum of sgd and muon; null: 0.9 for sgd, 0.95 for muon."
    )
    max_grad_norm: float | None = option(
        1.0, gt=0, help="Norm that the gradient of all parameters is clipped to; null: never clipped."
    )
    ema_decay: float | None = option(
        None,
        gt=0,
        lt=1,
        help="Decay of an exponential moving average of the weights, which is then what is evaluated and exported; "
        "null: none.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        help="What matrices are multiplied in, over fp32 weights; auto: bf16 where the device is fast at it.",
    )
    activation_checkpointing: bool = option(
        default=False,
        on_resume="harmless",
        help="Compute the activations of each layer again in the backward pass: less memory, a third more time.",
    )
    compile: bool = option(default=False, help="Compile the model with torch.compile; needs a C++ compiler.")
    device: str = option(
        "auto",
        on_resume="harmless",
        help="auto, cpu, cuda or cuda:N; auto takes the first GPU that there is.",
    )
    threads: int | None = option(
        None, gt=0, on_resume="harmless", help="CPU threads of torch; null: torch's own choice."
    )
    determinism: Literal["auto", "strict", "relaxed"] = option(
        "auto",
        on_resume="harmless",
        help="strict: the same seed gives the same bits, by torch's deterministic algorithms; auto: strict on the CPU.",
    )
    on_nonfinite: Literal["stop", "skip", "rollback"] = option(
        "stop",
        help="When a loss or a gradient is not finite, or a spike: end the run, leave out the step, or go back to the "
        "newest checkpoint and leave out the samples since then.",
    )
    loss_spike: LossSpike | None = option(None, help="Deal with spikes of the loss as well; null: do not.")
    early_stopping: EarlyStopping | None = option(
        None, help="End the run when an evaluation metric no longer improves; null: never."
    )
    log_every: int = option(
        10, gt=0, on_resume="harmless", help="Optimizer steps between records of metrics."
    )

    def __attrs_post_init__(self) -> None:
        self._check_limits()
        self._check_unread()
        if self.micro_batch_size is not None and self.micro_batch_size > self.global_batch_size:
            raise InputError(
                f"expected micro_batch_size <= global_batch_size {self.global_batch_size}, got {self.micro_batch_size}",
                remedy="lower micro_batch_size, or leave it out",
            )
        if not _DEVICE.fullmatch(self.device):
            raise InputError(f"expected device auto, cpu, cuda or cuda:N, got {self.device!r}")

    def _check_limits(self) -> None:
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if not given and self.max_minutes is not None:
            if self.schedule not in _ENDLESS:
                raise InputError(
                    f"the schedule {self.schedule} goes down to an end that max_minutes does not tell",
                    remedy=f"set {LIMITS[0]} too, or schedule: {' or '.join(_ENDLESS)}",
                )
            return
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise InputError(
                f"expected exactly one of {', '.join(LIMITS)}, got {found}",
                remedy="set one; the others are null: --set trainer.epochs=null --set trainer.max_steps=100",
            )

    def _check_unread(self) -> None:
        """Raise InputError where an option is set that no part of this trainer would read."""
        readers = (
            ("betas", self.optimizer in {"adamw", "muon"}, f"optimizer {self.optimizer}"),
            ("momentum", self.optimizer in {"sgd", "muon"}, f"optimizer {self.optimizer}"),
            ("decay_steps", self.schedule == "wsd", f"schedule {self.schedule}"),
        )
        for name, read, by in readers:
            if getattr(self, name) is not None and not read:
                raise InputError(
                    f"{name} is set, but {by} has none", remedy=f"leave {name} out, or set it to null"
                )
        if self.schedule == "inverse-sqrt" and self.warmup_steps == 0:
            raise InputError(
                "the schedule inverse-sqrt falls from the end of the warm-up on, and warmup_steps is 0",
                remedy="set warmup_steps above 0",
            )

    @property
    def blocks_at_once(self) -> int:
        """Blocks of a micro-batch; the last one of a step may have fewer."""
        return self.micro_batch_size or min(self.global_batch_size, 8)

    def length(self, train: Blocks) -> Length:
        """Return how many steps the run has over this training split, open where only a clock ends it.

        Raises InputError where it has none.
        """
        from codex_torch.schedule import Length

        return Length.of(
            train,
            self.global_batch_size,
            max_steps=self.max_steps,
            epochs=self.epochs,
            max_tokens=self.max_tokens,
            max_minutes=self.max_minutes,
        )

    def lr_schedule(self, total_steps: int | None) -> Schedule:
        """Return the learning rate over a run of that many steps; None: until a clock ends it."""
        from codex_torch.schedule import Schedule

        return Schedule(
            self.schedule, self.lr, self.warmup_steps, self.min_lr_ratio, total_steps, self.decay_steps
        )

    @hookimpl
    def codex_preflight(self) -> Iterator[str]:
        """Name the packages that are missing, without importing them."""
        for package in ("torch", "safetensors"):
            if importlib.util.find_spec(package) is None:
                yield f"the package {package} is not installed"

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        """End after that many steps and report each; the warm-up and the decay get their share of them."""
        others: dict[str, object] = dict.fromkeys(("epochs", "max_tokens", "max_minutes"))
        warmup_steps = min(self.warmup_steps, max(1, steps // 4))
        decay_steps = None if self.decay_steps is None else min(self.decay_steps, max(1, steps // 4))
        return {
            **others,
            "max_steps": steps,
            "log_every": 1,
            "warmup_steps": warmup_steps,
            "decay_steps": decay_steps,
        }

    @hookimpl(wrapper=True, tryfirst=True)
    def codex_model(self, run: RunContext, materialize: bool) -> Generator[None, Model, Model]:  # noqa: FBT001 - the hook's signature
        """Seed the generators before the model is built; where shapes are enough, build on the meta device."""
        import torch

        from codex_torch import rng

        rng.seed_all(run.seed)
        if materialize:
            return (yield)
        with torch.device("meta"):
            return (yield)

    @hookimpl
    def codex_trainer(self, run: RunContext, parts: Parts) -> LoopTrainer:
        """Give the trainer."""
        return LoopTrainer(self, run, parts)

    @hookimpl
    def codex_generate(
        self,
        run: RunContext,
        model: Model,
        tokenizer: Tokenizer,
        state: CheckpointState,
        request: GenerateRequest,
    ) -> TextPieces:
        """Continue a prompt with any `torch.nn.Module`."""
        from codex_torch.generate import generate
        from codex_torch.hardware import choose

        hardware = choose(self.device, self.precision, self.threads, self.determinism, run.report)
        return generate(hardware, model, tokenizer, state, request)


@define(eq=False)
class LoopTrainer:
    """The trainer of one run; see `codex_kernel.Trainer` and `codex_kernel.Estimates`."""

    options: TorchTrainer
    run: RunContext
    parts: Parts = field(repr=False)

    def fit(self, state: CheckpointState | None) -> TrainResult:
        """Train to the end, or to a stop request; go on from `state` where it is given."""
        from codex_torch.loop import fit

        return fit(self.options, self.run, self.parts, state)

    def estimate(self, *, measure: bool) -> Estimate:
        """Estimate memory, steps, disk and, with `measure`, the time of a step."""
        from codex_torch.estimate import estimate

        return estimate(self.options, self.run, self.parts, measure=measure)

    def probe(self) -> Iterator[Probe]:
        """Check the model and the data as they are before the first step."""
        from codex_torch.probe import probe

        return probe(self.options, self.run, self.parts)
