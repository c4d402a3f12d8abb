"""The cleaning step `decontaminate`: what a model will be evaluated on is not trained on.

One rule: a document is dropped because it holds a run of words of an evaluation item, which is counted by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from codex_clean.evaluation_files import find
from codex_kernel import InputError, RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_clean.overlap import OverlapFilter

_NGRAM = {
    "words": 13,
    "code": 30,
}  # a line of code is some ten words and signs, and many lines are everybody's


@frozen
class Decontaminate:
    """Drop documents that share an n-gram with an evaluation set (13 words, as for GPT-3, arXiv:2005.14165, app. C)."""

    files: list[str] = option(
        help="Evaluation files or globs: a record a line (.jsonl, .ndjson), or one item a file (any other text); "
        "each also as .gz."
    )
    fields: list[str] = option(
        factory=list,
        help="Fields of the records to look for, such as prompt and canonical_solution; empty: every text in them.",
    )
    id_field: str | None = option(
        None, help="Field that names a record in the counts, such as task_id; null: its file and line."
    )
    ngram: int | None = option(
        None,
        ge=2,
        le=200,
        help="Tokens in a row that make a document contaminated; null: 13 words, or 30 where unit is code.",
    )
    unit: Literal["words", "code"] = option(
        "words",
        help="What a token is: words takes lower-case words alone; code takes words and signs as written, which finds "
        "shorter solutions.",
    )
    shortest: int = option(
        8,
        ge=2,
        help="Tokens from which a text of fewer than ngram is looked for as a whole; shorter ones are left out, with "
        "a warning.",
    )

    @files.validator
    def _check_files(self, _attribute: object, files: list[str]) -> None:
        """Raise ValueError where there is nothing to look for."""
        if not files:
            raise ValueError("expected at least one evaluation file, got an empty list")

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Name the files that are not there."""
        return [
            f"files: {pattern}: no file matches it, looked from {base}"
            for pattern in self.files
            if not find(pattern, base)
        ]

    @hookimpl
    def codex_cleaner(self, run: RunContext) -> OverlapFilter:
        """Read the evaluation files; raise InputError where one is missing or cannot be read."""
        from codex_clean.overlap import EvaluationSet, OverlapFilter

        problems = self.codex_preflight(run.base)
        if problems:
            raise InputError(f"decontaminate: {problems[0]}")
        paths = sorted({path for pattern in self.files for path in find(pattern, run.base)})
        return OverlapFilter(
            EvaluationSet(paths, run.base, tuple(self.fields), self.id_field),
            ngram=self.ngram or _NGRAM[self.unit],
            unit=self.unit,
            shortest=self.shortest,
            report=run.report,
        )
