import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codex_kernel.testing import make_run
from codex_torch import commit
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer


def train(folder: Path, *arguments: int) -> tuple[int, dict[int, str]]:
    """Train in a process of its own; return its exit status and the losses it printed, by step."""
    script = Path(__file__).with_name("train_until_killed.py")
    command = [sys.executable, script, folder, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, {int(step): loss for step, loss in map(str.split, done.stdout.splitlines())}


def last_state(folder: Path):
    """The run's newest checkpoint, read back."""
    run = make_run(folder)
    mine = FolderCheckpointer(run, run.folder / "checkpoints", SafetensorsCheckpointer())
    newest = mine.newest()
    assert run.report.warnings == []
    return newest.step, mine.load(newest)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happens to: its folder and its losses."""
    folder = tmp_path_factory.mktemp("whole")
    status, losses = train(folder)
    assert (status, list(losses)) == (0, list(range(1, 11)))
    return folder, losses


@pytest.mark.parametrize(
    ("step", "operation", "newest"),
    [(5, 0, {2, 4}), (6, 1, {4}), (6, 20, {4}), (6, 38, {6})],
    ids=["perhaps in a save in the background", "before a save", "in a save", "in a deletion after a save"],
)
def test_killed_and_resumed_it_is_the_run_that_was_not(tmp_path, whole, step, operation, newest):
    """After kill -9 the newest whole checkpoint is used, and losses and every tensor at the end have the same bits."""
    whole_folder, losses = whole
    status, before = train(tmp_path / "killed", step, operation)
    assert status == -9
    run_folder = make_run(tmp_path / "killed").folder / "checkpoints"
    found = max(step for step, _ in commit.find(run_folder))
    assert found in newest
    status, after = train(tmp_path / "killed")
    assert status == 0
    assert list(after) == list(range(found + 1, 11))
    assert {**before, **after} == losses
    (first, expected), (second, left) = last_state(whole_folder), last_state(tmp_path / "killed")
    assert first == second == 10
    assert left.values["rng.json"] == expected.values["rng.json"]
    for file, tensors in expected.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(left.tensors[file][name], tensor), f"{file}: {name}"
