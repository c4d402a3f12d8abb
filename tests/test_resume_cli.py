"""Going on with a run by another manifest, through the real command line: no difference goes unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Workplace
from tests.resumable import (
    ALLOW_FAIL,
    GATED,
    events,
    failed_at,
    gated_workplace,
    losses,
    outcome,
    resolved,
)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins, some of them with gates."""
    return gated_workplace(tmp_path)


def test_a_change_of_the_curve_names_every_key_and_the_flags_to_add(workplace: Workplace) -> None:
    """Nothing is run, and the run stays as it was; exit 2."""
    folder = failed_at(workplace, 5)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    said = workplace.codex("resume", "r", "--set", "trainer.lr=0.5", "--set", "trainer.fail_at=null")
    assert said.code == 2
    assert "trainer.lr was 5.0, is 0.5; trainer.fail_at was 5, is null" in said.err
    assert "--allow-change trainer.lr" in said.err
    assert "--allow-change trainer.fail_at" in said.err
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name for name in after if after[name] != before[name]} <= {"run.lock"}


def test_an_allowed_change_is_recorded_and_becomes_the_runs_own(workplace: Workplace) -> None:
    """The event says key, was, is and meaning; `resolved.yaml` has it from the restore on."""
    folder = failed_at(workplace, 5)
    said = workplace.codex("resume", "r", *ALLOW_FAIL)
    assert said.code == 0, said.err
    (event,) = events(folder, "manifest_changed")
    assert {name: event[name] for name in ("key", "was", "is", "meaning")} == {
        "key": "trainer.fail_at",
        "was": 5,
        "is": None,
        "meaning": "curve",
    }
    assert resolved(folder)["trainer"]["fail_at"] is None
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]


def test_the_summary_counts_the_warnings(workplace: Workplace) -> None:
    """Not every logger shows them; the first run had none, the resumed one that its manifest is another."""
    said = workplace.codex("run", "toy.yaml", "--run-dir", "none", *GATED)
    assert (said.code, "warnings" in said.out) == (0, False)
    failed_at(workplace, 5)
    said = workplace.codex("resume", "r", *ALLOW_FAIL)
    assert "  warnings         1: see events.ndjson" in said.out.splitlines()


def test_an_allowed_change_stays_allowed_when_the_newest_checkpoint_is_older(workplace: Workplace) -> None:
    """Killed before the next checkpoint, a plain resume goes on with the new value: the trainer is told again."""
    folder = failed_at(workplace, 5)
    said = workplace.codex("resume", "r", "--set", "trainer.lr=0.5", "--allow-change", "trainer.lr")
    assert said.code == 7, "it fails before step 5 again, and the newest checkpoint is that of step 4"
    assert resolved(folder)["trainer"]["lr"] == 0.5
    assert workplace.codex("resume", "r", *ALLOW_FAIL).code == 0
    assert len(losses(folder)) == 6


def test_a_value_that_nobody_allowed_is_the_trainers_to_refuse(workplace: Workplace) -> None:
    """An edit of `resolved.yaml` is not covered by an earlier permission for another value."""
    folder = failed_at(workplace, 5)
    workplace.codex("resume", "r", "--set", "trainer.lr=0.5", "--allow-change", "trainer.lr")
    path = folder / "resolved.yaml"
    path.write_text(path.read_text().replace("lr: 0.5", "lr: 0.25"))
    said = workplace.codex("resume", "r", *ALLOW_FAIL)
    assert said.code == 2
    assert "trainer.lr: the checkpoint was saved with 5.0, now it is 0.25" in said.err


def test_a_harmless_change_goes_on_and_is_said(workplace: Workplace) -> None:
    """Loggers, checkpoints and evaluation may change without a flag; the change is told and recorded."""
    folder = failed_at(workplace, 5)
    said = workplace.codex(
        "resume", "r", "--set", "checkpointer.every_steps=3", "--set", "loggers=[console]", *ALLOW_FAIL
    )
    assert said.code == 0, said.err
    changed = {event["key"]: event["meaning"] for event in events(folder, "manifest_changed")}
    assert changed == {
        "trainer.fail_at": "curve",
        "checkpointer.every_steps": "harmless",
        "loggers": "harmless",
    }
    assert "checkpointer.every_steps was 2, is 3" in said.err


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("seed=18", "seed was 17, is 18"),
        ("adapters=[sharpen]", 'adapters was [], is ["sharpen"]'),
        ("checkpointer.type=gated", 'checkpointer.type was "toy", is "gated"'),
    ],
)
def test_another_run_is_refused_whatever_is_allowed(workplace: Workplace, change: str, key: str) -> None:
    """Seed, adapters and plugins of the model make the run; the remedy is a new one."""
    failed_at(workplace, 5)
    said = workplace.codex("resume", "r", "--set", change, "--allow-change", "seed", *ALLOW_FAIL)
    assert (said.code, key in said.err) == (2, True), said.err
    assert "start a new run" in said.err


def test_a_key_to_allow_that_is_none_is_refused_with_the_nearest(workplace: Workplace) -> None:
    """A typo must not look like a permission."""
    failed_at(workplace, 5)
    said = workplace.codex("resume", "r", "--allow-change", "trainer.fial_at")
    assert said.code == 2
    assert "did you mean 'trainer.fail_at'?" in said.err


def test_a_permission_needs_a_run_that_goes_on(workplace: Workplace) -> None:
    """A new run has nothing to change."""
    assert workplace.codex("run", "toy.yaml", "--allow-change", "trainer.lr").code == 2
    assert not (workplace.folder / "runs").exists()


def test_data_that_became_other_data_is_refused_and_leaves_the_manifest(workplace: Workplace) -> None:
    """A change under `data:` is harmless by its key, and decided by what it gives."""
    folder = failed_at(workplace, 5)
    before = (folder / "resolved.yaml").read_bytes(), outcome(folder)
    said = workplace.codex("resume", "r", "--set", "data.seq_len=16", *ALLOW_FAIL)
    assert said.code == 2
    assert "the data changed since the run began" in said.err
    assert ((folder / "resolved.yaml").read_bytes(), outcome(folder)) == before
    assert events(folder, "manifest_changed") == []


def test_a_resume_that_fails_before_the_restore_leaves_the_outcome(workplace: Workplace) -> None:
    """What the trainer refuses while it restores has not changed how the run ended."""
    folder = failed_at(workplace, 5)
    before = outcome(folder)
    (folder / "metrics.ndjson").write_bytes(b"")
    said = workplace.codex("resume", "r", *ALLOW_FAIL)
    assert said.code == 2
    assert outcome(folder) == before
    assert resolved(folder)["trainer"]["fail_at"] == 5


def test_a_completed_run_has_nothing_left_to_do(workplace: Workplace) -> None:
    """It ends at once, without building a thing: the data may be gone."""
    assert workplace.codex("run", "toy.yaml", *GATED[:2], "--run-dir", "r").code == 0
    workplace.write("gate-build", "")
    before = outcome(workplace.folder / "r")
    said = workplace.codex("resume", "r")
    assert (said.code, "nothing is left to do" in said.out) == (0, True)
    assert outcome(workplace.folder / "r") == before
    assert not (workplace.folder / "at-build").exists()


def test_a_completed_run_goes_on_when_it_is_made_longer(workplace: Workplace) -> None:
    """More steps are a change of the curve."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r").code == 0
    longer = ("--set", "trainer.max_steps=9", "--allow-change", "trainer.max_steps")
    assert workplace.codex("resume", "r", *longer).code == 0
    assert outcome(workplace.folder / "r")["steps"] == 9
