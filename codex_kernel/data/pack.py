"""Tokens of documents, one after the other, into the files of a split.

One rule: no token is lost. The stream is cut into blocks only when it is read, so a document may lie in several
blocks, and the last token of a block has the first one of the next as its target.

    <split>.tokens      uint16 or uint32, the stream, then end-of-text tokens up to blocks * seq_len + 1
    <split>.documents   int64, where each document starts, then the length of the stream
    <split>.prompts     uint8, only where there are prompts: 1 for a token that is read and not trained
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from attrs import define, field, frozen

_BUFFER_BYTES = 1 << 20


@frozen
class FileFacts:
    """A file as it was written."""

    bytes: int
    sha256: str


@frozen
class SplitFacts:
    """A split as it lies on disk, all but its name; `files` has what was written under each file name."""

    seq_len: int
    dtype: str
    prompts: bool
    documents: int
    documents_split: int
    """Documents that lie in more than one block."""
    tokens: int
    target_tokens: int
    target_bytes: int
    """UTF-8 bytes of the texts, which the targets stand for."""
    blocks: int
    blocks_without_targets: int
    padding_slots: int
    files: dict[str, FileFacts]


@define(eq=False)
class SplitWriter:
    """Writes a split into `folder`, which exists; every method may raise OSError."""

    folder: Path
    name: str
    seq_len: int
    vocab_size: int
    prompts: bool
    _files: dict[str, IO[bytes]] = field(init=False, factory=dict)
    _digests: dict[str, Any] = field(init=False, factory=dict)
    documents: int = field(init=False, default=0)
    _documents_split: int = field(init=False, default=0)
    _tokens: int = field(init=False, default=0)
    target_tokens: int = field(init=False, default=0)
    _target_bytes: int = field(init=False, default=0)
    _target_blocks: int = field(init=False, default=0)
    _last_target_block: int = field(init=False, default=-1)

    @property
    def dtype(self) -> str:
        """The narrowest type that holds all ids."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def written_bytes(self) -> int:
        """How much was written so far, about."""
        return self._tokens * np.dtype(self.dtype).itemsize + self.documents * 8 + self._tokens * self.prompts

    def add(self, ids: Any, prompt_tokens: int, text_bytes: int) -> None:
        """Append a document: its ids, how many of them are its prompt, and the size of its text."""
        start, length = self._tokens, len(ids)
        self._write("documents", np.array([start], "<i8"))
        self._write("tokens", ids.astype(f"<{self.dtype[0]}{np.dtype(self.dtype).itemsize}"))
        if self.prompts:
            self._write("prompts", (np.arange(length) < prompt_tokens).astype(np.uint8))
        self.documents += 1
        self._tokens += length
        self._target_bytes += text_bytes
        # Position p has the token at p + 1 as its target: the first token of a document is nobody's target.
        first, last = start + max(prompt_tokens, 1) - 1, start + length - 2
        if first <= last:
            self._count_targets(first, last)
        self._documents_split += start // self.seq_len != (start + length - 1) // self.seq_len

    def _count_targets(self, first: int, last: int) -> None:
        self.target_tokens += last - first + 1
        low = max(first // self.seq_len, self._last_target_block + 1)
        self._last_target_block = max(last // self.seq_len, self._last_target_block)
        self._target_blocks += self._last_target_block - low + 1

    def finish(self, eos_id: int) -> SplitFacts:
        """Pad the last block, bring everything safely to disk and close the files."""
        # The last token of the stream is no more than a target, so it needs no place of its own.
        blocks = max(1, -(-(self._tokens - 1) // self.seq_len)) if self._tokens else 0
        width = blocks * self.seq_len + 1
        padding = np.full(
            max(0, width - self._tokens), eos_id, f"<{self.dtype[0]}{np.dtype(self.dtype).itemsize}"
        )
        self._write("documents", np.array([self._tokens], "<i8"))
        self._write("tokens", padding)
        if self.prompts:
            self._write("prompts", np.zeros(len(padding), np.uint8))
        return SplitFacts(
            seq_len=self.seq_len,
            dtype=self.dtype,
            prompts=self.prompts,
            documents=self.documents,
            documents_split=self._documents_split,
            tokens=self._tokens,
            target_tokens=self.target_tokens,
            target_bytes=self._target_bytes,
            blocks=blocks,
            blocks_without_targets=blocks - self._target_blocks,
            padding_slots=max(0, blocks * self.seq_len - self._tokens),
            files=self._sync(),
        )

    def close(self) -> None:
        """Let go of the files, whether they are whole or not; what is not yet written is of no use to anybody."""
        for file in self._files.values():
            file.raw.close()  # type: ignore[attr-defined] # closing the buffer would write, and fail, again
        self._files.clear()

    def _write(self, kind: str, values: Any) -> None:
        if kind not in self._files:
            self._files[kind] = (self.folder / f"{self.name}.{kind}").open("xb", buffering=_BUFFER_BYTES)
            self._digests[kind] = hashlib.sha256()
        data = values.tobytes()
        self._digests[kind].update(data)
        self._files[kind].write(data)

    def _sync(self) -> dict[str, FileFacts]:
        written = {}
        for kind, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            written[f"{self.name}.{kind}"] = FileFacts(file.tell(), self._digests[kind].hexdigest())
            file.close()
        self._files.clear()
        return written
