"""All that is wrong with a dataset, said at once: for `codex data validate`.

One rule: nothing is built and no fault ends the pass; each kind is counted whole and named up to a limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from attrs import define, field, frozen

from codex_kernel.data.activity import Activity
from codex_kernel.data.corpus import StoredCorpus
from codex_kernel.data.encode import Encoder
from codex_kernel.data.options import DataOptions
from codex_kernel.data.survey import (
    Records,
    content_of,
    documents_of,
    fields_of,
    is_empty,
    refuse_one_shot,
    repeated,
    short_digest,
)
from codex_kernel.errors import InputError
from codex_kernel.interfaces import BadRecord, Document, Reporter, Tokenizer


@frozen
class Checked:
    """What a pass over a dataset found; the lists name the first ones of each kind, as `where: what`.

    `bad` counts records that cannot be read, and documents whose text is not valid Unicode. `duplicates` are documents
    with the content of one before them; `repeated_ids` those with its id.
    """

    documents: int
    bytes: int
    bad: int
    empty: int
    duplicates: int
    repeated_ids: int
    languages: dict[str, int]
    sources: dict[str, int]
    bad_listed: tuple[str, ...]
    empty_listed: tuple[str, ...]
    duplicates_listed: tuple[str, ...]
    repeated_ids_listed: tuple[str, ...]


@define(eq=False)
class _Pass:
    """One pass over the records; what is kept of each document is 32 bytes of digests."""

    records: Records
    limit: int
    documents: int = 0
    bytes: int = 0
    bad: int = 0
    empty: int = 0
    languages: Counter[str] = field(factory=Counter)
    sources: Counter[str] = field(factory=Counter)
    bad_listed: list[str] = field(factory=list)
    empty_listed: list[str] = field(factory=list)
    ids: bytearray = field(factory=bytearray)
    contents: bytearray = field(factory=bytearray)

    def documents_read(self) -> Iterator[Document]:
        """Give the documents, the records that are none counted."""
        for record in self.records:
            if isinstance(record, BadRecord):
                self._count_bad(f"{record.where}: {record.problem}")
            else:
                yield record

    def _count_bad(self, words: str) -> None:
        self.bad += 1
        if len(self.bad_listed) < self.limit:
            self.bad_listed.append(words)

    def add(self, document: Document) -> None:
        try:
            content = content_of(document)
        except InputError as error:
            self._count_bad(error.message)
            return
        self.documents += 1
        self.bytes += _text_bytes(document)
        self.languages[document.language] += 1
        self.sources[document.source] += 1
        self.ids += short_digest(fields_of(document.id))
        self.contents += short_digest(content)
        if is_empty(document):
            self.empty += 1
            if len(self.empty_listed) < self.limit:
                self.empty_listed.append(document.id)


def check(records: Records, limit: int, report: Reporter) -> Checked:
    """Go through the records, and once more where some are repeated, to name them.

    Raises PluginError where the dataset fails other than by an error of codex.
    """
    refuse_one_shot(records)
    found = _Pass(records, limit)
    activity = Activity(report, "read", "documents")
    for document in documents_of(_Readable(found), 0, []):
        found.add(document)
        activity.at(found.documents + found.bad)
    activity.end(found.documents + found.bad)
    same_id, same_content = repeated(found.ids), repeated(found.contents)
    return Checked(
        documents=found.documents,
        bytes=found.bytes,
        bad=found.bad,
        empty=found.empty,
        duplicates=int(same_content.sum()),
        repeated_ids=int(same_id.sum()),
        languages=dict(found.languages.most_common()),
        sources=dict(found.sources.most_common()),
        bad_listed=tuple(found.bad_listed),
        empty_listed=tuple(found.empty_listed),
        duplicates_listed=_named(records, found.contents, same_content, limit),
        repeated_ids_listed=_named(records, found.ids, same_id, limit),
    )


@frozen(eq=False)
class _Readable:
    """The records of a pass without those that are no documents."""

    found: _Pass

    def __iter__(self) -> Iterator[Document]:
        return self.found.documents_read()


def _named(records: Records, digests: bytearray, repeated_D: Any, limit: int) -> tuple[str, ...]:
    """Name the first documents that repeat another one, each with the one that it repeats."""
    places = np.flatnonzero(repeated_D)[:limit]
    if not len(places):
        return ()
    size = len(digests) // len(repeated_D)
    wanted = {bytes(digests[size * place : size * (place + 1)]) for place in places.tolist()}
    firsts: dict[bytes, int] = {}
    for place in range(int(places[-1])):
        digest = bytes(digests[size * place : size * (place + 1)])
        if digest in wanted:
            firsts.setdefault(digest, place)
    pairs = [(firsts[bytes(digests[size * p : size * (p + 1)])], p) for p in places.tolist()]
    ids = _ids_at({place for pair in pairs for place in pair}, records)
    return tuple(
        f"{ids[second]} (number {second + 1:,}) as {ids[first]} (number {first + 1:,})"
        for first, second in pairs
    )


def _ids_at(places: set[int], records: Records) -> dict[int, str]:
    last, found, number = max(places), {}, 0
    for record in records:
        if isinstance(record, BadRecord) or not _is_unicode(record):
            continue
        if number in places:
            found[number] = record.id
        if number == last:
            break
        number += 1
    return found


def _is_unicode(document: Document) -> bool:
    try:
        content_of(document)
    except InputError:
        return False
    return True


def _text_bytes(document: Document) -> int:
    turns = sum(len(turn.content.encode()) for turn in document.messages)
    return len(document.text.encode()) + len(document.prompt.encode()) + turns


# ── lengths ───────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Lengths:
    """Lengths of documents in tokens; the lists name the longest of those that do not fit, and those never trained."""

    documents: int
    tokens: int
    longest: int
    overlong: int
    without_target: int
    overlong_listed: tuple[str, ...]
    without_target_listed: tuple[str, ...]


def lengths(  # noqa: PLR0913 - what, by what, how, told to whom
    corpus: StoredCorpus,
    tokenizer: Tokenizer,
    options: DataOptions,
    seed: int,
    limit: int,
    report: Reporter,
) -> Lengths:
    """Encode a corpus and keep nothing of it but its lengths."""
    total = sum(split.documents for split in corpus.splits.values())
    activity = Activity(report, "encode", "documents", total)
    encoder = Encoder(tokenizer, options, seed)
    documents = tokens = longest = overlong = without_target = 0
    long: list[tuple[int, str]] = []
    never: list[str] = []
    for split in corpus.splits:
        for encoded in encoder.encode(corpus.documents(split)):
            documents += 1
            size = len(encoded.ids)
            tokens += size
            longest = max(longest, size)
            if size > options.seq_len:
                overlong += 1
                long = sorted([*long, (-size, encoded.document.id)])[:limit]
            if size < 2 or (encoded.read is not None and encoded.read[1:].all()):  # noqa: PLR2004 - nothing follows
                without_target += 1
                never += [encoded.document.id][: limit - len(never)]
            activity.at(documents)
    activity.end(documents)
    named = tuple(f"{name}: {-size:,} tokens" for size, name in long)
    return Lengths(documents, tokens, longest, overlong, without_target, named, tuple(never))
