"""Blocks of tokens, gathered from memory-mapped files a batch at a time.

One rule: no loop over tokens or rows in Python; everything about a batch is derived from the stream of tokens and the
starts of the documents. Shapes: B blocks, T tokens of a block, S pieces of documents in a batch, N blocks of a split.
"""

from __future__ import annotations

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
    bytes_per_token: float
    tokens: int
    """Tokens of the stream, without padding."""
    _windows_NT: Any  # of T + 1 tokens: those of a block, and the next one
    _starts: Any
    _prompts_NT: Any  # of the targets; None where there are no prompts

    @classmethod
    def open(cls, folder: Path, name: str, facts: SplitFacts) -> MappedBlocks:
        """Map the files of a split, whose sizes were checked."""
        tokens = _mapped(folder / f"{name}.tokens", f"<{facts.dtype[0]}{np.dtype(facts.dtype).itemsize}")
        windows_NT = _windows(tokens, facts.blocks, facts.seq_len, facts.seq_len + 1)
        prompts_NT = None
        if facts.prompts:
            prompts = _mapped(folder / f"{name}.prompts", "bool")[1:]
            prompts_NT = _windows(prompts, facts.blocks, facts.seq_len, facts.seq_len)
        return cls(
            facts.seq_len,
            facts.target_tokens,
            facts.target_bytes / facts.target_tokens,
            facts.tokens,
            windows_NT,
            _mapped(folder / f"{name}.documents", "<i8"),
            prompts_NT,
        )

    def __len__(self) -> int:
        return len(self._windows_NT)

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers, in this order; raise IndexError where there is no such block."""
        ids_B = np.asarray(sample_ids_B, np.int64)
        if ids_B.size and ids_B.min() < 0:
            raise IndexError(f"block {ids_B.min()} is not in 0 … {len(self) - 1}")
        windows_BT = self._windows_NT[ids_B]
        input_ids_BT = windows_BT[:, :-1].astype(np.int64)
        targets_BT = windows_BT[:, 1:].astype(np.int64)
        position_ids_BT, document_ids_BT = self._lay_out(ids_B, targets_BT)
        if self._prompts_NT is not None:
            np.copyto(targets_BT, IGNORE_INDEX, where=self._prompts_NT[ids_B])
        return Batch(input_ids_BT, targets_BT, position_ids_BT, document_ids_BT, ids_B)

    def _lay_out(self, ids_B: Any, targets_BT: Any) -> tuple[Any, Any]:
        """Return positions and document numbers; take away the targets that belong to another document."""
        B, T = targets_BT.shape
        begins_B = ids_B * T
        ends_B = np.minimum(begins_B + T, self.tokens)
        first_B = np.searchsorted(self._starts, begins_B, "right") - 1
        pieces_B = np.searchsorted(self._starts, ends_B, "left") - first_B
        before_B = np.cumsum(pieces_B) - pieces_B
        row_S = np.repeat(np.arange(B), pieces_B)
        number_S = np.arange(len(row_S)) - before_B[row_S]
        document_S = first_B[row_S] + number_S
        shift_S = row_S * T - begins_B[row_S]  # from a place in the stream to a place in the batch
        start_S = np.maximum(self._starts[document_S] + shift_S, row_S * T)
        end_S = self._starts[document_S + 1] + shift_S
        length_S = np.diff(start_S, append=B * T)

        document_ids = np.repeat(number_S, length_S)
        position_ids = np.arange(B * T) - np.repeat(start_S, length_S)
        targets = targets_BT.reshape(-1)
        targets[end_S[end_S <= (row_S + 1) * T] - 1] = IGNORE_INDEX
        for row in np.flatnonzero(begins_B + T > self.tokens):
            padding = slice(int(row * T + self.tokens - begins_B[row]), int((row + 1) * T))
            document_ids[padding] = -1
            position_ids[padding] = 0
            targets[padding] = IGNORE_INDEX
        return position_ids.reshape(B, T), document_ids.reshape(B, T)


def _mapped(path: Path, dtype: str) -> Any:
    return np.asarray(np.memmap(path, dtype, "r"))


def _windows(stream: Any, blocks: int, step: int, width: int) -> Any:
    """See a flat array as overlapping rows, without a copy."""
    size = stream.itemsize
    return as_strided(stream, (blocks, width), (step * size, size), writeable=False)
