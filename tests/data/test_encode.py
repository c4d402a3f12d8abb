import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_builders import EOS, ByteTokens, documents, make_data

from codex_kernel.data.encode import Encoder
from codex_kernel.data.fim import cut
from codex_kernel.data.options import DataOptions, FillInTheMiddle
from codex_kernel.errors import InputError, PluginError
from codex_kernel.interfaces import IGNORE_INDEX, ChatIds, Document, Message
from codex_kernel.testing import RecordingReporter

PREFIX, SUFFIX, MIDDLE, TURN_END = 257, 258, 259, 260
TEXTS = st.text(min_size=1, max_size=30)
MIDDLES = st.builds(FillInTheMiddle, rate=st.floats(0, 1), suffix_first=st.floats(0, 1))


class SpecialTokens(ByteTokens):
    """Bytes, with the special tokens of fill-in-the-middle and of a chat template: `role:content` and an end."""

    def __init__(self):
        super().__init__(vocab_size=261)

    special_tokens = {  # noqa: RUF012 - never written to
        "<|fim_prefix|>": PREFIX,
        "<|fim_suffix|>": SUFFIX,
        "<|fim_middle|>": MIDDLE,
        "<|end|>": TURN_END,
    }
    pad_id = None

    def encode_chats(self, conversations):
        return [self.chat(turns) for turns in conversations]

    def chat(self, turns):
        ids, trained, size = [], [], 0
        for turn in turns:
            if turn.role == "broken":
                raise InputError("chat template: no such role: 'broken'", remedy="use user and assistant")
            head, body = list(f"{turn.role}:".encode()), [*turn.content.encode(), TURN_END]
            learn = turn.role == "assistant" and turn.trained
            ids += head + body
            trained += [False] * len(head) + [learn] * len(body)
            size += len(turn.content.encode()) * learn
        return ChatIds(ids, trained, size)


def chat(*turns, name="chat"):
    """Make a conversation of (role, content) pairs."""
    return Document(name, name, messages=tuple(Message(*turn) for turn in turns))


def targets_of(data):
    """Return the targets of the training split in the order of its blocks."""
    targets = data.train.gather(np.arange(len(data.train))).targets_BT
    return targets[targets != IGNORE_INDEX].tolist()


# ── fill-in-the-middle ────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None)
@given(TEXTS, MIDDLES, st.integers(0, 5))
def test_a_cut_document_can_be_put_together_again(text, options, seed):
    """Prefix, middle and suffix are the document, whatever is drawn."""
    found = cut(Document("d", "d", text), options, seed)
    assert found is None or found.prefix + found.middle + found.suffix == text


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=20, unique=True), MIDDLES, st.integers(0, 5))
def test_every_token_is_there_in_the_order_of_the_paper(texts, options, seed):
    """The ids are prefix, suffix, middle after their tokens, or both tokens, suffix, token, prefix and middle."""
    encoder = Encoder(SpecialTokens(), DataOptions(seq_len=8, fim=options), seed)
    for document, encoded in zip(documents(*texts), encoder.encode(documents(*texts)), strict=True):
        found = cut(document, options, seed)
        assert encoded.rearranged == (found is not None)
        assert encoded.read is None
        ids = encoded.ids.tolist()
        if found is None:
            assert ids == [*document.text.encode(), EOS]
            continue
        prefix, middle, suffix = (list(part.encode()) for part in (found.prefix, found.middle, found.suffix))
        if found.suffix_first:
            assert ids == [PREFIX, SUFFIX, *suffix, MIDDLE, *prefix, *middle, EOS]
        else:
            assert ids == [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle, EOS]


def test_the_rate_is_the_share_of_documents_that_are_cut():
    """Of many documents about that many are cut, other ones by another seed, the same ones again by the same."""
    docs = documents(*(f"text number {n}" for n in range(4000)))
    options = FillInTheMiddle(rate=0.3, suffix_first=0.25)
    cuts = [cut(document, options, 1) for document in docs]
    done = [one for one in cuts if one is not None]
    assert abs(len(done) / len(docs) - 0.3) < 0.03
    assert abs(sum(one.suffix_first for one in done) / len(done) - 0.25) < 0.05
    assert cuts == [cut(document, options, 1) for document in docs]
    assert cuts != [cut(document, options, 2) for document in docs]


def test_prompts_and_conversations_are_never_cut():
    """Only a document that is all text is rearranged."""
    always = FillInTheMiddle(rate=1.0)
    assert cut(Document("a", "a", "some text", "a prompt"), always, 1) is None
    assert cut(chat(("user", "hello"), ("assistant", "hi")), always, 1) is None
    assert cut(Document("a", "a", "ab"), always, 1) is None
    assert cut(Document("a", "a", "some text"), always, 1) is not None


def test_a_tokenizer_without_the_tokens_is_refused(tmp_path):
    """The error names the tokens that are missing, and says where to name others."""
    with pytest.raises(InputError, match=r"no special token '<\|fim_prefix\|>'.*it has none") as caught:
        make_data(documents("some text"), tmp_path, fim=FillInTheMiddle())
    assert "tokenizer.special_tokens" in caught.value.remedy


def test_rearranged_documents_are_counted(tmp_path):
    """data.json says how many documents were cut."""
    data = make_data(
        documents("some text", "more text"),
        tmp_path,
        tokenizer=SpecialTokens(),
        fim=FillInTheMiddle(rate=1.0),
    )
    assert data.report["splits"]["train"]["documents_rearranged"] == 2


