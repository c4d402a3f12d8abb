"""The first pass over a dataset: what it gives, whether it can be used, and a digest of it all.

One rule: documents stream by; what is kept of each is 32 bytes of digests, never its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
from attrs import define, field, frozen

from codex_kernel.data.activity import Activity
from codex_kernel.data.options import DataOptions
from codex_kernel.errors import CodexError, InputError, PluginError, in_words
from codex_kernel.interfaces import BadRecord, Document, Message, Reporter

_DIGEST_BYTES = 16  # of sha256: two documents out of 10^12 fall together with a chance of 10^-15
_LISTED = 20  # bad records that data.json names; the rest are counted

Records = Iterable[Document | BadRecord]
"""What a dataset plugin gives; it can be gone through more than once."""


@frozen(eq=False)
class Survey:
    """The outcome of one pass over a dataset.

    `content` is a digest of all documents in their order, `repeated_D` says of each whether one before it has the same
    content, `bad` counts the records that were skipped and `bad_listed` names the first of them.
    """

    content: str
    documents: int
    repeated_D: Any
    bad: int
    bad_listed: tuple[BadRecord, ...]


def survey(records: Records, options: DataOptions, report: Reporter) -> Survey:
    """Go through the records once.

    Raises InputError where two documents share an id, a text is not valid Unicode, or more records are bad than may be;
    PluginError where the dataset gives something else than documents, or can be read only once.
    """
    refuse_one_shot(records)
    content, ids, contents = ContentDigest(), bytearray(), bytearray()
    bad: list[BadRecord] = []
    activity = Activity(report, "read", "documents")
    count = 0
    for count, document in enumerate(documents_of(records, options.skip_bad, bad), 1):
        contents += content.add(document)
        ids += short_digest(fields_of(document.id))
        activity.at(count)
    activity.end(count)
    _refuse_repeated_ids(repeated(ids), records, options.skip_bad)
    content.note_bad(bad)
    if bad:
        told = (
            "1 record cannot be read and is"
            if len(bad) == 1
            else f"{len(bad):,} records cannot be read and are"
        )
        report.warning(f"{told} skipped (data.skip_bad {options.skip_bad:,}); the first: {_in_words(bad[0])}")
    return Survey(content.hex(), count, repeated(contents), len(bad), tuple(bad[:_LISTED]))


def documents_of(records: Records, skip_bad: int, bad: list[BadRecord]) -> Iterator[Document]:
    """Go through the documents, adding to `bad` up to `skip_bad` records that are none.

    Raises InputError for the next bad record, PluginError where the dataset fails other than by an error of codex.
    """
    seen, last = 0, ""
    try:
        for record in records:
            if isinstance(record, BadRecord):
                _count_bad(record, skip_bad, bad)
                continue
            yield checked(record, "the dataset")
            seen, last = seen + 1, record.id
    except CodexError:
        raise
    except Exception as error:
        after = f" after {seen} documents, the last one {last!r}" if seen else ""
        raise PluginError(f"the dataset failed{after}: {in_words(error)}") from error


def refuse_one_shot(records: Records) -> None:
    """Raise PluginError where records can be gone through only once."""
    if isinstance(records, Iterator):
        raise PluginError(
            f"the dataset gave a {type(records).__name__}, which can be gone through only once, expected documents "
            "that can be gone through again",
            remedy="return a list from codex_dataset, or an object whose __iter__ begins anew each time",
        )


@define(eq=False)
class ContentDigest:
    """A digest of documents in their order: every field counts, and no two sequences of documents look the same."""

    _sha256: Any = field(init=False, factory=hashlib.sha256)

    def add(self, document: Document) -> bytes:
        """Take in a document, and return a digest of its content; raise InputError where that is not valid Unicode."""
        content = hashlib.sha256(content_of(document)).digest()
        self._sha256.update(fields_of(document.id, document.group, document.language, document.source))
        self._sha256.update(content)
        return content[:_DIGEST_BYTES]

    def note_bad(self, records: Sequence[BadRecord]) -> None:
        """Take in the records that were skipped: the report that is kept with the documents names them."""
        for record in records:
            self._sha256.update(repr((record.where, record.problem, record.remedy)).encode())

    def hex(self) -> str:
        """Return the digest of what was taken in so far."""
        digest: str = self._sha256.hexdigest()
        return digest


def content_of(document: Document) -> bytes:
    """Return what of a document is read and trained; raise InputError where it is not valid Unicode."""
    turns = (part for turn in document.messages for part in (turn.role, turn.content, "01"[turn.trained]))
    try:
        return fields_of(document.prompt, document.text, *turns)
    except UnicodeEncodeError as error:
        raise InputError(
            f"document {document.id!r}: not valid Unicode: a lone surrogate at character {error.start} of "
            f"{error.object[max(0, error.start - 10) : error.start + 10]!r}",
            remedy="mend the file, or leave it out of the dataset",
        ) from error


def fields_of(*texts: str) -> bytes:
    """Return texts as bytes that no other texts have: each after its length."""
    encoded = (text.encode() for text in texts)
    return b"".join(part for data in encoded for part in (len(data).to_bytes(8, "little"), data))


def is_empty(document: Document) -> bool:
    """Say whether a document holds no text at all."""
    return not (document.text or document.prompt or any(turn.content for turn in document.messages))


def short_digest(data: bytes) -> bytes:
    """Return a digest that stands for these bytes among those of one dataset."""
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES]


def repeated(digests: bytearray) -> Any:
    """Say of each digest whether one before it is the same."""
    halves_D2 = np.frombuffer(digests, "<u8").reshape(-1, 2)
    order = np.lexsort((halves_D2[:, 1], halves_D2[:, 0]))  # stable: of equal ones the first comes first
    sorted_D2 = halves_D2[order]
    repeated_D = np.zeros(len(halves_D2), bool)
    repeated_D[order[1:]] = (sorted_D2[1:] == sorted_D2[:-1]).all(axis=1)
    return repeated_D


def changed(what: str) -> InputError:
    """Return the error for a dataset that did not give the same documents again."""
    return InputError(
        f"the dataset changed while it was read: {what}",
        remedy="leave the files alone while a run starts; a dataset plugin must give the same documents each time",
    )


def _refuse_repeated_ids(repeated_D: Any, records: Records, skip_bad: int) -> None:
    places = np.flatnonzero(repeated_D)
    if not len(places):
        return
    second = int(places[0])
    ids = [document.id for document in islice(documents_of(records, skip_bad, []), second + 1)]
    if len(ids) <= second or ids.index(ids[second]) == second:
        raise changed(f"two of {len(repeated_D)} documents had one id the first time, not the second")
    raise InputError(
        f"the dataset gave two documents with one id: number {ids.index(ids[second]) + 1} and number {second + 1} "
        f"are both {ids[second]!r}",
        remedy="give each document an id of its own; for files, look for one that is named twice",
    )


def _count_bad(record: BadRecord, allowed: int, bad: list[BadRecord]) -> None:
    bad.append(record)
    if len(bad) <= allowed:
        return
    more = f" (record {len(bad):,} that cannot be read, data.skip_bad is {allowed:,})" if allowed else ""
    skip = f"--set data.skip_bad={max(10, 10 * allowed)} skips that many such records and counts them"
    raise InputError(
        _in_words(record) + more, remedy=f"{record.remedy}; or {skip}" if record.remedy else skip
    )


def _in_words(record: BadRecord) -> str:
    return f"{record.where}: {record.problem}"


def checked(document: object, giver: str) -> Document:
    """Return what a plugin gave; raise PluginError where it is no document, InputError where it is not valid Unicode.

    Whether its content is valid Unicode is not looked at.
    """
    if not isinstance(document, Document):
        raise PluginError(f"{giver} gave a {type(document).__name__}, expected a codex_kernel.Document")
    for name in ("id", "group", "prompt", "text", "language", "source"):
        value = getattr(document, name)
        if not isinstance(value, str):
            raise PluginError(f"document {document.id!r}: {name}: expected a str, got {type(value).__name__}")
    for name in ("id", "group", "language", "source"):
        _refuse_surrogates(document, name)
    if document.messages:
        _check_messages(document)
    return document


def _refuse_surrogates(document: Document, name: str) -> None:
    try:
        getattr(document, name).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"document {document.id!r}: {name}: not valid Unicode: a lone surrogate at character {error.start}",
            remedy="mend the name, or leave it out of the dataset",
        ) from error


def _check_messages(document: Document) -> None:
    if document.text or document.prompt:
        raise PluginError(f"document {document.id!r}: expected messages, or text and prompt, got both")
    messages = cast("Any", document.messages)
    if not isinstance(messages, tuple | list):
        raise PluginError(
            f"document {document.id!r}: messages: expected a tuple, got {type(messages).__name__}"
        )
    for number, turn in enumerate(messages):
        if not (
            isinstance(turn, Message)
            and all(isinstance(one, str) for one in (turn.role, turn.content))
            and isinstance(turn.trained, bool)
        ):
            raise PluginError(
                f"document {document.id!r}: messages[{number}]: expected a codex_kernel.Message with a role and a "
                f"content that are strings, and trained true or false, got {turn!r:.80}"
            )
