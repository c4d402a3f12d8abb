"""Probes of the model: on real blocks, what it computes for a token depends on what it may see and on nothing else.

One rule: a probe works on a `Subject`, a copy of the model that it may change; two results are compared by a number,
and the number stands beside its limit.
Shapes: B blocks, T tokens, V vocabulary, N tokens of a piece.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from codex_kernel import IGNORE_INDEX, Batch, Model, Probe
from codex_torch import rng
from codex_torch.loss import loss_sum

TOLERANCE = 1e-4
"""Of the largest logit: sums in another order differ by about 1e-6 in fp32."""
HALF_TOLERANCE = 3e-2
"""The same where the model gives its logits in bf16 or fp16, whatever its weights are in."""
HIGH_LOSS = 1.5
"""A loss above this many times ln V is worse than knowing nothing."""
_PIECES = 8
_HALF = (torch.float16, torch.bfloat16)
_DOCUMENT_TOKENS = 2
"""A document of one token has neither a past nor a future."""


@frozen(eq=False)
class Rows:
    """Some blocks on the model's device, as in `codex_kernel.Batch`."""

    input_ids_BT: Tensor
    targets_BT: Tensor
    position_ids_BT: Tensor
    document_ids_BT: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device, tokens: int) -> Rows:
        """Take the first tokens of each block; those with the most targets come first."""
        arrays = (batch.input_ids_BT, batch.targets_BT, batch.position_ids_BT, batch.document_ids_BT)
        tensors = [torch.from_numpy(array)[:, :tokens] for array in arrays]
        order_B = (tensors[1] != IGNORE_INDEX).sum(dim=1).argsort(descending=True, stable=True)
        return cls(*(tensor[order_B].to(device) for tensor in tensors))

    def __len__(self) -> int:
        return len(self.input_ids_BT)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a model is called with."""
        return self.input_ids_BT, self.position_ids_BT, self.document_ids_BT

    @property
    def with_targets(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the loss is taken of."""
        return self.input_ids_BT, self.targets_BT, self.position_ids_BT, self.document_ids_BT

    @property
    def targets(self) -> int:
        """Targets of all rows."""
        return int((self.targets_BT != IGNORE_INDEX).sum())

    def first(self, count: int) -> Rows:
        """Return that many rows."""
        return Rows(*(tensor[:count] for tensor in self.with_targets))

    def row(self, number: int) -> Rows:
        """Return one row without its padding."""
        real_T = self.document_ids_BT[number] >= 0
        return Rows(*(tensor[number : number + 1, real_T] for tensor in self.with_targets))

    def split(self, size: int) -> list[Rows]:
        """Return the rows, so many at a time."""
        parts = zip(*(torch.split(tensor, size) for tensor in self.with_targets), strict=True)
        return [Rows(*part) for part in parts]


@define(eq=False)
class Subject:
    """What is probed: a copy of the model in fp32 on the run's device, which probes may change, and real blocks.

    `original` is the run's model, which nothing here touches. `blocks_at_once` are the blocks of a micro-batch,
    `step_of` those of an optimizer step, `lr` and `seed` the run's own. `vocabulary` is the number of token ids that
    the model has a row for.
    """

    original: nn.Module
    device: torch.device
    rows: Rows
    seed: int
    lr: float
    blocks_at_once: int
    step_of: int
    model: nn.Module = field(init=False)
    vocabulary: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.model = fresh_copy(self.original, self.device)
        self.vocabulary = _vocabulary(self)

    def logits(self, rows: Rows, seed: int | None = None) -> Tensor:
        """Return `logits_BTV` as an evaluation computes them, from generators with this seed; None: the run's."""
        rng.seed_all(self.seed if seed is None else seed)
        self.model.eval()
        with torch.no_grad():
            logits_BTV: Tensor = cast("Model", self.model)(*rows.inputs)
        return logits_BTV


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference as a share of the largest value; infinite where one is not finite."""
    if one.numel() == 0:
        return 0.0
    one, other = one.double(), other.double()
    found = (one - other).abs().max() / other.abs().max().clamp_min(1e-12)
    return float(found) if math.isfinite(float(found)) else math.inf


def tolerance(logits: Tensor) -> float:
    """Return how far two logits may differ that are equal but for the order of sums."""
    return HALF_TOLERANCE if logits.dtype in _HALF else TOLERANCE


def fresh_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of the model on the device, without gradients, bf16 and fp16 lifted to fp32.

    The probes compare in fp32, where rounding does not hide a fault.
    """
    copied = copy.deepcopy(model).to(device)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.grad = None
        if tensor.dtype in _HALF:
            tensor.data = tensor.data.float()
    return copied


