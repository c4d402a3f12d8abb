"""The dataset `mixture`: several datasets as one, trained in shares that are told.

One rule: it changes no document but for its id, which begins with the name of its source. Shares decide how often each
source is trained, never what is read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import attrs
from attrs import frozen

from codex_kernel import BadRecord, Document, Mixing, Sources, hookimpl, option


@frozen
class MixtureEntry:
    """Weights from a point of the training on."""

    from_tokens: int = option(
        ge=0,
        help="Training tokens (blocks of data.seq_len) after which these weights hold.",
        on_resume="refused",
    )
    weights: dict[str, float] = option(help="Share of the training blocks by source, in any unit.")


@frozen
class Mixture:
    """Named datasets of any kind, mixed in shares that may change in the course of the training."""

    sources: Sources = option(help="Name and section of each dataset.")
    weights: dict[str, float] | None = option(
        None,
        help="Share of the training blocks by source, in any unit; null: all blocks equally often.",
        on_resume="refused",
    )
    schedule: list[MixtureEntry] = option(
        factory=list,
        help="Other weights from a number of training tokens on, in their order.",
        on_resume="refused",
    )

    @weights.validator
    def _check_weights(self, _attribute: object, weights: dict[str, float] | None) -> None:
        if weights is not None:
            _check(weights, self.sources.names)

    @schedule.validator
    def _check_schedule(self, _attribute: object, schedule: list[MixtureEntry]) -> None:
        for index, entry in enumerate(schedule):
            try:
                _check(entry.weights, self.sources.names)
            except ValueError as error:
                raise ValueError(f"schedule[{index}].weights: {error}") from error
        starts = [entry.from_tokens for entry in schedule]
        if any(one >= other for one, other in itertools.pairwise(starts)):
            raise ValueError(f"expected from_tokens to rise from entry to entry, got {starts}")
        if self.weights is not None and starts[:1] == [0]:
            raise ValueError(
                "the schedule begins at 0, so dataset.weights would never hold: expected one of them"
            )

    @hookimpl
    def codex_dataset(
        self, sources: Mapping[str, Iterable[Document | BadRecord]]
    ) -> Iterable[Document | BadRecord]:
        """Give the documents of one source after the other."""
        return _Mixed(sources)

    @hookimpl
    def codex_mixing(self) -> Mixing | None:
        """Give the weights; None where there are none."""
        if self.weights is None and not self.schedule:
            return None
        return Mixing(self.weights, tuple((entry.from_tokens, entry.weights) for entry in self.schedule))


@frozen(eq=False)
class _Mixed:
    sources: Mapping[str, Iterable[Document | BadRecord]]

    def __iter__(self) -> Iterator[Document | BadRecord]:
        for name, documents in self.sources.items():
            for document in documents:
                # A group keeps its name: one that occurs in two sources must not cross between the splits either.
                yield (
                    document
                    if isinstance(document, BadRecord)
                    else attrs.evolve(document, id=f"{name}:{document.id}", source=name)
                )


def _check(weights: Mapping[str, float], names: Iterable[str]) -> None:
    """Raise ValueError unless there is a number, 0 or more, for each source and not all are 0."""
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"unknown source {name!r}, expected {', '.join(names)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"expected a weight of 0 or more for {name!r}, got {weight:g}")
    missing = [name for name in names if name not in weights]
    if missing:
        raise ValueError(
            f"expected a weight for each source, none for {', '.join(missing)}: 0 leaves a source out"
        )
    if not any(weights.values()):
        raise ValueError("expected a weight above 0, got 0 for all sources")
