"""The contract of tokenizers that make tokens of conversations: what a run relies on, as tests.

    class TestMine(ChatTokenizerContract):
        def make(self, folder):
            return MyTokenizer(vocab_size=300)

One rule: it knows the hook and the protocols only. It needs pytest and Hypothesis.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import attrs
import pytest

from codex_kernel.errors import ConversationError, InputError
from codex_kernel.interfaces import ChatIds, ChatTokenizer, Message, SavedTokenizer, SpecialTokens
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.plugin import SpawnedContract
from codex_kernel.testing.tokenizer import CORPUS
from codex_kernel.testing.toys import make_run

Conversation = tuple[Message, ...]


def conversation(*contents: str) -> Conversation:
    """Return a conversation that a user begins."""
    return tuple(
        Message("assistant" if place % 2 else "user", content) for place, content in enumerate(contents)
    )


SHORT = conversation("question one", "answer two")
LONG = conversation(
    "zebra quartz", "def f(x):\n\treturn x", "xylophone jungle", "return  the\n\n    second", "wombat", "ok"
)
UNICODE = conversation(
    "🙂👩‍👩‍👧 e\u0301 漢字 \U000f0000 \U00100001 \ue000", "naïve → 🦊\r\n\tx ≠ y", "a\u200bb", "Ünïcode"
)
CONVERSATIONS = (SHORT, LONG, UNICODE)
NO_CONVERSATIONS: tuple[Conversation, ...] = (
    (),
    (Message("", "text"),),
    (Message("user\nsystem", "text"),),
    (Message("user", "a lone surrogate \ud800"),),
)
_SLACK_BYTES = 8


class ChatTokenizerContract(SpawnedContract):
    """What holds for every tokenizer with a chat template; subclass it and give `make`."""

    kind = "tokenizer"
    examples = 30
    """Texts that Hypothesis tries."""

    def make(self, folder: Path) -> Any:
        """Return the plugin; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:
        """Return the plugin."""
        return self.make(folder)

    def use(self, plugin: Any, folder: Path) -> None:
        """Ask for the tokenizer."""
        hooks_of(plugin).codex_tokenizer(run=make_run(folder), corpus=CORPUS, saved=None)

    def tokenizer(self, folder: Path, *, saved: Path | None = None, train: bool = True) -> Any:
        """Ask a fresh plugin for the tokenizer of a run, as the kernel does."""
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = hooks_of(self.make(folder)).codex_tokenizer(
            run=make_run(folder), corpus=CORPUS if train else None, saved=saved
        )
        assert isinstance(tokenizer, ChatTokenizer), "the tokenizer has no encode_chats"
        return tokenizer

    def test_each_id_is_trained_or_not(self, tmp_path: Path) -> None:
        """A conversation has ids of the vocabulary, a mark for each, and a count of bytes."""
        tokenizer = self.tokenizer(tmp_path)
        for chat in tokenizer.encode_chats(CONVERSATIONS):
            assert len(chat.ids) == len(chat.trained) > 0
            assert all(0 <= token < tokenizer.vocab_size for token in chat.ids)
            assert {bool(mark) == mark for mark in chat.trained} == {True}
            assert chat.text_bytes > 0

    def test_everything_said_is_in_the_ids(self, tmp_path: Path) -> None:
        """All contents come back from the ids, in their order, to the character."""
        tokenizer = self.tokenizer(tmp_path)
        for messages, chat in zip(CONVERSATIONS, tokenizer.encode_chats(CONVERSATIONS), strict=True):
            _in_order([turn.content for turn in messages], tokenizer.decode(list(chat.ids)))

    def test_what_the_assistant_says_is_trained(self, tmp_path: Path) -> None:
        """Each of the assistant's turns is one run of trained ids, which is what it says."""
        tokenizer = self.tokenizer(tmp_path)
        for messages, chat in zip(CONVERSATIONS, tokenizer.encode_chats(CONVERSATIONS), strict=True):
            said = [turn.content for turn in messages if turn.role == "assistant"]
            runs = trained_runs(chat)
            assert len(runs) == len(said), f"{len(said)} turns, {len(runs)} runs of trained ids"
            for content, run in zip(said, runs, strict=True):
                assert content in tokenizer.decode(run)

    def test_what_the_user_says_is_not_trained(self, tmp_path: Path) -> None:
        """Trained ids hold nothing that only the user says, and nothing of the template's but what ends a turn."""
        tokenizer = self.tokenizer(tmp_path)
        for messages, chat in zip(CONVERSATIONS, tokenizer.encode_chats(CONVERSATIONS), strict=True):
            said = [turn.content for turn in messages if turn.role == "assistant"]
            for content, run in zip(said, trained_runs(chat), strict=True):
                assert tokenizer.decode(run).strip() == content.strip()

    def test_the_end_of_a_turn_is_trained(self, tmp_path: Path) -> None:
        """The last trained id of each of the assistant's turns stands for no text: so a model learns to stop."""
        tokenizer = self.tokenizer(tmp_path)
        for chat in tokenizer.encode_chats(CONVERSATIONS):
            for run in trained_runs(chat):
                assert tokenizer.decode(run[-1:]) == "", f"the turn {tokenizer.decode(run)!r} has no end"

    def test_a_turn_may_be_only_read(self, tmp_path: Path) -> None:
        """An assistant's turn that is not to be trained has the same ids, and neither it nor its end is trained."""
        tokenizer = self.tokenizer(tmp_path)
        read = tuple(attrs.evolve(turn, trained=False) if n == 1 else turn for n, turn in enumerate(LONG))
        whole, part = tokenizer.encode_chats([LONG, read])
        assert list(part.ids) == list(whole.ids)
        assert trained_runs(part) == trained_runs(whole)[1:]

    def test_without_the_assistant_nothing_is_trained(self, tmp_path: Path) -> None:
        """A conversation in which the assistant says nothing, or nothing to be trained, has ids and no trained one."""
        tokenizer = self.tokenizer(tmp_path)
        read = tuple(attrs.evolve(turn, trained=False) for turn in SHORT)
        for chat in tokenizer.encode_chats([SHORT[:1], read]):
            assert len(chat.ids) > 0
            assert not any(chat.trained)
            assert chat.text_bytes == 0

    def test_special_tokens_that_are_spelt_are_text(self, tmp_path: Path) -> None:
        """What spells a special token adds none, whoever says it, and comes back as it was spelt."""
        tokenizer = self.tokenizer(tmp_path)
        names = list(tokenizer.special_tokens) if isinstance(tokenizer, SpecialTokens) else ["<|endoftext|>"]
        specials = set(tokenizer.special_tokens.values()) if isinstance(tokenizer, SpecialTokens) else set()
        specials.add(tokenizer.eos_id)
        plain = tokenizer.encode_chats([conversation("a b", "c d", "e f", "g h")])[0]
        for name in names:
            contents = [f"a {name} b", f"c{name}", name, f"{name}\n{name}"]
            chat = tokenizer.encode_chats([conversation(*contents)])[0]
            assert [i for i in chat.ids if i in specials] == [i for i in plain.ids if i in specials]
            _in_order(contents, tokenizer.decode(list(chat.ids)))
            assert len(trained_runs(chat)) == 2

    def test_what_is_trained_does_not_depend_on_the_user(self, tmp_path: Path) -> None:
        """Whatever the user says, the same ids are trained."""
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        tokenizer = self.tokenizer(tmp_path)
        expected = trained_runs(tokenizer.encode_chats([SHORT])[0])

        @settings(
            max_examples=self.examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
        def check(text: str) -> None:
            if text.strip():
                chat = tokenizer.encode_chats([conversation(text, SHORT[1].content)])[0]
                assert trained_runs(chat) == expected

        check()

    def test_bytes_count_what_is_trained(self, tmp_path: Path) -> None:
        """The bytes are those of the assistant's text in UTF-8, and grow with it alone."""
        tokenizer = self.tokenizer(tmp_path)
        texts = ["ok", "ok" + " naïve 漢🙂" * 3]
        small, large, asked = tokenizer.encode_chats(
            [*(conversation("question", text) for text in texts), conversation("question " * 9, texts[0])]
        )
        assert large.text_bytes - small.text_bytes == len(texts[1].encode()) - len(texts[0].encode())
        assert asked.text_bytes == small.text_bytes
        assert len(texts[0]) <= small.text_bytes <= len(texts[0]) + _SLACK_BYTES

    def test_many_at_once_are_as_one_by_one(self, tmp_path: Path) -> None:
        """A batch gives for each conversation what it gets alone, in the order of the batch; no conversation, none."""
        tokenizer = self.tokenizer(tmp_path)
        batch = [*CONVERSATIONS, *CONVERSATIONS[:2]]
        alone = [_plain(tokenizer.encode_chats([messages])[0]) for messages in batch]
        assert [_plain(chat) for chat in tokenizer.encode_chats(batch)] == alone
        assert list(tokenizer.encode_chats([])) == []

    def test_conversations_may_be_encoded_by_many_threads(self, tmp_path: Path) -> None:
        """Threads that encode at the same time get what each would get alone."""
        tokenizer = self.tokenizer(tmp_path)
        batches = [[messages] for messages in CONVERSATIONS * 4]
        alone = [_plain(tokenizer.encode_chats(batch)[0]) for batch in batches]
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(tokenizer.encode_chats, batches))
        assert [_plain(chats[0]) for chats in found] == alone

    def test_what_is_no_conversation_is_refused(self, tmp_path: Path) -> None:
        """A conversation without messages, with a role that is no word, or with text that is none, is an InputError."""
        tokenizer = self.tokenizer(tmp_path)
        before = _plain(tokenizer.encode_chats([SHORT])[0])
        for wrong in NO_CONVERSATIONS:
            with pytest.raises(InputError) as caught:
                tokenizer.encode_chats([SHORT, wrong, LONG])
            if isinstance(caught.value, ConversationError):
                assert caught.value.index == 1
            assert _plain(tokenizer.encode_chats([SHORT])[0]) == before

    def test_the_same_plugin_gives_the_same_ids(self, tmp_path: Path) -> None:
        """Another tokenizer of the same options, and one that was saved and loaded again, encode alike."""
        first, second = self.tokenizer(tmp_path / "first"), self.tokenizer(tmp_path / "second")
        expected = [_plain(chat) for chat in first.encode_chats(CONVERSATIONS)]
        assert [_plain(chat) for chat in second.encode_chats(CONVERSATIONS)] == expected
        if isinstance(first, SavedTokenizer):
            (tmp_path / "saved").mkdir()
            first.save(tmp_path / "saved")
            again = self.tokenizer(tmp_path / "again", saved=tmp_path / "saved", train=False)
            assert [_plain(chat) for chat in again.encode_chats(CONVERSATIONS)] == expected
            assert again.fingerprint() == first.fingerprint()


def trained_runs(chat: ChatIds) -> list[list[int]]:
    """Return the runs of neighbouring ids that are trained."""
    pairs = groupby(zip(chat.ids, chat.trained, strict=True), key=lambda pair: bool(pair[1]))
    return [[int(token) for token, _ in run] for trained, run in pairs if trained]


def _plain(chat: ChatIds) -> tuple[list[int], list[bool], int]:
    return [int(token) for token in chat.ids], [bool(mark) for mark in chat.trained], chat.text_bytes


def _in_order(contents: Sequence[str], text: str) -> None:
    pattern = ".*".join(re.escape(content) for content in contents)
    assert re.search(pattern, text, re.DOTALL), f"{contents} do not come back: {text!r}"
