"""Probes of training: gradients add up, they reach what is to be trained, and what was trained comes back from disk.

One rule: as in `probe_model`; these probes change the subject's copy of the model, so they come last.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codex_kernel import CheckpointState, InputError, PretrainedFormat, Probe
from codex_torch import rng, weights
from codex_torch.loss import loss_sum
from codex_torch.probe_model import TOLERANCE, Rows, Subject, fresh_copy

PASSES = 3
"""Of a chain of layers that begin with zeros, one more gets a gradient with each step; LoRA needs two."""
_MOST_BLOCKS = 4
_SMALL = 1e-3
"""A tensor with less than this share of the whole gradient is held against that share: it is rounding."""
_NOISE = 0.01
_SHOWN = 5


# ── gradients add up ──────────────────────────────────────────────────────────────────────────────────────────────


def accumulation(subject: Subject) -> Probe:
    """Blocks that go through the model one by one give the gradient that they give at once."""
    name = "accumulation"
    count = min(_MOST_BLOCKS, max(2, subject.blocks_at_once), subject.step_of, len(subject.rows))
    rows = subject.rows.first(count)
    if count == 1:
        return Probe(name, passed=None, detail="an optimizer step is of one block")
    if rows.targets == 0:
        return Probe(name, passed=None, detail="no target in the first tokens of the first blocks")
    mode = _without_randomness(subject, rows)
    one_by_one, at_once = (_gradient(subject, rows, size) for size in (1, count))
    whole = _norm(list(at_once.values()))
    if whole == 0:
        return Probe(name, passed=None, detail="the first gradient is zero")
    errors = {
        tensor: float((one_by_one[tensor] - at_once[tensor]).norm())
        / max(float(at_once[tensor].norm()), _SMALL * whole)
        for tensor in at_once
    }
    worst = max(errors, key=lambda tensor: errors[tensor])
    measured = f"they differ by {errors[worst]:.1e} in {worst}, at most {TOLERANCE:.0e} is allowed"
    if errors[worst] <= TOLERANCE:
        return Probe(
            name,
            passed=True,
            detail=f"{count} blocks one by one give the gradient of all at once, {mode} ({measured})",
        )
    return Probe(
        name,
        passed=False,
        detail=f"{count} blocks one by one give another gradient than all at once, {mode} ({measured}): blocks see one "
        "another, as with batch statistics; choose another model, or set trainer.micro_batch_size to "
        "trainer.global_batch_size and leave it there",
    )


def _gradient(subject: Subject, rows: Rows, size: int) -> dict[str, Tensor]:
    """Return the gradient of the mean loss, computed so many blocks at a time as the loop does; leave none behind."""
    rng.seed_all(subject.seed)
    for part in rows.split(size):
        (loss_sum(subject.model, *part.with_targets) / rows.targets).backward()  # type: ignore[no-untyped-call] # torch's own
    trained = _trained(subject.model)
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
    subject.model.zero_grad(set_to_none=True)
    return found


def _without_randomness(subject: Subject, rows: Rows) -> str:
    """Let the model train without dropout; say in words how.

    Dropout that is no module of its own cannot be switched off apart: then all is as in evaluation, but for the
    layers with batch statistics.
    """
    model = subject.model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001 - the one class of all of torch's dropouts
            module.eval()
    losses = []
    with torch.no_grad():
        for seed in (subject.seed, subject.seed + 1):
            rng.seed_all(seed)
            losses.append(loss_sum(model, *rows.first(1).with_targets))
    if torch.equal(*losses):
        return "with dropout off"
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001 - all of torch's batch statistics
            module.train()
    return "in evaluation mode"


# ── gradients arrive ──────────────────────────────────────────────────────────────────────────────────────────────


def gradients(subject: Subject) -> Probe:
    """Each parameter that is to be trained gets a gradient, and no other one changes."""
    name = "gradients"
    trained = _trained(subject.model)
    missing, spoilt, passes = set(trained), set[str](), 0
    rng.seed_all(subject.seed)
    subject.model.train()
    for part in _passes(subject):
        passes += 1
        loss = loss_sum(subject.model, *part.with_targets)
        if not loss.requires_grad:
            break
        (loss / part.targets).backward()  # type: ignore[no-untyped-call] # torch's own
        found = {tensor: p.grad for tensor, p in trained.items() if p.grad is not None and p.grad.any()}
        missing -= found.keys()
        spoilt = {tensor for tensor, gradient in found.items() if not gradient.isfinite().all()}
        _step(subject, found)
        if not missing or spoilt:
            break
    if passes == 0:
        return Probe(name, passed=None, detail="no target in the first tokens of the first blocks")
    faults = [
        _fault(
            missing,
            f"without a gradient in {passes} passes",
            "the model or an adapter leaves it out of the loss",
        ),
        _fault(spoilt, "with a gradient that is not finite", "look at the weights, and lower trainer.lr"),
        _fault(_kept_but_frozen(subject.model), "kept in checkpoints but frozen", "see the section adapters"),
        _fault(_changed(subject), "frozen, but changed by a step", "look at the model's forward pass"),
    ]
    if any(faults):
        return Probe(name, passed=False, detail="; ".join(filter(None, faults)))
    frozen = sum(1 for _ in subject.model.parameters()) - len(trained)
    return Probe(
        name,
        passed=True,
        detail=f"all {len(trained):,} trained tensors get a gradient in {PASSES} passes or fewer; {frozen:,} are "
        "frozen and stay as they are",
    )


def _passes(subject: Subject) -> Sequence[Rows]:
    """Return micro-batches with targets, going round through the blocks."""
    parts = [part for part in subject.rows.split(min(_MOST_BLOCKS, subject.blocks_at_once)) if part.targets]
    return [parts[number % len(parts)] for number in range(PASSES)] if parts else []


def _step(subject: Subject, gradients: Mapping[str, Tensor]) -> None:
    """Go a step of length lr along the gradient, or nowhere without one."""
    norm = _norm(list(gradients.values()))
    with torch.no_grad():
        for name, gradient in gradients.items():
            subject.model.get_parameter(name).sub_(gradient * (subject.lr / norm))
    subject.model.zero_grad(set_to_none=True)


def _fault(names: set[str], what: str, mend: str) -> str:
    """Return a clause that names the tensors; nothing where there are none."""
    if not names:
        return ""
    shown = ", ".join(sorted(names)[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
    return f"{len(names):,} {'tensor' if len(names) == 1 else 'tensors'} {what}: {shown} ({mend})"


def _kept_but_frozen(model: nn.Module) -> set[str]:
    """Return the frozen parameters among the weights of an adapted model, which keeps what it trains and no more."""
    if not isinstance(model, PretrainedFormat):
        return set()
    kept = {tensor.data_ptr() for tensor in model.weights().values()}
    named = [(name, p) for name, p in model.named_parameters() if p.numel()]
    if all(parameter.data_ptr() in kept for _, parameter in named):
        return set()  # all of it is kept: no adapter, and layers may be frozen on purpose
    return {name for name, p in named if p.data_ptr() in kept and not p.requires_grad}


def _changed(subject: Subject) -> set[str]:
    before = dict(subject.original.named_parameters())
    return {
        name
        for name, parameter in subject.model.named_parameters()
        if not parameter.requires_grad and not _same_bits(parameter, before[name].to(parameter))
    }


# ── what was trained comes back ───────────────────────────────────────────────────────────────────────────────────


def checkpoint(subject: Subject) -> Probe:
    """What is saved of the trained model, loaded into a fresh one, gives the same bits."""
    name = "checkpoint"
    rows = subject.rows.first(1)
    with torch.no_grad():
        for parameter in _trained(subject.model).values():
            parameter.add_(torch.randn_like(parameter) * _NOISE)
    logits_BTV = subject.logits(rows)
    trained = {name: p.detach().cpu() for name, p in _trained(subject.model).items()}
    saved = weights.saved(subject.model)
    size = sum(tensor.nbytes for tensors in saved.tensors.values() for tensor in tensors.values())
    with tempfile.TemporaryDirectory(prefix="codex-probe-") as folder:
        free = shutil.disk_usage(folder).free
        if free < size:
            return Probe(
                name, passed=None, detail=f"{size:,} bytes are needed for temporary files, {free:,} are free"
            )
        state = _through_files(saved, Path(folder))
        del saved
        subject.model = fresh_copy(subject.original, subject.device)
        try:
            weights.load(subject.model, state)
        except InputError as error:
            return Probe(name, passed=False, detail=f"what is saved cannot be loaded: {error.message}")
    back = _trained(subject.model)
    lost = {tensor for tensor, value in trained.items() if not _same_bits(back[tensor].cpu(), value)}
    if lost:
        detail = _fault(
            lost, "of the trained ones not in what is saved", "look at what the model's weights() gives"
        )
        return Probe(name, passed=False, detail=detail)
    again_BTV = subject.logits(rows)
    if not _same_bits(again_BTV, logits_BTV):
        share = float((again_BTV != logits_BTV).float().mean())
        return Probe(
            name,
            passed=False,
            detail=f"after saving and loading {share:.1%} of the logits differ, expected none, though all trained "
            "tensors came back: something else that training changes is not kept",
        )
    return Probe(
        name,
        passed=True,
        detail=f"{len(trained):,} trained tensors, saved ({size:,} bytes) and loaded into a fresh model, give the same "
        "bits in all logits",
    )


def _through_files(saved: weights.SavedModel, folder: Path) -> CheckpointState:
    """Write what is kept of a model to files, and read it from them."""
    tensors: dict[str, dict[str, Tensor]] = {}
    for number, (name, given) in enumerate(saved.tensors.items()):
        path = folder / f"{number}.safetensors"
        # Clones: the library refuses tensors that share memory or have gaps in it; the checkpointer does not.
        save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in given.items()}, path)
        tensors[name] = load_file(path)
        path.unlink()
    values: dict[str, Any] = json.loads(json.dumps(dict(saved.values)))
    return CheckpointState(tensors, values, dict(saved.files))


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm()) if tensors else 0.0


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN where NaN."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
