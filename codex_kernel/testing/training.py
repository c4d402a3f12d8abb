"""A toy run to train: data that can be learnt, a tokenizer, a checkpointer in memory, a reporter that acts.

One rule: every number follows from the arguments; there is no file and no clock. It needs numpy.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from codex_kernel.interfaces import (
    IGNORE_INDEX,
    Batch,
    Checkpoint,
    CheckpointState,
    Evaluation,
    Progress,
    RunContext,
)
from codex_kernel.testing.toys import RecordingReporter

VOCABULARY = 32


@frozen(eq=False)
class ToyBlocks:
    """Blocks of documents of unequal length, in which each token follows from the one before it."""

    count: int
    seq_len: int = 12
    seed: int = 0
    bytes_per_token: float = 2.5
    _rows: Sequence[Batch] = field(init=False)

    def __attrs_post_init__(self) -> None:
        chance = random.Random(self.seed)
        rows = [self._row(chance, number) for number in range(self.count)]
        object.__setattr__(self, "_rows", rows)

    @property
    def target_tokens(self) -> int:
        """Targets of all blocks that are not IGNORE_INDEX."""
        return sum(int((row.targets_BT != IGNORE_INDEX).sum()) for row in self._rows)

    def __len__(self) -> int:
        """Blocks of the split."""
        return self.count

    def text_bytes(self, sample_ids_B: Any) -> float:
        """Return the bytes that the targets of these blocks stand for."""
        return self.bytes_per_token * int((self.gather(sample_ids_B).targets_BT != IGNORE_INDEX).sum())

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers."""
        import numpy as np

        rows = [self._rows[int(number)] for number in sample_ids_B]
        names = ("input_ids_BT", "targets_BT", "position_ids_BT", "document_ids_BT", "sample_ids_B")
        return Batch(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in names})

    def _row(self, chance: random.Random, number: int) -> Batch:
        """Make one block: documents of 3 to 7 tokens, the last of them padded in every third block."""
        import numpy as np

        length = self.seq_len - (4 if number % 3 == 2 else 0)
        ids, targets = [0] * self.seq_len, [IGNORE_INDEX] * self.seq_len
        positions, documents = [0] * self.seq_len, [-1] * self.seq_len
        start, document = 0, 0
        while start < length:
            end = min(length, start + chance.randint(3, 7))
            token = chance.randrange(VOCABULARY)
            for position in range(start, end):
                ids[position], positions[position], documents[position] = token, position - start, document
                token = (5 * token + 3) % VOCABULARY
                targets[position] = token if position + 1 < end else IGNORE_INDEX
            start, document = end, document + 1
        columns = ([ids], [targets], [positions], [documents], [number])
        return Batch(*(np.array(column, dtype=np.int64) for column in columns))


@frozen(eq=False)
class ToyData:
    """Two splits of toy blocks; every epoch is a permutation that follows from the seed."""

    train: ToyBlocks = field(factory=lambda: ToyBlocks(10))
    validation: ToyBlocks | None = field(factory=lambda: ToyBlocks(5, seed=1))
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Hex digest of what makes the data."""
        splits = [
            (split.count, split.seq_len, split.seed) for split in (self.train, self.validation) if split
        ]
        return hashlib.sha256(repr((splits, self.seed)).encode()).hexdigest()

    def samples(self, start: int, count: int) -> Any:
        """Return sample ids of the endless training order."""
        import numpy as np

        return np.array([self._sample(position) for position in range(start, start + count)], dtype=np.int64)

    def _sample(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.train))
        order = list(range(len(self.train)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return order[offset]


@frozen
class ToyTokenizer:
    """Characters of a small alphabet; the last id ends a text."""

    vocab_size: int = VOCABULARY
    eos_id: int = VOCABULARY - 1

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, wrapped around the vocabulary."""
        return [ord(character) % self.eos_id for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return a letter for each id."""
        return "".join(chr(ord("A") + number) for number in ids if number != self.eos_id)


@define(eq=False)
class MemoryCheckpointer:
    """A checkpointer that keeps copies of all states in memory, with no more of them than files would hold."""

    run: RunContext
    every_steps: int | None = None
    states: dict[int, CheckpointState] = field(init=False, factory=dict)
    metrics: dict[int, dict[str, float]] = field(init=False, factory=dict)

    def due(self, step: int) -> bool:
        """Say whether a checkpoint is to be saved after this step."""
        return self.every_steps is not None and step % self.every_steps == 0

    def save(
        self,
        step: int,
        state: CheckpointState,
        metrics: Mapping[str, float],
        *,
        wait: bool = False,  # noqa: ARG002 - it never takes longer
    ) -> None:
        """Keep a copy."""
        self.states[step] = _as_read_back(state)
        self.metrics[step] = dict(metrics)
        self.run.report.checkpoint_saved(self._checkpoint(step))

    def newest(self) -> Checkpoint | None:
        """Return the one with the most steps."""
        return self._checkpoint(max(self.states)) if self.states else None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return a copy of the state."""
        return copy.deepcopy(self.states[checkpoint.step])

    def close(self) -> None:
        """Do nothing."""

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(step, Path(f"step-{step:08d}"), self.metrics[step], 0)


@define(eq=False)
class ActingReporter(RecordingReporter):
    """A reporter that does something when a training step is reported, after it has kept the record."""

    at_step: int = 0
    act: Any = None

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Keep the record; act at the step."""
        super().metrics(progress, values, split=split)
        if split == "train" and progress.step == self.at_step:
            self.act()


def _as_read_back(state: CheckpointState) -> CheckpointState:
    """Return what a reader of the files would get: JSON values, and tensors without their places in memory."""
    tensors = {
        file: {name: _contiguous(copy.deepcopy(tensor)) for name, tensor in named.items()}
        for file, named in state.tensors.items()
    }
    return CheckpointState(
        tensors, json.loads(json.dumps(dict(state.values), allow_nan=False)), dict(state.files)
    )


def _contiguous(tensor: Any) -> Any:
    return tensor.contiguous() if hasattr(tensor, "contiguous") else tensor


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return what the kernel makes of an evaluation, and its sums."""
    return {
        "loss": evaluation.loss_sum / evaluation.tokens,
        "tokens": evaluation.tokens,
        "bytes": evaluation.bytes,
    }
