"""`codex checkpoints`, through the real command line, on checkpoints without torch."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_kernel import KeepBest
from codex_kernel.archive import best_step, json_metrics, size_on_disk
from codex_kernel.interfaces import Checkpoint
from codex_kernel.runfolder import open_run
from tests.command import Said, Workplace, toy_workplace
from tests.test_startup import imported
from tests.toys import install

STEPS = [2, 4, 6, 8, 10]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a finished run of ten steps, a checkpoint at each second one."""
    made = toy_workplace(tmp_path_factory.mktemp("finished"))
    said = made.codex("run", "toy.yaml", "--run-dir", "run", "--set", "trainer.max_steps=10")
    assert said.code == 0, said.err
    return made.folder


@pytest.fixture
def workplace(finished: Path, tmp_path: Path) -> Workplace:
    """Make a copy of the finished run to work on."""
    shutil.copytree(finished, tmp_path / "work")
    return Workplace(tmp_path / "work")


def listed(workplace: Workplace) -> dict[str, Any]:
    """Return what `codex checkpoints list --json` says."""
    said = workplace.codex("checkpoints", "list", "run", "--json")
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def steps(workplace: Workplace) -> list[int]:
    """Return the steps of the checkpoints that are there."""
    return [row["step"] for row in listed(workplace)["checkpoints"]]


def state_file(workplace: Workplace, step: int) -> Path:
    """Return the file with the state of a step."""
    return workplace.folder / "run" / "checkpoints" / f"step-{step:08d}" / "state.json"


def damage(workplace: Workplace, step: int) -> None:
    """Change a byte of a checkpoint, so that only its digest tells."""
    path = state_file(workplace, step)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


# ── list and show ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_shows_steps_metrics_sizes_and_standing(workplace: Workplace) -> None:
    """One row a checkpoint, oldest first; the newest and the best are marked, and what no rule keeps."""
    (workplace.folder / "run" / "resolved.yaml").write_text(
        (workplace.folder / "run" / "resolved.yaml").read_text().replace("keep_last: 100", "keep_last: 2")
    )
    said = workplace.codex("checkpoints", "list", "run")
    rows = [line.split() for line in said.out.splitlines()]
    assert rows[0] == ["step", "train/loss", "validation/loss", "size"]
    assert [row[0] for row in rows[1:]] == [str(step) for step in STEPS]
    assert said.out.splitlines()[1].endswith("kept by no rule")
    assert "rule" not in said.out.splitlines()[4]
    assert said.out.splitlines()[-1].endswith("newest, best by validation/loss")


def test_the_list_for_programs_has_a_schema_version(workplace: Workplace) -> None:
    """Each row has step, path, size, metrics and standing."""
    found = listed(workplace)
    assert found["schema_version"] == 1
    assert found["run_id"] == open_run(workplace.folder / "run").run_id
    last = found["checkpoints"][-1]
    assert (last["step"], last["newest"], last["best"], last["kept"]) == (10, True, True, True)
    assert last["size_bytes"] == state_file(workplace, 10).stat().st_size
    assert set(last["metrics"]) > {"train/loss", "validation/loss"}
    assert found["damaged"] == []


def test_a_damaged_checkpoint_is_a_row_with_its_reason(workplace: Workplace) -> None:
    """What cannot be read hides no other."""
    (state_file(workplace, 4).parent / "about.json").unlink()
    assert steps(workplace) == [2, 6, 8, 10]
    (row,) = listed(workplace)["damaged"]
    assert row["path"].endswith("step-00000004")
    assert "damaged: step-00000004: FileNotFoundError" in workplace.codex("checkpoints", "list", "run").out


@pytest.mark.parametrize(
    "command", [("show", "run", "4"), ("export", "run", "4", "--to", "out")], ids=" ".join
)
def test_a_damaged_checkpoint_that_is_asked_for_is_refused(
    workplace: Workplace, command: tuple[str, ...]
) -> None:
    """Exit 4, with what is wrong with it."""
    (state_file(workplace, 4).parent / "about.json").unlink()
    said = workplace.codex("checkpoints", *command)
    assert (said.code, "step-00000004 is damaged: FileNotFoundError" in said.err) == (4, True)


