"""Which characters of a rendered conversation are trained, and where the template's own special tokens lie.

One rule: it follows from the places of the messages' contents in the text, which the template was traced for, and never
from the length of a prefix. Pure functions of text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from attrs import frozen

from codex_hf.rendering import Rendered, must_be_found
from codex_kernel import InputError, Message

_TAG = "in the template, put {% generation %} … {% endgeneration %} around what the model is to write"
Span = tuple[int, int]


@frozen(eq=False)
class SpecialTexts:
    """The special tokens of a vocabulary as they are written: `ids` by text, and a pattern that finds the longest."""

    ids: Mapping[str, int]
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, ids: Mapping[str, int], single_words: Sequence[str], others: Sequence[str]) -> SpecialTexts:
        """Make the pattern.

        single_words: those that are no token within a word. others: tokens that are text, but where they overlap a
        special one, the first and longest is meant.
        """
        firsts = {text[0] for text in ids}
        rivals = [text for text in others if not firsts.isdisjoint(text)]
        texts = sorted({*ids, *rivals}, key=len, reverse=True)
        alone = set(single_words)
        pieces = [rf"(?<!\w){re.escape(text)}(?!\w)" if text in alone else re.escape(text) for text in texts]
        return cls(ids, re.compile("|".join(pieces) or "(?!)"))

    def found(self, text: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, id) of the special tokens between two places of a text."""
        for match in self.pattern.finditer(text, start, end):
            token = self.ids.get(match.group())
            if token is not None:
                yield match.start(), match.end(), token

    def spelt(self, text: str) -> str | None:
        """Return the first special token that a text spells out."""
        return next((text[start:end] for start, end, _ in self.found(text, 0, len(text))), None)


@frozen(eq=False)
class LaidOut:
    """A conversation ready to be encoded.

    `specials` are (start, end, id) of the special tokens that the template wrote, in order; `trained` has a 1 for each
    character of `text` that is trained; `add_eos`: an end-of-text token follows, and is trained.
    """

    text: str
    specials: Sequence[tuple[int, int, int]]
    trained: bytearray
    add_eos: bool


def lay_out(rendered: Rendered, messages: Sequence[Message], specials: SpecialTexts) -> LaidOut:
    """Find the special tokens and what is trained.

    Raises InputError where the template leaves out a message, or changes one so that this cannot be known.
    """
    for number in rendered.absent:
        raise InputError(
            f"the chat template leaves out {_named(messages, number)}",
            remedy="leave that message out of the data, or use a template that has a place for it",
        )
    _refuse_untraced_specials(rendered, messages, specials)
    written = list(_outside(rendered, specials))
    if rendered.generation is not None:
        spans, add_eos = _generated(rendered, messages), False
    else:
        spans, add_eos = _turns(rendered, messages, written)
    trained = bytearray(len(rendered.text))
    for start, end in spans:
        trained[start:end] = b"\1" * (end - start)
    return LaidOut(rendered.text, written, trained, add_eos)


def _named(messages: Sequence[Message], number: int) -> str:
    return f"message {number + 1} ({messages[number].role})"


def _refuse_untraced_specials(
    rendered: Rendered, messages: Sequence[Message], specials: SpecialTexts
) -> None:
    """Raise InputError where what a message spells cannot be told from what the template writes."""
    untraced = range(len(messages)) if rendered.contents is None else rendered.lost
    for number in untraced:
        token = specials.spelt(messages[number].content)
        if token is not None:
            raise InputError(
                f"{_named(messages, number)} spells the special token {token}, and the chat template changes the "
                "message so that its own tokens cannot be told from it",
                remedy="take the token out of the message, or use a template that writes messages as they are",
            )


def _outside(rendered: Rendered, specials: SpecialTexts) -> Iterator[tuple[int, int, int]]:
    """Yield the special tokens that lie outside of all contents."""
    place = 0
    for _, start, end in [*(rendered.contents or ()), (-1, len(rendered.text), len(rendered.text))]:
        if start > place:
            yield from specials.found(rendered.text, place, start)
        place = max(place, end)


def _generated(rendered: Rendered, messages: Sequence[Message]) -> list[Span]:
    """Return the spans of the generation blocks, without those of turns that are only read."""
    only_read = [n for n, turn in enumerate(messages) if turn.role == "assistant" and not turn.trained]
    for number in only_read:
        if rendered.contents is None or number in rendered.lost:
            raise InputError(
                f"{_named(messages, number)} is not to be trained, and the chat template changes it so that it cannot "
                "be found in the text",
                remedy="use a template that writes messages as they are",
            )
    contents = rendered.contents or ()
    kept = []
    for start, end in rendered.generation or ():
        within = [number for number, first, last in contents if first < end and last > start]
        held = [number for number in within if number in only_read]
        if held and any(must_be_found(messages[number]) for number in within):
            raise InputError(
                f"a generation block of the chat template holds {_named(messages, held[0])}, which is not to be "
                "trained, and others that are"
            )
        if not held:
            kept.append((start, end))
    return kept


def _turns(
    rendered: Rendered, messages: Sequence[Message], specials: Sequence[tuple[int, int, int]]
) -> tuple[list[Span], bool]:
    """Return the spans of the assistant's turns with the tokens that end them, and whether the last one needs its end.

    A turn ends with the next special token that the template writes, before anything else is said.
    """
    wanted = [number for number, turn in enumerate(messages) if must_be_found(turn)]
    if wanted and rendered.contents is None:
        raise InputError(
            "the chat template changes what is said, so the assistant's turns are not found", remedy=_TAG
        )
    contents = rendered.contents or ()
    following = dict(pairwise([*range(len(contents)), None]))
    spans = []
    add_eos = False
    for number in wanted:
        places = [place for place, content in enumerate(contents) if content[0] == number]
        if number in rendered.lost or len(places) != 1:
            how = "only a part of" if number in rendered.lost else f"{len(places)} times"
            raise InputError(f"the chat template writes {how} {_named(messages, number)}", remedy=_TAG)
        _, start, end = contents[places[0]]
        after = following[places[0]]
        limit = len(rendered.text) if after is None else contents[after][1]
        closing = next((last for first, last, _ in specials if first >= end and last <= limit), None)
        if closing is None and after is not None:
            raise InputError(
                f"the chat template writes no special token after {_named(messages, number)}, so no model could learn "
                "where a turn ends",
                remedy="write {{ eos_token }} after each of the assistant's turns in the template",
            )
        add_eos = add_eos or closing is None
        spans.append((start, len(rendered.text) if closing is None else closing))
    return spans, add_eos
