"""Clocks go wrong: checkpoints are ordered by their steps, durations come from a clock that only goes forward."""

from __future__ import annotations

import os

import pytest

from tests.faults.comparison import check_same, checkpoints, records
from tests.faults.injection import CHECKPOINTS, Fault, save_of
from tests.faults.subjects import SAVED_EVERY
from tests.faults.trials import stopped_after

HOUR, YEAR = 3600, 365 * 24 * 3600


@pytest.mark.parametrize("seconds", [-HOUR, HOUR, -10 * YEAR, 10 * YEAR])
def test_a_clock_that_jumps_changes_neither_bits_nor_what_is_kept(server, full, tmp_path, seconds):
    """After the second save the clock and the times of new files are off: the same checkpoints are kept."""
    third = save_of(full.operations, 3 * SAVED_EVERY)[0]
    workplace = full.workplace(tmp_path / "work")
    fault = Fault("clock", third.number, value=seconds, containing=CHECKPOINTS)
    ended = server.codex(workplace, *full.arguments(), fault=fault)
    assert ended.code == 0, ended.said
    times = [record["time"] for record in records(workplace.run / "metrics.ndjson")]
    assert abs(times[-1] - times[0] - seconds) < HOUR / 2, "the clock did not jump"
    assert all(record.get("step_seconds", 1) > 0 for record in records(workplace.run / "metrics.ndjson"))
    check_same(full, workplace.run)


@pytest.mark.parametrize("seconds", [-10 * YEAR, 10 * YEAR])
def test_a_run_resumed_under_another_clock_takes_the_newest_step(server, subject, tmp_path, seconds):
    """Times of checkpoints in reverse order, and a clock that is years off: the newest step is gone on from."""
    workplace = stopped_after(server, subject, subject.workplace(tmp_path / "work"), 14)
    for step, path in checkpoints(workplace.run).items():
        for entry in [path, *path.rglob("*")]:
            os.utime(entry, (YEAR - step, YEAR - step))
    ended = server.codex(workplace, "resume", "run", fault=Fault("clock", 0, value=seconds))
    assert ended.code == 0, ended.said
    assert not list((workplace.run / "checkpoints").glob(".bad-*"))
    assert len(list(workplace.run.glob("metrics.tail-*"))) == 0, (
        "it went back further than to the newest checkpoint"
    )
    check_same(subject, workplace.run, stopped=True)
