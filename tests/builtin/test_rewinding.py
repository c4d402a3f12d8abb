"""The mirrors of the metrics go back with them: each record is there once, whatever was killed."""

import csv
import json

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import Outcome, Progress
from codex_kernel.builtin.csv_logger import CsvLogger
from codex_kernel.builtin.jsonl_logger import JsonlLogger
from codex_kernel.builtin.records import Entry, rewound
from codex_kernel.testing import make_run

DONE = Outcome("completed", 0, "max_steps", 1, 1, 1, 1.0, {}, None, ())


def give(logger, run, step, metrics):
    """Let a logger see one record."""
    known = {"run": run, "step": step, "metrics": metrics, "split": "train"}
    if isinstance(logger, JsonlLogger):
        known["progress"] = Progress(step, 10, step / 10, step * 8, step)
    logger.codex_metrics(**known)


def log(logger, run, *records):
    """Let a logger see records of metrics, one a step, from start to end."""
    logger.codex_run_started(run=run)
    for step, metrics in enumerate(records, 1):
        give(logger, run, step, metrics)
    logger.codex_run_finished(outcome=DONE)


def truth(run, *steps):
    """Write the run's metrics and return their size."""
    lines = [
        {
            "schema": 1,
            "run_id": run.run_id,
            "time": 5.0,
            "step": step,
            "epoch": 0.5,
            "tokens": 8,
            "split": "train",
            "loss": None if step == 3 else 9.0,
            **({"nonfinite": ["loss"]} if step == 3 else {}),
        }
        for step in steps
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.ndjson").write_text(text)
    return len(text)


def table(run):
    """Return (step, value) of the csv logger's rows."""
    rows = csv.reader((run.folder / "metrics.csv").read_text().splitlines())
    return [(row[2], row[5]) for row in rows]


@pytest.mark.parametrize("kind", [CsvLogger, JsonlLogger])
def test_a_mirror_goes_back_with_the_metrics(tmp_path, kind):
    """Rows after the checkpoint go, rows that the mirror had not come from the metrics; then it is appended to."""
    run, logger = make_run(tmp_path), kind()
    log(logger, run, {"loss": 1.0}, {"loss": 2.0})
    size = truth(run, 1, 3)
    with (run.folder / "metrics.ndjson").open("a") as file:
        file.write('{"later": 1}\n')
    logger.codex_run_started(run=run)
    logger.codex_event(
        run=run, name="metrics_rewound", fields={"step": 3, "size_bytes": size, "cut_bytes": 0}
    )
    give(logger, run, 4, {"loss": 4.0})
    logger.codex_run_finished(outcome=DONE)
    if kind is CsvLogger:
        assert table(run) == [("step", "value"), ("1", "1.0"), ("3", "nan"), ("4", "4.0")]
    else:
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (3, None), (4, 4.0)]
        assert lines[1]["nonfinite"] is True
    assert not list(run.folder.glob(".tmp-*"))


@pytest.mark.parametrize("kind", [CsvLogger, JsonlLogger])
def test_a_file_that_holds_other_runs_is_left_as_it_is(tmp_path, kind):
    """Another process may be writing to it; a warning says that a step may be there twice."""
    run, path = make_run(tmp_path), tmp_path / "all"
    log(kind(path=str(path)), evolve(run, run_id="other"), {"loss": 1.0})
    logger = kind(path=str(path))
    log(logger, run, {"loss": 1.0}, {"loss": 2.0})
    before = path.read_bytes()
    logger.codex_event(run=run, name="metrics_rewound", fields={"size_bytes": truth(run, 1)})
    assert path.read_bytes() == before
    assert "holds other runs too, so it is not rewound" in run.report.warnings[0]


@pytest.mark.parametrize("kind", [CsvLogger, JsonlLogger])
def test_other_events_change_nothing(tmp_path, kind):
    """A mirror that does not exist is not made, and only a rewind rewrites one."""
    run, logger = make_run(tmp_path), kind()
    logger.codex_event(run=run, name="warning", fields={"message": "x"})
    logger.codex_event(run=run, name="metrics_rewound", fields={"size_bytes": truth(run, 1)})
    assert [path.name for path in run.folder.iterdir()] == ["metrics.ndjson"]


places = st.tuples(st.integers(0, 4), st.sampled_from(["train", "system"]))


@given(st.lists(places, max_size=9), st.lists(places, unique=True, max_size=9))
def test_a_rewound_mirror_holds_exactly_the_kept_records(held, kept):
    """Each kept record once, in the order of the metrics, by the mirror's own line where it has one."""
    entries = [Entry("r", step, split, f"old {step} {split}") for step, split in dict.fromkeys(held)]
    records = [{"step": step, "split": split} for step, split in kept]
    lines = rewound(entries, records, lambda record: [f"new {record['step']} {record['split']}"])
    assert lines == [f"{'old' if place in held else 'new'} {place[0]} {place[1]}" for place in kept]
