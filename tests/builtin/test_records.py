import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import (
    BadRecord,
    Document,
    InputError,
    Message,
    RecordFields,
    TextFields,
    columns_of,
    document_of,
)

FIELDS = RecordFields()


def read(record, **options):
    """Make a document of a record."""
    return document_of(record, RecordFields(**options), "rows:1")


def chat(**changes):
    """Return a record with one message, changed."""
    return {"messages": [{"role": "assistant", "content": "x", **changes}]}


@pytest.mark.parametrize(
    ("record", "options", "problem"),
    [
        ({}, {}, "no field 'text', 'completion' or 'messages', has none"),
        ({"prompt": "x"}, {}, "no field 'text', 'completion' or 'messages', has prompt"),
        ({"text": 5}, {}, "field 'text': expected a string, got a number"),
        ({"text": b"x"}, {}, "field 'text': expected a string, got bytes"),
        ({"text": None, "messages": None}, {}, "field 'text': expected a value, got null"),
        ({"prompt": [], "completion": "x"}, {}, "field 'prompt': expected a string, got a list"),
        ({"prompt": None, "completion": "x"}, {}, "field 'prompt': expected a string, got null"),
        ({"text": "x", "completion": "y"}, {}, "has both 'text' and 'completion', expected one of them"),
        ({"text": "x", **chat()}, {}, "has both 'text' and 'messages', expected one of them"),
        ({"prompt": "x", "text": "y"}, {}, "has both 'prompt' and 'text'"),
        ({"prompt": "x", **chat()}, {}, "has both 'prompt' and 'messages'"),
        ({"text": "a\ud800"}, {}, "field 'text': a lone surrogate at character 1 is not text"),
        ({"text": "x"}, {"id": "n"}, "no field 'n', has text"),
        ({"text": "x", "n": True}, {"id": "n"}, "field 'n': expected a string, got a boolean"),
        ({"text": "x", "n": ""}, {"group": "n"}, "field 'n': expected a name, got an empty string"),
        ({"text": "x", "n": None}, {"group": "n"}, "field 'n': expected a string, got null"),
        ({"text": "x"}, {"language": "lang"}, "no field 'lang', has text"),
        ({"text": "x", "lang": 5}, {"language": "lang"}, "field 'lang': expected a string, got a number"),
        ({"messages": "x"}, {}, "field 'messages': expected a list of messages, got a string"),
        ({"messages": {"role": ["user"]}}, {}, "expected a list of messages, got an object"),
        ({"messages": []}, {}, "expected at least one message, got an empty list"),
        ({"messages": ["x"]}, {}, "message 1: expected an object, got a string"),
        ({"messages": [{"role": "user"}]}, {}, "message 1: no field 'content', has role"),
        (chat(content=None), {}, "message 1: field 'content': expected a string, got null"),
        (chat(content=[{"type": "text"}]), {}, "message 1: field 'content': expected a string, got a list"),
        (chat(role="gpt"), {}, "message 1: role 'gpt' is not known, expected system, developer, user"),
        (chat(tool_calls=[1]), {}, "message 1: has 'tool_calls', which is not read"),
        (chat(name="n"), {}, "message 1: has 'name', which is not read"),
        (chat(weight=2), {}, "message 1: weight: expected 0 or 1, got 2"),
        (chat(weight=True), {}, "message 1: weight: expected 0 or 1, got a boolean"),
        (chat(weight=float("nan")), {}, "message 1: weight: expected 0 or 1, got nan"),
        (chat(role="user", weight=1), {}, "message 1: weight: 1 trains a message"),
        ({"tools": [{"a": 1}], **chat()}, {}, "has 'tools' beside the messages"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(record, options, problem):
    """Whatever is wrong with a record, it is a BadRecord with its place and one sentence; nothing is dropped."""
    bad = read(record, **options)
    assert isinstance(bad, BadRecord)
    assert bad.where == "rows:1"
    assert problem in bad.problem


def test_fields_can_have_other_names():
    """Two options may name one field, and the remedy of a refusal can be followed."""
    record = {"prompt": "p", "text": "t"}
    assert "the option completion: text" in read(record).remedy
    assert read(record, completion="text") == Document("rows:1", "rows:1", "t", "p")
    assert read(record, prompt="question") == Document("rows:1", "rows:1", "t")
    assert read({"a": "x", "n": 7, "r": -1}, text="a", id="n", group="r") == Document("7", "-1", "x")


def test_what_is_null_beside_something_else_is_not_there():
    """In a table the fields of other kinds of records are null; a language may be unknown."""
    record = {"text": None, "prompt": "p", "completion": "c", "messages": None, "lang": None}
    assert read(record, language="lang") == Document("rows:1", "rows:1", "c", "p")
    nulls = {"text": None, "prompt": None, "completion": None, "tools": None}
    assert read({**chat(tool_calls=None, weight=None), **nulls}).messages == (Message("assistant", "x"),)


def test_roles_can_have_other_words():
    """A word of the option `roles` counts as what it says, also one that only the chat template knows."""
    roles = {"human": "user", "ipython": "ipython"}
    assert read(chat(role="human", weight=0), roles=roles).messages == (Message("user", "x", trained=False),)
    assert read(chat(role="ipython"), roles=roles).messages == (Message("ipython", "x"),)


def test_records_without_messages_have_none():
    """Where a dataset knows no messages, a field of that name is metadata."""
    assert document_of({"text": "x", "messages": 3}, TextFields(), "a:1") == Document("a:1", "a:1", "x")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text("\ud800x"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "weight", "name"]) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(["text", "prompt", "completion", "messages", "tools", "id", "lang", "other"])


@given(st.dictionaries(NAMES, VALUES, max_size=6), st.booleans())
def test_any_record_is_a_document_or_says_why(record, named):
    """No record raises; what becomes a document holds valid text, and just one kind of it."""
    made = read(record, **({"id": "id", "language": "lang"} if named else {}))
    if isinstance(made, BadRecord):
        assert made.problem
        return
    "".join([made.id, made.text, made.prompt, *(message.content for message in made.messages)]).encode()
    assert made.id
    assert bool(made.messages) != (made.text == record.get("text") or made.text == record.get("completion"))


def test_the_columns_of_a_table_are_chosen():
    """Columns that the options name are read, tools as well where there are messages, and no others."""
    names = ["score", "prompt", "completion", "messages", "tools", "text"]
    assert columns_of(names, FIELDS, "t") == names[1:]
    assert columns_of(names, TextFields(), "t") == ["prompt", "completion", "text"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["body"], {}, "t: no column 'text', 'completion' or 'messages', has body"),
        (["text"], {"id": "n"}, "t: no column 'n', the option id, has text"),
        (["text", "a", "text"], {}, "t: the column 'text' stands twice"),
        ([f"c{n}" for n in range(50)], {}, "c11 and 38 more"),
    ],
)
def test_a_table_without_what_is_asked_for_is_refused(names, options, message):
    """A fault of the whole table is an error, not a bad record for each row."""
    with pytest.raises(InputError) as caught:
        columns_of(names, RecordFields(**options), "t")
    assert message in caught.value.message
