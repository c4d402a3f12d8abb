"""The contract of metrics finds what is broken: a metric with one fault fails the check that says so."""

from __future__ import annotations

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """
import math, random
from codex_kernel.testing import MetricContract

@frozen
class Sound:
    def bits(self, evaluation):
        return evaluation.loss_sum / math.log(2) / evaluation.tokens if evaluation.tokens else math.nan

    @hookimpl
    def codex_metric(self, evaluation):
        return {"bits": self.bits(evaluation)} if evaluation.tokens else None

class Contract(MetricContract):
    made = Sound

    def make(self, folder):
        return self.made()

del MetricContract
"""


def giving(answer: str, *fails: str) -> Fault:
    """Return a metric that gives this."""
    return Fault(f"@hookimpl\ndef codex_metric(self, evaluation):\n    return {answer}", fails)


FAULTS = {
    "GivesNothing": giving("None", "an_evaluation_has_metrics"),
    "GivesWords": giving("{'bits': 'few'}", "metrics_are_names_and_numbers"),
    "TakesTheNameOfTheLoss": giving("{'loss': self.bits(evaluation)}", "names_are_free"),
    "HasSpacesInItsName": giving("{'bits per token': self.bits(evaluation)}", "names_are_words"),
    "ComesAndGoes": giving(
        "{'bits': self.bits(evaluation)} if evaluation.tokens < 1000 else {}", "names_stay_the_same"
    ),
    "TakesALogarithm": giving("{'log': math.log(evaluation.loss_sum)}", "a_perfect_model_passes"),
    "Overflows": giving("{'exp': math.exp(evaluation.loss_sum)}", "a_loss_too_large_for_any_number_passes"),
    "HidesNaN": giving(
        "{'bits': self.bits(evaluation) if math.isfinite(evaluation.loss_sum) else 0.0}",
        "a_loss_that_is_not_finite_passes",
    ),
    "DividesByBytes": giving(
        "{'bits': evaluation.loss_sum / evaluation.bytes}", "an_evaluation_without_text_passes"
    ),
    "DividesByTokens": giving(
        "{'bits': evaluation.loss_sum / evaluation.tokens}", "an_evaluation_without_tokens_passes"
    ),
    "Averages": Fault(
        """
        seen: list[float] = field(init=False, factory=list)

        @hookimpl
        def codex_metric(self, evaluation):
            self.seen.append(self.bits(evaluation))
            return {"bits": sum(self.seen) / len(self.seen)}
        """,
        ["the_sums_alone_decide"],
        stateful=True,
    ),
    "SharesItsSums": Fault(
        """
        seen: ClassVar[list] = []

        @hookimpl
        def codex_metric(self, evaluation):
            self.seen.append(self.bits(evaluation))
            return {"bits": self.seen[-1] + len(self.seen)}
        """,
        ["two_runs_in_one_process_do_not_meet"],
    ),
    "Draws": giving("{'bits': self.bits(evaluation) + 0 * random.random()}", "being_asked_leaves_no_trace"),
}
FAULTY = Faulty("MetricContract", HEAD, FAULTS)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_metrics_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound metric passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