def _vocabulary(subject: Subject) -> int:
    """Return how many token ids the model has a row for: in its logits, and in the embedding that reads the ids."""
    ids_BT = torch.tensor([[1, 0, 1, 1]], device=subject.device)
    positions_BT = torch.arange(4, device=subject.device)[None]
    rows: list[int] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Embedding) and inputs and torch.equal(inputs[0].reshape(-1), ids_BT[0]):
            rows.append(module.num_embeddings)

    embeddings = [module for module in subject.model.modules() if isinstance(module, nn.Embedding)]
    handles = [module.register_forward_pre_hook(look) for module in embeddings]
    try:
        logits_BTV = subject.logits(Rows(ids_BT, ids_BT, positions_BT, torch.zeros_like(ids_BT)))
    finally:
        for handle in handles:
            handle.remove()
    return min([logits_BTV.shape[-1], *rows])


# ── the loss, and evaluation ──────────────────────────────────────────────────────────────────────────────────────


def loss(subject: Subject) -> Probe:
    """The loss before the first step is finite; a model that knows nothing has about ln V."""
    name, rows = "loss", subject.rows.first(subject.blocks_at_once)
    if rows.targets == 0:
        return Probe(name, passed=None, detail="no target in the first tokens of the first blocks")
    rng.seed_all(subject.seed)
    subject.model.eval()
    with torch.no_grad():
        nats = float(loss_sum(subject.model, *rows.with_targets)) / rows.targets
    nothing = math.log(subject.vocabulary)
    found = f"{nats:.2f} nats per token before the first step; ln V, knowing nothing, is {nothing:.2f}"
    if not math.isfinite(nats):
        return Probe(name, passed=False, detail=f"{found}; look at the weights that the model section loads")
    if nats > HIGH_LOSS * nothing:
        found += (
            f"; note: above {HIGH_LOSS} · ln V the tokenizer may not be the model's, or its weights too large"
        )
    return Probe(name, passed=True, detail=found)


def evaluation(subject: Subject) -> Probe:
    """Two evaluations of the same blocks give the same bits, whatever the generators hold."""
    name, rows = "evaluation", subject.rows.first(2)
    one, two = (subject.logits(rows, seed) for seed in (subject.seed, subject.seed + 1))
    same = (one == two) | (one.isnan() & two.isnan())
    if bool(same.all()):
        return Probe(
            name,
            passed=True,
            detail=f"two evaluations of {len(rows)} blocks give the same bits; dropout is off",
        )
    share = 1 - float(same.float().mean())
    return Probe(
        name,
        passed=False,
        detail=f"two evaluations of the same {len(rows)} blocks differ in {share:.1%} of the logits, expected none: "
        "the model (sections model, adapters) draws at random where its mode is evaluation",
    )


# ── what a token may see ──────────────────────────────────────────────────────────────────────────────────────────


def causality(subject: Subject) -> Probe:
    """Changing tokens leaves all logits before them as they were."""
    name = "causality"
    row, pieces = _row_with(subject.rows, most_documents=False)
    start, end = max(pieces, key=lambda piece: piece[1] - piece[0])
    if end - start < _DOCUMENT_TOKENS:
        return Probe(name, passed=None, detail="no document has two tokens in the first blocks")
    at = (start + end) // 2
    ids_BT = row.input_ids_BT.clone()
    ids_BT[:, at:] = (ids_BT[:, at:] + 1) % subject.vocabulary
    changed = Rows(ids_BT, row.targets_BT, row.position_ids_BT, row.document_ids_BT)
    before, after = subject.logits(row), subject.logits(changed)
    return _compared(
        name,
        difference(after[:, :at], before[:, :at]),
        tolerance(before),
        good=f"changing the tokens from place {at} on leaves the logits before it",
        bad=f"changing the tokens from place {at} on changes the logits before it: a token sees later ones",
    )


