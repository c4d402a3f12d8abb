"""Checks on the run's own model and data before the run, each of a fault that would train wrongly in silence.

One rule: a check works on a copy and leaves no trace; it says what it measured, beside what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from attrs import frozen
from torch import nn

from codex_kernel import Parts, PluginError, Probe, RunContext
from codex_torch import hardware, probe_data, probe_model, probe_training
from codex_torch.estimate import undisturbed_torch
from codex_torch.hardware import Hardware
from codex_torch.probe_model import Rows, Subject
from codex_torch.silence import Silence

if TYPE_CHECKING:
    from codex_torch.plugin import TorchTrainer

MOST_BLOCKS = 16
MOST_TOKENS = 512
"""Longer blocks are cut: what crosses from token to token does so in short blocks too, in a fraction of the time."""


@frozen
class Check:
    """A check of the model, and the probes that must not have failed for its result to mean anything."""

    name: str
    run: Callable[[Subject], Probe]
    needs: frozenset[str]


_READS = frozenset({"vocabulary", "loss"})
_COMPARES = _READS | {"evaluation"}
CHECKS = (
    Check("loss", probe_model.loss, frozenset({"vocabulary"})),
    Check("evaluation", probe_model.evaluation, _READS),
    Check("causality", probe_model.causality, _COMPARES),
    Check("packing", probe_model.packing, _COMPARES),
    Check("padding", probe_model.padding, _COMPARES),
    Check("accumulation", probe_training.accumulation, _COMPARES),
    Check("gradients", probe_training.gradients, _READS),
    Check("checkpoint", probe_training.checkpoint, _READS),
)


def probe(options: TorchTrainer, run: RunContext, parts: Parts) -> Iterator[Probe]:
    """Check the data, then what the model computes, then how it trains; see `codex_kernel.Probes`.

    Raises PluginError where the model is none that this trainer could train.
    """
    _require_trainable(parts.model)
    tokenizer, train = parts.tokenizer, parts.data.train
    samples = options.length(train).samples
    blocks = len(train) if samples is None else min(len(train), samples)
    scan = probe_data.scan(parts.data, blocks, options.global_batch_size, tokenizer.eos_id)
    yield probe_data.targets(scan)
    yield probe_data.end_of_text(scan, tokenizer.eos_id)

    with undisturbed_torch():
        where = hardware.choose(options.device, "fp32", options.threads, options.determinism, Silence())
    with _as_in_the_run(where, options):
        subject = _subject(options, run, parts, where, scan.packed_sample)
        found = probe_data.vocabulary(scan, tokenizer, subject.vocabulary)
    yield found
    failed = {found.name} if found.passed is False else set()
    for check in CHECKS:
        if blocking := sorted(check.needs & failed):
            yield Probe(check.name, passed=None, detail=f"not run, since {blocking[0]} failed")
            continue
        with _as_in_the_run(where, options):
            found = check.run(subject)
        yield found
        if found.passed is False:
            failed.add(found.name)


def _require_trainable(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise PluginError(f"the trainer torch needs a torch.nn.Module, got a {type(model).__name__}")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise PluginError("a model without its weights cannot be probed")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise PluginError(
            "the model has no parameter that requires a gradient", remedy="see model and adapters"
        )


def _subject(options: TorchTrainer, run: RunContext, parts: Parts, where: Hardware, packed: int) -> Subject:
    """Put a copy of the model beside the first blocks that the run trains on; `packed` is a block to have with them."""
    batch = parts.data.train.gather(np.array([packed, *parts.data.samples(0, MOST_BLOCKS)], dtype=np.int64))
    return Subject(
        original=cast("nn.Module", parts.model),
        device=where.device,
        rows=Rows.of(batch, where.device, MOST_TOKENS),
        seed=run.seed,
        lr=options.lr,
        blocks_at_once=options.blocks_at_once,
        step_of=options.global_batch_size,
    )


@contextmanager
def _as_in_the_run(where: Hardware, options: TorchTrainer) -> Iterator[None]:
    """Compute with the run's threads and determinism; leave them, and the generators, as they were.

    For each check by itself: between two of them the caller is at work.
    """
    with undisturbed_torch(), where.deterministic_algorithms():
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        try:
            yield
        except RuntimeError as error:
            if known := hardware.explain(error):
                raise known from error
            raise
