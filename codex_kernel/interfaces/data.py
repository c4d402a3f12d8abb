"""Documents, tokens and tokenizers: what comes before the model.

One rule: nothing here knows of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

IGNORE_INDEX = -100
"""The target of a position that is not trained (torch's own default for `ignore_index`)."""


@frozen
class Document:
    """One document of a dataset.

    `id` names it uniquely (a path, `file:line`); documents with the same `group` never fall into different splits.
    `text` is trained; `prompt` stands before it and is only read. An end-of-text token follows the text.
    """

    id: str
    group: str
    text: str
    prompt: str = ""


@frozen(eq=False)
class Batch:
    """Some blocks of tokens, as numpy arrays.

    `input_ids_BT` int64. `targets_BT` int64 holds for each position the *next* token of the same document (no further
    shift is needed), or IGNORE_INDEX; a block may have no target. `position_ids_BT` int64 counts from 0 in each
    document of a block, so it is always below T, also where a document goes on from the block before.
    `document_ids_BT` int64 numbers the documents of a block from 0, and is -1 on padding: attention must not cross
    from one to another. `sample_ids_B` int64 are the blocks' numbers in the split.
    """

    input_ids_BT: Any
    targets_BT: Any
    position_ids_BT: Any
    document_ids_BT: Any
    sample_ids_B: Any


class Blocks(Protocol):
    """One split of the data as blocks of `seq_len` tokens, read from disk as they are asked for."""

    @property
    def seq_len(self) -> int:
        """Tokens of a block (T)."""

    @property
    def target_tokens(self) -> int:
        """Targets of all blocks that are not IGNORE_INDEX."""

    @property
    def bytes_per_token(self) -> float:
        """Mean UTF-8 bytes of text that one target stands for."""

    def __len__(self) -> int:
        """Blocks of the split."""

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers, in this order."""


class Data(Protocol):
    """What a trainer trains on: two splits, and the order of the training samples."""

    @property
    def train(self) -> Blocks:
        """The training split, never empty."""

    @property
    def validation(self) -> Blocks | None:
        """The validation split; None where the manifest asks for none."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of tokens, boundaries and options: equal exactly where the batches are equal."""

    def samples(self, start: int, count: int) -> Any:
        """Return `count` sample ids (int64) of the endless training order from position `start` on.

        A pure function of the seed and the position: every epoch is a permutation of all training blocks, and epoch
        e takes the positions e·n … (e+1)·n - 1. It costs the same at any position and holds no state.
        """


class Tokenizer(Protocol):
    """Turns text into ids and back; `decode(encode(text)) == text` for any text."""

    @property
    def vocab_size(self) -> int:
        """Ids are 0 … vocab_size - 1; the model's embedding has at least as many rows."""

    @property
    def eos_id(self) -> int:
        """The end-of-text token, put after each document and trained."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; `eos_id` and other control tokens stand for no text."""


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that encodes many texts at once (on its library's own threads)."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return `[encode(text) for text in texts]`, faster."""


@runtime_checkable
class SavedTokenizer(Protocol):
    """A tokenizer with state (a vocabulary) that must be kept with the run.

    A tokenizer without it is rebuilt from its options alone.
    """

    def save(self, folder: Path) -> None:
        """Write the files from which the same plugin makes an equal tokenizer; `folder` exists and is empty."""

    def fingerprint(self) -> str:
        """Hex digest of all that decides which ids a text gets: vocabulary, merges, normaliser, specials."""


CorpusText = Iterable[str]
"""Training texts that can be gone through more than once."""
