"""The cleaning step `near-duplicates`: of documents that say almost the same, the first one stays.

One rule: a document is dropped only for one that was kept before it, and whose similarity was compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import frozen

from codex_clean.installed import missing
from codex_kernel import RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_clean.minhash import NearDuplicateFilter


@frozen
class NearDuplicates:
    """Drop documents whose shingles are nearly those of an earlier one, by MinHash with locality-sensitive hashing.

    Similarity is the Jaccard index of the two sets of shingles (runs of tokens), estimated over `permutations` hash
    functions, with a standard error of sqrt(J (1 - J) / permutations); the first document of all that are alike stays.
    """

    threshold: float = option(
        0.8, gt=0, le=1, help="Jaccard index of two documents' shingles from which the later one is dropped."
    )
    shingle: int = option(
        5, ge=1, le=100, help="Tokens of a shingle, or characters where unit is characters."
    )
    unit: Literal["code", "words", "characters"] = option(
        "code",
        help="What a shingle is made of: code takes words and signs as written, words takes lower-case words alone, "
        "characters takes characters; white space makes no difference.",
    )
    permutations: int = option(
        128, ge=16, le=1024, help="Hash functions of a signature: 4 bytes of memory a document each."
    )

    @hookimpl
    def codex_preflight(self) -> list[str]:
        """Say when datasketch is not installed."""
        return missing("datasketch")

    @hookimpl
    def codex_cleaner(self, run: RunContext) -> NearDuplicateFilter:  # noqa: ARG002 - the hook's first argument
        """Begin a pass that has seen no document."""
        from codex_clean.minhash import NearDuplicateFilter

        return NearDuplicateFilter(self.threshold, self.shingle, self.unit, self.permutations)
