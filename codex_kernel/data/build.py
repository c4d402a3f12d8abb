"""A corpus to batches: the one function that a run calls for its data.

One rule: documents are encoded only where their tokens are not kept already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from attrs import define, field, frozen

from codex_kernel.data import kept, store
from codex_kernel.data.activity import Activity
from codex_kernel.data.corpus import Corpus, StoredCorpus
from codex_kernel.data.encode import Encoded, Encoder, check_eos
from codex_kernel.data.kept import FileFacts
from codex_kernel.data.options import DataOptions
from codex_kernel.data.pack import SplitFacts, SplitWriter
from codex_kernel.data.store import Meta, TokenData
from codex_kernel.errors import InputError, PluginError, StorageError
from codex_kernel.interfaces import Reporter, Tokenizer

_LISTED = 20  # documents that data.json names of each kind; the rest are counted
_SHOWN = 3  # documents that an error names
_CORPUS_OPTIONS = ("validation_fraction", "duplicates", "skip_bad")  # the corpus' own key has them


def build(corpus: Corpus, tokenizer: Tokenizer, *, tokenizer_fingerprint: str) -> TokenData:
    """Return the corpus as blocks of tokens, from the cache where they are there already.

    They lie in `cache/tokens/<key>`, where the key is a digest of the corpus, the tokenizer's fingerprint, the options
    and the seed. Raises InputError where the documents or the options leave nothing to train on, PluginError where the
    tokenizer breaks its contract, StorageError where the cache cannot be written.
    """
    check_eos(tokenizer)
    job = _Job(corpus, tokenizer, tokenizer_fingerprint)
    key = job.key()
    folder = store.folder_of(corpus.cache, key)
    with kept.locked(folder, corpus.report):
        data = _kept(folder, key, corpus.report) or _built(folder, key, job)
    _warn(data.report, corpus.report)
    return data


def reopen(cache: Path, key: str, report: Reporter) -> TokenData | None:
    """Return the tokens of this key without a look at what they were made from; None where they are gone or damaged."""
    folder = store.folder_of(cache, key)
    if not folder.is_dir():
        return None
    with kept.locked(folder, report):
        return _kept(folder, key, report)


@frozen(eq=False)
class _Job:
    """What is to be built, and from what."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokenizer_fingerprint: str

    @property
    def options(self) -> DataOptions:
        return self.corpus.options

    def key(self) -> str:
        options = attrs.asdict(self.options)
        return kept.digest(
            format=store.FORMAT,
            corpus=self.corpus.key,
            tokenizer=[self.tokenizer_fingerprint, self.tokenizer.vocab_size, self.tokenizer.eos_id],
            options={name: value for name, value in options.items() if name not in _CORPUS_OPTIONS},
            seed=self.corpus.seed,
        )


def _kept(folder: Path, key: str, report: Reporter) -> TokenData | None:
    try:
        data = store.read(folder, key)
    except FileNotFoundError:
        return None
    except kept.DamagedError as damage:
        report.warning(f"{folder}: the tokens kept there are damaged and are built anew ({damage})")
        kept.set_aside(folder)
        return None
    report.event("data_reused", key=key, fingerprint=data.fingerprint)
    return data


def _built(folder: Path, key: str, job: _Job) -> TokenData:
    corpus = job.corpus.stored()
    encoder = Encoder(job.tokenizer, job.options, job.corpus.seed)
    with kept.temporary_folder(folder) as temporary, ExitStack() as closing:
        splits = _Splits(job, corpus, temporary)
        closing.callback(splits.abandon)
        for encoded, split in _encoded(job, corpus, encoder):
            with kept.storage(folder.parent, splits.needed_bytes):
                splits.add(encoded, split)
        with kept.storage(folder.parent, splits.needed_bytes):
            files, meta = splits.finish(key)
            store.commit(temporary, folder, key, files, meta)
    try:
        data = store.read(folder, key)
    except kept.DamagedError as damage:
        raise StorageError(f"{folder}: the tokens written there cannot be read back: {damage}") from damage
    job.corpus.report.event("data_built", key=key, fingerprint=data.fingerprint)
    return data


def _warn(about: Mapping[str, Any], report: Reporter) -> None:
    """Say what of the documents is not trained, whether the tokens were kept already or not: each run is told."""
    options = about["options"]
    if crossing := about["validation_also_in_train"]:
        report.warning(
            f"{crossing:,} of {about['splits']['validation']['documents']:,} documents of the validation split are in "
            "the train split too: the validation loss flatters the model (data.duplicates drop, and cleaners that come "
            "before, keep them out)"
        )
    for name, split in about["splits"].items():
        lost = split["documents_without_target"] + split["documents_dropped"]
        of = f"of {split['documents'] + lost:,} documents of the {name} split"
        if split["documents_without_target"]:
            report.warning(
                f"nothing is trained in {split['documents_without_target']:,} {of}, which are dropped "
                f"(data.on_no_target {options['on_no_target']})"
            )
        if split["documents_truncated"] or split["documents_dropped"]:
            done = "cut" if split["documents_truncated"] else "dropped"
            report.warning(
                f"{split['documents_overlong']:,} {of} are longer than {options['seq_len']:,} tokens and were {done}: "
                f"{split['tokens_dropped']:,} tokens are lost (data.on_overflow {options['on_overflow']})"
            )
        if (
            options["fim"]
            and options["fim"]["rate"]
            and name == "train"
            and not split["documents_rearranged"]
        ):
            report.warning(f"data.fim rearranged none {of}; those with a prompt or messages stay as they are")
        if split["blocks_without_targets"]:
            report.warning(
                f"{split['blocks_without_targets']:,} of {split['blocks']:,} blocks of the {name} split train nothing: "
                "what is only read fills them"
            )


