"""The fault harness itself: a forked command is the command, no write passes by the shim, no difference unseen."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.comparison import check_same, checkpoints, differences
from tests.faults.subjects import SAVED_EVERY


def test_a_forked_command_gives_the_bits_of_a_process_of_its_own(full, tmp_path):
    """`python -m codex_kernel`, started afresh, writes what the forked reference wrote."""
    workplace = full.workplace(tmp_path / "work")
    done = subprocess.run(
        [sys.executable, "-m", "codex_kernel", *full.arguments()],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_same(full, workplace.run)


def final(path):
    """Return the name that a file under a temporary name is to have."""
    path = re.sub(r"/\.(?:tmp|trash)-(\d{8,})-\w+", r"/step-\1", path)
    return re.sub(r"/\.tmp-(.+)-\w+$", r"/\1", path)


def test_every_byte_of_a_run_has_passed_the_shim(full):
    """What was written to each file, by the log, is what is in it: no way to the disk is left out of the sweeps."""
    written: Counter[str] = Counter()
    for operation in full.operations:
        written[final(operation.path)] += operation.bytes
    files = [path for path in full.reference.rglob("*") if path.is_file() and path.name != "run.lock"]
    sizes = {str(path): path.stat().st_size for path in files}
    assert len(sizes) > 30
    assert {path: written[path] for path in sizes} == sizes


def test_the_subjects_draw_random_numbers_in_every_step(subject):
    """The generators move on from save to save, so that a resume which does not restore them shows in the losses."""
    saves = checkpoints(subject.complete)
    states = [(saves[step] / "rng.safetensors").read_bytes() for step in (SAVED_EVERY, SAVED_EVERY + 1)]
    assert states[0] != states[1]


def flip(path: Path, position: int) -> None:
    """Flip the lowest bit of a byte."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "file",
    ["model/model.safetensors", "optimizer.safetensors", "rng.safetensors", "rng.json", "trainer.json"],
)
def test_one_bit_of_a_checkpoint_does_not_pass_the_comparison(full, tmp_path, file):
    """Weights, optimizer, generators and position are compared, not only losses; the file is named."""
    run = tmp_path / "run"
    shutil.copytree(full.reference, run)
    path = checkpoints(run)[max(checkpoints(run))] / file
    flip(path, -100)
    assert any(file in line for line in differences(full, run))


def test_a_step_twice_or_missing_does_not_pass_the_comparison(full, tmp_path):
    """The records of metrics are compared one by one."""
    run = tmp_path / "run"
    shutil.copytree(full.reference, run)
    assert list(differences(full, run)) == []
    lines = (full.reference / "metrics.ndjson").read_text().splitlines(keepends=True)
    for wrong in ([*lines, lines[-1]], lines[:-1], [*lines[:5], *lines[6:]]):
        (run / "metrics.ndjson").write_text("".join(wrong))
        assert any("metrics.ndjson" in line for line in differences(full, run))
