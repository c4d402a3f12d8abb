import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from codex_kernel import BadRecord, Document, InputError, Message, PluginError
from codex_kernel.builtin import parquet_dataset
from codex_kernel.builtin.parquet_dataset import ParquetDataset
from codex_kernel.testing import make_run
from tests.command import toy_workplace


def read(tmp_path, table, **options):
    """Write a table, or bytes, and read it."""
    if isinstance(table, bytes):
        (tmp_path / "t.parquet").write_bytes(table)
    else:
        parquet.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=2)
    return list(ParquetDataset(paths=["t.parquet"], **options).codex_dataset(make_run(tmp_path)))


def test_rows_become_documents(tmp_path):
    """Rows of all row groups and batches come in their order, counted from 1; other columns are not read."""
    table = {"code": ["a", "b", "c"], "n": [5, 6, 7], "secret": [b"\xff", None, b""]}
    for rows in (1, 256):
        found = read(tmp_path, table, text="code", id="n", batch_rows=rows)
        assert found == [Document("5", "5", "a"), Document("6", "6", "b"), Document("7", "7", "c")]
    assert [document.id for document in read(tmp_path, table, text="code")] == [
        f"t.parquet:{n}" for n in (1, 2, 3)
    ]


def test_a_list_of_structs_is_a_conversation(tmp_path):
    """Fields of a message that are null are not there, others are a bad record; so are tools beside the messages."""
    said = {"role": "assistant", "content": "x", "name": None, "tool_calls": None}
    table = {
        "messages": [[said], [{**said, "tool_calls": ["f"]}], [], None, [said]],
        "tools": [None, None, None, None, ["f"]],
    }
    first, *bad = read(tmp_path, table)
    assert first.messages == (Message("assistant", "x"),)
    problems = ["message 1: has 'tool_calls'", "empty list", "got null", "has 'tools'"]
    assert len(bad) == len(problems)
    assert all(problem in each.problem for problem, each in zip(problems, bad, strict=True))


def test_nulls_and_broken_texts_are_bad_records(tmp_path):
    """A null, a number and bytes that are no UTF-8 are bad in their place, and the rows behind them are read."""
    offsets = pa.array([0, 1, 3, 4], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xff\xfeb")])
    first, bad, last = read(tmp_path, {"text": broken})
    assert (first.text, last.text) == ("a", "b")
    assert bad == BadRecord("t.parquet:2", "a text is not valid UTF-8 at its byte 0")
    _, null = read(tmp_path, {"text": ["a", None]})
    assert null == BadRecord("t.parquet:2", "field 'text': expected a value, got null")
    [number] = read(tmp_path, {"text": [1]})
    assert number.problem == "field 'text': expected a string, got a number"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "t.parquet: cannot be read as Parquet: Parquet file size is 0 bytes"),
        (b"PAR1 and no more of it", "t.parquet: cannot be read as Parquet"),
        ({"body": ["x"]}, "t.parquet: no column 'text', 'completion' or 'messages', has body"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, table, message):
    """Damage, and a table without what is asked for, end the run with the file's name."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, table)
    assert message in caught.value.message


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_rows_behind_damage_are_bad_records_up_to_the_end_of_their_row_group(tmp_path, compression):
    """Those before it and those of other row groups are read, with their numbers, however the page was packed."""
    texts = [f"text {number} " * 40 for number in range(4000)]
    damaged_table(tmp_path / "t.parquet", texts, compression)
    found = read(tmp_path, (tmp_path / "t.parquet").read_bytes(), batch_rows=100)
    assert len(found) == 4000
    bad = [row for row in found if isinstance(row, BadRecord)]
    assert 0 < len(bad) <= 2000
    assert [row.text for row in found if isinstance(row, Document)] == [
        text for text, row in zip(texts, found, strict=True) if isinstance(row, Document)
    ]
    places = [row.where if isinstance(row, BadRecord) else row.id for row in found]
    assert places == [f"t.parquet:{number}" for number in range(1, 4001)]
    assert re.match(
        r"row group \d of 4 is damaged, its last [\d,]+ of 1,000 rows cannot be read: ", bad[0].problem
    )
    assert bad[1].problem.startswith("lies behind damage in row group ")
    assert "leave it out" in bad[0].remedy


def test_damage_is_an_error_or_counted_by_the_command(tmp_path):
    """The error says file, row, row group and what to do; `--skip-bad` goes on without the rows that are lost."""
    workplace = toy_workplace(tmp_path)
    damaged_table(tmp_path / "t.parquet", [f"text {number} " * 40 for number in range(4000)], "snappy")
    dataset = "dataset: {type: parquet, paths: [t.parquet]}"
    text = (tmp_path / "toy.yaml").read_text()
    workplace.write("m.yaml", re.sub(r"(?m)^dataset:.*$", dataset, text))
    said = workplace.codex("data", "build", "m.yaml")
    assert said.code == 2
    *_, first, second = said.err.splitlines()
    assert re.match(
        r"error: t\.parquet:\d+: row group \d of 4 is damaged, its last [\d,]+ of 1,000 rows ", first
    )
    assert second.startswith(
        "  fetch or write the file again, or leave it out: exclude; or --set data.skip_bad=10"
    )
    said = workplace.codex("data", "build", "m.yaml", "--skip-bad", "2000")
    assert said.code == 0, said.err
    assert re.search(
        r"warning: [\d,]+ records cannot be read and are skipped .*t\.parquet:\d+: row group", said.err
    )


def damaged_table(file: Path, texts: list[str], compression: str) -> None:
    """Write a table of four row groups, and turn some bytes in its middle."""
    options = {"compression": compression, "use_dictionary": False, "row_group_size": 1000}
    parquet.write_table(pa.table({"text": texts}), file, **options)
    damaged = bytearray(file.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 2000] = bytes(byte ^ 0xFF for byte in damaged[middle : middle + 2000])
    file.write_bytes(damaged)


def test_a_flipped_bit_never_escapes_as_a_traceback(tmp_path):
    """Wherever a bit of a file is flipped, each row is read or told to be bad, or an InputError says why none is."""
    parquet.write_table(
        pa.table({"text": ["a" * 50, "b", None], "n": [1, 2, 3]}), tmp_path / "good", write_page_checksum=True
    )
    good, chance = (tmp_path / "good").read_bytes(), random.Random(3)
    told = 0
    for _ in range(150):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        try:
            told += len([row for row in read(tmp_path, bytes(bad)) if isinstance(row, BadRecord)]) > 1
        except InputError:
            told += 1
    assert told > 50


def test_without_the_library_it_is_named_before(tmp_path, monkeypatch):
    """Where pyarrow is not installed, preflight and the run name the command that installs it."""
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "t.parquet")
    section = ParquetDataset(paths=["t.parquet"])
    assert list(section.codex_preflight(tmp_path)) == []
    monkeypatch.setattr(parquet_dataset, "find_spec", lambda name: None)
    [problem] = section.codex_preflight(tmp_path)
    assert "pip install 'codex-kernel[parquet]'" in problem
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PluginError, match="pyarrow, which is not installed"):
        section.codex_dataset(make_run(tmp_path))


def test_a_packed_file_is_refused(tmp_path):
    """Parquet is compressed inside, and needs its end first: it is not read through gzip."""
    (tmp_path / "t.parquet.gz").write_bytes(b"")
    section = ParquetDataset(paths=["t.parquet.gz"])
    assert "unpack this one" in next(iter(section.codex_preflight(tmp_path)))
    with pytest.raises(InputError, match="unpack this one"):
        section.codex_dataset(make_run(tmp_path))
