"""The record of a run that was killed, or found no room: each step once, in every file that mirrors it."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Workplace
from tests.resumable import (
    ALLOW_FAIL,
    GATED,
    MANY,
    auto,
    failed_at,
    gated_workplace,
    kill_in_training,
    losses,
    outcome,
    resolved,
)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins, some of them with gates."""
    return gated_workplace(tmp_path)


@pytest.mark.slow
def test_killed_again_and_again_one_command_comes_to_the_same_record(workplace: Workplace) -> None:
    """Metrics, csv and jsonl have each step once, with the losses of a run that nobody killed; seed 5 of the kills."""
    options = (
        "--set", "trainer.max_steps=400", "--set", "checkpointer.every_steps=25", "--set", "loggers=[csv, jsonl]",
    )  # fmt: skip
    assert workplace.codex("run", "toy.yaml", "--run-dir", "whole", *options).code == 0
    folder, chance = workplace.folder / "here", random.Random(5)
    command = ("run", "toy.yaml", "--run-dir", "here", "--resume", "auto", *options)
    kills = 0
    while kill_in_training(workplace, chance.randrange(1, 25000), *command, folder=folder) is None:
        kills += 1
        assert kills < 30
    assert kills >= 3
    assert auto(workplace, "--run-dir", "here", *options).code == 0
    assert losses(folder) == losses(workplace.folder / "whole")
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["split"], row["metric"]) == ("train", "loss")]
    assert [(int(row["step"]), float(row["value"])) for row in rows] == losses(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines if line["split"] == "train"] == losses(folder)


def test_lost_records_are_told_and_an_older_checkpoint_mends_it(workplace: Workplace) -> None:
    """A metrics file that is shorter than the checkpoint says is named; the checkpoint before fits it."""
    folder = failed_at(workplace, 5)
    path = folder / "metrics.ndjson"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    said = workplace.codex("resume", "r", *ALLOW_FAIL)
    assert said.code == 2
    assert "metrics.ndjson is damaged" in said.err
    assert "move the newest checkpoint out of checkpoints/" in said.err
    (folder / "checkpoints" / "step-00000004").rename(workplace.folder / "elsewhere")
    assert workplace.codex("resume", "r", *ALLOW_FAIL).code == 0
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]


def test_checkpoints_that_could_not_be_written_are_counted(workplace: Workplace) -> None:
    """In outcome.json, and in the summary with where to look."""
    said = workplace.codex("run", "toy.yaml", "--run-dir", "r", *GATED, "--set", "checkpointer.fail=true")
    assert said.code == 0, said.err
    assert outcome(workplace.folder / "r")["failed_saves"] == 2
    assert "2 checkpoints could not be written: see events.ndjson" in said.out


def test_a_record_that_finds_no_room_ends_the_run_with_its_path_and_resume_works(
    workplace: Workplace,
) -> None:
    """Exit 6; what was saved before is there, and the run completes once there is room."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r").code == 0
    folder = workplace.folder / "r"
    command = [
        sys.executable, "-m", "codex_kernel", "resume", "r", *MANY[2:],
        "--set", "trainer.max_steps=400", "--allow-change", "trainer.max_steps",
    ]  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 32; exec "$@"', "bash", *command],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert f"cannot write {folder / 'metrics.ndjson'}: File too large" in done.stderr
    assert outcome(folder)["exit_code"] == 6
    assert workplace.codex("resume", "r").code == 0
    assert [step for step, _ in losses(folder)] == list(range(1, 401))


def test_a_record_that_cannot_be_opened_ends_the_run_before_it_trains(workplace: Workplace) -> None:
    """Exit 6 before anything is built; nothing in the folder is touched."""
    folder = failed_at(workplace, 5)
    (folder / "events.ndjson").rename(folder / "kept")
    (folder / "events.ndjson").mkdir()
    before = outcome(folder), resolved(folder), (folder / "metrics.ndjson").read_bytes()
    assert workplace.codex("resume", "r").code == 6
    assert (outcome(folder), resolved(folder), (folder / "metrics.ndjson").read_bytes()) == before
