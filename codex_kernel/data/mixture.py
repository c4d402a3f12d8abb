"""The endless order of the training samples of a mixture: sources in their shares, each in an order of its own.

One rule: no state. A position decides the source, and which one of that source's samples it is, by counting: a binary
tree shares the positions out, at each node one division with remainder. What a share is rounded by is at most half a
sample at each node, and is not lost: it decides the next rounding. Positions change places within windows of WINDOW
first, so that sources do not alternate in a fixed pattern.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from attrs import field, frozen

from codex_kernel.data import order
from codex_kernel.errors import InputError
from codex_kernel.interfaces import Mixing

WINDOW = 64
"""Positions that change places with one another."""

Spans = Mapping[str, tuple[int, int]]
"""Source → its first block and how many blocks it has."""

_CHUNK = 1 << 14  # positions worked on at once: they stay in the processor's cache
_MANY = 64  # sources
_LARGEST_TOTAL = 1 << 31  # of whole weights: products with a remainder stay below 2^63


@frozen
class Entry:
    """Weights as whole numbers, one a source, and the position from which on they hold."""

    start: int
    weights: tuple[int, ...]


@frozen(eq=False)
class MixedOrder:
    """The order of a mixture: what `order.samples` is for the blocks of one source.

    `names`, `spans` (first block, blocks) and the weights of each entry go together. Counted at a multiple of WINDOW
    from the start of an entry, the samples of each source are within one of their exact share where there are up to
    four sources and one entry, and within three for more of them.
    """

    names: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    entries: tuple[Entry, ...]
    seed: int
    _root: _Node = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_root", _planted(self.entries))

    @classmethod
    def of(cls, mixing: Mixing, spans: Spans, *, seq_len: int, seed: int) -> MixedOrder:
        """Make the order of these blocks; raise InputError where a weight is for a source without blocks."""
        names = tuple(spans)
        sizes = {name: blocks for name, (_, blocks) in spans.items()}
        told = [(0, mixing.weights or sizes), *mixing.schedule]
        for _, weights in told:
            _check(weights, sizes)
        by_start = {
            -(-from_tokens // seq_len): whole_weights([weights.get(name, 0) for name in names])
            for from_tokens, weights in told
        }
        entries = tuple(Entry(start, weights) for start, weights in by_start.items())
        return cls(names, tuple(spans.values()), entries, seed)

    def samples(self, start: int, count: int) -> Any:
        """Return the sample ids (int64, one per position) of the positions start … start + count - 1."""
        if start < 0 or count < 0:
            raise ValueError(f"expected start >= 0 and count >= 0, got {start=}, {count=}")
        ids = np.empty(count, np.int64)
        for number, low, high in self._pieces(start, start + count):
            ids[low - start : high - start] = self._piece(number, low, high)
        return ids

    def counts(self, position: int) -> dict[str, int]:
        """Return how many of the first `position` samples each source has, as if none had changed places."""
        number = max(i for i, entry in enumerate(self.entries) if entry.start <= position)
        found = dict(_counts(self._root, number, position))
        return {name: found[source] for source, name in enumerate(self.names)}

    def passes(self, entry: Entry) -> dict[str, float]:
        """Return how often each source is gone through under an entry while as many samples as all have are trained."""
        samples = sum(blocks for _, blocks in self.spans) / sum(entry.weights)
        rows = zip(self.names, entry.weights, self.spans, strict=True)
        return {name: weight * samples / blocks for name, weight, (_, blocks) in rows if blocks}

    def as_report(self) -> dict[str, Any]:
        """Return what decides this order, beside the seed, as a JSON object."""
        sources = {name: list(span) for name, span in zip(self.names, self.spans, strict=True)}
        entries = [{"from_sample": entry.start, "weights": list(entry.weights)} for entry in self.entries]
        return {"window": WINDOW, "sources": sources, "entries": entries}

    def _pieces(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        """Cut positions where an entry ends, where its last whole window ends, and into chunks."""
        ends = [entry.start for entry in self.entries[1:]]
        for number, entry in enumerate(self.entries):
            stops = [high]
            if number < len(ends):
                end = ends[number]
                stops = [end - (end - entry.start) % WINDOW, end]
            for stop in stops:
                while low < min(stop, high):
                    yield number, low, min(stop, high, low + _CHUNK)
                    low = min(stop, high, low + _CHUNK)

    def _piece(self, number: int, low: int, high: int) -> Any:
        places = self._shuffled(number, low, high)
        sources = np.empty(high - low, np.int64)
        ordinals = np.empty(high - low, np.int64)
        _descend(self._root, number, np.arange(high - low), places, sources, ordinals)
        ids = np.empty(high - low, np.int64)
        for source in np.unique(sources):
            (first, blocks), where = self.spans[source], np.flatnonzero(sources == source)
            seed = f"{self.seed}:{self.names[source]}"  # its own order, whatever stands beside it
            ids[where] = first + order.at(ordinals[where], n=blocks, seed=seed)
        return ids

    def _shuffled(self, number: int, low: int, high: int) -> Any:
        """Return the positions low … high - 1 of one entry after they have changed places within their windows."""
        start = self.entries[number].start
        here = np.arange(low - start, high - start, dtype=np.int64)
        if number + 1 < len(self.entries):
            length = self.entries[number + 1].start - start
            whole = length - length % WINDOW
            if low - start >= whole:  # the last window, which the next entry has cut short
                inside = order.at(here - whole, n=length - whole, seed=f"{self.seed}#{number}.")
                return start + whole + inside
        return start + here - here % WINDOW + order.at(here, n=WINDOW, seed=f"{self.seed}#{number}")


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Return whole numbers in the same ratio as decimal numbers: 0.7 and 0.3 give 7 and 3.

    Where that takes more than 31 bits they are rounded, and none that is above 0 becomes 0.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    common = math.gcd(*whole)
    whole = [weight // common for weight in whole]
    total = sum(whole)
    if total > _LARGEST_TOTAL:
        whole = [max(1, weight * _LARGEST_TOTAL // total) if weight else 0 for weight in whole]
    return tuple(whole)


def _check(weights: Mapping[str, float], sizes: Mapping[str, int]) -> None:
    for name, weight in weights.items():
        if weight and not sizes.get(name):
            raise InputError(
                f"source {name!r} of the mixture has a weight of {weight:g} and no block to train on",
                remedy="give it more documents, or the weight 0: they may all be duplicates, or kept for validation",
            )


# ── the tree ──────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class _Share:
    """How a node shares its samples out from the start of an entry on.

    Of its first `before + n` samples, `left_before + (n * left + carry) // total` go to the left.
    """

    before: int
    left_before: int
    left: int
    total: int
    carry: int

    def left_of(self, count: int) -> int:
        """Return how many of the node's first `count` samples go to the left."""
        return self.left_before + ((count - self.before) * self.left + self.carry) // self.total


