"""Probes of the training blocks alone: targets, the end-of-text token, and the range of the token ids.

One rule: the blocks are those that the run trains on, in its order; what was not looked at is said.
Shapes: B blocks of a batch, T tokens of a block, N blocks that were looked at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen

from codex_kernel import IGNORE_INDEX, Batch, Data, Probe, Tokenizer

SCAN_SECONDS = 2.0
"""Reading stops after this time; 100 million tokens take about as long on one core."""
EMPTY_SHARE = 0.1
"""More blocks than this without a target are a fault of the data, not the odd long prompt."""
_CHUNK_TOKENS = 1 << 18
_SHOWN = 8

clock = time.monotonic


@frozen(eq=False)
class Scan:
    """What the first blocks of the training order hold.

    `blocks` of `of` blocks were read. `closed_ends` are documents that end within a block with the end-of-text token,
    `trained_ends` those of them for which it is a target, `open_ends` those that end without it. `step_of` is the
    number of blocks of an optimizer step. Ids are of inputs and targets; the lowest and the highest of them.
    """

    blocks: int
    of: int
    sample_ids_N: Any
    has_target_N: Any
    step_of: int
    closed_ends: int
    trained_ends: int
    open_ends: int
    lowest_id: int
    highest_id: int
    highest_sample: int
    packed_sample: int
    """The block with the most documents."""

    @property
    def looked_at(self) -> str:
        """How much was read, in words."""
        return (
            f"all {self.of:,} blocks" if self.blocks == self.of else f"{self.blocks:,} of {self.of:,} blocks"
        )


def scan(data: Data, blocks: int, step_of: int, eos_id: int, seconds: float = SCAN_SECONDS) -> Scan:
    """Read the first `blocks` blocks of the training order (at least one), or as many as there is time for."""
    chunk = max(1, _CHUNK_TOKENS // data.train.seq_len)
    stop_at = clock() + seconds
    samples, has_target, ends = [], [], np.zeros(3, np.int64)
    read, lowest, highest, highest_sample = 0, 0, -1, -1
    most_documents, packed_sample = -1, -1
    while read < blocks and (read == 0 or clock() < stop_at):
        batch = data.train.gather(data.samples(read, min(chunk, blocks - read)))
        samples.append(np.asarray(batch.sample_ids_B))
        has_target.append((batch.targets_BT != IGNORE_INDEX).any(axis=1))
        ends += _ends(batch, eos_id)
        ids_BT = np.maximum(batch.input_ids_BT, batch.targets_BT)  # IGNORE_INDEX is below every id
        top_B = ids_BT.max(axis=1)
        if top_B.max() > highest:
            highest, highest_sample = int(top_B.max()), int(batch.sample_ids_B[top_B.argmax()])
        last_B = batch.document_ids_BT.max(axis=1)
        if last_B.max() > most_documents:
            most_documents, packed_sample = int(last_B.max()), int(batch.sample_ids_B[last_B.argmax()])
        lowest = min(lowest, int(batch.input_ids_BT.min()))
        read += len(batch.sample_ids_B)
    closed, trained, open_ = (int(count) for count in ends)
    return Scan(
        blocks=read,
        of=blocks,
        sample_ids_N=np.concatenate(samples),
        has_target_N=np.concatenate(has_target),
        step_of=step_of,
        closed_ends=closed,
        trained_ends=trained,
        open_ends=open_,
        lowest_id=lowest,
        highest_id=highest,
        highest_sample=highest_sample,
        packed_sample=packed_sample,
    )


def _ends(batch: Batch, eos_id: int) -> Any:
    """Count the documents that end in a block: with the token, with it as a target, and without it.

    A document that reaches the last place of a block may go on in the next one, unless the token stands there.
    """
    documents_BT, is_eos_BT = batch.document_ids_BT, batch.input_ids_BT == eos_id
    last_BT = is_eos_BT.copy()
    last_BT[:, :-1] = documents_BT[:, :-1] != documents_BT[:, 1:]
    # Where the token alone of a document stands in this block, its target was in the block before.
    last_BT[:, 1:] &= documents_BT[:, 1:] == documents_BT[:, :-1]
    last_BT[:, 0] = False
    last_BT &= documents_BT >= 0
    closed_BT = last_BT & is_eos_BT
    trained_BT = closed_BT[:, 1:] & (batch.targets_BT[:, :-1] == eos_id)
    return np.array([closed_BT.sum(), trained_BT.sum(), (last_BT & ~is_eos_BT).sum()])


# ── what it means ─────────────────────────────────────────────────────────────────────────────────────────────────


def targets(scan: Scan) -> Probe:
    """Each block has a target, and each optimizer step at least one."""
    name = "targets"
    empty = scan.sample_ids_N[~scan.has_target_N]
    if not len(empty):
        return Probe(name, passed=True, detail=f"each block has a target ({scan.looked_at} read)")
    steps = (
        scan.blocks // scan.step_of
    )  # blocks after the last whole step belong to one that was not read to its end
    filled = scan.has_target_N[: steps * scan.step_of].reshape(steps, scan.step_of).any(axis=1)
    share = len(empty) / scan.blocks
    found = f"{len(empty):,} of {scan.blocks:,} blocks ({share:.1%}) train nothing: samples {_listed(empty)}"
    mend = "raise data.seq_len, or shorten the prompts that the dataset gives"
    if not filled.all():
        first = int((~filled).argmax()) + 1
        return Probe(
            name,
            passed=False,
            detail=f"optimizer step {first} has no target, and the run would end there; {found}; {mend}, or raise "
            "trainer.global_batch_size",
        )
    if share > EMPTY_SHARE:
        return Probe(name, passed=False, detail=f"{found}; at most {EMPTY_SHARE:.0%} are expected; {mend}")
    return Probe(name, passed=True, detail=f"{found}; each optimizer step has a target")


def end_of_text(scan: Scan, eos_id: int) -> Probe:
    """The token that ends a document is trained, or the model will never stop."""
    name = "end-of-text"
    mend = (
        "the dataset and the tokenizer decide that: the token is put after a document and must not be masked"
    )
    if scan.trained_ends < scan.closed_ends:
        return Probe(
            name,
            passed=False,
            detail=f"the end-of-text token {eos_id} is a target at {scan.trained_ends:,} of {scan.closed_ends:,} ends "
            f"of documents, expected at all; {mend}",
        )
    if scan.closed_ends == 0 and scan.open_ends:
        return Probe(
            name,
            passed=False,
            detail=f"{scan.open_ends:,} documents end without the end-of-text token {eos_id}; {mend}",
        )
    if scan.closed_ends == 0:
        return Probe(name, passed=None, detail=f"no document ends in a block ({scan.looked_at} read)")
    without = f"; {scan.open_ends:,} more end without it" if scan.open_ends else ""
    return Probe(
        name,
        passed=True,
        detail=f"the end-of-text token {eos_id} is a target at all {scan.closed_ends:,} ends of documents "
        f"({scan.looked_at} read){without}",
    )


def vocabulary(scan: Scan, tokenizer: Tokenizer, rows: int) -> Probe:
    """The model has a row for each id: of the blocks, and of the tokenizer, which may give it to a text to come."""
    name = "vocabulary"
    mend = "take the tokenizer of the model, or set the model's vocabulary size to the tokenizer's"
    ids = f"the highest token id is {scan.highest_id:,} ({scan.looked_at} read)"
    if scan.lowest_id < 0:
        return Probe(
            name, passed=False, detail=f"there is a token id {scan.lowest_id}, expected 0 or more; {mend}"
        )
    if scan.highest_id >= rows:
        return Probe(
            name,
            passed=False,
            detail=f"{ids}, in sample {scan.highest_sample}, but the model has {rows:,} rows; {mend}",
        )
    if max(tokenizer.vocab_size, tokenizer.eos_id + 1) > rows:
        return Probe(
            name,
            passed=False,
            detail=f"the tokenizer has {tokenizer.vocab_size:,} ids and ends a text with {tokenizer.eos_id}, but the "
            f"model has {rows:,} rows; {mend}",
        )
    if scan.highest_id >= tokenizer.vocab_size:
        return Probe(
            name,
            passed=False,
            detail=f"{ids}, in sample {scan.highest_sample}, but the tokenizer has {tokenizer.vocab_size:,} ids; "
            "the data was encoded by another one",
        )
    return Probe(
        name,
        passed=True,
        detail=f"{ids}, the tokenizer has {tokenizer.vocab_size:,} ids, the model {rows:,} rows",
    )


def _listed(ids: Sequence[int]) -> str:
    shown = ", ".join(str(int(number)) for number in ids[:_SHOWN])
    return shown if len(ids) <= _SHOWN else f"{shown} …"
