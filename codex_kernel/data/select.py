"""Which documents are used, and in which split: checked, freed of empty and repeated ones, split by their groups.

One rule: documents stream by; what is kept of each is a digest and a byte, never its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

from attrs import define, field, frozen

from codex_kernel.data.activity import Activity
from codex_kernel.data.options import DataOptions
from codex_kernel.data.split import in_validation
from codex_kernel.errors import CodexError, InputError, PluginError
from codex_kernel.interfaces import CorpusText, Document, Reporter

_DIGEST_BYTES = 16  # of sha256: two documents out of 10^12 fall together with a chance of 10^-15


class Verdict(IntEnum):
    """What becomes of a document."""

    TRAIN = 0
    VALIDATION = 1
    EMPTY = 2
    DUPLICATE = 3


@define(eq=False)
class SplitCounts:
    """What is known of a split before its texts are encoded."""

    documents: int = 0
    groups: int = 0
    bytes: int = 0
    prompts: int = 0


@frozen(eq=False)
class Selection:
    """The outcome of one pass over the documents: a verdict for each, in their order, and a digest of them all."""

    verdicts: bytes
    content: str
    train: SplitCounts
    validation: SplitCounts
    duplicates: int
    """Documents whose prompt and text were seen before, whether dropped or kept."""

    def count(self, verdict: Verdict) -> int:
        """Return how many documents have this verdict."""
        return self.verdicts.count(verdict)


@define(eq=False)
class ContentDigest:
    """A digest of documents in their order: every field counts, and no two sequences of fields look the same."""

    _sha256: Any = field(init=False, factory=hashlib.sha256)

    def add(self, document: Document) -> None:
        """Take in a document; raise InputError where its text is not valid Unicode."""
        for name in ("id", "group", "prompt", "text"):
            encoded = _utf8(document, name)
            self._sha256.update(len(encoded).to_bytes(8, "little"))
            self._sha256.update(encoded)

    def hex(self) -> str:
        """Return the digest of what was taken in so far."""
        digest: str = self._sha256.hexdigest()
        return digest


@define(eq=False)
class _Judge:
    """Gives verdicts on documents in their order; remembers digests of what it has seen."""

    options: DataOptions
    seed: int
    duplicates: int = 0
    _ids: dict[bytes, int] = field(init=False, factory=dict)
    _texts: set[bytes] = field(init=False, factory=set)
    _seen: int = field(init=False, default=0)

    def verdict(self, document: Document) -> Verdict:
        self._refuse_repeated_id(document)
        if not document.text and not document.prompt:
            return Verdict.EMPTY
        if self._repeated(document) and self.options.duplicates == "drop":
            return Verdict.DUPLICATE
        kept = in_validation(document.group, fraction=self.options.validation_fraction, seed=self.seed)
        return Verdict.VALIDATION if kept else Verdict.TRAIN

    def _refuse_repeated_id(self, document: Document) -> None:
        self._seen += 1
        first = self._ids.setdefault(_digest(_utf8(document, "id")), self._seen)
        if first != self._seen:
            raise InputError(
                f"the dataset gave two documents with one id: number {first} and number {self._seen} "
                f"are both {document.id!r}",
                remedy="give each document an id of its own; for files, look for one that is named twice",
            )

    def _repeated(self, document: Document) -> bool:
        prompt = _utf8(document, "prompt")
        digest = _digest(len(prompt).to_bytes(8, "little") + prompt + _utf8(document, "text"))
        repeated = digest in self._texts
        self._texts.add(digest)
        self.duplicates += repeated
        return repeated


def select(documents: Iterable[Document], options: DataOptions, *, seed: int, report: Reporter) -> Selection:
    """Go through the documents once and decide what becomes of each.

    Raises InputError where two documents share an id, a text is not valid Unicode, or nothing is left for a split
    that is asked for; PluginError where the dataset gives something else than documents, or can be read only once.
    """
    _refuse_one_shot(documents)
    judge = _Judge(options, seed)
    content = ContentDigest()
    verdicts = bytearray()
    splits = {Verdict.TRAIN: SplitCounts(), Verdict.VALIDATION: SplitCounts()}
    groups: set[str] = set()
    activity = Activity(report, "read", "documents")
    for document in read(documents):
        verdict = judge.verdict(document)
        content.add(document)
        verdicts.append(verdict)
        if verdict in splits:
            _count(splits[verdict], document, groups)
        activity.at(len(verdicts))
    activity.end(len(verdicts))
    selection = Selection(
        bytes(verdicts), content.hex(), splits[Verdict.TRAIN], splits[Verdict.VALIDATION], judge.duplicates
    )
    _refuse_empty(selection, options)
    return selection


def read(documents: Iterable[Document]) -> Iterator[Document]:
    """Go through the documents; raise PluginError where the dataset fails other than by an error of codex."""
    seen, last = 0, ""
    try:
        for document in documents:
            yield _checked(document)
            seen, last = seen + 1, document.id
    except CodexError:
        raise
    except Exception as error:
        after = f" after {seen} documents, the last one {last!r}" if seen else ""
        raise PluginError(f"the dataset failed{after}: {type(error).__name__}: {error}") from error


def train_texts(documents: Iterable[Document], options: DataOptions, *, seed: int) -> CorpusText:
    """Return the texts of the training split, prompts included, each text once, to train a tokenizer on.

    `documents` and the result can be gone through more than once. Which documents these are is decided as in
    `select`, except that nothing is known yet of their number of tokens.
    Raises PluginError where the dataset can be read only once.
    """
    _refuse_one_shot(documents)
    return _TrainTexts(documents, options, seed)


@frozen(eq=False)
class _TrainTexts:
    documents: Iterable[Document]
    options: DataOptions
    seed: int

    def __iter__(self) -> Iterator[str]:
        judge = _Judge(self.options, self.seed)
        for document in read(self.documents):
            if judge.verdict(document) is Verdict.TRAIN:
                yield document.prompt + document.text


def _refuse_one_shot(documents: Iterable[Document]) -> None:
    if isinstance(documents, Iterator):
        raise PluginError(
            f"the dataset gave a {type(documents).__name__}, which can be gone through only once, expected documents "
            "that can be gone through again",
            remedy="return a list from codex_dataset, or an object whose __iter__ begins anew each time",
        )


def _checked(document: object) -> Document:
    if not isinstance(document, Document):
        raise PluginError(f"the dataset gave a {type(document).__name__}, expected a codex_kernel.Document")
    for name in ("id", "group", "prompt", "text"):
        value = getattr(document, name)
        if not isinstance(value, str):
            raise PluginError(f"document {document.id!r}: {name}: expected a str, got {type(value).__name__}")
    return document


def _utf8(document: Document, name: str) -> bytes:
    text: str = getattr(document, name)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"document {document.id!r}: {name}: not valid Unicode: a lone surrogate at character {error.start}",
            remedy="mend the file, or leave it out of the dataset",
        ) from error


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES]


def _count(split: SplitCounts, document: Document, groups: set[str]) -> None:
    split.documents += 1
    split.bytes += len(document.text.encode())
    split.prompts += bool(document.prompt)
    if document.group not in groups:
        groups.add(document.group)
        split.groups += 1


def _refuse_empty(selection: Selection, options: DataOptions) -> None:
    read, empty = len(selection.verdicts), selection.count(Verdict.EMPTY)
    groups = selection.train.groups + selection.validation.groups
    if not read:
        raise InputError("the dataset has no documents", remedy="look at what the section `dataset` names")
    if not groups:
        raise InputError(
            f"the dataset has no text: {read} documents, all of them empty",
            remedy="look at what `dataset` names",
        )
    if not selection.train.documents:
        raise InputError(
            f"the train split is empty: {groups} groups of documents ({read} documents, {empty} empty), all of them in "
            f"the validation split (validation_fraction {options.validation_fraction:g})",
            remedy="lower data.validation_fraction, add documents of other groups, or choose another seed",
        )
    if options.validation_fraction and not selection.validation.documents:
        raise InputError(
            f"the validation split is empty: validation_fraction {options.validation_fraction:g} of {groups} groups of "
            "documents chose none",
            remedy="raise data.validation_fraction, set it to 0 to train without validation, or choose another seed",
        )
