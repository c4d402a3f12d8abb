"""Blocks of tokens as a person can read them: documents apart, and what is trained apart from what is only read.

One rule: what is shown comes from the batch that a trainer would get, so it is what the model sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from attrs import field, frozen

from codex_kernel.data.blocks import MappedBlocks
from codex_kernel.interfaces import IGNORE_INDEX, SpecialTokens, Tokenizer

Mark = Literal["trained", "read", "special"]
_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes of UTF-8, and so the most tokens that one character can have


@frozen
class Stretch:
    """Tokens of one kind in a row, and their text; of a special token (trained or not) its name."""

    mark: Mark
    trained: bool
    ids: tuple[int, ...]
    text: str | None
    """None where no tokenizer is known."""


@frozen
class Piece:
    """What a block holds of one document, `start` is its first slot."""

    document: int
    start: int
    ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """Of each token, whether it is a target of the one before it in this block."""
    goes_on_from_before: bool
    goes_on_after: bool
    stretches: tuple[Stretch, ...] = field(repr=False)
    texts: tuple[str, ...] | None = field(repr=False)
    """Of each token by itself; None where no tokenizer is known."""


@frozen
class Block:
    """A block; `next_id` is the token after it, where its last one has it as a target."""

    number: int
    tokens: int
    targets: int
    padding: int
    next_id: int | None
    pieces: tuple[Piece, ...]


def shown(blocks: MappedBlocks, numbers: Iterable[int], tokenizer: Tokenizer | None) -> Iterator[Block]:
    """Give the blocks of these numbers; raise IndexError where there is none."""
    for number in numbers:
        batch = blocks.gather([number])
        ids, targets, documents = (
            array[0] for array in (batch.input_ids_BT, batch.targets_BT, batch.document_ids_BT)
        )
        follows = np.concatenate([[False], targets[:-1] != IGNORE_INDEX])
        padding = int((documents < 0).sum())
        last = int(targets[-1])
        yield Block(
            number=number,
            tokens=len(ids) - padding,
            targets=int((targets != IGNORE_INDEX).sum()),
            padding=padding,
            next_id=None if last == IGNORE_INDEX else last,
            pieces=tuple(_pieces(blocks, number, ids, follows, documents, tokenizer)),
        )


def _pieces(  # noqa: PLR0913 - the arrays of a block
    blocks: MappedBlocks, number: int, ids: Any, follows: Any, documents: Any, tokenizer: Tokenizer | None
) -> Iterator[Piece]:
    starts, lengths = blocks.pieces()
    begin = number * blocks.seq_len
    for document in range(int(documents.max()) + 1):
        slots = np.flatnonzero(documents == document)
        low, high = int(slots[0]), int(slots[-1]) + 1
        place = int(starts.searchsorted(begin + low, "right")) - 1
        kept, trained = tuple(ids[low:high].tolist()), tuple(follows[low:high].tolist())
        yield Piece(
            document=document,
            start=low,
            ids=kept,
            trained=trained,
            goes_on_from_before=bool(starts[place] < begin + low),
            goes_on_after=bool(starts[place] + lengths[place] > begin + high),
            stretches=tuple(_stretches(kept, trained, tokenizer)),
            texts=_texts(kept, tokenizer),
        )


def _stretches(ids: Sequence[int], trained: Sequence[bool], tokenizer: Tokenizer | None) -> Iterator[Stretch]:
    names = special_names(tokenizer)
    start = 0
    while start < len(ids):
        if ids[start] in names:
            yield Stretch("special", trained[start], (ids[start],), names[ids[start]])
            start += 1
            continue
        end = start + 1
        while end < len(ids) and trained[end] == trained[start] and ids[end] not in names:
            end += 1
        end, text = _whole_characters(ids, start, end, names, tokenizer)
        yield Stretch("trained" if trained[start] else "read", trained[start], tuple(ids[start:end]), text)
        start = end


def _whole_characters(
    ids: Sequence[int], start: int, end: int, names: dict[int, str], tokenizer: Tokenizer | None
) -> tuple[int, str | None]:
    """Take a few tokens more where a character would be shown in two broken halves."""
    if tokenizer is None:
        return end, None
    text = tokenizer.decode(ids[start:end])
    for longer in range(end + 1, min(end + _LONGEST_CHARACTER, len(ids) + 1)):
        if not text.endswith(_BROKEN) or ids[longer - 1] in names:
            break
        whole = tokenizer.decode(ids[start:longer])
        if not whole.endswith(_BROKEN):
            return longer, whole
    return end, text


def _texts(ids: Sequence[int], tokenizer: Tokenizer | None) -> tuple[str, ...] | None:
    if tokenizer is None:
        return None
    names = special_names(tokenizer)
    return tuple(names[token] if token in names else tokenizer.decode([token]) for token in ids)


def special_names(tokenizer: Tokenizer | None) -> dict[int, str]:
    """Return what special tokens are called, by their id."""
    if tokenizer is None:
        return {}
    named = tokenizer.special_tokens if isinstance(tokenizer, SpecialTokens) else {}
    return {tokenizer.eos_id: "<end of text>", **{token: name for name, token in named.items()}}
