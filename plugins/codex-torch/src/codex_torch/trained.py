"""What changes while a run trains: the model, its optimizers, the scale of its gradients, the average of its weights.

One rule: everything here is either in a checkpoint or follows from the options.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from codex_kernel import Model, PluginError, Reporter
from codex_torch import hardware
from codex_torch.averaging import Average
from codex_torch.compiling import compile_model
from codex_torch.optimizers import begin_anew, make_optimizers
from codex_torch.recompute import recompute_activations

if TYPE_CHECKING:
    from codex_torch.hardware import Hardware
    from codex_torch.plugin import TorchTrainer


@frozen(eq=False)
class Trained:
    """The model in training; `average` is None unless the options ask for one."""

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    average: Average | None
    device: torch.device
    parameters: Sequence[nn.Parameter] = field(init=False)
    _buffers: list[Tensor] = field(init=False)
    _buffers_before: list[Tensor] = field(init=False)

    def __attrs_post_init__(self) -> None:
        kept = self.model.state_dict(keep_vars=True).keys()
        buffers = [buffer for name, buffer in self.model.named_buffers() if name in kept]
        object.__setattr__(self, "_buffers", buffers)
        object.__setattr__(self, "_buffers_before", [buffer.clone() for buffer in buffers])
        parameters = [
            p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]
        ]
        object.__setattr__(self, "parameters", parameters)

    @classmethod
    def prepare(cls, model: Model, options: TorchTrainer, where: Hardware, report: Reporter) -> Trained:
        """Put the model on its device, its trained parameters in fp32, and make what trains it.

        Raises PluginError where it cannot be trained, InputError where an option does not fit it.
        """
        module = _on_device(model, where.device, report)
        if options.activation_checkpointing:
            layers = recompute_activations(module)
            report.event("activation_checkpointing", layers=layers)
        optimizers = make_optimizers(module, options)
        if options.optimizer == "muon" and not hardware.has_fast_bf16(where.device):
            report.warning(f"muon makes its matrices orthogonal in bf16, which is slow on {where.name}")
        average = None
        if options.ema_decay is not None:
            average = Average.of(
                {n: p for n, p in module.named_parameters() if p.requires_grad}, options.ema_decay
            )
        if options.compile:
            compile_model(module, report)
        return cls(module, optimizers, where.scaler(), average, where.device)

    def names(self) -> list[str]:
        """Return the names of the optimizers' parameters, in the optimizers' order."""
        by_id = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [by_id[id(parameter)] for parameter in self.parameters]

    def update(self, lr: float) -> None:
        """Change the weights by their gradients, and forget those."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        self.forget_gradients()
        if self.average is not None:
            self.average.update()
        if self.scaler.is_enabled():
            self.scaler.update()

    def begin_step(self) -> None:
        """Remember what a forward pass may change: the buffers that a checkpoint has, such as running means."""
        if self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)

    def undo_step(self) -> None:
        """Let go of all gradients, and take the buffers back to where they were when the step began."""
        self.forget_gradients()
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._buffers_before)

    def forget_gradients(self) -> None:
        """Let go of all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def unscale_gradients(self) -> None:
        """Take the scale of fp16 out of the gradients; nothing in other precisions."""
        if self.scaler.is_enabled():
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)

    def lower_scale(self, losses: Sequence[float], norm: float, report: Reporter) -> bool:
        """Lower the scale of fp16 where that is what made a gradient infinite; say whether it did.

        A loss that is not finite itself is another matter, and so are a spike and a gradient at a scale of 1 or less:
        they leave the scale as it is.
        """
        if not self.scaler.is_enabled():
            return False
        before = self.scaler.get_scale()
        if before <= 1 or math.isfinite(norm) or not all(math.isfinite(loss) for loss in losses):
            self.scaler.update(before)  # which forgets what it has found in these gradients
            return False
        self.scaler.update()
        report.event("loss_scale_lowered", was=before, now=self.scaler.get_scale())
        return True

    def averaged(self) -> AbstractContextManager[object]:
        """Return a context in which the model has the averaged weights, where there are any."""
        return nullcontext() if self.average is None else self.average.swapped()

    def metrics(self) -> dict[str, float]:
        """Return what a record of metrics says beside the loss: the peak of memory and, in fp16, the scale."""
        scale = {"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}
        return {"peak_memory_bytes": float(hardware.peak_memory_bytes(self.device)), **scale}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Return the optimizers' states as `<key>/<parameter>`."""
        tensors: dict[str, Tensor] = {}
        for optimizer, names in self._by_optimizer():
            for index, state in optimizer.state_dict()["state"].items():
                # A momentum that has not begun is None: it is as if it were not there.
                tensors |= {f"{key}/{names[index]}": t for key, t in state.items() if isinstance(t, Tensor)}
        return tensors

    def load_optimizer_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the optimizers' states back; a parameter that never had a gradient has none."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for full_name, tensor in tensors.items():
            key, name = full_name.split("/", maxsplit=1)
            # The optimizer keeps what it is given and changes it in place: a checkpoint may be read twice.
            by_name.setdefault(name, {})[key] = tensor.clone()
        for optimizer, names in self._by_optimizer():
            states: dict[int, Any] = {i: by_name[name] for i, name in enumerate(names) if name in by_name}
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": states, "param_groups": groups})

    def begin_optimizers_anew(self) -> None:
        """Take the optimizers to their states before the first step."""
        for optimizer in self.optimizers:
            begin_anew(optimizer)

    def _by_optimizer(self) -> Iterator[tuple[torch.optim.Optimizer, list[str]]]:
        """Yield each optimizer with the names of its parameters."""
        names = iter(self.names())
        for optimizer in self.optimizers:
            yield optimizer, [next(names) for group in optimizer.param_groups for _ in group["params"]]


def _on_device(model: Model, device: torch.device, report: Reporter) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"the trainer torch needs a torch.nn.Module, got a {type(model).__name__}",
            remedy="choose another model",
        )
    module = model.to(device)
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
    for parameter in trainable:
        # torch's fused steps walk through memory: over a transposed weight with the moments of a checkpoint, which are
        # contiguous, they would pair the wrong numbers, and over a slice of a larger tensor they leave it.
        parameter.data = parameter.data.contiguous()
    return module
