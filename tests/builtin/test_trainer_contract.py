"""The contract of trainers finds what is broken: a trainer with one fault fails the check that says so."""

from __future__ import annotations

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """
import random
from codex_kernel import CheckpointState, InputError, Probe, TrainResult
from codex_kernel.testing import TrainerContract
from codex_kernel.testing.toy_plugins import Descent, NextToken, ToyTrainer
from codex_kernel.testing.training import VOCABULARY

class Loop(Descent):
    def probe(self):
        yield Probe("dropout", None, "a table has none")

@frozen
class Sound(ToyTrainer):
    loop: ClassVar[type] = Loop

    @hookimpl
    def codex_trainer(self, run, parts):
        return self.loop(self, run, parts)

class Contract(TrainerContract):
    made = Sound

    def make(self, *, max_steps):
        return self.made(max_steps=max_steps)

    def model(self):
        import numpy as np
        return NextToken(np.zeros((VOCABULARY, VOCABULARY), dtype=np.float32))

del TrainerContract
"""


def loop(name: str, code: str, *fails: str) -> Fault:
    """Return a trainer whose loop has these methods instead."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return Fault(
        f"class {name}Loop(Loop):\n{lines}\n\n@frozen\nclass {name}(Sound):\n    loop: ClassVar[type] = {name}Loop\n",
        fails,
        raw=True,
    )


BODIES = {
    "StopsEarly": (
        (
            "def fit(self, state):\n"
            "    self.options = attrs.evolve(self.options, max_steps=4)\n"
            "    return super().fit(state)"
        ),
        "it_trains_to_its_limit",
    ),
    "CountsBlocks": (
        "def _take_a_step(self):\n    super()._take_a_step()\n    self.tokens = self.step",
        "it_counts_the_targets_it_was_given",
    ),
    "ReportsEverySecondStep": (
        (
            "def _take_a_step(self):\n"
            "    if self.step % 2: self.run.report.records.pop()\n"
            "    super()._take_a_step()"
        ),
        "each_step_is_reported",
    ),
    "SumsTheLoss": (
        (
            "def _take_a_step(self):\n"
            "    super()._take_a_step()\n"
            "    self.run.report.records[-1][2]['loss'] *= 30"
        ),
        "the_loss_starts_where_nothing_is_known",
    ),
    "ForgetsTheEnd": (
        "def _save(self):\n    if self.step < self.options.max_steps: super()._save()",
        "the_end_is_saved",
    ),
    "SavesTwice": (
        "def _save(self):\n    super()._save()\n    super()._save()",
        "it_saves_when_it_is_due",
    ),
    "SavesObjects": (
        (
            "def _save(self):\n"
            "    state = CheckpointState({'table.npy': {'table': self._table()}}, {'at.json': {'step': self.step}})\n"
            "    self.parts.checkpointer.save(self.step, state, self.metrics)"
        ),
        "a_checkpoint_is_plain_data",
    ),
    "DrawsWithoutASeed": (
        "def _take_a_step(self):\n    super()._take_a_step()\n    self._table()[0, 0] += random.random()",
        "the_same_seed_gives_the_same_run",
    ),
    "SharesItsStep": (
        (
            "def _take_a_step(self):\n"
            "    super()._take_a_step()\n"
            "    type(self).taken = getattr(type(self), 'taken', 0) + 1\n"
            "    self._table()[0, 0] += self.taken"
        ),
        "two_runs_in_one_process_do_not_meet",
    ),
    "ForgetsTheWeights": (
        (
            "def _go_on(self, state):\n"
            "    before = self._table().copy()\n"
            "    super()._go_on(state)\n"
            "    self._table()[:] = before"
        ),
        "a_crash_loses_nothing_that_was_saved",
    ),
    "IgnoresAStop": (
        (
            "def fit(self, state):\n"
            "    from codex_kernel.testing import NeverStop\n"
            "    self.run = attrs.evolve(self.run, stop=NeverStop())\n"
            "    return super().fit(state)"
        ),
        "a_stop_request_is_followed",
    ),
    "LosesAStep": (
        ("def _go_on(self, state):\n    super()._go_on(state)\n    self.step += 1"),
        "a_stopped_run_goes_on_as_if_it_had_not_stopped",
    ),
    "GoesOnAfterTheEnd": (
        (
            "def fit(self, state):\n"
            "    if state is not None and state.values['trainer.json']['step'] == self.options.max_steps:\n"
            "        self.options = attrs.evolve(self.options, max_steps=self.options.max_steps + 1)\n"
            "    return super().fit(state)"
        ),
        "a_finished_run_has_nothing_left_to_do",
    ),
    "TakesAnyData": (
        (
            "def _go_on(self, state):\n"
            "    state.values['trainer.json']['data'] = self.parts.data.fingerprint\n"
            "    super()._go_on(state)"
        ),
        "other_data_are_refused",
    ),
    "EvaluatesNever": ("def _evaluate(self): pass", "it_evaluates_at_the_end"),
    "EvaluatesAll": (
        (
            "def _evaluate(self):\n"
            "    kept, self.parts = self.parts, attrs.evolve(self.parts, evaluate=attrs.evolve("
            "self.parts.evaluate, max_blocks=None))\n"
            "    super()._evaluate()\n"
            "    self.parts = kept"
        ),
        "it_evaluates_when_it_is_told",
    ),
    "LearnsFromEvaluations": (
        "def _evaluate(self):\n    super()._evaluate()\n    self._table()[0] += 0.5",
        "evaluation_disturbs_nothing",
    ),
    "EstimatesByTraining": (
        "def estimate(self, *, measure):\n    self._take_a_step()\n    return super().estimate(measure=measure)",
        "an_estimate_leaves_no_trace",
    ),
    "ProbesByTraining": (
        "def probe(self):\n    self._take_a_step()\n    yield Probe('step', True, 'taken')",
        "probes_leave_no_trace",
    ),
}
FAULTS = {name: loop(name, code, fails) for name, (code, fails) in BODIES.items()}
FAULTY = Faulty("TrainerContract", HEAD, FAULTS)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_trainers_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound trainer passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
