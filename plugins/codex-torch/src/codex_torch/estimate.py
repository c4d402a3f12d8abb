"""What a run will need, before it starts: memory by part, steps, disk, and the time of a step.

One rule: nothing of the run is changed; what is counted is counted on the run's own model and data.
Shapes: B blocks of a micro-batch, T tokens of a block, V vocabulary, D width of the hidden state.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.hooks import RemovableHandle

from codex_kernel import (
    Blocks,
    Checkpoint,
    CheckpointState,
    Data,
    Estimate,
    EvaluateOptions,
    HiddenStates,
    Model,
    Parts,
    PluginError,
    Progress,
    RunContext,
)
from codex_torch import rng, weights
from codex_torch.loop import fit, micro_batches
from codex_torch.loss import CHUNK_TOKENS, chunked
from codex_torch.optimizers import make_optimizers, state_numbers
from codex_torch.recompute import layers_of, recomputing
from codex_torch.silence import Silence

if TYPE_CHECKING:
    from codex_torch.plugin import TorchTrainer

_NO_OTHER_END: dict[str, Any] = {
    "epochs": None,
    "max_tokens": None,
    "max_minutes": None,
    "early_stopping": None,
}
WARM_UP_STEPS = 1
TIMED_STEPS = 3
_FP32_BYTES = 4


def estimate(options: TorchTrainer, run: RunContext, parts: Parts, *, measure: bool) -> Estimate:
    """Estimate the run; with `measure` time a few steps on a copy of the model. See `codex_kernel.Estimates`."""
    model = parts.model
    if not isinstance(model, nn.Module):
        raise PluginError(f"the trainer torch needs a torch.nn.Module, got a {type(model).__name__}")
    train = parts.data.train
    length = options.length(train)
    notes: list[str] = []
    with undisturbed_torch():
        memory = _memory(options, parts, model, notes)
        seconds = _seconds_per_step(options, run, parts) if measure else None
    if options.max_minutes is not None and seconds is not None:
        notes.append(
            f"max_minutes {options.max_minutes:g} are about {options.max_minutes * 60 / seconds:.0f} steps"
        )
    return Estimate(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=_trained_numbers(model),
        memory_bytes=memory,
        steps=length.steps,
        tokens=None if length.samples is None else round(length.samples * train.target_tokens / len(train)),
        checkpoint_bytes=_checkpoint_bytes(model, memory),
        seconds_per_step=seconds,
        notes=notes,
    )


@contextmanager
def undisturbed_torch() -> Iterator[None]:
    """Leave the random generators and the number of threads as they are."""
    threads = torch.get_num_threads()
    try:
        with rng.undisturbed():
            yield
    finally:
        torch.set_num_threads(threads)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _memory(options: TorchTrainer, parts: Parts, model: nn.Module, notes: list[str]) -> dict[str, int]:
    memory = {
        "weights": _weight_bytes(model),
        "gradients": _trained_numbers(model) * _FP32_BYTES,
        "optimizer": state_numbers(make_optimizers(model, options)) * _FP32_BYTES,
    }
    if options.ema_decay is not None:
        memory["average"] = _trained_numbers(model) * _FP32_BYTES
    try:
        activations, logits = _count_forward(options, model, parts.data)
    except (NotImplementedError, RuntimeError) as error:
        if not any(parameter.is_meta for parameter in model.parameters()):
            raise
        # Some operations look at the values of their tensors, which the meta device does not have.
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        notes.append(
            f"activations and logits are not known without the weights ({reason}); measure to count them"
        )
        return memory
    if options.precision != "fp32":
        notes.append("activations are counted in fp32; in bf16 and fp16 they take about half")
    return {**memory, "activations": activations, "logits": logits}


def _trained_numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _weight_bytes(model: nn.Module) -> int:
    """Return the bytes of the model on its device: trained parameters are in fp32, the others as they are."""
    parameters = sum(
        p.numel() * (_FP32_BYTES if p.requires_grad else p.element_size()) for p in model.parameters()
    )
    return parameters + sum(buffer.nbytes for buffer in model.buffers())


def _count_forward(options: TorchTrainer, model: nn.Module, data: Data) -> tuple[int, int]:
    """Run one micro-batch forward; return the bytes kept for the backward pass, and those of logits at their peak."""
    device, blocks = next(model.parameters()).device, options.blocks_at_once
    batch = data.train.gather(data.samples(0, blocks))
    input_ids_BT, _, position_ids_BT, document_ids_BT = next(micro_batches(batch, blocks, device))
    inputs = (input_ids_BT, position_ids_BT, document_ids_BT)
    tokens = input_ids_BT.numel()
    kept = _forward(model, inputs)
    activations = kept.bytes
    if options.activation_checkpointing:
        # What the layers are computed from, and in the backward pass all of one layer at a time.
        with recomputing(model):
            activations = _forward(model, inputs).bytes + kept.largest_layer
    if chunked(model, tokens):
        weight_VD = cast("HiddenStates", model).head_weight()
        vocabulary, width = weight_VD.shape
        # A chunk of logits, and the gradients of all hidden states and of the head, which the forward pass makes.
        rows = tokens + (vocabulary if weight_VD.requires_grad else 0)
        return activations, _FP32_BYTES * (CHUNK_TOKENS * vocabulary + rows * width)
    # The logits, their log-softmax and its gradient; never more than two of them at a time.
    return activations, _FP32_BYTES * 2 * tokens * kept.width


def _forward(model: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> _KeptTensors:
    """Run the model as the loss does, in training mode; return what was kept for the backward pass."""
    kept = _KeptTensors([*model.parameters(), *model.buffers()])
    hooks = [hook for layer in layers_of(model) for hook in kept.watch(layer)]
    was_training = model.training
    model.train()
    try:
        with saved_tensors_hooks(kept.add, lambda tensor: tensor):
            if chunked(model, inputs[0].numel()):
                output = cast("HiddenStates", model).hidden(*inputs)
            else:
                output = cast("Model", model)(*inputs)
        kept.width = output.shape[-1]
        return kept
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


@define(eq=False)
class _KeptTensors:
    """Counts the memory that autograd keeps, each storage once and none of the model's own.

    `largest_layer` is the most that a watched layer added; `width` the last dimension of what the model returned.
    """

    own: list[Tensor]
    bytes: int = field(init=False, default=0)
    largest_layer: int = field(init=False, default=0)
    width: int = field(init=False, default=0)
    _seen: set[int] = field(init=False)
    _alive: list[Tensor] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._seen = {_storage(tensor) for tensor in self.own}

    def add(self, tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in self._seen:
            self._seen.add(storage)
            self._alive.append(tensor)  # or its storage's number would be given to another one
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def watch(self, layer: nn.Module) -> Iterator[RemovableHandle]:
        """Have the layer say how much it adds each time."""
        before: list[int] = []

        def enter(*_: object) -> None:
            before.append(self.bytes)

        def leave(*_: object) -> None:
            self.largest_layer = max(self.largest_layer, self.bytes - before.pop())

        yield layer.register_forward_pre_hook(enter)
        yield layer.register_forward_hook(leave)


def _storage(tensor: Tensor) -> int:
    """Return a number for the memory of a tensor; on the meta device there is no address."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call] # torch's own


