import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import BadRecord, Document, InputError
from codex_kernel.builtin.csv_dataset import CsvDataset
from codex_kernel.testing import make_run


def read(tmp_path, data, **options):
    """Read one table, given as bytes or text."""
    (tmp_path / "t.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(CsvDataset(paths=["t.csv"], **options).codex_dataset(make_run(tmp_path)))


def test_rows_become_documents_at_their_line(tmp_path):
    """Quotes, delimiters and newlines inside of quotes are read; a row stands at the line where it begins."""
    table = '\ufefftext,n\r\n"a\r\n""b"",c",1\r\nplain \'x,2\r\n"\n\n",3\r\nlast,4'
    assert read(tmp_path, table) == [
        Document("t.csv:2", "t.csv:2", 'a\r\n"b",c'),
        Document("t.csv:4", "t.csv:4", "plain 'x"),
        Document("t.csv:5", "t.csv:5", "\n\n"),
        Document("t.csv:8", "t.csv:8", "last"),
    ]


def test_the_options_name_columns_delimiter_and_encoding(tmp_path):
    """A table of a spreadsheet: tabs, another encoding, its own names."""
    table = "q\ta\tn\nqu'est-ce\toui, « été »\t7\n".encode("cp1252")
    found = read(tmp_path, table, delimiter="\t", encoding="cp1252", prompt="q", completion="a", id="n")
    assert found == [Document("7", "7", "oui, « été »", "qu'est-ce")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"one", "has 1 field, expected 2, as the header has"),
        (b"a,b,c", "has 3 fields, expected 2, as the header has"),
        (b'"a"b,c', "not CSV: ',' expected after '\"'"),
        (b"a\rb,c", "not CSV: a carriage return without a newline"),
        (b"nul\0,c", "a NUL at character 3 of line 3"),
        (b"\xff,c", "not valid utf-8 at byte 0 of line 3"),
        (b'"a\n\xff",c', "not valid utf-8 at byte 0 of line 4"),
        (b"x,", "field 'n': expected a name, got an empty string"),
    ],
)
def test_a_bad_row_stands_in_its_place(tmp_path, row, problem):
    """Whatever is wrong with a row, it is a BadRecord with file and line, and the rows behind it are read."""
    found = read(tmp_path, b"text,n\ngood,1\n" + row + b"\nbehind,2\n", id="n")
    bad = [each for each in found if isinstance(each, BadRecord)]
    assert [found[0].text, found[-1].text] == ["good", "behind"]
    assert bad[0].where == "t.csv:3"
    assert problem in bad[0].problem


def test_quotes_that_are_not_closed_are_bad(tmp_path):
    """An open quote at the end of the file is not taken for a field."""
    good, bad = read(tmp_path, 'text\ngood\n"open\n')
    assert good.text == "good"
    assert (bad.where, bad.problem) == (
        "t.csv:3",
        "not CSV: a quoted field is not closed until the end of the file",
    )


@pytest.mark.parametrize(
    ("lines", "bad", "good"),
    [
        (['"unclosed', *(f"row {n}" for n in range(100))], 101, []),
        (["ok", '"5 inch', "lost", "", '"7 inch', "kept"], 4, ["ok", "kept"]),
    ],
)
def test_every_line_of_a_row_that_cannot_be_read_counts(tmp_path, lines, bad, good):
    """A quote that is not closed makes one row of many lines: none of them is lost without being counted."""
    found = read(tmp_path, "\n".join(["text", *lines]) + "\n")
    assert [each.text for each in found if isinstance(each, Document)] == good
    faults = [each for each in found if isinstance(each, BadRecord)]
    assert len(faults) == bad
    first = int(faults[0].where.removeprefix("t.csv:"))
    assert [each.where for each in faults] == [f"t.csv:{first + n}" for n in range(bad)]
    assert faults[0].problem.endswith(f"; it goes on to line {first + bad - 1}")
    assert faults[-1].problem == f"lies in the row of line {first}, which is not CSV"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a,b\n1,2\n", "t.csv:1: no column 'text' or 'completion', has a, b"),
        ("text,text\n1,2\n", "t.csv:1: the column 'text' stands twice"),
        ("text;n\n1;2\n", "t.csv:1: the header is one column, 'text;n'"),
        ("\n\n'text'\n1\n", "t.csv:3: no column 'text' or 'completion'"),
        (b"text,\xff\n1,2\n", "t.csv:1: the header: not valid utf-8"),
        ('"text"x\n', "t.csv:1: the header is not CSV"),
        ("text\n" + "x" * 2000 + "\n", "t.csv:2: the row is longer than 1,000 bytes"),
        ('text\na\n"' + "x\n" * 2000, "t.csv:3: the row is longer than 1,000 bytes"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path, table, message):
    """A header without what is asked for, or a line without end, ends the run with its place."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, table, max_record_bytes=1000)
    assert message in caught.value.message


def test_empty_tables_have_no_documents(tmp_path):
    """A file without a byte, and one with a header alone, have no record; blank lines are counted and told once."""
    assert read(tmp_path, "") == read(tmp_path, "text\n") == []
    run = make_run(tmp_path)
    (tmp_path / "t.csv").write_text("text,n\n\na,1\n\n")
    documents = CsvDataset(paths=["t.csv"]).codex_dataset(run)
    assert list(documents) == list(documents) == [Document("t.csv:3", "t.csv:3", "a")]
    assert run.report.events == [("dataset_blank_lines", {"lines": 2, "files": 1})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": ""}, "delimiter: expected one character, got ''"),
        ({"delimiter": "ab"}, "delimiter: expected one character, got 'ab'"),
        ({"delimiter": '"'}, "delimiter"),
        ({"encoding": "utf-16"}, "encoding: 'utf-16' is not an encoding"),
        ({"encoding": "base64"}, "encoding"),
        ({"encoding": "utf-9"}, "encoding"),
    ],
)
def test_options_that_no_table_can_be_read_with_are_refused(options, message):
    """A delimiter of several characters, and encodings in which a newline is no single byte."""
    with pytest.raises(ValueError, match=message):
        CsvDataset(paths=["t.csv"], **options)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(TEXT, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_any_text_comes_back(texts, end):
    """Whatever Python's own writer quotes is read back unchanged."""
    table = io.StringIO(newline="")
    csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator=end).writerows(
        [["text"], *([text] for text in texts)]
    )
    with tempfile.TemporaryDirectory() as folder:
        assert [document.text for document in read(Path(folder), table.getvalue())] == texts