def test_nothing_to_rearrange_is_told(tmp_path):
    """Fill-in-the-middle that changes nothing, since every document has a prompt, is a warning."""
    report = RecordingReporter()
    asked = [Document("a", "a", "some text", "a prompt")]
    make_data(asked, tmp_path, tokenizer=SpecialTokens(), fim=FillInTheMiddle(rate=1.0), report=report)
    assert report.warnings == [
        "data.fim rearranged none of 1 documents of the train split; those with a prompt or messages stay as they are"
    ]


# ── conversations ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_assistants_turns_are_trained_and_nothing_else(tmp_path):
    """Targets are what the tokenizer marks, the end of each turn included; no end-of-text is added."""
    data = make_data(
        [chat(("user", "hi"), ("assistant", "yes"), ("user", "so"), ("assistant", "no"))],
        tmp_path,
        tokenizer=SpecialTokens(),
        seq_len=64,
    )
    assert targets_of(data) == [*b"yes", TURN_END, *b"no", TURN_END]
    assert data.train.target_tokens == 7
    assert data.report["splits"]["train"]["bytes"] == 5
    assert EOS not in data.train.gather([0]).input_ids_BT[data.train.gather([0]).document_ids_BT >= 0]


def test_a_turn_may_be_only_read(tmp_path):
    """An assistant's turn that is marked so is not trained."""
    turns = (Message("user", "a"), Message("assistant", "bad", trained=False), Message("assistant", "good"))
    document = Document("c", "c", messages=turns)
    data = make_data([document], tmp_path, tokenizer=SpecialTokens(), seq_len=64)
    assert targets_of(data) == [*b"good", TURN_END]


def test_all_can_be_trained(tmp_path):
    """With loss_on all, prompts and all turns are targets, but for the first token of a document."""
    docs = [chat(("user", "a"), ("assistant", "b")), Document("p", "p", "text", "prompt")]
    data = make_data(docs, tmp_path, tokenizer=SpecialTokens(), loss_on="all", seq_len=64)
    assert targets_of(data) == [*b"ser:a", TURN_END, *b"assistant:b", TURN_END, *b"rompttext", EOS]


def test_a_tokenizer_without_a_template_is_refused(tmp_path):
    """A conversation needs a tokenizer that can make tokens of it; the error names the first one."""
    with pytest.raises(InputError, match="'chat' is a conversation, and this tokenizer has no chat template"):
        make_data([chat(("user", "a"))], tmp_path)


def test_a_conversation_that_fails_is_named(tmp_path):
    """Of a batch of conversations the one that the template refuses is found."""
    docs = [chat(("user", str(n)), ("assistant", "x"), name=f"c{n}") for n in range(20)]
    docs[13] = chat(("broken", "13"), name="c13")
    with pytest.raises(InputError, match="document 'c13': chat template: no such role") as caught:
        make_data(docs, tmp_path, tokenizer=SpecialTokens())
    assert caught.value.remedy == "use user and assistant"


def test_marks_that_do_not_fit_the_ids_are_refused(tmp_path):
    """A tokenizer must say of each id whether it is trained."""

    class Short(SpecialTokens):
        def chat(self, turns):
            return ChatIds([1, 2, 3], [True], 1)

    with pytest.raises(PluginError, match="gave 3 ids and 1 marks for the conversation 'chat'"):
        make_data([chat(("user", "a"))], tmp_path, tokenizer=Short())


# ── documents in which nothing is trained ─────────────────────────────────────────────────────────────────────────

UNTRAINED = [chat(("user", "a"), ("assistant", "b"), name="good"), chat(("user", "only me"), name="bad")]


def test_documents_without_a_target_end_the_run(tmp_path):
    """They are counted, and the first are named."""
    with pytest.raises(InputError, match="nothing is trained in 1 of 2 documents: 'bad'") as caught:
        make_data(UNTRAINED, tmp_path, tokenizer=SpecialTokens())
    assert "data.on_no_target=drop" in caught.value.remedy


@pytest.mark.parametrize("loss_on", ["targets", "all"])
@pytest.mark.parametrize("packing", ["stream", "whole"])
def test_a_conversation_without_tokens_has_no_target(tmp_path, loss_on, packing):
    """A template may write nothing at all: such a document is counted, never written as a piece of no length."""

    class Silent(SpecialTokens):
        def chat(self, turns):
            return super().chat(turns) if turns[0].content else ChatIds([], [], 0)

    docs = [
        chat(("user", "a"), ("assistant", "b"), name="good"),
        chat(("user", ""), ("user", "x"), name="bad"),
    ]
    options = {"tokenizer": Silent(), "loss_on": loss_on, "packing": packing, "seq_len": 32}
    with pytest.raises(InputError, match="nothing is trained in 1 of 2 documents: 'bad'"):
        make_data(docs, tmp_path, **options)
    report = make_data(docs, tmp_path, on_no_target="drop", **options).report["splits"]["train"]
    assert (report["documents"], report["documents_without_target"]) == (1, 1)


def test_documents_without_a_target_can_be_dropped(tmp_path):
    """With on_no_target drop they are left out, counted and told."""
    report = RecordingReporter()
    data = make_data(
        UNTRAINED, tmp_path, tokenizer=SpecialTokens(), report=report, on_no_target="drop", seq_len=64
    )
    facts = data.report["splits"]["train"]
    assert (facts["documents"], facts["documents_without_target"]) == (1, 1)
    assert targets_of(data) == [*b"b", TURN_END]
    assert any("nothing is trained in 1 of 2 documents" in warning for warning in report.warnings)


def test_a_completion_that_is_cut_off_counts_as_no_target(tmp_path):
    """A document whose trained part lies behind the cut has nothing to train."""
    with pytest.raises(InputError, match="nothing is trained in 1 of 1 documents"):
        make_data([Document("d", "d", "yes", "p" * 30)], tmp_path, on_overflow="truncate_right")
