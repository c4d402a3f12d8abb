import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import Document, InputError
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


def test_a_prompt_beside_a_text_is_not_dropped(tmp_path):
    """A prompt and a text in one record are refused with a remedy, which trains on the text after the prompt."""
    row = '{"prompt": "p", "text": "t"}'
    with pytest.raises(InputError, match=r"rows\.jsonl:1: has both 'prompt' and 'text'") as caught:
        read(tmp_path, row)
    assert "dataset.completion=text" in caught.value.remedy
    assert [(d.prompt, d.text) for d in read(tmp_path, row, completion="text")] == [("p", "t")]
    assert [(d.prompt, d.text) for d in read(tmp_path, row, prompt="question")] == [("", "t")]


def test_blank_lines_are_skipped_and_counted(tmp_path):
    """Blank lines keep their line numbers and are told once."""
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    run = make_run(tmp_path)
    documents = JsonlDataset(paths=["*.jsonl"]).codex_dataset(run)
    assert [document.id for document in [*documents, *documents]][:2] == ["rows.jsonl:1", "rows.jsonl:4"]
    assert run.report.events == [("dataset_blank_lines", {"lines": 2, "files": 1})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: "),
        ("{'text': 1}", "not JSON: "),
        ("[1]", "expected a JSON object, got a list"),
        ("null", "expected a JSON object, got null"),
        ('{"body": "x"}', "no field 'text' or 'completion', has body"),
        ('{"prompt": "x"}', "no field 'text' or 'completion'"),
        ('{"text": 5}', "field 'text': expected a string, got a number"),
        ('{"text": null}', "field 'text': expected a string, got null"),
        ('{"prompt": [], "completion": "x"}', "field 'prompt': expected a string, got a list"),
        ('{"text": "x", "completion": "y"}', "has both 'text' and 'completion'"),
        ('{"prompt": "x", "text": "y"}', "has both 'prompt' and 'text'"),
        ('{"text": "a\\ud800"}', "a lone surrogate at character 1"),
        ('{"text": "x", "score": NaN}', "NaN is not JSON"),
        ('{"text": "x", "score": -Infinity}', "-Infinity is not JSON"),
        ('{"text": "x", "text": "y"}', "field 'text' stands twice"),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", "not a usable record"),
        ('{"text": ' + "[" * 100_000, "not"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
    ],
)
def test_a_bad_record_is_named_with_file_and_line(tmp_path, line, message):
    """Whatever is wrong with a record, the error starts with its file and line."""
    line = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(InputError) as caught:
        read(tmp_path, b'{"text": "good"}\n' + line + b"\n")
    assert caught.value.message.startswith("rows.jsonl:2: ")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"}', "no field 'n', has text"),
        ('{"text": "x", "n": true}', "expected a string, got a boolean"),
    ],
)
def test_a_named_id_must_be_there(tmp_path, line, message):
    """An id that the section asks for must be in each record, as a string or an integer."""
    with pytest.raises(InputError, match=message):
        read(tmp_path, line, id="n")


def test_a_line_without_end_is_refused(tmp_path):
    """A line that is longer than the limit is not read into memory."""
    with pytest.raises(InputError, match=r"rows\.jsonl:1: the line is longer than 1,000 bytes"):
        read(tmp_path, '{"text": "' + "x" * 5000, max_record_bytes=1000)


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
