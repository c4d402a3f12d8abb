"""Batches of texts and ids over any tokenizer, whatever it offers itself: encode, decode, pad, truncate.

One rule: nothing is cut and nothing is filled without being said: a mask or a count is part of every such result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from attrs import frozen

from codex_kernel.errors import InputError, PluginError
from codex_kernel.interfaces import BatchDecoder, BatchTokenizer, OffsetTokenizer, SpecialTokens, Tokenizer

Side = Literal["left", "right"]
Spans = list[tuple[int, int]]
NamedText = tuple[str, str]
"""The name of a text (its file, `file:line`) and the text."""

BATCH_TEXTS = 256
BATCH_CHARACTERS = 1 << 20


@frozen(eq=False)
class Padded:
    """Sequences of one length: `ids_BT` int64, and `mask_BT` bool, which is True where a token is real."""

    ids_BT: Any
    mask_BT: Any


@frozen(eq=False)
class Truncated:
    """What is left of a sequence, and how many of its tokens were dropped; whoever cuts shows that number."""

    ids: Sequence[int]
    dropped: int


def batches(texts: Iterable[NamedText]) -> Iterator[list[NamedText]]:
    """Put texts together, so many that a tokenizer's threads have work and so few that they fit into memory."""
    batch: list[NamedText] = []
    characters = 0
    for named in texts:
        batch.append(named)
        characters += len(named[1])
        if len(batch) >= BATCH_TEXTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Sequence[int]]:
    """Return `[encode(text) for text in texts]`, by the tokenizer's own batch where it has one.

    Raises PluginError where that does not give one sequence for each text.
    """
    if not isinstance(tokenizer, BatchTokenizer):
        return [tokenizer.encode(text) for text in texts]
    return _of_each(tokenizer.encode_batch(texts), texts, "encodings", "texts") if texts else []


def decode_batch(tokenizer: Tokenizer, sequences: Sequence[Sequence[int]]) -> list[str]:
    """Return `[decode(ids) for ids in sequences]`, by the tokenizer's own batch where it has one.

    Raises PluginError where that does not give one text for each sequence.
    """
    if not isinstance(tokenizer, BatchDecoder):
        return [tokenizer.decode(ids) for ids in sequences]
    return _of_each(tokenizer.decode_batch(sequences), sequences, "texts", "sequences") if sequences else []


def _of_each(answers: Sequence[Any], asked: Sequence[Any], given: str, wanted: str) -> list[Any]:
    if len(answers) != len(asked):
        raise PluginError(f"the tokenizer gave {len(answers)} {given} for {len(asked)} {wanted}")
    return list(answers)


