"""What can be said of a run before it: for `codex plan` and `codex plan --probe`.

One rule: it works on models of its own, and leaves no trace in the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from attrs import evolve

from codex_kernel import Batch, Estimate, Parts, Probe
from codex_ngram.model import NGrams
from codex_ngram.training import Length

if TYPE_CHECKING:
    from codex_ngram.plugin import NGramTrainer

BYTES_OF_AN_NGRAM = 16
MEASURED_STEPS = 3


def estimate(options: NGramTrainer, parts: Parts, model: NGrams, *, measure: bool) -> Estimate:
    """Bound the n-grams from above by the tokens that are counted; time a few steps with `measure`."""
    train, length = parts.data.train, Length.of(options, parts.data.train)
    tokens = round(length.samples / len(train) * train.target_tokens)
    once = min(tokens, train.target_tokens)  # a second pass brings no new n-gram
    ngrams = sum(min(once, model.vocab_size**order) for order in range(1, model.order + 1))
    size = ngrams * BYTES_OF_AN_NGRAM
    return Estimate(
        parameters=ngrams,
        trainable_parameters=ngrams,
        memory_bytes={"counts": size, "sums": ngrams * 24},
        steps=length.steps,
        tokens=tokens,
        checkpoint_bytes=size,
        seconds_per_step=_measured(parts, model, length) if measure else None,
        notes=["parameters are n-grams: no more than one of each order for each token, mostly far fewer"],
    )


def _measured(parts: Parts, model: NGrams, length: Length) -> float:
    fresh = NGrams(model.order, model.vocab_size)
    began = time.perf_counter()
    for step in range(MEASURED_STEPS):
        batch = parts.data.train.gather(parts.data.samples(step * length.batch, length.batch))
        fresh.losses(batch)
        fresh.count(batch)
    return (time.perf_counter() - began) / MEASURED_STEPS


def probe(options: NGramTrainer, parts: Parts, model: NGrams) -> Iterator[Probe]:
    """Yield what checks on the first batch have found."""
    size = parts.tokenizer.vocab_size
    yield Probe(
        "vocabulary", model.vocab_size == size, f"{model.vocab_size} tokens, the tokenizer has {size}"
    )
    batch = parts.data.train.gather(parts.data.samples(0, options.global_batch_size))
    fresh = NGrams(model.order, model.vocab_size)
    before = fresh.losses(batch).mean()
    fresh.count(batch)
    after = fresh.losses(batch).mean()
    yield Probe("step", bool(after < before), f"a step changes the loss from {before:.3f} to {after:.3f}")
    ids = batch.input_ids_BT[0, :3].tolist()
    sums = [math.fsum(fresh.distribution(ids[:count])) for count in range(len(ids) + 1)]
    off = max(abs(total - 1) for total in sums)
    yield Probe("probabilities", off < 1e-9, f"they add up to 1 but for {off:.1e}")  # noqa: PLR2004 - rounding
    passed = _is_isolated(fresh, batch)
    yield Probe("documents", passed, "a document's losses do not change with the tokens of another one")


def _is_isolated(model: NGrams, batch: Batch) -> bool | None:
    """Say whether a block's last document has the same losses when the others change; None: it has one only."""
    for row in range(len(batch.input_ids_BT)):
        documents_T = batch.document_ids_BT[row]
        last = documents_T.max()
        if last < 1:
            continue
        one = Batch(
            *(
                getattr(batch, name)[row : row + 1]
                for name in (
                    "input_ids_BT",
                    "targets_BT",
                    "position_ids_BT",
                    "document_ids_BT",
                    "sample_ids_B",
                )
            )
        )
        targets_BT = np.where(one.document_ids_BT == last, one.targets_BT, -100)
        changed_BT = np.where(one.document_ids_BT == last, one.input_ids_BT, 0)
        losses = model.losses(evolve(one, targets_BT=targets_BT))
        return bool(
            np.array_equal(losses, model.losses(evolve(one, targets_BT=targets_BT, input_ids_BT=changed_BT)))
        )
    return None
