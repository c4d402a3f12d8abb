"""The check of the ecosystem: every distribution of the index is tested against this kernel, and a failure is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / ".github" / "ecosystem.py"
PROJECT = """\
[project]
name = "codex-plugin-bad"
version = "1.0"
"""


def judged(*arguments: str | Path) -> tuple[int, list[dict[str, object]]]:
    """Run the program in this environment; return its exit code and what it says of each distribution."""
    done = subprocess.run(
        [sys.executable, PROGRAM, "--here", "--json", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode, json.loads(done.stdout)["distributions"]


def project(folder: Path, test: str) -> Path:
    """Write a project with that one test."""
    (folder / "tests").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "tests" / "test_bad.py").write_text(test)
    return folder


def test_a_distribution_of_the_index_passes():
    """Its plugins are imported, each in a process of its own, and its own tests run."""
    code, (verdict,) = judged("codex-sysmon")
    assert (code, verdict["passed"], verdict["step"]) == (0, True, "tests")
    assert " passed" in str(verdict["said"])


def test_a_failure_is_named_with_what_it_said(tmp_path):
    """A distribution whose tests fail fails at that step; the others are judged all the same."""
    bad = project(tmp_path / "bad", "def test_it():\n    assert 2 + 2 == 5\n")
    good = project(tmp_path / "good", "def test_it():\n    assert True\n")
    sources = ("--source", f"bad={bad}", "--source", f"good={good}", "--source", f"gone={tmp_path / 'gone'}")
    code, verdicts = judged("bad", "gone", "good", *sources)
    assert code == 1
    assert [(v["distribution"], v["step"], v["passed"]) for v in verdicts] == [
        ("bad", "tests", False),
        ("gone", "sources", False),
        ("good", "tests", True),
    ]
    assert "2 + 2" in str(verdicts[0]["said"])
    assert "has no pyproject.toml" in str(verdicts[1]["said"])


def test_a_plugin_that_breaks_when_imported_fails_its_check(tmp_path):
    """What `codex plugins check` finds ends the judgement of a distribution before its tests."""
    bad = project(tmp_path / "bad", "def test_it():\n    assert True\n")
    (bad / "pyproject.toml").write_text(
        PROJECT + '[project.entry-points."codex.loggers"]\nnowhere = "nowhere:X"\n'
    )
    code, (verdict,) = judged("bad", "--source", f"bad={bad}")
    assert (code, verdict["step"]) == (1, "check")
    assert "nowhere" in str(verdict["said"])
