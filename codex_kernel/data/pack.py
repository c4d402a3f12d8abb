"""Tokens of documents, one after the other, into the files of a split.

One rule: no token is lost, and no document sees another. The stream is cut into blocks only when it is read; where a
block ends inside a document, its last token has the next block's first one as its target.

    <split>.tokens   uint16 or uint32, the stream, blocks * seq_len + 1 of them, padding included
    <split>.pieces   int64, where each piece starts (a document, a part of one, or padding), then the stream's length
    <split>.padding  uint8 a piece: 1 where it is padding
    <split>.read     uint8 a token, only where some are read and not trained: 1 for those
    <split>.bytes    float64 a block, the bytes of text that its targets stand for

How documents fill blocks is `packing`: a stream that is cut anywhere; whole documents, as many as fit (best fit, the
longest first); or one document to a block.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import define, field, frozen

from codex_kernel.data.kept import DigestedFile, FileFacts

Packing = Literal["stream", "whole", "none"]


@frozen
class SplitFacts:
    """A split as it lies on disk, all but its name and files; `sources` has (first block, blocks) of each source."""

    seq_len: int
    dtype: str
    read: bool
    pieces: int
    pieces_cut: int
    """Pieces that lie in more than one block."""
    tokens: int
    target_tokens: int
    target_bytes: int
    """UTF-8 bytes of the texts, which the targets stand for."""
    blocks: int
    blocks_without_targets: int
    padding_slots: int
    sources: dict[str, tuple[int, int]]


@define(eq=False)
class SplitWriter:
    """Writes a split into `folder`, which exists; every method may raise OSError.

    Sources come one after the other, each beginning with a block of its own; only a last token that is no more than a
    target may stand before it there.
    """

    folder: Path
    name: str
    seq_len: int
    vocab_size: int
    masks: bool
    """Whether some tokens are only read."""
    packing: Packing = "stream"
    _stream: _Stream = field(init=False)
    _waiting: _Waiting | None = field(init=False, default=None)
    _source: str | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._stream = _Stream(self.folder, self.name, self.seq_len, self.vocab_size, masks=self.masks)

    @property
    def written_bytes(self) -> int:
        """How much was written so far, about."""
        waiting = self._waiting.written_bytes if self._waiting else 0
        return self._stream.written_bytes + waiting

    @property
    def target_tokens(self) -> int:
        """Targets so far."""
        return self._stream.target_tokens + (self._waiting.target_tokens if self._waiting else 0)

    def begin(self, source: str, eos_id: int) -> None:
        """Begin with the documents of a source; raise ValueError where it was there before."""
        if source in self._stream.sources:
            raise ValueError(source)
        self._end_source(eos_id)
        self._stream.end_block(eos_id)
        self._source = source
        self._stream.sources[source] = self._stream.block
        if self.packing != "stream":
            self._waiting = _Waiting(self.folder, f"{self.name}.waiting", self.masks)

    def add(self, ids: Any, read: Any, text_bytes: int) -> None:
        """Append a document: its ids, which of them are only read (None: none), and the size of its trained text.

        Unless the packing is a stream, it has at most `seq_len` ids.
        """
        if self._waiting is None:
            self._stream.add(ids, read, text_bytes)
        else:
            self._waiting.add(ids, read, text_bytes)

    def finish(self, eos_id: int) -> tuple[SplitFacts, dict[str, FileFacts]]:
        """Pad the last block, bring everything safely to disk and close the files."""
        self._end_source(eos_id)
        return self._stream.finish(eos_id)

    def abandon(self) -> None:
        """Let go of the files, whether they are whole or not."""
        self._stream.abandon()
        if self._waiting is not None:
            self._waiting.abandon()

    def _end_source(self, eos_id: int) -> None:
        if self._source is None:
            return
        if self._waiting is not None:
            for block in self._waiting.blocks(self.seq_len, alone=self.packing == "none"):
                for piece in block:
                    self._stream.add(*piece)
                self._stream.pad_block(eos_id)
            self._waiting.abandon()
            self._waiting.remove()
            self._waiting = None


@define(eq=False)
class _Stream:
    """The files of a split, and the counts of what is in them."""

    folder: Path
    name: str
    seq_len: int
    vocab_size: int
    masks: bool
    sources: dict[str, int] = field(init=False, factory=dict)
    target_tokens: int = field(init=False, default=0)
    _files: dict[str, DigestedFile] = field(init=False, factory=dict)
    _at: int = field(init=False, default=0)  # slots, padding included
    _pieces: int = field(init=False, default=0)
    _pieces_cut: int = field(init=False, default=0)
    _padding: int = field(init=False, default=0)
    _target_bytes: int = field(init=False, default=0)
    _target_blocks: int = field(init=False, default=0)
    _last_target_block: int = field(init=False, default=-1)
    _bytes_block: int = field(init=False, default=0)  # whose bytes are being summed
    _bytes: float = field(init=False, default=0.0)

    @property
    def dtype(self) -> str:
        """The narrowest type that holds all ids."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def _stored_dtype(self) -> str:
        return f"<{self.dtype[0]}{np.dtype(self.dtype).itemsize}"

    @property
    def written_bytes(self) -> int:
        return self._at * (np.dtype(self.dtype).itemsize + self.masks) + self._pieces * 9

    @property
    def block(self) -> int:
        """The block that a new source begins with."""
        return self._at // self.seq_len

    def add(self, ids: Any, read: Any, text_bytes: int) -> None:
        start, length = self._at, len(ids)
        self._write_piece(ids, read, padding=False)
        self._target_bytes += text_bytes
        self._pieces_cut += start // self.seq_len != (start + length - 1) // self.seq_len
        self._count_targets(start, length, read, text_bytes)

    def end_block(self, eos_id: int) -> None:
        """Pad the block under way, unless it has no more than the token that is the last target of the one before.

        Such a block would train nothing; it goes on with the next source.
        """
        if self._at % self.seq_len != 1:
            self.pad_block(eos_id)

    def pad_block(self, eos_id: int) -> None:
        """Fill the block under way."""
        missing = -self._at % self.seq_len
        if missing:
            self._write_piece(np.full(missing, eos_id), None, padding=True)
            self._padding += missing

    def _write_piece(self, ids: Any, read: Any, *, padding: bool) -> None:
        self._write("pieces", np.array([self._at], "<i8"))
        self._write("padding", np.array([padding], np.uint8))
        self._write("tokens", ids.astype(self._stored_dtype))
        if self.masks:
            self._write("read", np.zeros(len(ids), np.uint8) if read is None else read.astype(np.uint8))
        self._pieces += 1
        self._at += len(ids)

    def _count_targets(self, start: int, length: int, read: Any, text_bytes: int) -> None:
        # Position p has the token at p + 1 as its target: the first token of a piece is nobody's target.
        places = np.arange(length - 1) if read is None else np.flatnonzero(~read[1:])
        if not len(places):
            return
        low, high = ((start + int(place)) // self.seq_len for place in (places[0], places[-1]))
        blocks, counts = [low], [len(places)]
        if low != high:  # most pieces lie in one block, and np.unique would cost more than all the rest
            found, numbers = np.unique((places + start) // self.seq_len, return_counts=True)
            blocks, counts = found.tolist(), numbers.tolist()
        self.target_tokens += len(places)
        self._target_blocks += len(blocks) - (low == self._last_target_block)
        self._last_target_block = high
        for block, count in zip(blocks, counts, strict=True):
            self._credit(block, text_bytes * count / len(places))

    def _credit(self, block: int, text_bytes: float) -> None:
        """Add bytes to a block, and write those of the blocks before it."""
        while self._bytes_block < block:
            self._write("bytes", np.array([self._bytes], "<f8"))
            self._bytes = 0.0
            self._bytes_block += 1
        self._bytes += text_bytes

    def finish(self, eos_id: int) -> tuple[SplitFacts, dict[str, FileFacts]]:
        # The last token of the stream is no more than a target, so it needs no slot of its own.
        tokens = self._at - self._padding
        blocks = max(1, -(-(self._at - 1) // self.seq_len)) if self._at else 0
        missing = blocks * self.seq_len + 1 - self._at if blocks else 0
        if missing > 0:
            self._padding += missing - 1
            self._write_piece(np.full(missing, eos_id), None, padding=True)
        self._write("pieces", np.array([self._at], "<i8"))
        self._credit(blocks, 0.0)
        ends = [*list(self.sources.values())[1:], blocks]
        facts = SplitFacts(
            seq_len=self.seq_len,
            dtype=self.dtype,
            read=self.masks,
            pieces=self._pieces,
            pieces_cut=self._pieces_cut,
            tokens=tokens,
            target_tokens=self.target_tokens,
            target_bytes=self._target_bytes,
            blocks=blocks,
            blocks_without_targets=blocks - self._target_blocks,
            padding_slots=self._padding,
            sources={
                name: (first, end - first)
                for (name, first), end in zip(self.sources.items(), ends, strict=True)
            },
        )
        return facts, {f"{self.name}.{kind}": file.finish() for kind, file in self._files.items()}

    def abandon(self) -> None:
        for file in self._files.values():
            file.abandon()

    def _write(self, kind: str, values: Any) -> None:
        if kind not in self._files:
            self._files[kind] = DigestedFile(self.folder / f"{self.name}.{kind}")
        self._files[kind].write(values.tobytes())


@define(eq=False)
class _Waiting:
    """Documents of a source that wait on disk until all their lengths are known."""

    folder: Path
    name: str
    masks: bool
    target_tokens: int = field(init=False, default=0)
    _tokens: DigestedFile = field(init=False)
    _read: DigestedFile | None = field(init=False, default=None)
    _lengths: array[int] = field(init=False, factory=lambda: array("q"))
    _bytes: array[int] = field(init=False, factory=lambda: array("q"))

    def __attrs_post_init__(self) -> None:
        self._tokens = DigestedFile(self.folder / self.name)
        if self.masks:
            self._read = DigestedFile(self.folder / f"{self.name}-read")

    @property
    def written_bytes(self) -> int:
        return self._tokens.written_bytes

    def add(self, ids: Any, read: Any, text_bytes: int) -> None:
        self._tokens.write(ids.astype("<u4").tobytes())
        if self._read is not None:
            self._read.write((np.zeros(len(ids), bool) if read is None else read).tobytes())
        self._lengths.append(len(ids))
        self._bytes.append(text_bytes)
        self.target_tokens += len(ids) - 1 if read is None else int((~read[1:]).sum())

    def blocks(self, seq_len: int, *, alone: bool) -> Iterator[Iterator[tuple[Any, Any, int]]]:
        """Give the documents of each block: ids, read, bytes."""
        self._tokens.finish()
        if self._read is not None:
            self._read.finish()
        if not self._lengths:
            return
        tokens = np.memmap(self._tokens.path, "<u4", "r")
        read = None if self._read is None else np.memmap(self._read.path, bool, "r")
        lengths = np.array(self._lengths)
        ends = np.cumsum(lengths)
        for block in np.arange(len(lengths))[:, None] if alone else fill(lengths, seq_len):
            spans = [(n, slice(int(ends[n] - lengths[n]), int(ends[n]))) for n in block]
            yield ((tokens[at], None if read is None else read[at], self._bytes[n]) for n, at in spans)

    def abandon(self) -> None:
        self._tokens.abandon()
        if self._read is not None:
            self._read.abandon()

    def remove(self) -> None:
        self._tokens.path.unlink()
        if self._read is not None:
            self._read.path.unlink()


def fill(lengths_N: Any, room: int) -> Iterator[Any]:
    """Give the numbers of the pieces of each block, the longest piece first; together they are all pieces."""
    block_N = best_fit(lengths_N, room)
    longest_first = np.argsort(-lengths_N, kind="stable")
    order = longest_first[np.argsort(block_N[longest_first], kind="stable")]
    low = 0
    for high in (np.flatnonzero(np.diff(block_N[order])) + 1).tolist():
        yield order[low:high]
        low = high
    yield order[low:]


def best_fit(lengths_N: Any, room: int) -> Any:
    """Put pieces of at most `room` tokens into as few blocks as best fit finds, the longest pieces first.

    Returns the block of each piece. A piece goes where the least room is left over. Takes time and memory in proportion
    to the pieces. Source: Ding et al., Fewer Truncations Improve Language Modeling, arXiv:2404.10830.
    """
    block_N = np.empty(len(lengths_N), np.int64)
    blocks = 0
    open_blocks: dict[int, list[int]] = {}  # by the room that is left; the lists are stacks
    rooms = 0  # bit r: there is a block with room r
    for number in np.argsort(-lengths_N, kind="stable"):
        length = int(lengths_N[number])
        fitting = rooms >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            block = open_blocks[left].pop()
            if not open_blocks[left]:
                rooms ^= 1 << left
        else:
            left, block = room, blocks
            blocks += 1
        block_N[number] = block
        left -= length
        if left:
            open_blocks.setdefault(left, []).append(block)
            rooms |= 1 << left
    return block_N