def packing(subject: Subject) -> Probe:
    """A document in a packed block gets the logits that it gets alone."""
    name = "packing"
    row, pieces = _row_with(subject.rows, most_documents=True)
    found = f"{len(pieces)} documents of a packed block"
    if len(pieces) < 2:  # noqa: PLR2004 - two make a packed block
        if row.input_ids_BT.shape[1] < 2 * _DOCUMENT_TOKENS:
            return Probe(name, passed=None, detail="blocks are too short to hold two documents")
        row, pieces = _halves(row)
        found = "two halves of a block, as documents of their own,"
    packed = subject.logits(row)
    worst = 0.0
    for start, end in pieces[-_PIECES:]:
        ids_BN = row.input_ids_BT[:, start:end]
        alone = subject.logits(_one_document(ids_BN))
        worst = max(worst, difference(packed[:, start:end], alone))
    return _compared(
        name,
        worst,
        tolerance(packed),
        good=f"{found} get the logits that each gets alone",
        bad=f"{found} get other logits than each gets alone: attention or positions cross from one to the next",
    )


def padding(subject: Subject) -> Probe:
    """Padding after the tokens, whatever it holds, leaves their logits as they are without it."""
    name = "padding"
    row, _ = _row_with(subject.rows, most_documents=False)
    tokens = row.input_ids_BT.shape[1]
    real = tokens - tokens // 3  # the whole stays as long as a block may be
    if real == tokens:
        return Probe(name, passed=None, detail="blocks are too short to be padded")
    alone = Rows(*(tensor[:, :real] for tensor in row.with_targets))
    paddings = (0, subject.vocabulary - 1)
    ids_BT = row.input_ids_BT.repeat(len(paddings), 1)
    for number, token in enumerate(paddings):
        ids_BT[number, real:] = token
    positions_BT, documents_BT = (
        torch.cat([tensor[:, :real], tensor.new_full((1, tokens - real), filler)], dim=1).repeat(
            len(paddings), 1
        )
        for tensor, filler in ((row.position_ids_BT, 0), (row.document_ids_BT, -1))
    )
    without = subject.logits(alone)
    padded = subject.logits(Rows(ids_BT, ids_BT, positions_BT, documents_BT))[:, :real]
    return _compared(
        name,
        max(difference(one[None], without) for one in padded),
        tolerance(without),
        good=f"{real} tokens get the same logits with {tokens - real} of padding after them",
        bad=f"{real} tokens get other logits with {tokens - real} of padding after them: padding is seen",
    )


def _compared(name: str, found: float, limit: float, *, good: str, bad: str) -> Probe:
    """Say what was found beside what is allowed."""
    measured = f"they differ by {found:.1e} of the largest, at most {limit:.0e} is allowed"
    if found <= limit:
        return Probe(name, passed=True, detail=f"{good} ({measured})")
    return Probe(
        name, passed=False, detail=f"{bad} ({measured}); the sections model and adapters decide that"
    )


# ── rows to try it on ─────────────────────────────────────────────────────────────────────────────────────────────


def _row_with(rows: Rows, *, most_documents: bool) -> tuple[Rows, list[tuple[int, int]]]:
    """Return a row without padding, and where its documents begin and end: that with the most of them, or the longest.

    Raises nothing for rows that are all padding: such a row has one empty piece.
    """
    candidates = [(row, _pieces(row)) for row in (rows.row(number) for number in range(len(rows)))]
    if most_documents:
        return max(candidates, key=lambda candidate: len(candidate[1]))
    return max(candidates, key=lambda candidate: candidate[0].input_ids_BT.shape[1])


def _pieces(row: Rows) -> list[tuple[int, int]]:
    """Return (start, end) of each document of a row without padding."""
    documents_N = row.document_ids_BT[0]
    bounds = ((documents_N[1:] != documents_N[:-1]).nonzero()[:, 0] + 1).tolist()
    return list(zip([0, *bounds], [*bounds, len(documents_N)], strict=True))


def _one_document(ids_BN: Tensor) -> Rows:
    positions_BN = torch.arange(ids_BN.shape[1], device=ids_BN.device)[None]
    return Rows(ids_BN, ids_BN, positions_BN, torch.zeros_like(ids_BN))


def _halves(row: Rows) -> tuple[Rows, list[tuple[int, int]]]:
    """Return the row as a block of two documents."""
    tokens = row.input_ids_BT.shape[1]
    middle = tokens // 2
    places_N = torch.arange(tokens, device=row.input_ids_BT.device)
    second_N = places_N >= middle
    halves = Rows(
        row.input_ids_BT,
        row.targets_BT,
        torch.where(second_N, places_N - middle, places_N)[None],
        second_N.long()[None],
    )
    return halves, [(0, middle), (middle, tokens)]
