import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import InputError
from codex_torch.early import Patience
from codex_torch.plugin import EarlyStopping

LOSS = "validation/loss"


def patience(rounds=2, **changes):
    """Patience that has seen nothing."""
    return Patience(EarlyStopping(rounds, **changes))


def after(values, given_patience):
    """What each evaluation was answered with, ten steps apart."""
    return [given_patience.update({LOSS: value}, 10 * n) for n, value in enumerate(values, start=1)]


def test_it_ends_after_as_many_evaluations_without_improvement():
    """The best one counts, not the one before; an improvement begins the count anew."""
    one = patience()
    assert after([3.0, 2.0, 2.5, 1.9, 2.0, 1.95], one) == [False] * 5 + [True]
    assert one.reason() == "validation/loss has not improved in 2 evaluations (best 1.9000 at step 40)"
    assert one.exhausted


def test_the_larger_value_may_be_the_better_one():
    """With mode max a value must rise."""
    one = patience(1, mode="max", metric="validation/accuracy")
    assert [one.update({"validation/accuracy": v}, 1) for v in (0.2, 0.3, 0.3)] == [False, False, True]
    assert "in 1 evaluation (best 0.3000" in one.reason()


def test_an_improvement_has_to_be_larger_than_min_delta():
    """A value that is better by no more than that is no improvement, and not the new best one."""
    assert after([1.0, 0.95, 0.9], patience(2, min_delta=0.125)) == [False, False, True]
    assert after([1.0, 0.95, 0.85], patience(2, min_delta=0.125)) == [False, False, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_never_improves(bad, mode):
    """NaN and infinity count against the run from the first evaluation on."""
    one = patience(mode=mode)
    assert after([bad, bad], one) == [False, True]
    assert one.reason() == "validation/loss has not improved in 2 evaluations (never finite)"
    assert json.loads(json.dumps(one.state(), allow_nan=False)) == one.state()


@given(
    st.lists(st.floats(), max_size=30), st.integers(0, 30), st.integers(1, 5), st.sampled_from(["min", "max"])
)
def test_a_state_that_was_put_back_goes_on_alike(values, cut, rounds, mode):
    """Saved as JSON after any evaluation, the later ones have the answers of a run without a break."""
    whole, first, second = (patience(rounds, mode=mode) for _ in range(3))
    answers = after(values, whole)
    after(values[:cut], first)
    second.load(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert [second.update({LOSS: value}, 1) for value in values[cut:]] == answers[cut:]
    assert second.worse == whole.worse


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 5))
def test_the_count_is_that_of_evaluations_since_the_best(values, rounds):
    """`worse` is how many evaluations came after the first one with the best value."""
    one = patience(rounds)
    after(values, one)
    assert one.best == min(values)
    assert one.worse == len(values) - 1 - values.index(min(values))
    assert one.exhausted == (one.worse >= rounds)


def test_a_metric_that_no_evaluation_gives_is_refused():
    """The error names what there is."""
    with pytest.raises(
        InputError, match="expected the metric 'validation/bleu', the evaluation gives validation/loss"
    ):
        patience(metric="validation/bleu").update({LOSS: 1.0}, 1)


@pytest.mark.parametrize("changes", [{"metric": "validation/accuracy"}, {"metric": LOSS, "mode": "max"}])
def test_another_metric_begins_the_count_anew(changes):
    """The best value of one metric says nothing of another one, nor does the smallest one of the largest."""
    one = patience()
    after([3.0, 2.0, 2.5], one)
    other = patience(**changes)
    other.load(one.state())
    assert (other.best, other.worse) == (None, 0)
