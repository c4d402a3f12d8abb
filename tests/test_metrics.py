"""The metrics file holds each record once, whole, as valid JSON."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import metrics
from codex_kernel.errors import InputError
from codex_kernel.interfaces import Progress
from codex_kernel.metrics import MetricsLog, NdjsonFile


@contextmanager
def log(path: Path) -> Iterator[MetricsLog]:
    """Open the log in this folder, with a clock that stands still."""
    with closing(NdjsonFile(path / "metrics.ndjson")) as file:
        yield MetricsLog(file, "r1", lambda: 12.3456)


def progress(step: int) -> Progress:
    """Return a progress at this step."""
    return Progress(step, 10, step / 3, step * 100, step * 8)


def test_a_record_is_one_flat_object(tmp_path: Path) -> None:
    """Schema, run, time and place come first, then the metrics by their names."""
    with log(tmp_path) as writer:
        writer.write(progress(1), {"loss": 2.5, "lr": 1e-3}, "train")
    assert (tmp_path / "metrics.ndjson").read_text() == (
        '{"schema": 1, "run_id": "r1", "time": 12.346, "step": 1, "epoch": 0.333333, "tokens": 100, '
        '"split": "train", "loss": 2.5, "lr": 0.001}\n'
    )


@given(values=st.dictionaries(st.text(min_size=1).filter(lambda n: n not in metrics.RESERVED), st.floats()))
def test_any_value_is_written_as_valid_json(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, float]
) -> None:
    """NaN and infinities become null and are named; everything else reads back as it was."""
    folder = tmp_path_factory.mktemp("metrics")
    with log(folder) as writer:
        writer.write(progress(1), values, "train")
    (record,) = metrics.read(folder / "metrics.ndjson")
    for name, value in values.items():
        assert record[name] == (value if math.isfinite(value) else None)
    nonfinite = [name for name, value in values.items() if not math.isfinite(value)]
    assert record.get("nonfinite", []) == nonfinite


def test_a_metric_cannot_take_the_name_of_a_field(tmp_path: Path) -> None:
    """`step` and its like belong to the record."""
    with log(tmp_path) as writer, pytest.raises(ValueError, match="a metric cannot be named step"):
        writer.write(progress(1), {"step": 3.0}, "train")


def test_cutting_back_keeps_the_tail_beside_and_appends_after_it(tmp_path: Path) -> None:
    """After a resume each step is there once, and what was cut is not lost."""
    with log(tmp_path) as first:
        first.write(progress(1), {"loss": 3.0}, "train")
        size = first.file.durable_size()
        first.write(progress(2), {"loss": 2.0}, "train")
    with log(tmp_path) as second:
        assert second.file.cut(size) > 0
        second.write(progress(2), {"loss": 2.5}, "train")
    records = list(metrics.read(tmp_path / "metrics.ndjson"))
    assert [(record["step"], record["loss"]) for record in records] == [(1, 3.0), (2, 2.5)]
    (tail,) = tmp_path.glob("metrics.tail-*.ndjson")
    assert json.loads(tail.read_text())["loss"] == 2.0


def test_a_file_shorter_than_the_checkpoint_says_is_refused(tmp_path: Path) -> None:
    """Lost records are not passed over."""
    with (
        log(tmp_path) as writer,
        pytest.raises(
            InputError, match="damaged: the checkpoint was saved when it had 500 bytes, it has 0"
        ) as error,
    ):
        writer.file.cut(500)
    assert "backup" in (error.value.remedy or "")


def test_a_record_that_does_not_fit_leaves_no_half_line(tmp_path: Path) -> None:
    """A write that the disk takes only a part of (here: a limit on file size) is undone and is a StorageError."""
    script = """
        import resource, sys
        from pathlib import Path
        from codex_kernel.errors import StorageError
        from codex_kernel.metrics import NdjsonFile
        file = NdjsonFile(Path(sys.argv[1]))
        file.append({"step": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            file.append({"step": 2, "text": "x" * 200})
        except StorageError as error:
            print(error)
        file.append({"step": 3})
        print(file.durable_size())
    """
    path = tmp_path / "metrics.ndjson"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, size = done.stdout.splitlines()
    assert re.fullmatch(rf"cannot write {path}: File too large, 224 bytes needed, [\d,]+ free", said)
    assert size == str(path.stat().st_size)
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_the_tail_is_on_disk_before_the_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut in between loses no record: the tail and its name are synced first."""
    done: list[str] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def recorded(*given: int) -> None:
            done.append(name)
            real(*given)

        monkeypatch.setattr(os, name, recorded)

    with log(tmp_path) as writer:
        writer.write(progress(1), {"loss": 3.0}, "train")
        for name in ("fsync", "ftruncate"):
            record(name)
        assert writer.file.cut(0) > 0
        assert done == ["fsync", "fsync", "ftruncate", "fsync"]


def test_the_size_that_a_checkpoint_records_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint never tells of records that a power cut could take back."""
    with log(tmp_path) as writer:
        writer.write(progress(1), {"loss": 3.0}, "train")
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", synced.append)
        assert writer.file.durable_size() == (tmp_path / "metrics.ndjson").stat().st_size
        assert len(synced) == 1


def test_text_that_is_no_unicode_is_written_and_read_back(tmp_path: Path) -> None:
    """A file name of the command line may hold any bytes."""
    with log(tmp_path) as writer:
        writer.file.append({"step": 1, "path": "t\udcff.yaml", "é": "\ud800"})
    (record,) = metrics.read(tmp_path / "metrics.ndjson")
    assert record == {"step": 1, "path": "t\udcff.yaml", "é": "\ud800"}


def test_a_half_line_left_by_a_kill_is_cut_when_the_file_is_opened_again(tmp_path: Path) -> None:
    """No record is ever joined to a torn one."""
    path = tmp_path / "metrics.ndjson"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "spl')
    assert [record["step"] for record in metrics.read(path)] == [1]
    with log(tmp_path) as writer:
        writer.write(progress(2), {}, "train")
    assert [record["step"] for record in metrics.read(path)] == [1, 2]


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    """A line that is no JSON is an error with file and line."""
    (tmp_path / "metrics.ndjson").write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(InputError, match=r"metrics\.ndjson:2: not a JSON record"):
        list(metrics.read(tmp_path / "metrics.ndjson"))


def test_a_line_that_is_no_object_is_named_by_its_number(tmp_path: Path) -> None:
    """A record is an object; whoever reads it need not ask."""
    (tmp_path / "metrics.ndjson").write_text("[1]\n")
    with pytest.raises(InputError, match=r"metrics\.ndjson:1: not a JSON record: expected an object"):
        list(metrics.read(tmp_path / "metrics.ndjson"))


def test_a_series_is_one_metric_of_one_split_without_what_was_not_finite(tmp_path: Path) -> None:
    """Plots and summaries read (step, value) pairs."""
    with log(tmp_path) as writer:
        writer.write(progress(1), {"loss": 3.0}, "train")
        writer.write(progress(1), {"loss": 3.5}, "validation")
        writer.write(progress(2), {"loss": math.nan}, "train")
    records = metrics.read(tmp_path / "metrics.ndjson")
    assert metrics.series(records, "train", "loss") == [(1, 3.0)]
