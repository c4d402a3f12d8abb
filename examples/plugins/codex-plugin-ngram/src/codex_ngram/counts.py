"""The table of the n-grams of one order: sorted keys, and a count for each.

One rule: a table is a function of what was counted, not of the order or the batches in which it was.

A key is the n-gram's tokens, `bits` bits each, the first token highest: so all continuations of a context lie together.
N n-grams asked for, M n-grams in the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import define, field

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where the counts of counts give none, as KenLM's `--discount_fallback`."""


@define(eq=False)
class Table:
    """The n-grams of one order with their adjusted counts."""

    bits: int
    keys_M: Any = field(factory=lambda: np.zeros(0, np.uint64))
    counts_M: Any = field(factory=lambda: np.zeros(0, np.int64))
    _sums: Any = field(init=False, default=None)

    def __len__(self) -> int:
        return len(self.keys_M)

    def add(self, keys_N: Any) -> Any:
        """Count each of the keys once for each time it is given; return those that were not there, sorted."""
        keys_U, times_U = np.unique(keys_N, return_counts=True)
        places_U = np.searchsorted(self.keys_M, keys_U)
        known_U = self._is_at(places_U, keys_U)
        self.counts_M[places_U[known_U]] += times_U[known_U]
        new_U = ~known_U
        if new_U.any():
            self.keys_M = np.insert(self.keys_M, places_U[new_U], keys_U[new_U])
            self.counts_M = np.insert(self.counts_M, places_U[new_U], times_U[new_U])
        self._sums = None
        return keys_U[new_U]

    def counts(self, keys_N: Any) -> Any:
        """Return the count of each n-gram, 0 where it was never seen."""
        places_N = np.searchsorted(self.keys_M, keys_N)
        counts_N = np.zeros(len(keys_N), np.int64)
        known_N = self._is_at(places_N, keys_N)
        counts_N[known_N] = self.counts_M[places_N[known_N]]
        return counts_N

    def spans(self, contexts_N: Any) -> tuple[Any, Any]:
        """Return where in the table the continuations of each context begin and end."""
        firsts_N = contexts_N << np.uint64(self.bits)
        lasts_N = firsts_N | np.uint64((1 << self.bits) - 1)
        return np.searchsorted(self.keys_M, firsts_N), np.searchsorted(self.keys_M, lasts_N, side="right")

    def totals(self, contexts_N: Any) -> tuple[Any, Any]:
        """Return of each context the sum of its counts, and how many continuations have count 1, 2, and 3 or more."""
        begins_N, ends_N = self.spans(contexts_N)
        if self._sums is None:
            self._sums = [
                np.concatenate([[0], np.cumsum(values_M, dtype=np.int64)])
                for values_M in (self.counts_M, self.counts_M == 1, self.counts_M == 2)  # noqa: PLR2004 - its own name
            ]
        total_N, ones_N, twos_N = (sums_M[ends_N] - sums_M[begins_N] for sums_M in self._sums)
        return total_N, np.stack([ones_N, twos_N, ends_N - begins_N - ones_N - twos_N], axis=-1)

    def discounts(self) -> Any:
        """Return what is taken from counts of 0, 1, 2, and 3 or more.

        The closed form of Chen and Goodman (1999), section 4.1: Y = n1 / (n1 + 2 n2), Dk = k - (k + 1) Y n(k+1) / nk.
        Where a count of counts is 0, or a discount would be none or too much, the fallback for all: so that every
        context leaves something for what was never seen after it.
        """
        n1, n2, n3, n4 = np.bincount(np.minimum(self.counts_M, 5), minlength=6)[1:5].tolist()
        found = FALLBACK
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            closed = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
            if all(0 < discount < k for k, discount in enumerate(closed, start=1)):
                found = closed
        return np.array([0.0, *found])

    def _is_at(self, places_N: Any, keys_N: Any) -> Any:
        if not len(self.keys_M):
            return np.zeros(len(keys_N), bool)
        return self.keys_M[np.minimum(places_N, len(self.keys_M) - 1)] == keys_N
