import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import BadRecord, Document, InputError, Message
from codex_kernel.builtin.jsonl_dataset import JsonlDataset
from codex_kernel.testing import make_run


def read(tmp_path, data, **options):
    """Read one file, given as bytes or text."""
    (tmp_path / "rows.jsonl").write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(JsonlDataset(paths=["rows.jsonl"], **options).codex_dataset(make_run(tmp_path)))


def test_records_of_both_kinds_become_documents(tmp_path):
    """A text is trained whole; of a prompt and a completion, the completion is trained."""
    rows = '{"text": "one"}\n{"prompt": "p", "completion": "c"}\n{"completion": "alone"}'
    assert read(tmp_path, rows) == [
        Document("rows.jsonl:1", "rows.jsonl:1", "one"),
        Document("rows.jsonl:2", "rows.jsonl:2", "c", "p"),
        Document("rows.jsonl:3", "rows.jsonl:3", "alone"),
    ]


def test_fields_can_have_other_names(tmp_path):
    """Text, prompt, completion, id and group are read from the fields that the section names."""
    rows = '{"q": "p", "a": "c", "n": 7, "repo": "r"}\n{"code": "x", "n": "8", "repo": "r"}\n'
    found = read(tmp_path, rows, prompt="q", completion="a", text="code", id="n", group="repo")
    assert found == [Document("7", "r", "c", "p"), Document("8", "r", "x")]


def test_a_conversation_is_read(tmp_path):
    """Messages become the document's, in OpenAI's form and in ShareGPT's."""
    openai = (
        '{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 0},'
        ' {"role": "assistant", "content": "b", "name": null}]}'
    )
    [document] = read(tmp_path, openai)
    assert document.messages == (
        Message("user", "u"),
        Message("assistant", "a", trained=False),
        Message("assistant", "b"),
    )
    sharegpt = '{"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]}'
    [document] = read(
        tmp_path,
        sharegpt,
        messages="conversations",
        role="from",
        content="value",
        roles={"human": "user", "gpt": "assistant"},
    )
    assert document.messages == (Message("user", "u"), Message("assistant", "a"))


def test_blank_lines_are_skipped_and_counted(tmp_path):
    """Blank lines keep their line numbers and are told once."""
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    run = make_run(tmp_path)
    documents = JsonlDataset(paths=["*.jsonl"]).codex_dataset(run)
    assert [document.id for document in [*documents, *documents]][:2] == ["rows.jsonl:1", "rows.jsonl:4"]
    assert run.report.events == [("dataset_blank_lines", {"lines": 2, "files": 1})]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON: "),
        ("{'text': 1}", "not JSON: "),
        ("[1]", "expected a JSON object, got a list"),
        ("null", "expected a JSON object, got null"),
        ("17", "expected a JSON object, got a number"),
        ('{"text": "a"} {"text": "b"}', "not JSON: Extra data at column 15"),
        ('{"body": "x"}', "no field 'text', 'completion' or 'messages', has body"),
        ('{"text": null}', "field 'text': expected a value, got null"),
        ('{"text": "a\\ud800"}', "a lone surrogate at character 1"),
        ('{"text": "x", "score": NaN}', "NaN is not JSON"),
        ('{"text": "x", "score": -Infinity}', "-Infinity is not JSON"),
        ('{"text": "x", "text": "y"}', "field 'text' stands twice"),
        ('{"text": "x", "meta": {"a": 1, "a": 2}}', "field 'a' stands twice"),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", "not a usable record"),
        ('{"text": ' + "[" * 100_000, "not"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
        (b'{"text": "a\0b"}', "not JSON: Invalid control character at column 12"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", "an integer of thousands of digits"),
        ('{"text": "' + "x" * 200_000 + '"}', "the line is longer than 150,000 bytes"),
    ],
)
def test_a_bad_record_stands_in_its_place(tmp_path, line, problem):
    """Whatever is wrong with a line, it is a BadRecord with file and line, and the lines behind it are read."""
    line = line if isinstance(line, bytes) else line.encode()
    rows = b'{"text": "good"}\n' + line + b'\n{"text": "behind"}\n'
    first, bad, last = read(tmp_path, rows, max_record_bytes=150_000)
    assert (first.text, last.text) == ("good", "behind")
    assert last.id == "rows.jsonl:3"
    assert isinstance(bad, BadRecord)
    assert bad.where == "rows.jsonl:2"
    assert problem in bad.problem


def test_a_long_line_at_the_end_is_bad_once(tmp_path):
    """A line that is longer than the limit and never ends is one bad record, and is not read into memory."""
    [bad] = read(tmp_path, '{"text": "' + "x" * 5_000_000, max_record_bytes=1000)
    assert (bad.where, bad.problem) == ("rows.jsonl:1", "the line is longer than 1,000 bytes")
    assert "max_record_bytes" in bad.remedy


def test_no_file_is_refused_and_named_before(tmp_path):
    """A pattern without files is named by preflight and ends a run."""
    section = JsonlDataset(paths=["*.jsonl"])
    assert len(list(section.codex_preflight(tmp_path))) == 1
    with pytest.raises(InputError, match="no file to read"):
        section.codex_dataset(make_run(tmp_path))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_text_comes_back(texts):
    """Whatever JSON can write is read back unchanged, line separators inside of strings included."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        assert [document.text for document in read(Path(folder), rows)] == texts
