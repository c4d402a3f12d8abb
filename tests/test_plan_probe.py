"""`codex plan --probe` through the real command line, with plugins that need no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.command import Workplace, toy_workplace
from tests.toys import install

UNABLE = """
import sys

from attrs import evolve, frozen

from codex_kernel import Estimate, Probe, hookimpl


class Trainer:
    def fit(self, state): ...
    def estimate(self, *, measure):
        print("estimated", file=sys.stderr)
        return Estimate(1, 1, {}, 1, 1, 1)


@frozen
class Silent:
    @hookimpl
    def codex_trainer(self):
        return Trainer()


@frozen
class Endless:
    @hookimpl
    def codex_trainer(self):
        class Endless(Trainer):
            def estimate(self, *, measure):
                return evolve(super().estimate(measure=measure), steps=None, tokens=None, seconds_per_step=0.5)
        return Endless()


@frozen
class Broken:
    @hookimpl
    def codex_trainer(self):
        class Broken(Trainer):
            def probe(self):
                yield Probe("first", True, "was there")
                raise RuntimeError("no kernel image")
        return Broken()
"""
TOO_FAST = ("--set", "trainer.lr=1e6")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace with toys, and with trainers that lack something."""
    made = toy_workplace(tmp_path)
    entries = {"silent": "unable:Silent", "endless": "unable:Endless", "broken": "unable:Broken"}
    install(made.site, "codex-unable", {"codex.trainers": entries}, modules={"unable": UNABLE})
    return made


def test_probes_are_shown_after_the_estimate(workplace: Workplace) -> None:
    """Each with its verdict and what it found; when none failed, the exit code is 0."""
    said = workplace.codex("plan", "toy.yaml", "--probe")
    assert (said.code, "error" in said.err) == (0, False)
    head, probes = said.out.split("\nprobes\n")
    assert "about 2 s" in head
    rows = [re.split(r" {2,}", line.strip()) for line in probes.splitlines()]
    assert [row[:2] for row in rows] == [["vocabulary", "ok"], ["dropout", "not applicable"], ["step", "ok"]]
    assert rows[0][2] == "the table has 257 rows"


def test_a_probe_that_failed_ends_with_1(workplace: Workplace) -> None:
    """All are shown, then the error names those that failed."""
    said = workplace.codex("plan", "toy.yaml", "--probe", *TOO_FAST)
    assert said.code == 1
    assert re.search(
        r"^  step +FAILED +a step changes the loss .*; trainer\.lr decides that$", said.out, re.MULTILINE
    )
    assert "1 of 3 probes failed: step" in said.err
    assert "what decides it" in said.err


def test_probes_need_no_measurement(workplace: Workplace) -> None:
    """With --no-measure no step is timed, and the probes are made all the same."""
    said = workplace.codex("plan", "toy.yaml", "--probe", "--no-measure")
    assert said.code == 0
    assert "not measured" in said.out
    assert "the table has 257 rows" in said.out


def test_json_holds_the_probes(workplace: Workplace) -> None:
    """As a list, also where one failed; null where none were asked for."""
    assert json.loads(workplace.codex("plan", "toy.yaml", "--json").out)["probes"] is None
    said = workplace.codex("plan", "toy.yaml", "--probe", "--json", *TOO_FAST)
    assert said.code == 1
    found = json.loads(said.out)
    assert found["estimate"]["steps"] == 6
    assert [(probe["name"], probe["passed"]) for probe in found["probes"]] == [
        ("vocabulary", True),
        ("dropout", None),
        ("step", False),
    ]
    assert found["probes"][1]["detail"] == "a table has none"


def test_nothing_is_left_behind(workplace: Workplace) -> None:
    """Nothing but the cache is written."""
    workplace.codex("plan", "toy.yaml", "--probe")
    names = {path.name for path in workplace.folder.iterdir()}
    assert names == {"site", "toy.yaml", "cache"}


def test_a_trainer_without_probes_is_said_before_the_estimate(workplace: Workplace) -> None:
    """The error names the plugin; without --probe the same manifest is planned."""
    said = workplace.codex("plan", "toy.yaml", "--set", "trainer={type: silent}", "--probe")
    assert said.code == 7
    assert "silent" in said.err
    assert "cannot probe a run" in said.err
    assert "estimated" not in said.err
    assert workplace.codex("plan", "toy.yaml", "--set", "trainer={type: silent}").err.endswith("estimated\n")


def test_a_probe_that_breaks_is_an_error(workplace: Workplace) -> None:
    """What was found before it is shown, and the error names the plugin and what happened."""
    said = workplace.codex("plan", "toy.yaml", "--set", "trainer={type: broken}", "--probe")
    assert said.code == 7
    assert re.search(r"^  first +ok +was there$", said.out, re.MULTILINE)
    assert "failed while probing: RuntimeError: no kernel image" in said.err
    assert "Traceback" not in said.err


def test_a_run_that_time_ends_has_no_number_of_steps(workplace: Workplace) -> None:
    """An estimate may not know steps and tokens; the time of a step is said alone."""
    said = workplace.codex("plan", "toy.yaml", "--set", "trainer={type: endless}")
    assert said.code == 0, said.err
    assert "not known: time ends the run" in said.out
    assert re.search(r"^  time +\(0.500 s a step", said.out, re.MULTILINE)
    found = json.loads(workplace.codex("plan", "toy.yaml", "--set", "trainer={type: endless}", "--json").out)
    assert (found["estimate"]["steps"], found["estimate"]["seconds"]) == (None, None)