@frozen(eq=False)
class _Node:
    """Two parts of the sources, each a node again or the number of a source, and the share of the left one by entry."""

    left: _Node | int
    right: _Node | int
    shares: tuple[_Share, ...]


def _planted(entries: Sequence[Entry]) -> _Node | int:
    """Return the tree over all sources: a source with a large share stands high up, so that it is rounded seldom."""
    sources = range(len(entries[0].weights))
    means = {
        source: math.fsum(entry.weights[source] / sum(entry.weights) for entry in entries)
        for source in sources
    }
    ranked = tuple(sorted(sources, key=lambda source: (-means[source], source)))
    exact = _Exact(entries)
    shape, _ = _Shapes(means, {}).best(ranked, top=True)
    return _grown(shape, exact, [entry.start for entry in entries], exact.of(ranked))


_Shape = int | tuple["_Shape", "_Shape"]


@frozen(eq=False)
class _Shapes:
    """The best way to divide sources that stand in the order of their shares.

    A source is off by at most half the sum, over the nodes that it lies under, of its share of the node: each rounds by
    a half, and hands that on. The worst source counts.
    """

    means: Mapping[int, float]
    known: dict[tuple[int, ...], tuple[_Shape, dict[int, float]]]

    def best(self, ranked: tuple[int, ...], *, top: bool = False) -> tuple[_Shape, dict[int, float]]:
        """Return the shape, and the sum for each source."""
        if len(ranked) == 1:
            return ranked[0], {ranked[0]: 1.0}
        if ranked not in self.known:
            weight = math.fsum(self.means[source] for source in ranked)
            total = math.inf if top or not weight else weight  # what has all samples, or none, does not round
            tried = [self._cut(ranked, place, total) for place in self._places(ranked)]
            self.known[ranked] = min(tried, key=lambda one: max(one[1].values()))
        return self.known[ranked]

    def _places(self, ranked: tuple[int, ...]) -> list[int]:
        """Return where to try a cut: half of the weight, half of the sources, the largest one by itself."""
        sums = np.cumsum([self.means[source] for source in ranked])
        half = int(np.abs(sums[:-1] - sums[-1] / 2).argmin()) + 1
        if len(ranked) > _MANY:  # no choice, and no lopsided cut, or the tree would be too deep
            return [min(max(half, len(ranked) // 4), 3 * len(ranked) // 4)]
        return sorted({half, (len(ranked) + 1) // 2, 1})

    def _cut(self, ranked: tuple[int, ...], place: int, total: float) -> tuple[_Shape, dict[int, float]]:
        (left, on_left), (right, on_right) = self.best(ranked[:place]), self.best(ranked[place:])
        sums = {source: old + self.means[source] / total for source, old in (on_left | on_right).items()}
        return (left, right), sums


@frozen(eq=False)
class _Exact:
    """The exact shares of groups of sources, as fractions."""

    entries: Sequence[Entry]

    def weights(self, sources: Sequence[int]) -> list[int]:
        """Return the weight of a group under each entry."""
        return [sum(entry.weights[source] for source in sources) for entry in self.entries]

    def of(self, sources: Sequence[int]) -> list[Fraction]:
        """Return how many samples a group is due before each entry."""
        due, found = Fraction(0), []
        for entry, after, weight in zip(
            self.entries, [*self.entries[1:], None], self.weights(sources), strict=True
        ):
            found.append(due)
            if after is not None:
                due += Fraction((after.start - entry.start) * weight, sum(entry.weights))
        return found


def _leaves(shape: _Shape) -> list[int]:
    return [shape] if isinstance(shape, int) else [leaf for part in shape for leaf in _leaves(part)]


def _grown(shape: _Shape, exact: _Exact, before: Sequence[int], due: Sequence[Fraction]) -> _Node | int:
    """Make the node of a shape that has had `before` samples before each entry and was due `due`."""
    if isinstance(shape, int):
        return shape
    left, right = shape
    weights, totals = exact.weights(_leaves(left)), exact.weights(_leaves(shape))
    due_left = exact.of(_leaves(left))
    shares: list[_Share] = []
    for number, (weight, total) in enumerate(zip(weights, totals, strict=True)):
        had = shares[-1].left_of(before[number]) if shares else 0
        surplus = had - due_left[number] - (before[number] - due[number]) * Fraction(weight, total or 1)
        shares.append(_share(before[number], had, weight, total, surplus))
    lefts = [share.left_before for share in shares]
    due_right = [all_due - one for all_due, one in zip(due, due_left, strict=True)]
    rights = [all_before - one for all_before, one in zip(before, lefts, strict=True)]
    return _Node(_grown(left, exact, lefts, due_left), _grown(right, exact, rights, due_right), tuple(shares))


def _share(before: int, had: int, weight: int, total: int, surplus: Fraction) -> _Share:
    """Round so that what the left part had too much of, or too little, is made up for."""
    if not total:
        return _Share(before, had, 0, 1, 0)  # nothing comes here under this entry
    carry = math.floor((Fraction(1, 2) - surplus) * total)
    return _Share(before, had, weight, total, min(max(carry, 0), total - 1))


def _counts(node: _Node | int, number: int, count: int) -> Iterator[tuple[int, int]]:
    if isinstance(node, int):
        yield node, count
        return
    left = node.shares[number].left_of(count)
    yield from _counts(node.left, number, left)
    yield from _counts(node.right, number, count - left)


def _descend(  # noqa: PLR0913 - two of them are the answer
    node: _Node | int, number: int, where: Any, places: Any, sources: Any, ordinals: Any
) -> None:
    """Put the source of each place of a node, and its number among that source's samples, where they belong."""
    if isinstance(node, int):
        sources[where] = node
        ordinals[where] = places
        return
    share = node.shares[number]
    whole, rest = np.divmod(places - share.before, share.total)
    quotients, remainders = np.divmod(rest * share.left + share.carry, share.total)
    lefts = share.left_before + whole * share.left + quotients
    goes_left = remainders + share.left >= share.total
    for child, here, inside in (
        (node.left, goes_left, lefts),
        (node.right, ~goes_left, places - lefts),
    ):
        if here.any():
            _descend(child, number, where[here], inside[here], sources, ordinals)