# ── length ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pad(
    sequences: Sequence[Sequence[int]],
    *,
    pad_id: int | None,
    length: int | Literal["longest"] = "longest",
    multiple_of: int | None = None,
    side: Side = "right",
) -> Padded:
    """Fill sequences up to one length with `pad_id`, at their end or (left) before their beginning.

    length: tokens of each row, or the longest sequence; `multiple_of` takes the next multiple of that.
    pad_id: a token of the vocabulary that is there for it. None is an error: end-of-text, or id 0, would be taken for
    real tokens by whoever reads the ids.
    Raises InputError where there is no pad_id, or a sequence is longer than `length`: nothing is cut here.
    """
    import numpy as np

    if pad_id is None:
        raise InputError(
            "cannot pad: the tokenizer has no padding token",
            remedy="name one where the vocabulary is made (such as tokenizer.pad_token), or pack documents instead "
            "of padding them",
        )
    _check_positive(length, multiple_of)
    longest = max((len(ids) for ids in sequences), default=0)
    wanted = longest if length == "longest" else length
    if longest > wanted:
        raise InputError(
            f"cannot pad to {wanted:,} tokens: a sequence has {longest:,}", remedy="truncate before padding"
        )
    width = wanted if multiple_of is None else -(-wanted // multiple_of) * multiple_of
    ids_BT = np.full((len(sequences), width), pad_id, np.int64)
    mask_BT = np.zeros((len(sequences), width), np.bool_)
    for row, ids in enumerate(sequences):
        place = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        ids_BT[row, place] = ids
        mask_BT[row, place] = True
    return Padded(ids_BT, mask_BT)


def _check_positive(length: int | str, multiple_of: int | None) -> None:
    for name, value in (("length", length), ("multiple_of", multiple_of)):
        if isinstance(value, int) and value < 1:
            raise InputError(f"cannot pad: expected a {name} of 1 or more, got {value}")


def truncate(ids: Sequence[int], length: int, side: Side = "right") -> Truncated:
    """Keep `length` tokens: the first ones, or with `left` (the side that is cut) the last ones.

    Raises InputError for a length below 0.
    """
    if length < 0:
        raise InputError(f"cannot truncate: expected a length of 0 or more, got {length}")
    dropped = max(0, len(ids) - length)
    return Truncated(ids[dropped:] if side == "left" else ids[: len(ids) - dropped], dropped)


# ── special tokens ────────────────────────────────────────────────────────────────────────────────────────────────


def encode_with_specials(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text in which special tokens, as they are spelt, become their ids.

    For text that its writer has marked up; a document's own text goes through `encode`, which never gives such an id.
    Raises InputError where the tokenizer does not say what its special tokens are called.
    """
    ids: list[int] = []
    for _, part, special in _parts(tokenizer, text):
        ids.extend(tokenizer.encode(part) if special is None else [special])
    return ids


def decode_with_specials(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return the text of the ids in which special tokens stand as they are spelt; else as `decode`."""
    spelt = {special: text for text, special in _specials(tokenizer).items()}
    texts: list[str] = []
    start = 0
    for place, token in enumerate(ids):
        if token in spelt:
            texts += [tokenizer.decode(ids[start:place]), spelt[token]]
            start = place + 1
    return "".join([*texts, tokenizer.decode(ids[start:])])


def encode_with_offsets(
    tokenizer: Tokenizer, text: str, *, specials: bool = False
) -> tuple[list[int], Spans]:
    """Return ids, and for each the characters [start, end) of the text that it covers.

    With `specials` a special token that the text spells is one id. Raises InputError where the tokenizer has no
    offsets.
    """
    if not isinstance(tokenizer, OffsetTokenizer):
        raise InputError("the tokenizer does not say where its tokens lie in the text")
    ids: list[int] = []
    spans: Spans = []
    for start, part, special in _parts(tokenizer, text) if specials else iter([(0, text, None)]):
        if special is not None:
            ids.append(special)
            spans.append((start, start + len(part)))
            continue
        found, offsets = tokenizer.encode_with_offsets(part)
        ids.extend(int(token) for token in found)
        spans.extend((start + begin, start + end) for begin, end in offsets)
    return ids, spans


def _parts(tokenizer: Tokenizer, text: str) -> Iterator[tuple[int, str, int | None]]:
    """Yield (start, part, id) of a text cut at its special tokens; the id of what is only text is None.

    Of special tokens that begin alike the longest counts.
    """
    specials = _specials(tokenizer)
    if not specials:
        yield 0, text, None
        return
    spellings = sorted(specials, key=lambda spelling: (-len(spelling), spelling))
    start = 0
    for match in re.finditer("|".join(map(re.escape, spellings)), text):
        if match.start() > start:
            yield start, text[start : match.start()], None
        yield match.start(), match[0], specials[match[0]]
        start = match.end()
    if start < len(text):
        yield start, text[start:], None


def _specials(tokenizer: Tokenizer) -> dict[str, int]:
    if not isinstance(tokenizer, SpecialTokens):
        raise InputError("the tokenizer does not say what its special tokens are called")
    return {spelling: token for spelling, token in tokenizer.special_tokens.items() if spelling}