def test_a_run_is_named_as_everywhere(workplace: Workplace) -> None:
    """By its name, its id or the start of it below --runs."""
    workplace.codex("run", "toy.yaml")
    (about,) = (workplace.folder / "runs").glob("toy/*/run.json")
    for name in ("toy", about.parent.name, about.parent.name[:18]):
        assert workplace.codex("checkpoints", "list", name).code == 0
    assert workplace.codex("checkpoints", "list", "toy", "--runs", "elsewhere").code == 2


def test_show_lists_the_files_of_a_step_or_of_the_newest(workplace: Workplace) -> None:
    """Files with their sizes, metrics, step and run id."""
    run_id = open_run(workplace.folder / "run").run_id
    assert f"step 10 of toy {run_id}" in workplace.codex("checkpoints", "show", "run").out
    said = workplace.codex("checkpoints", "show", "run", "4", "--json")
    found = json.loads(said.out)
    assert (found["step"], found["run_id"], list(found["files"])) == (4, run_id, ["state.json"])
    assert found["files"]["state.json"] == state_file(workplace, 4).stat().st_size
    assert found["metrics"]["train/loss"] > 0


@pytest.mark.parametrize(
    "command", [("show",), ("verify",), ("export", "--to", "out")], ids=["show", "verify", "export"]
)
def test_a_step_that_there_is_not_is_an_error_with_those_there_are(
    workplace: Workplace, command: tuple[str, ...]
) -> None:
    """Exit 2, and the steps to choose from."""
    said = workplace.codex("checkpoints", command[0], "run", "5", *command[1:])
    assert said.code == 2
    assert "has no checkpoint of step 5, it has 2, 4, 6, 8, 10" in said.err
    assert not (workplace.folder / "out").exists()


@pytest.mark.parametrize(
    "command",
    [("show",), ("verify",), ("export", "--to", "out"), ("prune", "--yes")],
    ids=["show", "verify", "export", "prune"],
)
def test_a_run_without_a_checkpoint_ends_with_4(workplace: Workplace, command: tuple[str, ...]) -> None:
    """There is nothing to work with, and the error says where."""
    for step in STEPS:
        for file in state_file(workplace, step).parent.iterdir():
            file.unlink()
        state_file(workplace, step).parent.rmdir()
    said = workplace.codex("checkpoints", command[0], "run", *command[1:])
    assert (said.code, "has no checkpoint that can be used" in said.err) == (4, True)
    assert workplace.codex("checkpoints", "list", "run").code == 0
    assert not (workplace.folder / "out").exists()


# ── verify ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_verify_says_ok_of_each(workplace: Workplace) -> None:
    """One line a checkpoint, exit 0."""
    said = workplace.codex("checkpoints", "verify", "run")
    assert (said.code, said.out.splitlines()) == (0, [f"step-{step:08d}: ok" for step in STEPS])


def test_verify_finds_a_changed_byte_and_changes_nothing(workplace: Workplace) -> None:
    """Exit 1 where another checkpoint can be used, and the file is named."""
    damage(workplace, 10)
    before = everything(workplace.folder / "run" / "checkpoints")
    said = workplace.codex("checkpoints", "verify", "run")
    assert said.code == 1
    assert "step-00000010: damaged: state.json: not the file that was saved" in said.out
    assert "step-00000008: ok" in said.out
    assert everything(workplace.folder / "run" / "checkpoints") == before
    assert workplace.codex("checkpoints", "verify", "run", "8").code == 0
    found = json.loads(workplace.codex("checkpoints", "verify", "run", "--json").out)
    assert [row["step"] for row in found["checkpoints"] if not row["whole"]] == [10]


def test_verify_ends_with_4_where_none_can_be_used(workplace: Workplace) -> None:
    """All of them are damaged, or the one that was asked for."""
    damage(workplace, 6)
    assert workplace.codex("checkpoints", "verify", "run", "6").code == 4
    for step in (2, 4, 8, 10):
        damage(workplace, step)
    assert workplace.codex("checkpoints", "verify", "run").code == 4


