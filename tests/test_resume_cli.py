"""Going on with a run through the real command line: by which manifest, from where, and never silently anew."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_kernel import metrics
from codex_kernel.stopping import SIGNALS
from codex_kernel.yaml_reader import plain, read_file
from tests.command import Said, Workplace, toy_workplace
from tests.toys import install

GATES = '''
"""Toy plugins that wait, where a file `gate-<name>` asks for it, until there is a file `go-<name>`."""
import time
from pathlib import Path
import codex_toys
from attrs import define, frozen
from codex_kernel import Document, hookimpl

def wait_at(name):
    if Path(f"gate-{name}").exists():
        Path(f"at-{name}").touch()
        while not Path(f"go-{name}").exists():
            time.sleep(0.01)

@frozen
class Dataset(codex_toys.ToyDataset):
    @hookimpl
    def codex_dataset(self) -> list[Document]:
        wait_at("build")
        return super().codex_dataset()

@frozen
class Checkpointer(codex_toys.ToyCheckpointer):
    fail: bool = False

    @hookimpl
    def codex_checkpointer(self, run, folder):
        return Files(self, run, folder)

@define(eq=False)
class Files(codex_toys.JsonFiles):
    def save(self, step, state, metrics, *, wait=False):
        wait_at("save")
        if self.options.fail and step < 6:
            self.run.report.event("checkpoint_failed", step=step, reason="no room")
            return
        super().save(step, state, metrics, wait=wait)
'''
GATED = (
    "--set",
    "dataset.type=gated",
    "--set",
    "checkpointer.type=gated",
    "--set",
    "checkpointer.every_steps=2",
)
MANY = ("--set", "trainer.max_steps=20000", "--set", "checkpointer.every_steps=null")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins, some of them with gates."""
    made = toy_workplace(tmp_path)
    plugins = {
        "codex.datasets": {"gated": "codex_gates:Dataset"},
        "codex.checkpointers": {"gated": "codex_gates:Checkpointer"},
    }
    install(made.site, "codex-gates", plugins, modules={"codex_gates": GATES})
    return made


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of a run that have a name."""
    return [event for event in metrics.read(folder / "events.ndjson") if event["event"] == name]


def losses(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of each training record."""
    return metrics.series(metrics.read(folder / "metrics.ndjson"), "train", "loss")


def resolved(folder: Path) -> Any:
    """Return the manifest that a run goes on by."""
    return plain(read_file(folder / "resolved.yaml"))


def outcome(folder: Path) -> Any:
    """Return how a run ended."""
    return json.loads((folder / "outcome.json").read_text())


def failed_at(workplace: Workplace, step: int) -> Path:
    """Make a run of 6 steps, with a checkpoint every 2, that failed before a step; return its folder."""
    said = workplace.codex("run", "toy.yaml", "--run-dir", "r", "--set", f"trainer.fail_at={step}")
    assert said.code == 7
    return workplace.folder / "r"


ALLOW_FAIL = ("--set", "trainer.fail_at=null", "--allow-change", "trainer.fail_at")


# ── differences of the manifest ───────────────────────────────────────────────────────────────────────────────────


def test_a_change_of_the_curve_names_every_key_and_the_flags_to_add(workplace: Workplace) -> None:
    """Nothing is run, and the run stays as it was; exit 2."""
    folder = failed_at(workplace, 5)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    said = workplace.codex("resume", "r", "--set", "trainer.lr=0.5", "--set", "trainer.fail_at=null")
    assert said.code == 2
    assert "trainer.lr was 5.0, is 0.5; trainer.fail_at was 5, is null" in said.err.replace("\n", " ") or (
        "trainer.fail_at was 5, is null" in said.err and "trainer.lr was 5.0, is 0.5" in said.err
    )
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


# ── --resume auto ─────────────────────────────────────────────────────────────────────────────────────────────────


def auto(workplace: Workplace, *arguments: str) -> Said:
    """Run the command that a scheduler repeats."""
    return workplace.codex("run", "toy.yaml", "--resume", "auto", *arguments)