def _checkpoint_bytes(model: nn.Module, memory: Mapping[str, int]) -> int:
    """Return the bytes of the tensors; trained weights are kept in fp32, and where they are averaged, twice."""
    kept = sum(
        tensor.nbytes for tensors in weights.saved(model).tensors.values() for tensor in tensors.values()
    )
    to_fp32 = sum(p.numel() * (_FP32_BYTES - p.element_size()) for p in model.parameters() if p.requires_grad)
    return kept + to_fp32 + memory["optimizer"] + memory.get("average", 0)


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _seconds_per_step(options: TorchTrainer, run: RunContext, parts: Parts) -> float:
    """Time a few steps of the real loop on a copy of the model, without evaluation, checkpoints and reports."""
    steps = WARM_UP_STEPS + TIMED_STEPS
    timing = _StepTimes()
    fit(
        evolve(options, max_steps=steps, **_NO_OTHER_END, log_every=1),
        evolve(run, report=timing, stop=_NeverStop()),
        evolve(
            parts,
            model=copy.deepcopy(parts.model),
            data=_TrainingOnly(parts.data),
            checkpointer=_NoCheckpoints(),
            evaluate=EvaluateOptions(),
        ),
        None,
    )
    return statistics.median(timing.seconds[WARM_UP_STEPS:])


@define(eq=False)
class _StepTimes(Silence):
    """A reporter that keeps the time of each step and nothing else."""

    seconds: list[float] = field(init=False, factory=list)

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:  # noqa: ARG002
        self.seconds.append(values["step_seconds"])


@frozen
class _NeverStop:
    signal_number: int | None = None


@frozen(eq=False)
class _TrainingOnly:
    """The run's data without its validation split."""

    data: Data
    validation: None = None

    @property
    def train(self) -> Blocks:
        return self.data.train

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    def samples(self, start: int, count: int) -> Any:
        return self.data.samples(start, count)


@frozen
class _NoCheckpoints:
    """A checkpointer that keeps nothing."""

    def due(self, step: int) -> bool:  # noqa: ARG002
        return False

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None: ...

    def newest(self) -> Checkpoint | None:
        return None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        raise FileNotFoundError(Path(checkpoint.path))

    def close(self) -> None: ...