def everything(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ── prune ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prune_goes_by_the_rules_of_the_run(workplace: Workplace) -> None:
    """Without rules of its own it keeps what the run's options keep."""
    said = workplace.codex("checkpoints", "prune", "run", "--yes")
    assert (said.code, "nothing to delete" in said.out) == (0, True)
    resolved = workplace.folder / "run" / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("keep_last: 100", "keep_last: 2"))
    said = workplace.codex("checkpoints", "prune", "run", "--yes")
    assert said.code == 0, said.err
    assert "delete step-00000002" in said.out
    assert "deleted 3," in said.out
    assert steps(workplace) == [8, 10]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (("--keep-last", "2"), [8, 10]),
        (("--keep-best", "train/loss:max"), [2, 10]),
        (("--keep-best", "train/loss:max:2"), [2, 4, 10]),
        (("--keep-best", "validation/loss"), [10]),
        (("--keep-every", "4"), [4, 8, 10]),
        (("--keep-last", "2", "--keep-every", "6"), [6, 8, 10]),
    ],
)
def test_prune_goes_by_the_rules_on_the_line(
    workplace: Workplace, rules: tuple[str, ...], kept: list[int]
) -> None:
    """They add up, and the newest stays in any case."""
    assert workplace.codex("checkpoints", "prune", "run", *rules, "--yes").code == 0
    assert steps(workplace) == kept


def test_a_dry_run_deletes_nothing(workplace: Workplace) -> None:
    """It says what would go, and needs neither --yes nor the run's lock."""
    with open_run(workplace.folder / "run").locked():
        said = workplace.codex("checkpoints", "prune", "run", "--keep-last", "1", "--dry-run", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["steps"], found["kept_steps"], found["deleted"]) == ([2, 4, 6, 8], [10], False)
    assert found["size_bytes"] > 4 * 400_000
    assert steps(workplace) == STEPS


