"""The contract of chat tokenizers: a right one passes it, and each way to be wrong fails the check that is for it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from attrs import define, frozen

from codex_kernel import ChatIds, ConversationError, Message, hookimpl
from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer, Utf8Bytes
from codex_kernel.testing import ChatTokenizerContract
from tests.testing.faulty import Faulty

START, END = "<|im_start|>", "<|im_end|>"


@define(eq=False)
class ToyChat(Utf8Bytes):
    """ChatML by hand, a byte a token; the methods are what a faulty one gets wrong."""

    def encode_chats(self, conversations: Any) -> list[ChatIds]:
        """Return the tokens of each conversation."""
        return [self.chat(index, messages) for index, messages in enumerate(conversations)]

    def chat(self, index: int, messages: tuple[Message, ...]) -> ChatIds:
        """Return the tokens of one conversation."""
        self.check(index, messages)
        pairs = [pair for message in messages for pair in self.turn(message)]
        return ChatIds([i for i, _ in pairs], [mark for _, mark in pairs], self.text_bytes(messages))

    def check(self, index: int, messages: tuple[Message, ...]) -> None:
        """Refuse what is no conversation."""
        if not messages:
            raise ConversationError("no messages", index=index)
        for message in messages:
            if not re.fullmatch(r"[\w-]+", message.role) or re.search("[\ud800-\udfff]", message.content):
                raise ConversationError("no role, or no text", index=index)

    def turn(self, message: Message) -> Iterator[tuple[int, bool]]:
        """Yield the ids of a turn, and whether each is trained."""
        trained = self.is_trained(message)
        head = [self.special_tokens[START], *self.encode(f"{message.role}\n")]
        yield from ((token, False) for token in head)
        yield from ((token, trained) for token in self.said(message))
        yield from ((token, trained) for token in self.closing())
        yield from ((token, False) for token in self.encode("\n"))

    def is_trained(self, message: Message) -> bool:
        """Say whether a turn is trained."""
        return message.role == "assistant" and message.trained

    def said(self, message: Message) -> list[int]:
        """Return the ids of what is said."""
        return list(self.encode(message.content))

    def closing(self) -> list[int]:
        """Return what ends a turn."""
        return [self.special_tokens[END]]

    def text_bytes(self, messages: tuple[Message, ...]) -> int:
        """Count the bytes of what is trained."""
        return sum(len(m.content.encode()) for m in messages if self.is_trained(m))


@frozen
class ToyPlugin:
    """Gives the toy."""

    toy: ClassVar[type[ToyChat]] = ToyChat

    @hookimpl
    def codex_tokenizer(self) -> Any:
        """Make the toy."""
        return self.toy(BytesTokenizer(special_tokens=(START, END)).codex_tokenizer().special_tokens)


class TestToy(ChatTokenizerContract):
    def make(self, folder):
        return ToyPlugin()


class TrainsUsers(ToyChat):
    def is_trained(self, message):
        return True


class TrainsWhatIsOnlyRead(ToyChat):
    def is_trained(self, message):
        return message.role == "assistant"


class TrainsNoEnd(ToyChat):
    def turn(self, message):
        for token, trained in super().turn(message):
            yield token, trained and token != self.special_tokens[END]


class EndsNoTurn(ToyChat):
    def closing(self):
        return []


class TakesSpellingForTokens(ToyChat):
    def said(self, message):
        parts = re.split(f"({re.escape(END)})", message.content)
        return [
            i for part in parts for i in ([self.special_tokens[END]] if part == END else self.encode(part))
        ]


class DropsSpaces(ToyChat):
    def said(self, message):
        return list(self.encode(re.sub(r"[ \n]+", " ", message.content)))


class MasksByLength(ToyChat):
    """Takes the tokens from where a prompt of a fixed length ends."""

    def chat(self, index, messages):
        chat = super().chat(index, messages)
        return ChatIds(chat.ids, [place > 20 for place in range(len(chat.ids))], chat.text_bytes)


class CountsTokens(ToyChat):
    def text_bytes(self, messages):
        return sum(len(m.content) for m in messages)


class ShiftsMarks(ToyChat):
    def chat(self, index, messages):
        chat = super().chat(index, messages)
        return ChatIds(chat.ids, [*chat.trained[1:], False], chat.text_bytes)


class GivesTooFewMarks(ToyChat):
    def chat(self, index, messages):
        chat = super().chat(index, messages)
        return ChatIds(chat.ids, chat.trained[:-1], chat.text_bytes)


class ReversesBatches(ToyChat):
    def encode_chats(self, conversations):
        return super().encode_chats(conversations)[::-1]


class TakesAnything(ToyChat):
    def check(self, index, messages):
        pass


class BlamesTheFirst(ToyChat):
    def check(self, index, messages):
        super().check(0, messages)


class TrainsHeads(ToyChat):
    def turn(self, message):
        for token, trained in super().turn(message):
            yield token, trained or self.is_trained(message)


class Remembers(ToyChat):
    said_before = 0

    def said(self, message):
        self.said_before += 1
        return list(self.encode(f"{message.content}{' ' * (self.said_before % 7)}"))


class SharesAState(ToyChat):
    """Two threads meet in it."""

    def is_trained(self, message):
        self.message = message
        time.sleep(0.001)
        return super().is_trained(self.message)


class DiffersFromItsTwin(ToyChat):
    twins = 0

    def __attrs_post_init__(self):
        type(self).twins += 1
        self.number = self.twins

    def said(self, message):
        return list(self.encode(f"{message.content}{' ' * (self.number % 5)}"))


CHECKS = sorted(name for name in vars(ChatTokenizerContract) if name.startswith("test_"))

FAULTS = {
    TrainsUsers: {
        "test_what_the_assistant_says_is_trained",
        "test_without_the_assistant_nothing_is_trained",
        "test_what_is_trained_does_not_depend_on_the_user",
    },
    TrainsWhatIsOnlyRead: {
        "test_a_turn_may_be_only_read",
        "test_without_the_assistant_nothing_is_trained",
    },
    TrainsNoEnd: {"test_the_end_of_a_turn_is_trained"},
    EndsNoTurn: {"test_the_end_of_a_turn_is_trained"},
    TakesSpellingForTokens: {"test_special_tokens_that_are_spelt_are_text"},
    DropsSpaces: {"test_everything_said_is_in_the_ids", "test_what_the_assistant_says_is_trained"},
    MasksByLength: {
        "test_what_the_assistant_says_is_trained",
        "test_what_is_trained_does_not_depend_on_the_user",
    },
    CountsTokens: {"test_bytes_count_what_is_trained"},
    ShiftsMarks: {"test_the_end_of_a_turn_is_trained"},
    TrainsHeads: {"test_what_the_user_says_is_not_trained"},
    GivesTooFewMarks: {"test_each_id_is_trained_or_not"},
    ReversesBatches: {"test_many_at_once_are_as_one_by_one"},
    TakesAnything: {"test_what_is_no_conversation_is_refused"},
    BlamesTheFirst: {"test_what_is_no_conversation_is_refused"},
    Remembers: {"test_many_at_once_are_as_one_by_one"},
    SharesAState: {"test_conversations_may_be_encoded_by_many_threads"},
    DiffersFromItsTwin: {"test_the_same_plugin_gives_the_same_ids"},
}


def failing_checks(contract: ChatTokenizerContract, folder: Any) -> set[str]:
    """Run every check of a contract, and return the names of those that fail."""
    failed = set()
    for name in CHECKS:
        check = getattr(contract, name)
        place = folder / name
        place.mkdir()
        try:
            check(place)
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 - any failure will do
            failed.add(name)
    return failed


def contract_of(toy: type[ToyChat]) -> ChatTokenizerContract:
    """Return the contract, applied to a toy."""

    @frozen
    class Plugin(ToyPlugin):
        pass

    Plugin.toy = toy

    class Contract(ChatTokenizerContract):
        def make(self, folder):
            return Plugin()

    return Contract()


def test_a_right_tokenizer_fails_no_check(tmp_path):
    """The toy that the faulty ones are made of passes every check, as this test runs them."""
    assert failing_checks(contract_of(ToyChat), tmp_path) == set()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_by_the_check_for_it(tmp_path, fault):
    """Each way to be wrong fails the checks that speak of it."""
    assert FAULTS[fault] <= failing_checks(contract_of(fault), tmp_path)


def test_every_check_finds_a_fault():
    """There is no check that none of the faults fails."""
    assert set(CHECKS) - set().union(*FAULTS.values()) == set()


COMMON = Faulty(
    "ChatTokenizerContract",
    """
    from test_chat_contract import ToyPlugin as Sound
    from codex_kernel.testing import ChatTokenizerContract

    class Contract(ChatTokenizerContract):
        made = Sound

        def make(self, folder):
            return self.made()

    del ChatTokenizerContract
    """,
    {},
)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault of any plugin → the checks that fail for it."""
    folder = tmp_path_factory.mktemp("faulty")
    shutil.copy(__file__, folder / "test_chat_contract.py")
    return COMMON.failed(folder)


@pytest.mark.parametrize("name", COMMON.all_faults)
def test_what_holds_for_every_plugin_is_checked(failed, name):
    """The checks of plugins of every kind are part of the contract, and find their faults."""
    COMMON.check(failed, name)
