"""Documents to batches: the one function that a run calls for its data.

One rule: it costs one pass over the documents to know whether their tokens are kept already, and a second one, with
the tokenizer, only where they are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen

from codex_kernel.data import store
from codex_kernel.data.activity import Activity
from codex_kernel.data.encode import Encoded, check_eos, encode
from codex_kernel.data.options import DataOptions
from codex_kernel.data.pack import SplitFacts, SplitWriter
from codex_kernel.data.select import ContentDigest, Selection, Verdict, read, select
from codex_kernel.data.store import TokenData
from codex_kernel.errors import InputError, StorageError
from codex_kernel.interfaces import Document, Reporter, Tokenizer

_SPLITS = {Verdict.TRAIN: "train", Verdict.VALIDATION: "validation"}


def build(  # noqa: PLR0913 - the words of one sentence: what, how, where to
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    options: DataOptions,
    *,
    seed: int,
    cache: Path,
    tokenizer_fingerprint: str,
    report: Reporter,
) -> TokenData:
    """Return the documents as blocks of tokens, from the cache where they are there already.

    `documents` must give the same ones each time it is gone through. The tokens lie in `cache/tokens/<key>`, where the
    key is a digest of the documents, the tokenizer's fingerprint, the options and the seed.
    Raises InputError where the documents or the options leave nothing to train on, PluginError where the tokenizer
    breaks its contract, StorageError where the cache cannot be written.
    """
    check_eos(tokenizer)
    selection = select(documents, options, seed=seed, report=report)
    job = _Job(documents, tokenizer, options, seed, tokenizer_fingerprint, report, selection)
    key = job.key()
    folder = cache / "tokens" / key
    with store.locked(folder):
        return _kept(folder, key, report) or _built(folder, key, job)


@frozen(eq=False)
class _Job:
    """What is to be built, and from what."""

    documents: Iterable[Document]
    tokenizer: Tokenizer
    options: DataOptions
    seed: int
    tokenizer_fingerprint: str
    report: Reporter
    selection: Selection

    def key(self) -> str:
        return _digest(
            format=store.FORMAT,
            content=self.selection.content,
            tokenizer=[self.tokenizer_fingerprint, self.tokenizer.vocab_size, self.tokenizer.eos_id],
            options=attrs.asdict(self.options),
            seed=self.seed,
        )


def _kept(folder: Path, key: str, report: Reporter) -> TokenData | None:
    try:
        data = store.read(folder, key)
    except FileNotFoundError:
        return None
    except store.DamagedError as damage:
        report.warning(f"{folder}: the tokens kept there are damaged and are built anew ({damage})")
        store.set_aside(folder)
        return None
    report.event("data_reused", key=key, fingerprint=data.fingerprint)
    return data


def _built(folder: Path, key: str, job: _Job) -> TokenData:
    with store.temporary_folder(folder) as temporary, ExitStack() as closing:
        splits = _Splits.start(job, temporary)
        for writer in splits.writers.values():
            closing.callback(writer.close)
        for encoded, split in _encoded(job):
            with store.storage(folder.parent, splits.needed_bytes):
                splits.add(encoded, split)
        with store.storage(folder.parent, splits.needed_bytes):
            meta = splits.finish(key)
            store.commit(temporary, folder, meta)
    try:
        data = store.read(folder, key)
    except store.DamagedError as damage:
        raise StorageError(f"{folder}: the tokens written there cannot be read back: {damage}") from damage
    job.report.event("data_built", key=key, fingerprint=data.fingerprint)
    return data


def _encoded(job: _Job) -> Iterator[tuple[Encoded, str]]:
    """Encode the documents that are used, each with the name of its split."""
    total = job.selection.train.documents + job.selection.validation.documents
    activity = Activity(job.report, "encode", "documents", total)
    names = (_SPLITS[Verdict(verdict)] for verdict in job.selection.verdicts if verdict in _SPLITS)
    for done, encoded in enumerate(encode(_used(job), job.tokenizer), 1):
        yield encoded, next(names)
        activity.at(done)
    activity.end(total)


def _used(job: _Job) -> Iterator[Document]:
    """Go through the documents again; raise InputError where they are not those of the first time."""
    verdicts = job.selection.verdicts
    content = ContentDigest()
    seen = 0
    for seen, document in enumerate(read(job.documents), 1):
        content.add(document)
        if seen <= len(verdicts) and verdicts[seen - 1] in _SPLITS:
            yield document
    if content.hex() != job.selection.content:
        raise InputError(
            f"the dataset changed while it was read: {len(verdicts)} documents the first time, {seen} the second"
            + (", with other content" if seen == len(verdicts) else ""),
            remedy="leave the files alone while a run starts; a dataset plugin must give the same documents each time",
        )


@define(eq=False)
class _Overflow:
    """Documents of a split that are longer than a block."""

    documents: int = 0
    dropped: int = 0
    dropped_bytes: int = 0


@define(eq=False)
class _Splits:
    """The splits that are being written, and what they leave out."""

    job: _Job
    writers: dict[str, SplitWriter]
    overflow: dict[str, _Overflow]
    _encoded_bytes: int = field(init=False, default=0)

    @classmethod
    def start(cls, job: _Job, folder: Path) -> _Splits:
        counts = {"train": job.selection.train, "validation": job.selection.validation}
        writers = {
            name: SplitWriter(
                folder, name, job.options.seq_len, job.tokenizer.vocab_size, prompts=split.prompts > 0
            )
            for name, split in counts.items()
            if split.documents
        }
        return cls(job, writers, {name: _Overflow() for name in writers})

    def add(self, encoded: Encoded, split: str) -> None:
        text_bytes = len(encoded.document.text.encode())
        self._encoded_bytes += text_bytes
        if len(encoded.ids) > self.job.options.seq_len and self._dropped(
            encoded, self.overflow[split], text_bytes
        ):
            return
        self.writers[split].add(encoded.ids, encoded.prompt_tokens, text_bytes)

    def _dropped(self, encoded: Encoded, overflow: _Overflow, text_bytes: int) -> bool:
        options = self.job.options
        overflow.documents += 1
        if options.on_overflow == "error":
            raise InputError(
                f"document {encoded.document.id!r} has {len(encoded.ids):,} tokens, expected at most "
                f"{options.seq_len:,}, which is data.seq_len",
                remedy="raise data.seq_len, or let data.on_overflow be split or drop",
            )
        if options.on_overflow == "split":
            return False
        overflow.dropped += 1
        overflow.dropped_bytes += text_bytes
        return True

    def needed_bytes(self) -> int:
        """Estimate the size of the whole from what was written so far."""
        total = self.job.selection.train.bytes + self.job.selection.validation.bytes
        written = sum(writer.written_bytes for writer in self.writers.values())
        return int(written / self._encoded_bytes * total) if self._encoded_bytes else total

    def finish(self, key: str) -> store.Meta:
        for name in self.writers:
            self._refuse_nothing(name)
        facts = {name: writer.finish(self.job.tokenizer.eos_id) for name, writer in self.writers.items()}
        self._warn(facts)
        fingerprint = _digest(
            format=store.FORMAT,
            seq_len=self.job.options.seq_len,
            seed=self.job.seed,
            files={name: file.sha256 for split in facts.values() for name, file in split.files.items()},
        )
        return store.Meta(key, fingerprint, self.job.seed, facts, self._report(key, fingerprint, facts))

    def _refuse_nothing(self, name: str) -> None:
        overflow, writer = self.overflow[name], self.writers[name]
        if writer.target_tokens:
            return
        if overflow.dropped:
            raise InputError(
                f"nothing is left of the {name} split: {overflow.dropped:,} documents are longer than "
                f"data.seq_len ({self.job.options.seq_len:,} tokens) and were dropped",
                remedy="raise data.seq_len, or let data.on_overflow be split",
            )
        raise InputError(
            f"the {name} split has no token to predict: {writer.documents:,} documents, none with text for the "
            "tokenizer",
            remedy="look at the texts that the dataset gives, and at what the tokenizer makes of them",
        )

    def _warn(self, facts: dict[str, SplitFacts]) -> None:
        for name, split in facts.items():
            if split.blocks_without_targets:
                self.job.report.warning(
                    f"{split.blocks_without_targets:,} of {split.blocks:,} blocks of the {name} split train nothing: "
                    "prompts fill them"
                )

    def _report(self, key: str, fingerprint: str, facts: dict[str, SplitFacts]) -> dict[str, Any]:
        selection = self.job.selection
        return {
            "key": key,
            "fingerprint": fingerprint,
            "content": selection.content,
            "tokenizer": self.job.tokenizer_fingerprint,
            "vocab_size": self.job.tokenizer.vocab_size,
            "seed": self.job.seed,
            "options": attrs.asdict(self.job.options),
            "documents": len(selection.verdicts),
            "documents_empty": selection.count(Verdict.EMPTY),
            "duplicates": selection.duplicates,
            "duplicates_dropped": selection.count(Verdict.DUPLICATE),
            "groups": selection.train.groups + selection.validation.groups,
            "bytes": selection.train.bytes + selection.validation.bytes,
            "splits": {name: self._split_report(name, split) for name, split in facts.items()},
        }

    def _split_report(self, name: str, split: SplitFacts) -> dict[str, int]:
        selection, overflow = self.job.selection, self.overflow[name]
        return {
            "documents": split.documents,
            "documents_overlong": overflow.documents,
            "documents_split": split.documents_split,
            "documents_dropped": overflow.dropped,
            "bytes_dropped": overflow.dropped_bytes,
            "groups": (selection.train if name == "train" else selection.validation).groups,
            "bytes": split.target_bytes,
            "tokens": split.tokens,
            "target_tokens": split.target_tokens,
            "blocks": split.blocks,
            "blocks_without_targets": split.blocks_without_targets,
            "padding_slots": split.padding_slots,
        }


def _digest(**parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