def _encoded(job: _Job, corpus: StoredCorpus, encoder: Encoder) -> Iterator[tuple[Encoded, str]]:
    """Encode the documents, each with the name of its split."""
    total = sum(split.documents for split in corpus.splits.values())
    activity = Activity(job.corpus.report, "encode", "documents", total)
    done = 0
    for split in corpus.splits:
        for encoded in encoder.encode(corpus.documents(split)):
            yield encoded, split
            done += 1
            activity.at(done)
    activity.end(total)


@define(eq=False)
class _Counts:
    """What became of the documents of a split, beside what its files say."""

    seen: int = 0
    overlong: int = 0
    truncated: int = 0
    split: int = 0
    dropped: int = 0
    dropped_bytes: int = 0
    dropped_tokens: int = 0
    """Cut off or dropped with their documents."""
    without_target: int = 0
    rearranged: int = 0
    listed: list[dict[str, Any]] = field(factory=list)

    def as_report(self) -> dict[str, Any]:
        return {
            "documents": self.seen - self.dropped - self.without_target,
            "documents_overlong": self.overlong,
            "documents_split": self.split,
            "documents_truncated": self.truncated,
            "documents_dropped": self.dropped,
            "documents_without_target": self.without_target,
            "documents_rearranged": self.rearranged,
            "bytes_dropped": self.dropped_bytes,
            "tokens_dropped": self.dropped_tokens,
            "overlong": self.listed,
        }


