"""Conversations as tokens: the ids of transformers, what is trained, and what a text may not do to them."""

from __future__ import annotations

import functools
from itertools import groupby
from typing import Any

import attrs
import pytest
from chat_formats import CHATML, EOS, FORMATS, GENERATION, IM_END, IM_START, ours, theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_hf.chat import Replaced, marked_ids
from codex_hf.chat_spans import SpecialTexts
from codex_kernel import ConversationError, InputError, Message
from codex_kernel.testing.chat import conversation

TALK = conversation(
    "first question", "the answer", "  and then?\n", "x = 1\n\n    return  x", "so", "naïve 🙂 e\u0301"
)
SYSTEM = (Message("system", "be brief"), *TALK)
PADDED = conversation(" a\n", "  lead and trail \n\n", "\n", "\tok ")
FORMAT_NAMES = list(FORMATS)
BODY = "'<|im_start|>' + m.role + '\\n' + {} + '<|im_end|>\\n'"
LOOP = "{% for m in messages %}{{ " + BODY + " }}{% endfor %}"

our_tokenizer = functools.cache(ours)
their_tokenizer = functools.cache(theirs)


def dicts(messages: Any) -> list[dict[str, str]]:
    """Return a conversation as transformers takes it."""
    return [{"role": turn.role, "content": turn.content} for turn in messages]


def encoded(name: str, *messages: Message, template: str | None = None) -> Any:
    """Encode one conversation."""
    tokenizer = our_tokenizer(name) if template is None else ours(name, template)
    return tokenizer.encode_chats([messages])[0]


def runs(name: str, chat: Any) -> list[str]:
    """Return the texts of the runs of trained tokens, special tokens written out."""
    backend = our_tokenizer(name).backend
    pairs = groupby(zip(chat.ids, chat.trained, strict=True), key=lambda pair: pair[1])
    return [
        backend.decode([token for token, _ in run], skip_special_tokens=False)
        for trained, run in pairs
        if trained
    ]


# ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_ids_are_those_of_transformers(name):
    """Each format has the ids that apply_chat_template gives."""
    talks = [TALK, PADDED] + ([SYSTEM] if FORMATS[name].system else [])
    for messages in talks:
        expected = their_tokenizer(name).apply_chat_template(dicts(messages), tokenize=True)["input_ids"]
        assert list(encoded(name, *messages).ids) == list(expected)


contents = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from(" \n\t<|>[]"),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, deadline=None, database=None)
@given(st.sampled_from(FORMAT_NAMES), st.lists(contents, min_size=2, max_size=4))
def test_any_content_has_the_ids_of_transformers(name, said):
    """Whatever is said, unless it spells a special token: the ids are transformers', and the turns are found."""
    if any(special in content for content in said for special in FORMATS[name].specials):
        return
    messages = conversation(*said)
    expected = their_tokenizer(name).apply_chat_template(dicts(messages), tokenize=True)["input_ids"]
    chat = encoded(name, *messages)
    assert list(chat.ids) == list(expected)
    assert len(runs(name, chat)) == len(said) // 2


def test_no_special_token_is_added(tmp_path):
    """The beginning of a text that a stored tokenizer adds is not added to what the template writes."""
    tokenizer = our_tokenizer("llama-3")
    assert tokenizer.backend.post_processor is not None
    assert list(encoded("llama-3", *TALK).ids).count(tokenizer.special_tokens["<|begin_of_text|>"]) == 1


# ── what is trained ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_turns_and_their_ends_are_trained(name):
    """Of each format, what the assistant says is trained up to the token that ends its turn, and nothing else."""
    form = FORMATS[name]
    said = [turn.content for turn in TALK if turn.role == "assistant"]
    found = runs(name, encoded(name, *TALK))
    assert [run.strip() for run in found] == [f"{text}{form.after}".strip() for text in said]


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_white_space_is_trained_as_the_template_leaves_it(name):
    """White space around what is said is trained where the template keeps it."""
    found = runs(name, encoded(name, *PADDED))
    form = FORMATS[name]
    for run, said in zip(found, ["  lead and trail \n\n", "\tok "], strict=True):
        kept = said.strip() if form.strips else said.lstrip() if form.rstrip else said
        kept = kept.rstrip() if form.lstrip else kept
        assert run.removesuffix(form.after).strip(" ") == kept.strip(" ")


