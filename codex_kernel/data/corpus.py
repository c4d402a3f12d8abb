"""The cleaned documents of a run, split and kept in the cache: what tokenizers are trained on and tokens are made of.

One rule: a corpus is named by the content of the dataset, the cleaning steps, the seed and the options of the split;
the dataset is read again, and cleaned, only where no corpus of that name is kept.

    cache/corpora/<key>/train.ndjson, validation.ndjson    a document a line, in the order of the dataset
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, define, evolve, field, frozen

from codex_kernel.data import kept
from codex_kernel.data.activity import Activity
from codex_kernel.data.clean import Cleaning, CleaningStep
from codex_kernel.data.kept import DamagedError, DigestedFile
from codex_kernel.data.options import DataOptions
from codex_kernel.data.split import in_validation
from codex_kernel.data.survey import (
    ContentDigest,
    Records,
    Survey,
    changed,
    content_of,
    documents_of,
    is_empty,
    survey,
)
from codex_kernel.errors import InputError, StorageError
from codex_kernel.interfaces import BadRecord, CorpusText, Document, Message, Reporter

FORMAT = 3
FOLDER = "corpora"
_SPLITS = ("train", "validation")

MakeSteps = Callable[[], Sequence[CleaningStep]]
"""Makes the cleaning steps of a pass anew."""


@frozen
class SplitCounts:
    """A split of a corpus: `masked` counts documents with a prompt or messages, `sources` those of each source.

    `texts` are what a tokenizer is trained on: a document each, of a conversation its messages.
    """

    documents: int
    texts: int
    groups: int
    bytes: int
    masked: int
    sources: Mapping[str, int]


@frozen(eq=False)
class StoredCorpus:
    """A corpus that lies in the cache, its files compared with what was written; `report` is for `data.json`."""

    folder: Path
    splits: Mapping[str, SplitCounts]
    report: Mapping[str, Any]

    def documents(self, split: str) -> Iterator[Document]:
        """Read the documents of a split, in the order of the dataset; raise StorageError where they are gone."""
        try:
            with (self.folder / f"{split}.ndjson").open("rb") as file:
                yield from map(_read_line, file)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{self.folder}: the corpus kept there cannot be read: {error}",
                remedy="try again: what is gone or damaged is built anew",
            ) from error


@define(eq=False)
class Corpus:
    """The corpus of a run, which is built when it is first needed."""

    records: Records
    survey: Survey
    options: DataOptions
    seed: int
    make_steps: MakeSteps
    cache: Path
    report: Reporter
    cleaning: Sequence[str]
    """What decides each cleaning step."""
    key: str
    _stored: StoredCorpus | None = field(init=False, default=None)

    @classmethod
    def of(  # noqa: PLR0913 - the words of one sentence: of what, how, where, told to whom
        cls,
        records: Records,
        options: DataOptions,
        *,
        seed: int,
        make_steps: MakeSteps,
        cache: Path,
        report: Reporter,
    ) -> Corpus:
        """Read the dataset once, to know which corpus it is."""
        found = survey(records, options, report)
        cleaning = _described(make_steps())
        key = kept.digest(
            format=FORMAT,
            content=found.content,
            seed=seed,
            validation_fraction=options.validation_fraction,
            duplicates=options.duplicates,
            cleaning=cleaning,
        )
        return cls(records, found, options, seed, make_steps, cache, report, cleaning, key)

    def stored(self) -> StoredCorpus:
        """Return the corpus from the cache, building it where it is not there or damaged.

        Raises InputError where nothing is left to train or to validate on, or the dataset changed meanwhile;
        StorageError where the cache cannot be written.
        """
        if self._stored is None:
            folder = self.cache / FOLDER / self.key
            with kept.locked(folder, self.report):
                self._stored = self._reused(folder) or self._built(folder)
        return self._stored

    def texts(self) -> CorpusText:
        """Return the texts of the training split, to train a tokenizer on; they can be gone through again and again."""
        return _Texts(self)

    def _reused(self, folder: Path) -> StoredCorpus | None:
        try:
            corpus = read(folder, self.key)
        except FileNotFoundError:
            return None
        except DamagedError as damage:
            self.report.warning(f"{folder}: the corpus kept there is damaged and is built anew ({damage})")
            kept.set_aside(folder)
            return None
        self.report.event("corpus_reused", key=self.key)
        return corpus

    def _built(self, folder: Path) -> StoredCorpus:
        with kept.temporary_folder(folder) as temporary, ExitStack() as closing:
            build = _Build(self, temporary)
            closing.callback(build.abandon)
            build.run()
            with kept.storage(folder.parent):
                files = {f"{name}.ndjson": writer.file.finish() for name, writer in build.writers.items()}
                kept.commit(temporary, folder, self.key, FORMAT, files, build.about())
        try:
            corpus = read(folder, self.key)
        except DamagedError as damage:
            raise StorageError(
                f"{folder}: the corpus written there cannot be read back: {damage}",
                remedy="look at the disk, or choose a folder on another one with CODEX_CACHE",
            ) from damage
        self.report.event("corpus_built", key=self.key)
        return corpus


def _described(steps: Iterable[CleaningStep]) -> list[str]:
    return [step.description for step in steps]


def read(folder: Path, key: str) -> StoredCorpus:
    """Open a kept corpus; raise FileNotFoundError where there is none and DamagedError where it is not whole."""
    meta = kept.read_meta(folder, key, FORMAT)
    try:
        splits = {name: SplitCounts(**counts) for name, counts in meta["splits"].items()}
        return StoredCorpus(folder, splits, meta["report"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error


@frozen(eq=False)
class _Texts:
    corpus: Corpus

    def __len__(self) -> int:
        return self.corpus.stored().splits["train"].texts

    def __iter__(self) -> Iterator[str]:
        for document in self.corpus.stored().documents("train"):
            if document.messages:
                yield from (turn.content for turn in document.messages)
            else:
                yield document.prompt + document.text


# ── building ──────────────────────────────────────────────────────────────────────────────────────────────────────


@define(eq=False)
class _SplitWriter:
    """A split that is being written."""

    file: DigestedFile
    documents: int = 0
    texts: int = 0
    bytes: int = 0
    masked: int = 0
    sources: Counter[str] = field(factory=Counter)
    _groups: array[int] = field(factory=lambda: array("Q"))  # digests
    _contents: array[int] = field(factory=lambda: array("Q"))  # likewise

    def add(self, document: Document) -> None:
        self.file.write(_line(document))
        self.documents += 1
        self.texts += len(document.messages) or 1
        self.bytes += _text_bytes(document)
        self.masked += bool(document.prompt or document.messages)
        self.sources[document.source] += 1
        self._groups.append(_short_digest(document.group.encode()))
        self._contents.append(_short_digest(content_of(document)))

    def counts(self) -> SplitCounts:
        groups = len(np.unique(np.array(self._groups, np.uint64)))
        return SplitCounts(self.documents, self.texts, groups, self.bytes, self.masked, dict(self.sources))

    def also_in(self, other: _SplitWriter) -> int:
        """Count the documents whose content is that of a document of another split."""
        return int(np.isin(np.array(self._contents, np.uint64), np.array(other._contents, np.uint64)).sum())


def _short_digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@define(eq=False)
class _Build:
    """One pass over the dataset: leave out, clean, split, write."""

    corpus: Corpus
    folder: Path
    writers: dict[str, _SplitWriter] = field(init=False, factory=dict)
    cleaning: Cleaning = field(init=False)
    content: ContentDigest = field(init=False, factory=ContentDigest)
    empty: int = field(init=False, default=0)
    repeated: int = field(init=False, default=0)

    def run(self) -> None:
        steps = self.corpus.make_steps()
        if _described(steps) != self.corpus.cleaning:
            raise InputError(
                "a file that a cleaning step reads changed while the run started",
                remedy="leave the files alone while a run starts, and start it again",
            )
        self.cleaning = Cleaning.of(steps)
        with kept.storage(self.folder.parent):
            for name in _SPLITS:
                self.writers[name] = _SplitWriter(DigestedFile(self.folder / f"{name}.ndjson"))
        for document in self.cleaning.clean(self._worth_cleaning()):
            with kept.storage(self.folder.parent):
                self.writers[self._split_of(document)].add(document)
        _refuse_empty(self)

    def _worth_cleaning(self) -> Iterator[Document]:
        """Give the documents that are neither empty nor repeated; raise InputError where they have changed."""
        known = self.corpus.survey
        activity = Activity(self.corpus.report, "clean", "documents", known.documents)
        seen = 0
        bad: list[BadRecord] = []
        for document in documents_of(self.corpus.records, self.corpus.options.skip_bad, bad):
            self.content.add(document)  # once more: files may change between two passes
            seen += 1
            activity.at(seen)
            if is_empty(document):
                self.empty += 1
                continue
            repeated = seen <= known.documents and bool(known.repeated_D[seen - 1])
            self.repeated += repeated
            if not (repeated and self._drops_repeated):
                yield document
        self.content.note_bad(bad)
        activity.end(seen)
        _refuse_change(known, seen, self.content.hex())

    @property
    def _drops_repeated(self) -> bool:
        return self.corpus.options.duplicates == "drop"

    def _split_of(self, document: Document) -> str:
        fraction, seed = self.corpus.options.validation_fraction, self.corpus.seed
        return "validation" if in_validation(document.group, fraction=fraction, seed=seed) else "train"

    def abandon(self) -> None:
        for writer in self.writers.values():
            writer.file.abandon()

    def about(self) -> dict[str, Any]:
        """Return what `meta.json` says beside the files."""
        splits = {name: writer.counts() for name, writer in self.writers.items()}
        known = self.corpus.survey
        return {
            "splits": {name: asdict(counts) for name, counts in splits.items()},
            "report": {
                "content": known.content,
                "documents": known.documents,
                "documents_bad": known.bad,
                "bad_records": [asdict(record) for record in known.bad_listed],
                "documents_empty": self.empty,
                "duplicates": self.repeated,
                "duplicates_dropped": self.repeated if self._drops_repeated else 0,
                "validation_also_in_train": self.writers["validation"].also_in(self.writers["train"]),
                "cleaning": self.cleaning.report(),
                "groups": sum(counts.groups for counts in splits.values()),
                "bytes": sum(counts.bytes for counts in splits.values()),
            },
        }


def _refuse_change(known: Survey, seen: int, content: str) -> None:
    if content != known.content:
        counts = f"{known.documents} documents the first time, {seen} the second"
        raise changed(counts + (", with other content" if seen == known.documents else ""))


def _refuse_empty(build: _Build) -> None:
    """Raise InputError where a split that is asked for has no document."""
    counts = {name: writer.counts() for name, writer in build.writers.items()}
    options, given = build.corpus.options, build.corpus.survey.documents
    groups = sum(split.groups for split in counts.values())
    cleaned = [step for step in build.cleaning.report() if step["dropped"]]
    steps = "".join(f", {step['dropped']:,} dropped by {step['type']}" for step in cleaned)
    if not given:
        raise InputError("the dataset has no documents", remedy="look at what the section `dataset` names")
    if not groups:
        raise InputError(
            f"the dataset has no text: {given} documents, all of them empty"
            if not steps
            else f"nothing is left of the dataset: {given} documents, {build.empty} empty{steps}",
            remedy="look at what `dataset` names" if not steps else "look at the options of that step",
        )
    if not counts["train"].documents:
        raise InputError(
            f"the train split is empty: {groups} groups of documents ({given} documents, {build.empty} empty{steps}), "
            f"all of them in the validation split (validation_fraction {options.validation_fraction:g})",
            remedy="lower data.validation_fraction, add documents of other groups, or choose another seed",
        )
    if options.validation_fraction and not counts["validation"].documents:
        raise InputError(
            f"the validation split is empty: validation_fraction {options.validation_fraction:g} of {groups} groups of "
            "documents chose none",
            remedy="raise data.validation_fraction, set it to 0 to train without validation, or choose another seed",
        )


def _text_bytes(document: Document) -> int:
    return len(document.text.encode()) + sum(len(turn.content.encode()) for turn in document.messages)


# ── a document as a line ──────────────────────────────────────────────────────────────────────────────────────────


def _line(document: Document) -> bytes:
    """Return a document as a line of JSON; fields that are empty are left out."""
    fields: dict[str, Any] = {"id": document.id, "group": document.group}
    for name in ("source", "language", "prompt", "text"):
        if value := getattr(document, name):
            fields[name] = value
    if document.messages:
        fields["messages"] = [[turn.role, turn.content, turn.trained] for turn in document.messages]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _read_line(line: bytes) -> Document:
    fields = json.loads(line)
    messages: Iterable[list[Any]] = fields.pop("messages", ())
    document = Document(**fields)
    return evolve(document, messages=tuple(Message(*turn) for turn in messages)) if messages else document
