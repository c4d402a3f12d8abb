"""The cleaning steps of a manifest, run one after the other over a stream of documents.

One rule: whatever a step does to a document is counted under its name; what it must not do ends the run with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import define, evolve, field, frozen

from codex_kernel.data.survey import checked, content_of, is_empty
from codex_kernel.errors import CodexError, PluginError, in_words
from codex_kernel.interfaces import Cleaned, Cleaner, Document

LEFT_EMPTY = "left empty"


@frozen(eq=False)
class CleaningStep:
    """A step as the manifest names it: `type`, `description` (all that decides what it does), and the step itself."""

    type: str
    description: str
    cleaner: Cleaner


@define(eq=False)
class _Counted:
    """A step at work."""

    step: CleaningStep
    documents_in: int = field(init=False, default=0)
    dropped: int = field(init=False, default=0)
    changed: int = field(init=False, default=0)
    counts: Counter[str] = field(init=False, factory=Counter)

    def clean(self, document: Document) -> Document | None:
        self.documents_in += 1
        answer = self._ask(document)
        self._count(answer.counts)
        cleaned = answer.document
        if cleaned is document:
            return document
        if cleaned is None:
            self.dropped += 1
            return None
        self._refuse_another(document, cleaned)
        if is_empty(cleaned):
            self.dropped += 1
            self.counts[LEFT_EMPTY] += 1
            return None
        self.changed += content_of(cleaned) != content_of(document)
        return cleaned

    def _count(self, counts: Any) -> None:
        if not isinstance(counts, Mapping) or not all(
            isinstance(name, str) and isinstance(count, int) for name, count in counts.items()
        ):
            raise PluginError(
                f"the cleaning step {self.step.type!r} gave {counts!r:.80} as counts, expected words → whole numbers"
            )
        self.counts.update(counts)

    def _ask(self, document: Document) -> Cleaned:
        try:
            answer = self.step.cleaner.clean(document)
        except CodexError:
            raise
        except Exception as error:
            raise PluginError(
                f"the cleaning step {self.step.type!r} failed on document {document.id!r}: {in_words(error)}",
                remedy="--debug shows the traceback",
            ) from error
        if not isinstance(answer, Cleaned):
            raise PluginError(
                f"the cleaning step {self.step.type!r} gave a {type(answer).__name__}, expected codex_kernel.Cleaned"
            )
        return answer

    def _refuse_another(self, document: Document, cleaned: object) -> None:
        try:
            cleaned = checked(cleaned, "it")
            content_of(cleaned)
        except CodexError as error:
            raise PluginError(
                f"the cleaning step {self.step.type!r} spoilt document {document.id!r}: {error.message}"
            ) from error
        same = evolve(document, text=cleaned.text, prompt=cleaned.prompt, messages=cleaned.messages)
        if cleaned != same:
            raise PluginError(
                f"the cleaning step {self.step.type!r} changed more of document {document.id!r} than its text: "
                "id, group, language and source must stay"
            )

    def report(self) -> dict[str, Any]:
        return {
            "type": self.step.type,
            "documents_in": self.documents_in,
            "documents_out": self.documents_in - self.dropped,
            "dropped": self.dropped,
            "changed": self.changed,
            "counts": {name: count for name, count in sorted(self.counts.items()) if count},
        }


@define(eq=False)
class Cleaning:
    """The steps of one pass, in their order."""

    _steps: list[_Counted]

    @classmethod
    def of(cls, steps: Iterable[CleaningStep]) -> Cleaning:
        """Begin a pass with steps that were made for it."""
        return cls([_Counted(step) for step in steps])

    def clean(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Give the documents that all steps keep, as they leave them; raise PluginError for a broken step."""
        for document in documents:
            left: Document | None = document
            for step in self._steps:
                if left is None:
                    break
                left = step.clean(left)
            if left is not None:
                yield left

    def report(self) -> list[dict[str, Any]]:
        """Return what each step did, as `data.json` holds it."""
        return [step.report() for step in self._steps]
