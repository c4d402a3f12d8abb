"""Blocks of tokens, gathered from memory-mapped files a batch at a time.

One rule: no loop over tokens or rows in Python; everything about a batch is derived from the stream of tokens and the
starts of its pieces. Shapes: B blocks, T tokens of a block, S pieces (of documents, or padding) in a batch, N blocks of
a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from numpy.lib.stride_tricks import as_strided

from codex_kernel.data.pack import SplitFacts
from codex_kernel.interfaces import IGNORE_INDEX, Batch


@frozen(eq=False)
class MappedBlocks:
    """A split on disk; it satisfies `interfaces.Blocks`."""

    seq_len: int
    target_tokens: int
    sources: Mapping[str, tuple[int, int]]
    """Name → (first block, blocks); without a mixture there is one, without a name."""
    _windows_NT: Any  # of T + 1 tokens: those of a block, and the next one
    _starts: Any
    _padding: Any
    _read_NT: Any  # of the targets; None where all are trained
    _bytes_N: Any

    @classmethod
    def open(cls, folder: Path, name: str, facts: SplitFacts) -> MappedBlocks:
        """Map the files of a split, whose sizes were checked."""
        tokens = _mapped(folder / f"{name}.tokens", f"<{facts.dtype[0]}{np.dtype(facts.dtype).itemsize}")
        windows_NT = _windows(tokens, facts.blocks, facts.seq_len, facts.seq_len + 1)
        read_NT = None
        if facts.read:
            read = _mapped(folder / f"{name}.read", "bool")[1:]
            read_NT = _windows(read, facts.blocks, facts.seq_len, facts.seq_len)
        return cls(
            facts.seq_len,
            facts.target_tokens,
            facts.sources,
            windows_NT,
            _mapped(folder / f"{name}.pieces", "<i8"),
            _mapped(folder / f"{name}.padding", "bool"),
            read_NT,
            _mapped(folder / f"{name}.bytes", "<f8"),
        )

    def __len__(self) -> int:
        return len(self._windows_NT)

    def pieces(self) -> tuple[Any, Any]:
        """Return the first slot and the tokens of each piece of a document (int64), in the order of the stream."""
        tokens = ~self._padding
        return self._starts[:-1][tokens], np.diff(self._starts)[tokens]

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers, in this order; raise IndexError where there is no such block."""
        ids_B = np.asarray(sample_ids_B, np.int64)
        if ids_B.size and ids_B.min() < 0:
            raise IndexError(f"block {ids_B.min()} is not in 0 … {len(self) - 1}")
        windows_BT = self._windows_NT[ids_B]
        input_ids_BT = windows_BT[:, :-1].astype(np.int64)
        targets_BT = windows_BT[:, 1:].astype(np.int64)
        position_ids_BT, document_ids_BT = self._lay_out(ids_B, targets_BT)
        if self._read_NT is not None:
            np.copyto(targets_BT, IGNORE_INDEX, where=self._read_NT[ids_B])
        return Batch(input_ids_BT, targets_BT, position_ids_BT, document_ids_BT, ids_B)

    def text_bytes(self, sample_ids_B: Any) -> float:
        """Return the UTF-8 bytes of text that the targets of these blocks stand for."""
        return float(self._bytes_N[np.asarray(sample_ids_B, np.int64)].sum())

    def _lay_out(self, ids_B: Any, targets_BT: Any) -> tuple[Any, Any]:
        """Return positions and document numbers; take away the targets that belong to another document."""
        B, T = targets_BT.shape
        begins_B = ids_B * T
        first_B = self._starts.searchsorted(begins_B, "right") - 1
        pieces_B = self._starts.searchsorted(begins_B + T, "left") - first_B
        ramp = _ramp(B * T)
        row_S = ramp[:B].repeat(pieces_B)
        number_S = ramp[: len(row_S)] - (pieces_B.cumsum() - pieces_B)[row_S]
        piece_S = first_B[row_S] + number_S
        row_begin_S = row_S * T
        shift_S = row_begin_S - begins_B[row_S]  # from a place in the stream to a place in the batch
        start_S = np.maximum(self._starts[piece_S] + shift_S, row_begin_S)
        end_S = self._starts[piece_S + 1] + shift_S
        length_S = np.empty_like(start_S)
        np.subtract(start_S[1:], start_S[:-1], out=length_S[:-1])
        length_S[-1:] = B * T - start_S[-1:]

        padding_S = self._padding[piece_S]
        number_S[padding_S] = -1  # padding is the last piece of its block
        document_ids = number_S.repeat(length_S)
        position_ids = ramp - start_S.repeat(length_S)
        targets = targets_BT.reshape(-1)
        targets[end_S[end_S <= row_begin_S + T] - 1] = IGNORE_INDEX
        if padding_S.any():
            padded = document_ids < 0
            position_ids[padded] = 0
            targets[padded] = IGNORE_INDEX
        return position_ids.reshape(B, T), document_ids.reshape(B, T)


@lru_cache(maxsize=8)
def _ramp(size: int) -> Any:
    """Return 0 … size - 1, made once: a run asks for few sizes."""
    ramp = np.arange(size)
    ramp.flags.writeable = False
    return ramp


def _mapped(path: Path, dtype: str) -> Any:
    return np.asarray(np.memmap(path, dtype, "r"))


def _windows(stream: Any, blocks: int, step: int, width: int) -> Any:
    """See a flat array as overlapping rows, without a copy."""
    size = stream.itemsize
    return as_strided(stream, (blocks, width), (step * size, size), writeable=False)