def kill_in_training(workplace: Workplace, size: int, *arguments: str, folder: Path) -> int | None:
    """Start a command and kill it once the metrics are that many bytes longer; return its code if it ended before."""
    path = folder / "metrics.ndjson"
    before = path.stat().st_size if path.exists() else 0
    with workplace.start(*arguments) as process:
        while process.poll() is None and (not path.exists() or path.stat().st_size < before + size):
            pass
        ended = process.poll()
        process.kill()
        process.communicate()
    return ended


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


# ── the record ────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def waiting(workplace: Workplace, gate: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command and give it over once it waits at a gate."""
    workplace.write(f"gate-{gate}", "")
    with workplace.start(*arguments) as process:
        while process.poll() is None and not (workplace.folder / f"at-{gate}").exists():
            pass
        yield process


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_save_lets_it_end_and_the_run_is_resumed(
    workplace: Workplace, number: signal.Signals
) -> None:
    """Exit 128+n with the command that goes on, and the same losses as without."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "whole").code == 0
    with waiting(workplace, "save", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(number)
        workplace.write("go-save", "")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "codex resume r" in out
    assert f"{number.name}: finishing the step and saving" in err
    assert outcome(workplace.folder / "r")["status"] == "stopped"
    assert workplace.codex("resume", "r").code == 0
    assert losses(workplace.folder / "r") == losses(workplace.folder / "whole")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_first_step_says_that_there_is_nothing_to_resume(
    workplace: Workplace, number: signal.Signals
) -> None:
    """Exit 128+n at once; `--resume auto` begins again."""
    with waiting(workplace, "build", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} before the first step" in err
    assert "nothing to resume" in err
    assert outcome(workplace.folder / "r")["exit_code"] == 128 + number
    workplace.write("go-build", "")
    assert auto(workplace, "--run-dir", "r", *GATED).code == 0


def test_a_signal_while_a_resume_builds_its_parts_loses_nothing(workplace: Workplace) -> None:
    """The run stays as it was, and the message has the command that goes on."""
    folder = workplace.folder / "r"
    failing = ("--set", "trainer.fail_at=5")
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r", *GATED, *failing).code == 7
    before = outcome(folder)
    with waiting(workplace, "build", "resume", "r", *ALLOW_FAIL) as process:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"nothing is lost: codex resume {folder}" in err
    assert (outcome(folder), resolved(folder)["trainer"]["fail_at"]) == (before, 5)


def test_a_second_signal_ends_the_process_at_once(workplace: Workplace) -> None:
    """Even where a save hangs."""
    with waiting(workplace, "save", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "once more stops at once" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert not (workplace.folder / "r" / "outcome.json").exists()


@pytest.mark.parametrize("number", SIGNALS)
def test_closed_streams_neither_stop_a_signal_nor_spoil_a_file(
    workplace: Workplace, number: signal.Signals
) -> None:
    """What is meant for the terminal goes nowhere, not into the file that was opened in its place."""
    command = [sys.executable, "-m", "codex_kernel", "run", "toy.yaml", "--run-dir", "r", *MANY]
    path = workplace.folder / "r" / "metrics.ndjson"
    process = subprocess.Popen(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *command],
        cwd=workplace.folder,
        env=workplace.environment(),
    )
    try:
        while process.poll() is None and (not path.exists() or path.stat().st_size < 2000):
            pass
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    finally:
        process.kill()
    folder = workplace.folder / "r"
    assert outcome(folder)["status"] == "stopped"
    assert len(losses(folder)) == outcome(folder)["steps"]
    texts = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert not any(b"finishing the step" in text for text in texts)
    assert outcome(folder)["detached"] == []


def test_a_run_that_is_paused_and_continued_goes_on(workplace: Workplace) -> None:
    """SIGSTOP and SIGCONT leave no trace in the record."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "whole").code == 0
    with waiting(workplace, "save", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "T":
            pass
        workplace.write("go-save", "")
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert losses(workplace.folder / "r") == losses(workplace.folder / "whole")
