"""One command, repeated by a scheduler, comes to the end of a run, and never begins silently anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Workplace
from tests.resumable import (
    ALLOW_FAIL,
    MANY,
    auto,
    events,
    failed_at,
    gated_workplace,
    losses,
    outcome,
    waiting,
)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins, some of them with gates."""
    return gated_workplace(tmp_path)


def test_auto_begins_goes_on_and_ends_by_one_command(workplace: Workplace) -> None:
    """First there is no run, then one that failed, then one that is complete."""
    said = auto(workplace, "--set", "trainer.fail_at=5")
    assert said.code == 7
    (folder,) = (workplace.folder / "runs" / "toy").iterdir()
    assert auto(workplace).code == 2, "fail_at is a change that was not allowed"
    assert auto(workplace, "--allow-change", "trainer.fail_at").code == 0
    said = auto(workplace, "--allow-change", "trainer.fail_at")
    assert (said.code, "nothing is left to do" in said.out) == (0, True)
    assert list((workplace.folder / "runs" / "toy").iterdir()) == [folder]
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_run_can_be_named_to_go_on_by_another_manifest(workplace: Workplace) -> None:
    """`--resume RUN` takes a folder; the manifest's other name is harmless."""
    folder = failed_at(workplace, 5)
    text = (workplace.folder / "toy.yaml").read_text()
    workplace.write("other.yaml", text.replace("name: toy", "name: other"))
    said = workplace.codex("run", "other.yaml", "--resume", "r", "--allow-change", "trainer.fail_at")
    assert said.code == 0, said.err
    assert outcome(folder)["steps"] == 6
    assert workplace.codex("run", "other.yaml", "--resume", "r", "--run-dir", "x").code == 2


def test_a_run_that_is_held_is_left_alone(workplace: Workplace) -> None:
    """Exit 3, as always; nothing new is begun beside it."""
    with workplace.start("run", "toy.yaml", *MANY) as process:
        runs = workplace.folder / "runs" / "toy"
        while process.poll() is None and not list(runs.glob("*/metrics.ndjson")):
            pass
        said = auto(workplace)
        assert process.poll() is None
    assert said.code == 3
    assert len(list(runs.iterdir())) == 1


def test_a_run_that_never_saved_is_begun_again_beside_it_and_loudly(workplace: Workplace) -> None:
    """The message names the old run, the reason and the new one; the old one keeps its record."""
    runs = workplace.folder / "runs" / "toy"
    assert workplace.codex("run", "toy.yaml", "--set", "trainer.fail_at=1").code == 7
    (old,) = runs.iterdir()
    said = auto(workplace)
    assert said.code == 0, said.err
    (new,) = set(runs.iterdir()) - {old}
    for part in (old.name, "ended before its first checkpoint", "begun again from step 0", str(new)):
        assert part in said.err
    assert [step for step, _ in losses(old)] == [1]
    (event,) = events(new, "begun_again")
    assert event["instead_of"] == str(old)


def test_a_run_that_never_saved_is_begun_again_in_its_own_folder(workplace: Workplace) -> None:
    """With --run-dir the place is kept, and so is all that was there."""
    folder = workplace.folder / "here"
    for _ in range(2):
        assert auto(workplace, "--run-dir", "here", "--set", "trainer.fail_at=1").code == 7
    assert auto(workplace, "--run-dir", "here").code == 0
    before = sorted(folder.glob("before-*"))
    assert [[step for step, _ in losses(path)] for path in before] == [[1], [1]]
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]
    assert all(
        {"run.json", "manifest.yaml", "outcome.json"} <= {entry.name for entry in path.iterdir()}
        for path in before
    )


def test_a_run_that_never_saved_is_not_begun_again_when_it_is_named(workplace: Workplace) -> None:
    """Whoever names a run wants that one: exit 4."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r", "--set", "trainer.fail_at=1").code == 7
    assert workplace.codex("resume", "r").code == 4
    said = workplace.codex("run", "toy.yaml", "--resume", "r", "--allow-change", "trainer.fail_at")
    assert said.code == 4
    assert "no checkpoint that can be used" in said.err


@pytest.mark.parametrize("damage", ["damaged", "deleted"])
def test_a_run_whose_checkpoints_are_all_lost_is_never_begun_again(workplace: Workplace, damage: str) -> None:
    """Exit 4 with the names of the damaged ones: starting at step 0 would lose what a person could still save."""
    folder = failed_at(workplace, 5)
    workplace.codex("resume", "r", *ALLOW_FAIL)
    (folder / "outcome.json").unlink()
    found = sorted((folder / "checkpoints").iterdir())
    for path in found:
        if damage == "damaged":
            (path / "state.json").write_text("{}")
        else:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    said = auto(workplace, "--run-dir", "r")
    assert said.code == 4, said.err
    assert damage == "deleted" or all(path.name in said.err for path in found)
    assert not list(folder.glob("before-*"))


def test_a_damaged_newest_run_is_not_passed_over(workplace: Workplace) -> None:
    """An older run, or a new one, is not what the scheduler's user means."""
    assert auto(workplace, "--set", "trainer.fail_at=5").code == 7
    (folder,) = (workplace.folder / "runs" / "toy").iterdir()
    (folder / "run.json").write_text("{")
    said = auto(workplace)
    assert said.code == 2
    assert "run.json cannot be read" in said.err
    assert list(folder.parent.iterdir()) == [folder]


def test_a_run_without_its_manifest_is_not_begun_again_where_it_has_checkpoints(workplace: Workplace) -> None:
    """Exit 2 and the file that is missing; `codex resume` says the same."""
    assert auto(workplace, "--set", "trainer.fail_at=5").code == 7
    (folder,) = (workplace.folder / "runs" / "toy").iterdir()
    (folder / "resolved.yaml").unlink()
    for said in (auto(workplace), workplace.codex("resume", folder)):
        assert said.code == 2
        assert f"{folder} has checkpoints, and its resolved.yaml, by which it goes on, is gone" in said.err
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_whose_maker_was_killed_is_begun_in(workplace: Workplace) -> None:
    """Neither a lock nor a half run.json keeps a scheduler from its folder."""
    folder = workplace.folder / "r"
    folder.mkdir()
    (folder / "run.lock").touch()
    (folder / ".tmp-run.json-2a6ce62e").write_text("{")
    said = auto(workplace, "--run-dir", "r")
    assert said.code == 0, said.err
    assert not list(folder.glob(".tmp-*"))


def test_of_two_that_would_begin_again_the_second_keeps_what_the_first_has_saved(
    workplace: Workplace,
) -> None:
    """While one is getting ready another one has begun again and saved: exit 3, and that run stays."""
    folder = workplace.folder / "r"
    assert auto(workplace, "--run-dir", "r", "--set", "trainer.fail_at=1").code == 7
    arguments = ("run", "toy.yaml", "--resume", "auto", "--run-dir", "r", "--set", "dataset.type=gated")
    with waiting(workplace, "preflight", *arguments) as process:
        (workplace.folder / "gate-preflight").unlink()
        assert auto(workplace, "--run-dir", "r").code == 0
        workplace.write("go-preflight", "")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "another process has gone on with the run meanwhile" in said
    assert [step for step, _ in losses(folder)] == [1, 2, 3, 4, 5, 6]
