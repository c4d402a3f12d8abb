"""Texts as rows of tokens, cut and filled as asked: what `codex tokenizer encode` prints.

One rule: texts stream by, and what was cut off a text is counted in its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from attrs import evolve, frozen

from codex_kernel.interfaces import OffsetTokenizer, SpecialTokens, Tokenizer
from codex_kernel.tokens import (
    NamedText,
    Side,
    Spans,
    batches,
    encode_batch,
    encode_with_offsets,
    encode_with_specials,
    pad,
    truncate,
)


@frozen
class Layout:
    """What becomes of the tokens of a text: `length` cuts, `pad` fills; None: neither.

    specials: special tokens that a text spells are their ids. offsets: it is said where each token lies.
    """

    specials: bool = False
    offsets: bool = False
    length: int | None = None
    cut_side: Side = "right"
    pad: int | Literal["longest"] | None = None
    pad_side: Side = "right"
    multiple_of: int | None = None


@frozen(eq=False)
class Row:
    """A text as tokens.

    `mask` says of each id whether it is real, not padding; None: all are. `dropped` counts the tokens that were cut
    off. `spans` are the characters that the real tokens cover; None: the tokenizer does not say, or was not asked.
    """

    name: str
    text: str
    ids: Sequence[int]
    mask: Sequence[bool] | None
    spans: Spans | None
    dropped: int

    def as_json(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return it as a JSON object; padding has neither place nor text."""
        mask = [True] * len(self.ids) if self.mask is None else list(self.mask)
        real = [int(token) for token, is_real in zip(self.ids, mask, strict=True) if is_real]
        spans = [None] * len(real) if self.spans is None else self.spans
        pieces = [
            tokenizer.decode([token]) if span is None else self.text[slice(*span)]
            for token, span in zip(real, spans, strict=True)
        ]
        tokens = iter(zip(spans, pieces, strict=True))
        placed = [next(tokens) if is_real else (None, None) for is_real in mask]
        return {
            "text": self.name,
            "ids": [int(token) for token in self.ids],
            "mask": mask,
            "offsets": None if self.spans is None else [span for span, _ in placed],
            "pieces": [piece for _, piece in placed],
            "dropped": self.dropped,
        }


def rows(tokenizer: Tokenizer, texts: Iterable[NamedText], layout: Layout) -> Iterator[Row]:
    """Encode texts in their order, cut and fill them; all must be known where they are filled to the longest.

    Raises InputError where the layout asks for what the tokenizer has not.
    """
    found = (_cut(row, layout) for row in _encoded(tokenizer, texts, layout))
    if layout.pad is None:
        yield from found
        return
    pad_id = tokenizer.pad_id if isinstance(tokenizer, SpecialTokens) else None
    for group in [list(found)] if layout.pad == "longest" else ([row] for row in found):
        padded = pad(
            [row.ids for row in group],
            pad_id=pad_id,
            length=layout.pad,
            multiple_of=layout.multiple_of,
            side=layout.pad_side,
        )
        for row, ids, mask in zip(group, padded.ids_BT.tolist(), padded.mask_BT.tolist(), strict=True):
            yield evolve(row, ids=ids, mask=mask)


def _encoded(tokenizer: Tokenizer, texts: Iterable[NamedText], layout: Layout) -> Iterator[Row]:
    located = layout.offsets and isinstance(tokenizer, OffsetTokenizer)
    for batch in batches(texts):
        encoded: Iterable[tuple[Sequence[int], Spans | None]]
        if located:
            encoded = (encode_with_offsets(tokenizer, text, specials=layout.specials) for _, text in batch)
        elif layout.specials:
            encoded = ((encode_with_specials(tokenizer, text), None) for _, text in batch)
        else:
            encoded = ((ids, None) for ids in encode_batch(tokenizer, [text for _, text in batch]))
        for (name, text), (ids, spans) in zip(batch, encoded, strict=True):
            yield Row(name, text, ids, None, spans, 0)


def _cut(row: Row, layout: Layout) -> Row:
    if layout.length is None:
        return row
    cut = truncate(row.ids, layout.length, layout.cut_side)
    spans = row.spans
    if spans is not None:
        kept = truncate(range(len(spans)), layout.length, layout.cut_side).ids
        spans = [spans[place] for place in kept]
    return evolve(row, ids=cut.ids, spans=spans, dropped=cut.dropped)
