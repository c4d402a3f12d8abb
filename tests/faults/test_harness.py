"""The fault harness itself: a forked command is the command, and the shim sees every file."""

from __future__ import annotations

import subprocess
import sys

from tests.faults.comparison import check_same, checkpoints, differences, names
from tests.faults.injection import Fault, save_of
from tests.faults.subjects import STEPS


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
