"""What datasets, cleaning steps and tokenizers give that is not what they promise: an error that names the plugin."""

import attrs
import pytest
from token_builders import ByteTokens, documents, make_corpus, make_data

from codex_kernel.data.clean import CleaningStep
from codex_kernel.errors import PluginError
from codex_kernel.interfaces import ChatIds, Cleaned, Document, Message

TURNS = (Message("user", "hi"), Message("assistant", "yo"))


# ── datasets ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trained", ["yes", 2, None])
def test_whether_a_turn_is_trained_is_true_or_false(tmp_path, trained):
    """Anything else is refused with the document and the message."""
    document = Document("d", "d", messages=(Message("user", "a"), Message("assistant", "b", trained=trained)))
    with pytest.raises(PluginError, match=r"'d': messages\[1\]: expected .* trained true or false"):
        make_data([document], tmp_path)


def test_messages_that_can_be_gone_through_only_once_are_refused(tmp_path):
    """A generator of messages would be empty when it is read again."""

    class Once:
        def __iter__(self):
            yield Document("d", "d", messages=(turn for turn in TURNS))

    with pytest.raises(PluginError, match="'d': messages: expected a tuple, got generator"):
        make_data(Once(), tmp_path)


# ── cleaning steps ────────────────────────────────────────────────────────────────────────────────────────────────

SPOILT = {
    "no document": (lambda _: Cleaned("text"), "spoilt document 'd0': it gave a str"),
    "no text": (
        lambda one: Cleaned(attrs.evolve(one, text=None)),
        "spoilt .* text: expected a str, got NoneType",
    ),
    "surrogate": (lambda one: Cleaned(attrs.evolve(one, text="a\ud800")), "spoilt .* a lone surrogate"),
    "both": (lambda one: Cleaned(attrs.evolve(one, messages=TURNS)), "spoilt .* got both"),
    "counts": (lambda one: Cleaned(one, ["made loud"]), r"gave \['made loud'\] as counts"),
    "no counts": (lambda one: Cleaned(one, None), "gave None as counts"),
    "count": (
        lambda one: Cleaned(one, {"made loud": "once"}),
        "gave .* as counts, expected words → whole numbers",
    ),
    "word": (lambda one: Cleaned(one, {1: 1}), "gave .* as counts, expected words → whole numbers"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_a_cleaning_step_may_not_give_is_named_with_it(tmp_path, kind):
    """The error is the step's, not that of the dataset or of whoever wrote the file; nothing is kept."""
    answer, message = SPOILT[kind]

    class Spoiling:
        def clean(self, document):
            return answer(document)

    with pytest.raises(PluginError, match=f"the cleaning step 'bad' {message}"):
        make_corpus(
            documents("text"), tmp_path, steps=[lambda: CleaningStep("bad", "1", Spoiling())]
        ).stored()
    assert not list((tmp_path / "corpora").glob("*/meta.json"))


# ── tokenizers ────────────────────────────────────────────────────────────────────────────────────────────────────

CHATS = {
    "nothing": (lambda _: None, "failed on document 'c'"),
    "no chat": (lambda _: [None], "gave None for the conversation 'c', expected a codex_kernel.ChatIds"),
    "a fraction": (lambda _: [ChatIds([1, 2], [True, True], 1.5)], "with a whole number of bytes"),
    "less than none": (lambda _: [ChatIds([1, 2], [True, True], -1)], "with a whole number of bytes"),
}


@pytest.mark.parametrize("kind", CHATS)
def test_what_a_tokenizer_makes_of_conversations_is_checked(tmp_path, kind):
    """It gives for each one ids, marks, and a whole number of bytes."""
    answer, message = CHATS[kind]

    class Chat(ByteTokens):
        def encode_chats(self, conversations):
            return answer(conversations)

    with pytest.raises(PluginError, match=message):
        make_data([Document("c", "c", messages=TURNS)], tmp_path, tokenizer=Chat(), packing="whole")


def test_a_batch_that_is_none_is_refused(tmp_path):
    """A batch tokenizer gives something that has encodings in it."""

    class Nothing(ByteTokens):
        def encode_batch(self, texts):
            return None

    with pytest.raises(PluginError, match=r"failed on documents 'd0' … 'd1': TypeError"):
        make_data(documents("a", "b"), tmp_path, tokenizer=Nothing())