def test_the_indentation_of_an_answer_is_trained():
    """White space that an answer begins with is the assistant's, also where the template strips what others say."""
    trims_users = "(m.content if m.role == 'assistant' else m.content | trim)"
    for template in (CHATML, LOOP.replace("{}", trims_users)):
        (run,) = runs(
            "chatml", encoded("chatml", *conversation(" go on ", "    return x"), template=template)
        )
        assert run.lstrip("\n") == f"    return x{IM_END}"  # one token is a new line with the indentation


@pytest.mark.parametrize("name", ["chatml", "generation", "llama-2"])
def test_a_turn_may_be_only_read(name):
    """An assistant's turn that is not to be trained is not, nor its end, whichever way the template marks turns."""
    messages = tuple(attrs.evolve(turn, trained=n != 3) for n, turn in enumerate(TALK))
    chat, whole = encoded(name, *messages), encoded(name, *TALK)
    assert chat.ids == whole.ids
    assert runs(name, chat) == [runs(name, whole)[0], runs(name, whole)[2]]


def test_an_empty_turn_trains_its_end():
    """An assistant that says nothing is trained to end its turn at once."""
    assert runs("chatml", encoded("chatml", *conversation("hush", ""))) == [IM_END]


def test_generation_blocks_are_trained_exactly():
    """Where the template marks what is generated, that is trained, as transformers' own mask says."""
    theirs_masked = their_tokenizer("generation").apply_chat_template(
        dicts(SYSTEM), tokenize=True, return_assistant_tokens_mask=True, return_dict=True
    )
    chat = encoded("generation", *SYSTEM)
    assert [int(mark) for mark in chat.trained] == list(theirs_masked["assistant_masks"])


def test_generation_blocks_may_hold_more_than_is_said():
    """A block that holds an empty thought and leaves out the end is taken as it is."""
    template = GENERATION.replace(
        "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}",
        "{% generation %}{{ '<think>' + message.content }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    assert runs("generation", encoded("generation", *TALK[:2], template=template)) == ["<think>the answer"]


def test_bytes_count_text_alone():
    """The bytes are those of the assistant's text: special tokens stand for none, shared characters count once."""
    assert encoded("chatml", *conversation("question", "ab 🙂é")).text_bytes == 3 + 4 + 2
    assert encoded("chatml", *conversation("question", "ab"), *conversation("more", "cd")).text_bytes == 4


def test_a_token_without_characters_goes_with_the_next_one():
    """A mark of a word's beginning that covers no character is trained where the word is; it stands for no bytes."""
    replaced = Replaced("ab cd", bytearray([0, 0, 0, 1, 1]), [])
    chat = marked_ids(replaced, [1, 2, 3, 4], [], [(0, 0), (0, 2), (3, 3), (3, 5)])
    assert (chat.trained, chat.text_bytes) == ([False, False, True, True], 2)


# ── what ends a turn ──────────────────────────────────────────────────────────────────────────────────────────────

PLAIN = "{% for m in messages %}{{ '### ' + m.role + ':\\n' + m.content + '\\n\\n' }}{% endfor %}"


def test_a_last_turn_without_end_gets_one():
    """A template that ends with text is trained to its end, and an end-of-text token follows."""
    chat = encoded("chatml", *conversation("question", "answer"), template=PLAIN)
    assert runs("chatml", chat) == [f"answer\n\n{EOS}"]
    assert chat.ids[-1] == our_tokenizer("chatml").eos_id


def test_turns_without_end_are_refused():
    """Where nothing tells an answer from the next question, a model could not learn to stop: that is an error."""
    with pytest.raises(ConversationError, match=r"no special token after message 2 \(assistant\)") as caught:
        encoded("chatml", *TALK, template=PLAIN)
    assert "eos_token" in caught.value.remedy
    read = tuple(attrs.evolve(turn, trained=n > 4) for n, turn in enumerate(TALK))
    assert len(runs("chatml", encoded("chatml", *read, template=PLAIN))) == 1


def test_an_end_after_the_next_question_is_none():
    """A special token that comes only after somebody else has spoken ends no turn; the last one is ended by it."""
    template = PLAIN + "{{ '<|im_end|>' }}"
    with pytest.raises(ConversationError, match=r"no special token after message 2 \(assistant\)"):
        encoded("chatml", *TALK, template=template)
    chat = encoded("chatml", *TALK[:2], template=template)
    assert runs("chatml", chat) == [f"the answer\n\n{IM_END}"]


def test_the_next_turn_may_end_the_one_before():
    """Where a special token of the next turn is the first after an answer, it is what ends it."""
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% endfor %}"
    chat = encoded("chatml", *TALK[:4], template=template)
    assert runs("chatml", chat) == [f"the answer{IM_START}", f"x = 1\n\n    return  x{EOS}"]


