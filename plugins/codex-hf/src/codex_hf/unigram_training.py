"""Training of a unigram vocabulary: candidates are estimated by EM and pruned by what their loss would cost.

One rule: the same words give the same bytes: everything is summed in one order, by one thread.

After Kudo, "Subword Regularization" (arXiv:1804.10959), section 3.2. Shapes: W words, E edges (a candidate that matches
at a place of a word), C candidates, L the longest word in bytes plus one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import frozen

from codex_kernel import Reporter

_MOST_WORDS = 1_000_000
_KEPT_SHARE = 0.75
_ESTIMATES = 2
_LEAST_COUNT = 0.5
# A token of n bytes has a probability of about e^-(2n): scaled by this, products neither vanish nor overflow.
_SCALE_PER_BYTE = 7.0


def prune(
    words: Mapping[str, int], candidates: Sequence[str], required: Sequence[str], size: int, report: Reporter
) -> list[tuple[str, float]]:
    """Return `size` tokens, or as many as there are, with the logarithms of their probabilities, likeliest first.

    words: pieces of the corpus in the byte alphabet, and how often each occurs; of more than a million the most
        frequent are used. required: the bytes, which are never pruned; `candidates` holds them too.
    """
    counted = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_WORDS]
    tokens = np.array(candidates, object)
    must = np.isin(tokens, np.array(required, object))
    lattice = Lattice.of([word for word, _ in counted], candidates)
    itself = Lattice.of(candidates, candidates).without_whole_words()
    counts_W = np.array([count for _, count in counted], np.float64)
    lengths_C = np.array([len(token) for token in candidates])
    alive_C = np.ones(len(tokens), bool)
    probabilities_C = lattice.matches(counts_W, len(tokens)) * lengths_C
    before = len(tokens)
    while True:
        for _ in range(_ESTIMATES):
            probabilities_C = _normalised(probabilities_C, alive_C, must)
            expected_C = lattice.expected_counts(probabilities_C, counts_W)
            alive_C = must | (alive_C & (expected_C >= _LEAST_COUNT))
            probabilities_C = expected_C
        probabilities_C = _normalised(probabilities_C, alive_C, must)
        left = int(alive_C.sum())
        report.activity("prune vocabulary", before - left, before - min(size, left), "tokens")
        if left <= size:
            break
        best_C = itself.best_scores(probabilities_C)
        loss_C = np.full(len(tokens), -np.inf)
        loss_C[alive_C] = expected_C[alive_C] * (_log(probabilities_C[alive_C]) - best_C[alive_C])
        loss_C[must] = np.inf
        kept = np.lexsort((np.arange(len(tokens)), -loss_C))[: max(size, int(left * _KEPT_SHARE))]
        alive_C = np.zeros(len(tokens), bool)
        alive_C[kept] = True
    scores = np.round(_log(probabilities_C[alive_C]), 6).tolist()
    return sorted(zip(tokens[alive_C].tolist(), scores, strict=True), key=lambda pair: (-pair[1], pair[0]))


def _normalised(counts_C: Any, alive_C: Any, must_C: Any) -> Any:
    """Return probabilities; the dead have none, and a byte that never occurs has a little."""
    counts_C = np.where(alive_C, counts_C, 0.0)
    counts_C = np.where(must_C, np.maximum(counts_C, _LEAST_COUNT), counts_C)
    return counts_C / counts_C.sum()


def _log(probabilities: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


@frozen(eq=False)
class Lattice:
    """All ways to write words with candidates: edges in the order of their ends, and where each end begins.

    `bounds[p]:bounds[p + 1]` are the edges that end at byte p. `word_E`, `start_E`, `end_E` and `token_E` are int32.
    """

    word_E: Any
    start_E: Any
    end_E: Any
    token_E: Any
    bounds: Any
    lengths_W: Any

    @classmethod
    def of(cls, words: Sequence[str], candidates: Sequence[str]) -> Lattice:
        """Find every candidate in every word."""
        number_of = {token: number for number, token in enumerate(candidates)}
        longest = max(map(len, candidates))
        found: list[int] = []
        for number, word in enumerate(words):
            size = len(word)
            for start in range(size):
                for end in range(start + 1, min(start + longest, size) + 1):
                    token = number_of.get(word[start:end])
                    if token is not None:
                        found += (number, start, end, token)
        edges = np.array(found, np.int32).reshape(-1, 4)
        return cls._sorted(edges, np.array([len(word) for word in words]))

    @classmethod
    def _sorted(cls, edges: Any, lengths_W: Any) -> Lattice:
        edges = edges[np.argsort(edges[:, 2], kind="stable")]
        bounds = np.searchsorted(edges[:, 2], np.arange(int(lengths_W.max()) + 2))
        word_E, start_E, end_E, token_E = (np.ascontiguousarray(edges[:, column]) for column in range(4))
        return cls(word_E, start_E, end_E, token_E, bounds, lengths_W)

    def without_whole_words(self) -> Lattice:
        """Return the lattice without the edges that are a whole word."""
        whole_E = (self.start_E == 0) & (self.end_E == self.lengths_W[self.word_E])
        whole_E &= self.lengths_W[self.word_E] > 1
        edges = np.stack([self.word_E, self.start_E, self.end_E, self.token_E], 1)[~whole_E]
        return self._sorted(edges, self.lengths_W)

    def matches(self, counts_W: Any, candidates: int) -> Any:
        """Return how often each candidate matches anywhere, overlaps included."""
        return np.bincount(self.token_E, weights=counts_W[self.word_E], minlength=candidates)

    def expected_counts(self, probabilities_C: Any, counts_W: Any) -> Any:
        """Return how often each candidate is used, expected over all ways to write each word."""
        size = self.end_E - self.start_E
        weights_E = probabilities_C[self.token_E] * _SCALE_PER_BYTE**size
        forward, backward = self._forward(weights_E), self._backward(weights_E)
        total_W = forward[np.arange(len(counts_W)), self.lengths_W]
        share_W = np.divide(counts_W, total_W, out=np.zeros_like(total_W), where=total_W > 0)
        used_E = forward[self.word_E, self.start_E] * weights_E * backward[self.word_E, self.end_E]
        return np.bincount(
            self.token_E, weights=used_E * share_W[self.word_E], minlength=len(probabilities_C)
        )

    def best_scores(self, probabilities_C: Any) -> Any:
        """Return the logarithm of the probability of the likeliest way to write each word."""
        scores_E = _log(probabilities_C)[self.token_E]
        best_WL = np.full((len(self.lengths_W), len(self.bounds)), -np.inf)
        best_WL[:, 0] = 0.0
        for edges in self._by_end():
            word = self.word_E[edges]
            np.maximum.at(
                best_WL, (word, self.end_E[edges]), best_WL[word, self.start_E[edges]] + scores_E[edges]
            )
        return best_WL[np.arange(len(self.lengths_W)), self.lengths_W]

    def _forward(self, weights_E: Any) -> Any:
        """Return the summed weight of all ways to write the first bytes of each word, (W, L)."""
        sums_WL = np.zeros((len(self.lengths_W), len(self.bounds)))
        sums_WL[:, 0] = 1.0
        for edges in self._by_end():
            word = self.word_E[edges]
            weights = sums_WL[word, self.start_E[edges]] * weights_E[edges]
            end = int(self.end_E[edges.start])
            sums_WL[:, end] = np.bincount(word, weights=weights, minlength=len(sums_WL))
        return sums_WL

    def _backward(self, weights_E: Any) -> Any:
        """Return the summed weight of all ways to write what follows the first bytes of each word, (W, L)."""
        sums_WL = np.zeros((len(self.lengths_W), len(self.bounds)))
        sums_WL[np.arange(len(self.lengths_W)), self.lengths_W] = 1.0
        for edges in reversed(list(self._by_end())):
            word = self.word_E[edges]
            weights = sums_WL[word, self.end_E[edges]] * weights_E[edges]
            np.add.at(sums_WL, (word, self.start_E[edges]), weights)
        return sums_WL

    def _by_end(self) -> list[slice]:
        """Return the edges of each end, from the first byte to the last."""
        bounds = self.bounds.tolist()
        return [slice(start, stop) for start, stop in pairwise(bounds) if stop > start]