def test_prune_asks_nobody_where_nobody_is(workplace: Workplace) -> None:
    """Without a terminal it needs --yes."""
    said = workplace.codex("checkpoints", "prune", "run", "--keep-last", "1")
    assert (said.code, "--yes" in said.err) == (2, True)
    assert steps(workplace) == STEPS


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", STEPS), (b"y\n", [10])])
def test_prune_asks_on_a_terminal(workplace: Workplace, answer: bytes, left: list[int]) -> None:
    """Only a yes deletes."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "codex_kernel", "checkpoints", "prune", "run", "--keep-last", "1"],
        cwd=workplace.folder,
        env=workplace.environment(),
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.write(terminal, answer)
    said, asked = process.communicate(timeout=60)
    os.close(terminal)
    os.close(end)
    assert process.returncode == 0, asked
    assert b"Delete these 4 for good?" in asked + said
    assert steps(workplace) == left


def test_prune_leaves_a_run_alone_that_trains(workplace: Workplace) -> None:
    """Exit 3 where another process holds the run."""
    with open_run(workplace.folder / "run").locked():
        assert workplace.codex("checkpoints", "prune", "run", "--keep-last", "1", "--yes").code == 3
    assert steps(workplace) == STEPS


def test_prune_never_deletes_the_newest_whole_one(workplace: Workplace) -> None:
    """Where the newest is damaged, the one before it stays, and the damaged one too unless --damaged is given."""
    damage(workplace, 10)
    assert workplace.codex("checkpoints", "prune", "run", "--keep-last", "1", "--yes").code == 0
    assert steps(workplace) == [8, 10]
    said = workplace.codex("checkpoints", "prune", "run", "--keep-last", "1", "--damaged", "--yes")
    assert "delete step-00000010" in said.out
    assert steps(workplace) == [8]


def test_prune_deletes_nothing_where_none_is_whole(workplace: Workplace) -> None:
    """Damaged checkpoints may be all that there is of the run."""
    for step in STEPS:
        damage(workplace, step)
    said = workplace.codex("checkpoints", "prune", "run", "--keep-last", "1", "--damaged", "--yes")
    assert said.code == 4
    assert steps(workplace) == STEPS


@pytest.mark.parametrize("rule", ["", ":min", "train/loss:least", "train/loss:min:0", "train/loss:min:1:2"])
def test_a_rule_that_is_none_is_refused(workplace: Workplace, rule: str) -> None:
    """The error shows how a rule is written."""
    said = workplace.codex("checkpoints", "prune", "run", "--keep-best", rule, "--yes")
    assert (said.code, "METRIC[:min|max[:COUNT]]" in said.err) == (2, True)
    assert steps(workplace) == STEPS


def test_the_best_by_a_metric_that_no_checkpoint_has_is_refused(workplace: Workplace) -> None:
    """A misspelt metric would leave the newest alone; the error says which there are."""
    said = workplace.codex("checkpoints", "prune", "run", "--keep-best", "validation/los", "--yes")
    assert (said.code, "did you mean 'validation/loss'?" in said.err) == (2, True)
    said = workplace.codex("checkpoints", "prune", "run", "--keep-best", "accuracy:max", "--dry-run")
    assert (said.code, "they have train/loss, validation/bits_per_byte" in said.err) == (2, True)
    assert steps(workplace) == STEPS


# ── export ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_export_is_the_model_with_a_record_of_where_it_is_from(workplace: Workplace) -> None:
    """The record has run, step, metrics and the SHA-256 of each file."""
    said = workplace.codex("checkpoints", "export", "run", "4", "--to", "out/model", "--json")
    assert said.code == 0, said.err
    folder = workplace.folder / "out" / "model"
    assert {path.name for path in folder.iterdir()} == {"table.json", "codex-export.json"}
    record = json.loads((folder / "codex-export.json").read_text())
    assert (record["step"], record["name"], record["has_tokenizer"]) == (4, "toy", False)
    assert record["run_id"] == open_run(workplace.folder / "run").run_id
    assert record["metrics"]["train/loss"] > 0
    digest = hashlib.sha256((folder / "table.json").read_bytes()).hexdigest()
    assert record["files"] == {
        "table.json": {"size": (folder / "table.json").stat().st_size, "sha256": digest}
    }
    state = json.loads(state_file(workplace, 4).read_text())
    assert json.loads((folder / "table.json").read_text()) == state["model/table.json"]
    assert json.loads(said.out)["folder"] == str(folder)


def test_an_export_takes_the_tokenizer_along(workplace: Workplace) -> None:
    """The vocabulary of the run lies beside the model."""
    vocabulary = workplace.folder / "run" / "tokenizer"
    vocabulary.mkdir()
    (vocabulary / "tokenizer.json").write_text("{}")
    assert workplace.codex("checkpoints", "export", "run", "--to", "out").code == 0
    assert (workplace.folder / "out" / "tokenizer.json").read_text() == "{}"
    assert (
        "tokenizer.json" in json.loads((workplace.folder / "out" / "codex-export.json").read_text())["files"]
    )


def test_a_file_of_model_and_tokenizer_is_never_overwritten(workplace: Workplace) -> None:
    """Two files of one name are an error, and nothing is left of the export."""
    vocabulary = workplace.folder / "run" / "tokenizer"
    vocabulary.mkdir()
    (vocabulary / "table.json").write_text("{}")
    said = workplace.codex("checkpoints", "export", "run", "--to", "out")
    assert (said.code, "table.json" in said.err) == (7, True)
    assert_no_export(workplace)


def test_an_export_goes_into_a_new_folder_alone(workplace: Workplace) -> None:
    """What is there stays as it is."""
    workplace.write("out", "mine")
    said = workplace.codex("checkpoints", "export", "run", "--to", "out")
    assert (said.code, "exists already" in said.err) == (2, True)
    assert (workplace.folder / "out").read_text() == "mine"


def test_an_export_may_have_the_longest_name_that_there_is(workplace: Workplace) -> None:
    """Its folder is made under another name first, which must not be longer."""
    name = "e" * 255
    assert workplace.codex("checkpoints", "export", "run", "--to", name).code == 0
    assert (workplace.folder / name / "codex-export.json").exists()


def test_a_damaged_checkpoint_is_not_exported(workplace: Workplace) -> None:
    """The one asked for is refused; without a step the newest whole one is taken, and the damaged one is named."""
    damage(workplace, 10)
    said = workplace.codex("checkpoints", "export", "run", "10", "--to", "out")
    assert (said.code, "step-00000010 is damaged" in said.err) == (4, True)
    assert_no_export(workplace)
    said = workplace.codex("checkpoints", "export", "run", "--to", "out")
    assert (said.code, "step-00000010 is damaged" in said.err) == (0, True)
    assert "step 8 is in out" in said.out


def assert_no_export(workplace: Workplace) -> None:
    """Fail where something of an export is left."""
    assert [path.name for path in workplace.folder.iterdir() if "out" in path.name] == []


# ── plugins ───────────────────────────────────────────────────────────────────────────────────────────────────────

BARE = """
from attrs import frozen
from codex_kernel import hookimpl

