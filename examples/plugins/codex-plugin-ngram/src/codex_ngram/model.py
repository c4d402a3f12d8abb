"""Interpolated modified Kneser-Ney: the probability of the next token by the tokens before it.

One rule: the counts are all there is; every probability is worked out from them when it is asked for.

After Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (Computer Speech & Language
13, 1999), with the adjusted counts of Heafield and others, "Scalable Modified Kneser-Ney Language Model Estimation"
(ACL 2013): of the longest n-grams, and of those at a beginning, how often they were seen; of all others, after how many
different tokens. What no order has seen gets its share from the uniform distribution over the vocabulary.

A document begins with one token that is in no vocabulary. A document that goes on from the block before begins anew.

Shapes: B blocks, T tokens of a block, N predicted tokens, V vocabulary, L tokens of context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import define, field, frozen

from codex_kernel import IGNORE_INDEX, Batch, CheckpointState, InputError
from codex_ngram.counts import Table

KEY_BITS = 64
WEIGHTS = "model/ngrams.safetensors"
CONFIG = "model/config.json"


@frozen(eq=False)
class Events:
    """Tokens to be predicted: each with its contexts, `contexts[k - 1]` of order k, and the longest order it has."""

    words_N: Any
    longest_N: Any
    contexts: Sequence[Any]

    def keys(self, order: int, bits: int) -> Any:
        """Return the n-grams of an order, as keys."""
        return self.contexts[order - 1] << np.uint64(bits) | self.words_N


@define(eq=False)
class NGrams:
    """The counts of all orders; `tables[k - 1]` has the n-grams of k tokens."""

    order: int
    vocab_size: int
    bits: int = field(init=False)
    tables: list[Table] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.bits = self.vocab_size.bit_length()  # of the largest: the token before every beginning
        if self.order * self.bits > KEY_BITS:
            raise InputError(
                f"{self.order} tokens of {self.bits} bits do not fit into {KEY_BITS} bits",
                remedy=f"set model.order to {KEY_BITS // self.bits}, or take a smaller vocabulary",
            )
        self.tables = [Table(self.bits) for _ in range(self.order)]

    # ── counting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def count(self, batch: Batch) -> None:
        """Count the n-grams of a batch."""
        events = self.events(batch)
        new = np.zeros(0, np.uint64)
        for order in range(self.order, 0, -1):
            whole = events.keys(order, self.bits)[events.longest_N == order]
            # A longer n-gram that is new is one more token that stands before the rest of it.
            rest = new & np.uint64((1 << order * self.bits) - 1)
            new = self.tables[order - 1].add(np.concatenate([whole, rest]))

    def events(self, batch: Batch) -> Events:
        """Return the targets of a batch, in order, with the tokens before them, of their own document alone."""
        ids_BT, positions_BT = batch.input_ids_BT, batch.position_ids_BT
        rows_N, places_N = np.nonzero(batch.targets_BT != IGNORE_INDEX)
        before_N = positions_BT[rows_N, places_N] + 1  # how many tokens its document has before the target
        back = [ids_BT[rows_N, np.maximum(places_N - j, 0)] for j in range(self.order - 1)]
        return self._events(batch.targets_BT[rows_N, places_N], before_N, back)

    def _events(self, words_N: Any, before_N: Any, back: Sequence[Any]) -> Events:
        """Return the events of words, given how many tokens stand before each, the nearest of them first."""
        contexts = [np.zeros(len(words_N), np.uint64)]
        for j, tokens_N in enumerate(back):
            # Of what lies before the beginning nothing is read: `longest_N` says how far each context counts.
            seen_N = np.where(before_N > j, tokens_N, self.vocab_size).astype(np.uint64)
            contexts.append(contexts[-1] | seen_N << np.uint64(j * self.bits))
        longest_N = np.minimum(self.order, before_N + 2)
        return Events(words_N.astype(np.uint64), longest_N, contexts)

    # ── predicting ────────────────────────────────────────────────────────────────────────────────────────────────

    def losses(self, batch: Batch) -> Any:
        """Return the negative log-likelihood of each target, in nats."""
        return -np.log(self._probabilities(self.events(batch)))

    def _probabilities(self, events: Events) -> Any:
        found_N = np.full(len(events.words_N), 1 / self.vocab_size)
        for order, table in enumerate(self.tables, start=1):
            if not len(table):
                break
            discounts = table.discounts()
            total_N, kinds_N3 = table.totals(events.contexts[order - 1])
            known_N = (total_N > 0) & (events.longest_N >= order)
            counts_N = table.counts(events.keys(order, self.bits))
            own_N = counts_N - discounts[np.minimum(counts_N, 3)]
            mass_N = kinds_N3 @ discounts[1:]
            with np.errstate(divide="ignore", invalid="ignore"):
                found_N = np.where(known_N, (own_N + mass_N * found_N) / total_N, found_N)
        return found_N

    def distribution(self, ids: Sequence[int]) -> Any:
        """Return the probability of every token after these, which begin a document."""
        found_V = np.full(self.vocab_size, 1 / self.vocab_size)
        words_V = np.uint64((1 << self.bits) - 1)
        for order, context in enumerate(self._contexts(ids), start=1):
            table, key = self.tables[order - 1], np.array([context], np.uint64)
            total_1, kinds_13 = table.totals(key)
            if not total_1[0]:
                continue
            discounts = table.discounts()
            (begin,), (end,) = table.spans(key)
            counts_M = table.counts_M[begin:end]
            own_V = np.zeros(self.vocab_size)
            own_V[(table.keys_M[begin:end] & words_V).astype(np.int64)] = (
                counts_M - discounts[np.minimum(counts_M, 3)]
            )
            found_V = (own_V + (kinds_13 @ discounts[1:]) * found_V) / total_1
        return found_V

    def _contexts(self, ids: Sequence[int]) -> Iterator[int]:
        """Yield the context of each order that these tokens have, as a key."""
        back = [*reversed(ids), self.vocab_size][: self.order - 1]
        key = 0
        yield key
        for j, token in enumerate(back):
            key |= int(token) << j * self.bits
            yield key

    def __call__(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:  # noqa: ARG002 - a position says where its document begins
        """Return the logarithms of the probabilities, as logits; see `codex_kernel.Model`."""
        rows = [
            [
                np.log(self.distribution(ids_T[place - position : place + 1].tolist()))
                for place, position in enumerate(positions_T.tolist())
            ]
            for ids_T, positions_T in zip(input_ids_BT, position_ids_BT, strict=True)
        ]
        return np.array(rows)

    # ── what a checkpoint keeps ───────────────────────────────────────────────────────────────────────────────────

    @property
    def parameters(self) -> int:
        """N-grams of all orders."""
        return sum(len(table) for table in self.tables)

    def config(self) -> dict[str, Any]:
        """Return what decides the shape of the counts."""
        return {"model_type": "ngram", "order": self.order, "vocab_size": self.vocab_size}

    def tensors(self) -> dict[str, Any]:
        """Return keys and counts of each order."""
        return {
            f"{name}.{order}": array
            for order, table in enumerate(self.tables, start=1)
            for name, array in (("keys", table.keys_M), ("counts", table.counts_M))
        }

    def load(self, state: CheckpointState) -> None:
        """Take the counts of a checkpoint; raise InputError where they are of another model."""
        saved: Mapping[str, Any] = state.values.get(CONFIG, {})
        if saved != self.config():
            raise InputError(f"the checkpoint is of the model {saved}, this one is {self.config()}")
        tensors = state.tensors[WEIGHTS]
        self.tables = [
            # A copy: a table changes its counts in place.
            Table(self.bits, np.array(tensors[f"keys.{order}"]), np.array(tensors[f"counts.{order}"]))
            for order in range(1, self.order + 1)
        ]