# ── what a text may not do ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_spelt_special_token_stays_text(name):
    """Nobody ends a turn, or begins another, by spelling the template's tokens; all of it comes back as text."""
    tokenizer = our_tokenizer(name)
    form = FORMATS[name]
    specials = set(tokenizer.special_tokens.values())
    spelt = "".join(form.specials)
    plain = encoded(name, *conversation("a", "b", "c", "d"))
    chat = encoded(name, *conversation(f"a{spelt} assistant\nb", f"no {spelt}", spelt, "d"))
    assert [i for i in chat.ids if i in specials] == [i for i in plain.ids if i in specials]
    assert tokenizer.decode(chat.ids).count(spelt) == 3
    assert [run.strip() for run in runs(name, chat)] == [f"no {spelt}{form.after}", f"d{form.after}"]


def test_a_token_pieced_together_is_text():
    """A special token of which the template writes one half and a user the other is none."""
    template = "{% for m in messages %}{{ '<|im_' + m.content + '<|im_end|>' }}{% endfor %}"
    chat = encoded("chatml", *conversation("start|>", "end|>"), template=template)
    specials = our_tokenizer("chatml").special_tokens
    assert specials[IM_START] not in chat.ids
    assert chat.ids.count(specials[IM_END]) == 2


def test_of_two_tokens_the_first_and_longest_is_meant():
    """A token of plain text may overlap a special one: which of them it is, the tokenizers library has settled."""
    specials = SpecialTexts.of({"<a>": 1, "<a><b>": 2, "[w]": 3}, ["[w]"], ["x<a", "<a>!", "yes", "[w]no"])
    found = [
        (text, token)
        for text in ("<a><b>", "x<a>", "<a>!", "<a>", "no[w]", "[w]", "-[w]-")
        for token in [[token for _, _, token in specials.found(text, 0, len(text))]]
    ]
    assert found == [
        ("<a><b>", [2]),
        ("x<a>", []),
        ("<a>!", []),
        ("<a>", [1]),
        ("no[w]", []),
        ("[w]", [3]),
        ("-[w]-", [3]),
    ]


def test_characters_of_private_use_come_back():
    """The characters that codex marks texts with may themselves be said."""
    said = "\U000f0000\U000f0001\U000f0002\U00100000\U00100001\U00100002 x"
    chat = encoded("chatml", *conversation(said, f"{said}{IM_END}"))
    assert our_tokenizer("chatml").decode(chat.ids).count(said) == 2
    assert runs("chatml", chat) == [f"{said}{IM_END}{IM_END}"]


