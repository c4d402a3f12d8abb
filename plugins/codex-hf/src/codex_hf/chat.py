"""Conversations as tokens: rendered by the chat template, encoded in one piece, each token trained or only read.

One rule: the ids are those of transformers' `apply_chat_template`, but a special token that is merely spelt in a
message stays text, and an end-of-text token is put after a last turn that the template does not end.

Shapes: T tokens of a conversation, N those of them that are trained text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import define, field, frozen

from codex_hf.chat_spans import LaidOut, SpecialTexts, lay_out
from codex_hf.rendering import Renderer
from codex_kernel import ChatIds, ConversationError, InputError, Message

if TYPE_CHECKING:
    import tokenizers

_PRIVATE = re.compile("[\U00100000-\U0010ffff]")
_FIRST_ALIAS = 0x100000
_MAX_ALIASED = 4


@frozen(eq=False)
class Aliased:
    """A copy of a tokenizer in which special tokens are text, and characters of private use stand for them.

    So the special tokens that the template wrote can be told from those that a message spells, while white space around
    them and the beginning of the text are treated as ever. `alias` by id, `ids` by the alias's own id.
    """

    backend: tokenizers.Tokenizer
    alias: Mapping[int, str]
    ids: Mapping[int, int]


def make_aliased(backend: tokenizers.Tokenizer, tokens: Mapping[int, Any], first: int) -> Aliased:
    """Copy a tokenizer; `tokens` are its special ones by id, and `first` is the code of the first alias."""
    from tokenizers import AddedToken

    copied = copy.deepcopy(backend)
    copied.no_truncation()
    copied.no_padding()
    copied.encode_special_tokens = True
    copied.post_processor = None  # byte-level ones would take white space out of the offsets
    alias = {token_id: chr(first + place) for place, token_id in enumerate(tokens)}
    copied.add_tokens(
        [
            AddedToken(
                alias[token_id],
                special=False,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
                normalized=token.normalized,
            )
            for token_id, token in tokens.items()
        ]
    )
    vocabulary = copied.get_added_tokens_decoder()
    by_text = {text: token_id for token_id, text in alias.items()}
    ids = {i: by_text[token.content] for i, token in vocabulary.items() if token.content in by_text}
    return Aliased(copied, alias, ids)


@define(eq=False)
class ChatEncoder:
    """A vocabulary and a chat template; copies of the vocabulary are made as they are needed."""

    backend: tokenizers.Tokenizer
    eos_id: int
    renderer: Renderer
    _specials: dict[int, Any] = field(init=False)
    _texts: SpecialTexts = field(init=False)
    _aliased: dict[int, Aliased] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        added = self.backend.get_added_tokens_decoder()
        self._specials = {i: token for i, token in sorted(added.items()) if token.special}
        self._texts = SpecialTexts.of(
            {token.content: i for i, token in self._specials.items()},
            [token.content for token in self._specials.values() if token.single_word],
            [token.content for i, token in added.items() if i not in self._specials],
        )

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[ChatIds]:
        """Return the tokens of each conversation.

        Raises ConversationError where the template fails for one, or changes it so that what is trained is not known.
        """
        laid_out = [
            self._laid_out(index, rendered, messages)
            for index, (rendered, messages) in enumerate(
                zip(self.renderer.render(conversations), conversations, strict=True)
            )
        ]
        answers: dict[int, ChatIds] = {}
        groups: dict[int, list[int]] = {}
        for index, conversation in enumerate(laid_out):
            groups.setdefault(self._free_alias(index, conversation.text), []).append(index)
        for first, indices in groups.items():
            chats = self._encoded([laid_out[index] for index in indices], self._with_alias(first), indices)
            answers.update(zip(indices, chats, strict=True))
        return [answers[index] for index in range(len(conversations))]

    def _laid_out(self, index: int, rendered: Any, messages: Sequence[Message]) -> LaidOut:
        try:
            return lay_out(rendered, messages, self._texts)
        except InputError as error:
            raise ConversationError(error.message, index=index, remedy=error.remedy) from error

    def _free_alias(self, index: int, text: str) -> int:
        """Return the code of the first alias of a copy none of whose aliases is in the text."""
        used = set(map(ord, _PRIVATE.findall(text)))
        count = len(self._specials)
        for first in range(_FIRST_ALIAS, _FIRST_ALIAS + _MAX_ALIASED * count, count):
            if used.isdisjoint(range(first, first + count)):
                return first
        raise ConversationError(
            f"the conversation uses too many of the {_MAX_ALIASED * count} characters from U+{_FIRST_ALIAS:X} on, "
            "which stand for special tokens",
            index=index,
        )

    def _with_alias(self, first: int) -> Aliased:
        if first not in self._aliased:
            self._aliased[first] = make_aliased(self.backend, self._specials, first)
        return self._aliased[first]

    def _encoded(
        self, conversations: Sequence[LaidOut], aliased: Aliased, indices: Sequence[int]
    ) -> list[ChatIds]:
        replaced = [replace_specials(conversation, aliased) for conversation in conversations]
        encodings = aliased.backend.encode_batch([each.text for each in replaced], add_special_tokens=False)
        chats = []
        for index, conversation, each, encoding in zip(
            indices, conversations, replaced, encodings, strict=True
        ):
            ids = encoding.ids
            places = [place for place, token in enumerate(ids) if token in aliased.ids]
            found = [aliased.ids[ids[place]] for place in places]
            written = [token for _, _, token in conversation.specials]
            if found != written:
                raise ConversationError(
                    f"the chat template writes the special tokens {self._named(written)}, and the tokenizer finds "
                    f"{self._named(found)} of them",
                    index=index,
                )
            if made := {self.eos_id, *written}.intersection(ids):
                raise ConversationError(
                    f"the tokenizer makes the special token {self._named(sorted(made))} of text that merely spells it",
                    index=index,
                )
            for place, token in zip(places, written, strict=True):
                ids[place] = token
            chat = marked_ids(each, ids, places, encoding.offsets)
            chats.append(_ended(chat, self.eos_id) if conversation.add_eos else chat)
        return chats

    def _named(self, ids: Sequence[int]) -> str:
        return " ".join(str(self.backend.id_to_token(i)) for i in ids[:20]) or "none"


@frozen(eq=False)
class Replaced:
    """A conversation with an alias in the place of each special token.

    `trained` has a 1 for each character of `text` that is trained; `aliases` are the places of the aliases.
    """

    text: str
    trained: bytearray
    aliases: Sequence[int]


def replace_specials(conversation: LaidOut, aliased: Aliased) -> Replaced:
    """Put aliases in the place of the special tokens that the template wrote."""
    pieces: list[str] = []
    trained = bytearray()
    aliases: list[int] = []
    last = 0
    for start, end, token in conversation.specials:
        pieces += [conversation.text[last:start], aliased.alias[token]]
        trained += conversation.trained[last:start]
        aliases.append(len(trained))
        trained.append(1 if conversation.trained.find(1, start, end) >= 0 else 0)
        last = end
    pieces.append(conversation.text[last:])
    trained += conversation.trained[last:]
    return Replaced("".join(pieces), trained, aliases)


def marked_ids(
    replaced: Replaced, ids: list[int], specials: list[int], offsets: Sequence[tuple[int, int]]
) -> ChatIds:
    """Return the ids with a mark for each: a token is trained where a character of it is.

    specials: places of the special tokens among the ids; one that takes white space with it is judged by its own place
    in the text, and stands for no text.
    """
    places_T2 = np.array(offsets, np.int64).reshape(len(ids), 2)
    start_T, end_T = places_T2[:, 0], places_T2[:, 1]
    trained = np.frombuffer(bytes(replaced.trained), np.uint8)
    trained_upto = np.concatenate([[0], np.cumsum(trained, dtype=np.int64)])
    # A token without a character, such as the beginning of a word alone, goes with the next one.
    trained_T = trained_upto[np.minimum(np.maximum(end_T, start_T + 1), len(trained))] > trained_upto[start_T]
    trained_T[specials] = False
    text_bytes = _covered_bytes(replaced.text, start_T[trained_T], end_T[trained_T])
    trained_T[specials] = trained[list(replaced.aliases)] == 1
    return ChatIds(ids, trained_T.tolist(), text_bytes)


def _ended(chat: ChatIds, eos_id: int) -> ChatIds:
    return ChatIds([*chat.ids, eos_id], [*chat.trained, True], chat.text_bytes)


def _covered_bytes(text: str, start_N: Any, end_N: Any) -> int:
    """Return the UTF-8 bytes of all characters that some of the spans cover; tokens may share a character."""
    if not len(start_N):
        return 0
    reached_N = np.maximum.accumulate(end_N)
    start_N = np.maximum(start_N, np.concatenate([[0], reached_N[:-1]]))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)  # noqa: PLR2004 - UTF-8
    bytes_upto = np.concatenate([[0], np.cumsum(widths)])
    return int((bytes_upto[np.maximum(end_N, start_N)] - bytes_upto[start_N]).sum())