class Files:
    def due(self, step): return False
    def save(self, step, state, metrics, *, wait=False): pass
    def newest(self): return None
    def load(self, checkpoint): raise AssertionError
    def close(self): pass

@frozen
class Bare:
    @hookimpl
    def codex_checkpointer(self): return Files()
"""


def bare_run(workplace: Workplace) -> Said:
    """Run with a checkpointer that has no more than it must."""
    install(
        workplace.site,
        "codex-bare",
        {"codex.checkpointers": {"bare": "codex_bare:Bare"}},
        modules={"codex_bare": BARE},
    )
    return workplace.codex("run", "toy.yaml", "--run-dir", "bare", "--set", "checkpointer.type=bare")


def test_a_checkpointer_without_the_protocol_is_named(workplace: Workplace) -> None:
    """Exit 7, with the plugin and what it lacks."""
    assert bare_run(workplace).code == 0
    said = workplace.codex("checkpoints", "list", "bare")
    assert said.code == 7
    assert "checkpointer 'bare' (codex-bare 1.0)" in said.err
    assert "CheckpointArchive" in said.err


def test_only_the_checkpointer_must_be_installed(workplace: Workplace) -> None:
    """A run whose other plugins are gone can still be looked at; without its checkpointer the error names it."""
    resolved = workplace.folder / "run" / "resolved.yaml"
    text = resolved.read_text()
    resolved.write_text(text.replace("dataset:\n  type: toy", "dataset:\n  type: gone"))
    assert "gone" in resolved.read_text()
    assert steps(workplace) == STEPS
    resolved.write_text(text.replace("checkpointer:\n  type: toy", "checkpointer:\n  type: gone"))
    said = workplace.codex("checkpoints", "list", "run")
    assert (said.code, "'gone'" in said.err) == (7, True)


@pytest.mark.parametrize(
    "command", ["list run", "show run", "verify run", "prune run --keep-last 1 --yes", "export run --to out"]
)
def test_no_training_library_is_imported(workplace: Workplace, command: str) -> None:
    """Checkpoints are looked at, verified, deleted and exported without torch and its like."""
    heavy = ("torch", "transformers", "codex_torch", "codex_hf")
    assert imported(workplace, "checkpoints", *command.split(), heavy=heavy) == "IMPORTED []"


# ── the functions behind it ───────────────────────────────────────────────────────────────────────────────────────


def checkpoint(step: int, **metrics: float) -> Checkpoint:
    """Make a checkpoint."""
    return Checkpoint(step, Path(f"step-{step}"), metrics, 0)


def test_the_best_checkpoint_has_a_finite_value_and_is_the_later_of_equals():
    """NaN is never the best; None where no checkpoint has the metric."""
    known = [checkpoint(1, m=2.0), checkpoint(2, m=1.0), checkpoint(3, m=1.0), checkpoint(4, m=float("nan"))]
    assert best_step(known, KeepBest("m")) == 3
    assert best_step(known, KeepBest("m", "max")) == 1
    assert best_step(known, KeepBest("other")) is None


def test_metrics_that_json_lacks_are_null():
    """NaN and infinities become null, other values stay."""
    assert json_metrics({"a": 1.5, "b": float("nan"), "c": float("inf")}) == {"a": 1.5, "b": None, "c": None}


def test_the_size_of_a_folder_counts_all_files(tmp_path):
    """Files of inner folders count, links do not lead out."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 5)
    assert size_on_disk(tmp_path / "a") == 15
    assert size_on_disk(tmp_path / "a" / "one") == 10
