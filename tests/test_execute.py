"""How a run ends is in its folder, whatever happens at its start, in its middle or at its very end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import Workplace, toy_workplace
from tests.toys import install


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins."""
    return toy_workplace(tmp_path)


def outcome(workplace: Workplace, run: str) -> dict[str, Any]:
    """Return the outcome of a run."""
    text = (workplace.folder / run / "outcome.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]


def change(workplace: Workplace, run: str, old: str, new: str) -> None:
    """Edit the resolved manifest of a run."""
    resolved = workplace.folder / run / "resolved.yaml"
    text = resolved.read_text()
    assert old in text
    resolved.write_text(text.replace(old, new))


def test_a_resume_that_is_refused_leaves_the_outcome_as_it_was(workplace: Workplace) -> None:
    """The run completed before; that its data is another one now does not change that."""
    workplace.codex("run", "toy.yaml", "--run-dir", "r")
    before = outcome(workplace, "r")
    change(workplace, "r", "seq_len: 32", "seq_len: 16")
    said = workplace.codex("resume", "r")
    assert said.code == 2
    assert "the data changed since the run began" in said.err
    assert outcome(workplace, "r") == before
    assert "completed" in workplace.codex("runs", "show", "r").out


def test_a_resume_that_is_killed_leaves_an_interrupted_run(workplace: Workplace) -> None:
    """The outcome of before is taken away when the run goes on."""
    workplace.codex("run", "toy.yaml", "--run-dir", "r")
    change(workplace, "r", "max_steps: 6", "max_steps: 1000000")
    with workplace.start("resume", "r") as process:
        path = workplace.folder / "r" / "metrics.ndjson"
        size = path.stat().st_size
        while process.poll() is None and path.stat().st_size < size + 2000:
            pass
        process.kill()
        process.communicate()
    assert json.loads(workplace.codex("runs", "show", "r", "--json").out)["status"] == "interrupted"


def test_a_resume_that_fails_counts_from_where_the_run_was(workplace: Workplace) -> None:
    """A failure before the first new record does not set the totals to zero."""
    workplace.codex("run", "toy.yaml", "--run-dir", "r")
    change(workplace, "r", "max_steps: 6", "max_steps: 9")
    change(workplace, "r", "fail_at: null", "fail_at: 6")
    assert workplace.codex("resume", "r").code == 7
    ended = outcome(workplace, "r")
    assert (ended["status"], ended["steps"], ended["samples"]) == ("failed", 6, 48)
    assert ended["checkpoint"].endswith("step-00000006")


def test_a_logger_that_must_not_fail_may_not_fail_at_the_end_either(workplace: Workplace) -> None:
    """`on_error: fail` holds for the last call too; without it the run completes."""
    options = ("--set", "loggers.0.fail_at_end=true")
    assert workplace.codex("run", "toy.yaml", "--run-dir", "a", *options).code == 0
    assert outcome(workplace, "a")["status"] == "completed"
    said = workplace.codex("run", "toy.yaml", "--run-dir", "b", *options, "--set", "loggers.0.on_error=fail")
    assert said.code == 7
    assert "failed in codex_run_finished: RuntimeError: the last upload failed" in said.err
    assert outcome(workplace, "b")["status"] == "failed"


def test_numbers_of_any_library_may_end_a_run(workplace: Workplace) -> None:
    """The toy trainer returns numpy's scalars; the outcome has plain numbers."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r").code == 0
    assert outcome(workplace, "r")["metrics"]["train/loss"] == pytest.approx(4.68, abs=0.01)


CLOSES_BADLY = '''
"""The toy checkpointer, which fails as it is closed, and leaves no place for the outcome."""
import codex_toys
from attrs import define, frozen
from codex_kernel import hookimpl

@frozen
class Plugin(codex_toys.ToyCheckpointer):
    @hookimpl
    def codex_checkpointer(self, run, folder):
        return Files(self, run, folder)

@define(eq=False)
class Files(codex_toys.JsonFiles):
    def close(self):
        (self.run.folder / "outcome.json").mkdir()
        raise RuntimeError("the last save failed")
'''


def test_the_first_error_is_the_one_that_is_shown(workplace: Workplace) -> None:
    """Its exit code counts; what goes wrong after it, as the run is closed and recorded, is said below it."""
    plugins = {"codex.checkpointers": {"bad": "codex_bad:Plugin"}}
    install(workplace.site, "codex-bad", plugins, modules={"codex_bad": CLOSES_BADLY})
    options = ("--run-dir", "r", "--set", "trainer.fail_at=1", "--set", "checkpointer.type=bad")
    said = workplace.codex("run", "toy.yaml", *options)
    assert said.code == 7
    first, *others = said.err.splitlines()
    assert first.endswith("failed while training: ValueError: asked to fail")
    assert "  after that: RuntimeError: the last save failed" in others
    (late,) = [line for line in others if "outcome.json" in line]
    assert late.startswith(
        f"  after that: cannot write {workplace.folder / 'r' / 'outcome.json'}: Is a directory"
    )


def test_an_outcome_that_says_nothing_is_not_that_of_a_completed_run(workplace: Workplace) -> None:
    """The run goes on, finds itself at its end, and says so anew."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r").code == 0
    (workplace.folder / "r" / "outcome.json").write_text("{}")
    assert workplace.codex("resume", "r").code == 0
    assert outcome(workplace, "r")["status"] == "completed"