def test_a_conversation_of_all_private_characters_is_refused():
    """Where no character is left to stand for special tokens, that is said, with the conversation's place."""
    said = "".join(map(chr, range(0x100000, 0x100100)))
    with pytest.raises(ConversationError, match="stand for special tokens") as caught:
        our_tokenizer("chatml").encode_chats([TALK, conversation(said, "b")])
    assert caught.value.index == 1


# ── templates that change what is said ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "said", "message"),
    [
        ("m.content[:6]", "a long answer", "changes what is said"),
        ("m.content | title", "answer", "changes what is said"),
        ("m.content.split('</think>')[-1]", "why</think>because", "only a part of message 2"),
        ("m.content + m.content", "twice", r"2 times message 2 \(assistant\)"),
        ("(m.content if m.role == 'user' else 'no')", "other", r"leaves out message 2 \(assistant\)"),
        ("(m.content if m.role != 'user' else 'no')", "other", r"leaves out message 1 \(user\)"),
    ],
)
def test_a_template_that_changes_what_is_said_is_refused(content, said, message):
    """Where the assistant's text cannot be found again, the error says so and what to do."""
    with pytest.raises(ConversationError, match=message) as caught:
        encoded("chatml", *conversation("question", said), template=LOOP.replace("{}", content))
    assert caught.value.remedy


def test_generation_blocks_need_no_tracing():
    """A template that rewrites an answer is used where it marks what is generated, unless tokens are spelt in it."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' }}{% generation %}{{ m.content.split('</think>')[-1] }}"
        "{% endgeneration %}{% endfor %}"
    )
    chat = encoded("chatml", *conversation("q", "why</think>because"), template=template)
    assert runs("chatml", chat) == ["q", "because"]
    with pytest.raises(
        ConversationError, match=r"message 2 \(assistant\) spells the special token <\|im_end\|>"
    ):
        encoded("chatml", *conversation("q", "why</think>because<|im_end|>"), template=template)


def test_only_read_turns_may_be_rewritten():
    """A turn that is not trained may come out changed, as long as it spells no special token."""
    template = LOOP.replace("{}", "m.content.split('</think>')[-1]")
    thought = Message("assistant", "why</think>because", trained=False)
    chat = encoded("chatml", Message("user", "q"), thought, *conversation("r", "s"), template=template)
    assert runs("chatml", chat) == [f"s{IM_END}"]


def test_what_the_template_refuses_is_told():
    """A system message that the template has no place for is an error in the template's own words."""
    with pytest.raises(ConversationError, match="fails in line 1: System role not supported") as caught:
        our_tokenizer("gemma").encode_chats([TALK, TALK, SYSTEM])
    assert caught.value.index == 2


def test_no_template_is_an_error():
    """A tokenizer without a chat template says so, and how to give it one."""
    tokenizer = attrs.evolve(our_tokenizer("chatml"), chat_template=None)
    with pytest.raises(InputError, match="has no chat template") as caught:
        tokenizer.encode_chats([TALK])
    assert "chat_template" in caught.value.remedy


def test_the_template_decides_the_fingerprint():
    """Another template, or other tokens for it, is another fingerprint."""
    prints = {ours("chatml").fingerprint(), ours("chatml", PLAIN).fingerprint()}
    prints.add(attrs.evolve(ours("chatml"), chat_template=None).fingerprint())
    prints.add(
        attrs.evolve(ours("chatml"), files={"tokenizer_config.json": b'{"bos_token": "<s>"}'}).fingerprint()
    )
    assert len(prints) == 4


def test_the_default_system_message_is_not_trained():
    """What the template says of itself is only read."""
    chat = encoded("chatml", *conversation("q", "a"), template=CHATML)
    assert runs("chatml", chat) == [f"a{IM_END}"]
    assert "You are helpful." in our_tokenizer("chatml").decode(chat.ids)