@define(eq=False)
class _Splits:
    """The splits that are being written, and what they leave out."""

    job: _Job
    corpus: StoredCorpus
    folder: Path
    _writers: dict[str, SplitWriter] = field(init=False, factory=dict)
    _counts: dict[str, _Counts] = field(init=False, factory=dict)
    _sources: dict[str, str] = field(init=False, factory=dict)
    _encoded_bytes: int = field(init=False, default=0)
    _without_target: list[str] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        options = self.job.options
        for name, split in self.corpus.splits.items():
            if split.documents:
                masks = split.masked > 0 and options.loss_on == "targets"
                self._writers[name] = SplitWriter(
                    self.folder,
                    name,
                    options.seq_len,
                    self.job.tokenizer.vocab_size,
                    masks=masks,
                    packing=options.packing,
                )
                self._counts[name] = _Counts()

    def add(self, encoded: Encoded, split: str) -> None:
        """Fit a document into blocks and write it."""
        writer, counts = self._writers[split], self._counts[split]
        self._begin_source(encoded, split)
        counts.seen += 1
        counts.rearranged += encoded.rearranged
        self._encoded_bytes += encoded.text_bytes
        fitted = self._fit(encoded, counts)
        if fitted and not sum(_targets(piece) for piece in fitted):
            self._count_without_target(encoded, counts)
            fitted = []
        for ids, read, text_bytes in fitted:
            writer.add(ids, read, text_bytes)

    def _begin_source(self, encoded: Encoded, split: str) -> None:
        source = encoded.document.source
        if self._sources.get(split) == source:
            return
        try:
            self._writers[split].begin(source, self.job.tokenizer.eos_id)
        except ValueError:
            raise PluginError(
                f"the dataset gives documents of source {source!r} again after those of another one",
                remedy="a dataset must give the documents of each source one after the other",
            ) from None
        self._sources[split] = source

    def _fit(self, encoded: Encoded, counts: _Counts) -> list[_Piece]:
        """Return the pieces of a document that are kept, each of a size that the packing takes."""
        options, T = self.job.options, self.job.options.seq_len
        ids, read, size = encoded.ids, encoded.read, len(encoded.ids)
        whole = (ids, read, encoded.text_bytes)
        if size <= T:
            return [whole]
        counts.overlong += 1
        if len(counts.listed) < _LISTED:
            counts.listed.append({"id": encoded.document.id, "tokens": size})
        match options.on_overflow:
            case "error":
                raise InputError(
                    f"document {encoded.document.id!r} has {size:,} tokens, expected at most {T:,}, which is "
                    "data.seq_len",
                    remedy="raise data.seq_len, or let data.on_overflow be split, truncate_left, truncate_right or "
                    "drop",
                )
            case "drop":
                counts.dropped += 1
                counts.dropped_bytes += encoded.text_bytes
                counts.dropped_tokens += size
                return []
            case "split":
                counts.split += 1  # of a stream the writer counts them: shorter ones are cut too
                # A stream is cut when it is read; elsewhere a piece begins with the token that the last one ended with,
                # so that no target is lost.
                starts = [0] if options.packing == "stream" else range(0, size - 1, T - 1) if T > 1 else [0]
                return [whole] if len(starts) == 1 else _cut(whole, [(at, at + T) for at in starts])
            case _:
                counts.truncated += 1
                counts.dropped_tokens += size - T
                left = options.on_overflow == "truncate_left"
                pieces = _cut(whole, [(size - T, size) if left else (0, T)])
                counts.dropped_bytes += encoded.text_bytes - pieces[0][2]
                return pieces

    def _count_without_target(self, encoded: Encoded, counts: _Counts) -> None:
        counts.without_target += 1
        if len(self._without_target) < _SHOWN:
            self._without_target.append(encoded.document.id)

    def needed_bytes(self) -> int:
        """Estimate the size of the whole from what was written so far."""
        total = sum(split.bytes for split in self.corpus.splits.values())
        written = sum(writer.written_bytes for writer in self._writers.values())
        return int(written / self._encoded_bytes * total) if self._encoded_bytes else total

    def abandon(self) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def finish(self, key: str) -> tuple[dict[str, FileFacts], Meta]:
        self._refuse_without_target()
        for name in self._writers:
            self._refuse_nothing(name)
        eos_id = self.job.tokenizer.eos_id
        finished = {name: writer.finish(eos_id) for name, writer in self._writers.items()}
        facts = {name: split for name, (split, _) in finished.items()}
        files = {name: file for _, written in finished.values() for name, file in written.items()}
        fingerprint = kept.digest(
            format=store.FORMAT,
            seq_len=self.job.options.seq_len,
            seed=self.job.corpus.seed,
            files={name: file.sha256 for name, file in files.items()},
        )
        report = self._report(key, fingerprint, facts)
        return files, Meta(fingerprint, self.job.corpus.seed, facts, report)

    def _refuse_without_target(self) -> None:
        found = sum(counts.without_target for counts in self._counts.values())
        if not found or self.job.options.on_no_target == "drop":
            return
        documents = sum(counts.seen for counts in self._counts.values())
        shown = ", ".join(map(repr, self._without_target)) + (" …" if found > _SHOWN else "")
        raise InputError(
            f"nothing is trained in {found:,} of {documents:,} documents: {shown}: no completion, no assistant's "
            "turn, or cut off with the end of a document that is too long",
            remedy="mend them, or leave them out: data.on_no_target=drop (counted); a longer data.seq_len helps "
            "where they were cut",
        )

    def _refuse_nothing(self, name: str) -> None:
        counts, writer = self._counts[name], self._writers[name]
        if writer.target_tokens:
            return
        if counts.dropped:
            raise InputError(
                f"nothing is left of the {name} split: {counts.dropped:,} documents are longer than "
                f"data.seq_len ({self.job.options.seq_len:,} tokens) and were dropped",
                remedy="raise data.seq_len, or let data.on_overflow be split",
            )
        raise InputError(
            f"the {name} split has no token to predict: {counts.seen:,} documents, none with text for the "
            "tokenizer",
            remedy="look at the texts that the dataset gives, and at what the tokenizer makes of them",
        )

    def _report(self, key: str, fingerprint: str, facts: dict[str, SplitFacts]) -> dict[str, Any]:
        return {
            "key": key,
            "fingerprint": fingerprint,
            "corpus": self.job.corpus.key,
            "tokenizer": self.job.tokenizer_fingerprint,
            "vocab_size": self.job.tokenizer.vocab_size,
            "seed": self.job.corpus.seed,
            "options": attrs.asdict(self.job.options),
            **self.corpus.report,
            "splits": {name: self._split_report(name, split) for name, split in facts.items()},
        }

    def _split_report(self, name: str, split: SplitFacts) -> dict[str, Any]:
        counts = self._counts[name]
        if self.job.options.packing == "stream":
            counts.split = split.pieces_cut
        return {
            **counts.as_report(),
            "groups": self.corpus.splits[name].groups,
            "bytes": split.target_bytes,
            "tokens": split.tokens,
            "target_tokens": split.target_tokens,
            "blocks": split.blocks,
            "blocks_without_targets": split.blocks_without_targets,
            "padding_slots": split.padding_slots,
            "sources": {source: list(span) for source, span in split.sources.items()},
        }


_Piece = tuple[Any, Any, int]
"""Ids, which of them are only read, and the bytes of the text that the others stand for."""


def _targets(piece: _Piece) -> int:
    ids, read, _ = piece
    return max(0, len(ids) - 1) if read is None else int((~read[1:]).sum())


def _cut(whole: _Piece, spans: list[tuple[int, int]]) -> list[_Piece]:
    """Cut a document into pieces; its bytes are shared out by their targets."""
    ids, read, text_bytes = whole
    pieces = [(ids[low:high], None if read is None else read[low:high]) for low, high in spans]
    shares = np.cumsum([0, *(_targets((*piece, 0)) for piece in pieces)])
    marks = (text_bytes * shares // max(1, _targets(whole))).tolist()
    return [(*piece, after - before) for piece, before, after in zip(pieces, marks, marks[1:], strict=False)]
