import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.interfaces import Checkpoint
from codex_kernel.retention import KeepBest, retained_steps

METRIC = "validation/loss"


def checkpoint(step: int, loss: float | None = None) -> Checkpoint:
    """A checkpoint with that step, and that validation loss where one is given."""
    return Checkpoint(step, Path(f"step-{step:08d}"), {} if loss is None else {METRIC: loss}, 1)


losses = st.none() | st.floats() | st.sampled_from([0.5, 1.0])
checkpoint_lists = st.dictionaries(st.integers(1, 10**6), losses, max_size=12).map(
    lambda steps: [checkpoint(step, loss) for step, loss in steps.items()]
)
rules = st.none() | st.builds(KeepBest, st.just(METRIC), st.sampled_from(["min", "max"]), st.integers(1, 4))


@given(checkpoint_lists, st.integers(1, 5), rules)
def test_the_last_ones_are_kept_and_nothing_is_invented(checkpoints, keep_last, rule):
    """The last `keep_last` are kept, at most `count` beside them, and all of them exist."""
    steps = sorted(one.step for one in checkpoints)
    kept = retained_steps(checkpoints, keep_last=keep_last, keep_best=rule)
    assert set(steps[-keep_last:]) <= kept <= set(steps)
    assert len(kept) <= keep_last + (rule.count if rule else 0)


@given(checkpoint_lists, st.integers(1, 5), rules, st.randoms())
def test_the_order_in_which_they_are_listed_does_not_matter(checkpoints, keep_last, rule, random):
    """A shuffled list gives the same answer."""
    shuffled = random.sample(checkpoints, len(checkpoints))
    first, second = (
        retained_steps(some, keep_last=keep_last, keep_best=rule) for some in (checkpoints, shuffled)
    )
    assert first == second


@given(checkpoint_lists, st.integers(1, 5), rules)
def test_what_was_kept_is_kept_again(checkpoints, keep_last, rule):
    """Deleting the others changes nothing for those that were kept."""
    kept = retained_steps(checkpoints, keep_last=keep_last, keep_best=rule)
    left = [one for one in checkpoints if one.step in kept]
    assert retained_steps(left, keep_last=keep_last, keep_best=rule) == kept


@given(checkpoint_lists, st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_no_discarded_checkpoint_is_better_than_a_best_one(checkpoints, count, mode):
    """What is kept for its metric is at least as good as everything that is not kept."""
    kept = retained_steps(checkpoints, keep_last=1, keep_best=KeepBest(METRIC, mode, count))
    newest = max((one.step for one in checkpoints), default=0)
    finite = {
        one.step: loss for one in checkpoints if math.isfinite(loss := one.metrics.get(METRIC, math.nan))
    }
    best = [loss for step, loss in finite.items() if step in kept and step != newest]
    others = [loss for step, loss in finite.items() if step not in kept]
    if mode == "min":
        assert all(mine <= other for mine in best for other in others)
    else:
        assert all(mine >= other for mine in best for other in others)


@pytest.mark.parametrize(("mode", "kept"), [("min", {2, 5}), ("max", {4, 5})])
def test_nan_and_infinity_are_never_the_best(mode, kept):
    """A run that went astray does not push out its last good checkpoint."""
    checkpoints = [
        checkpoint(1, float("nan")), checkpoint(2, 1.0), checkpoint(3, float("-inf")), checkpoint(4, 2.0),
        checkpoint(5, float("inf")),
    ]  # fmt: skip
    assert retained_steps(checkpoints, keep_last=1, keep_best=KeepBest(METRIC, mode)) == kept


def test_of_equal_ones_the_later_is_better():
    """A tie goes to the checkpoint that has been trained for longer."""
    checkpoints = [checkpoint(10, 1.0), checkpoint(20, 1.0), checkpoint(30, 2.0)]
    assert retained_steps(checkpoints, keep_last=1, keep_best=KeepBest(METRIC)) == {20, 30}


def test_a_missing_metric_is_never_the_best():
    """A checkpoint that was saved without an evaluation is kept for its age alone."""
    checkpoints = [checkpoint(10, 3.0), checkpoint(20), checkpoint(30)]
    assert retained_steps(checkpoints, keep_last=1, keep_best=KeepBest(METRIC, count=2)) == {10, 30}


def test_keeping_none_is_refused():
    """The newest checkpoint can never be given up."""
    with pytest.raises(ValueError, match="keep_last >= 1, got 0"):
        retained_steps([checkpoint(1)], keep_last=0)
