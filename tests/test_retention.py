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


options = st.fixed_dictionaries(
    {
        "keep_last": st.integers(1, 5),
        "keep_best": rules,
        "keep_every": st.none() | st.sampled_from([1, 2, 3, 7, 1000]),
    }
)


@given(checkpoint_lists, options)
def test_the_last_ones_are_kept_and_nothing_is_invented(checkpoints, options):
    """The last `keep_last` are kept, beside them the best, the multiples and one healthy one; all of them exist."""
    steps = sorted(one.step for one in checkpoints)
    kept = retained_steps(checkpoints, **options)
    assert set(steps[-options["keep_last"] :]) <= kept <= set(steps)
    multiples = [step for step in steps if options["keep_every"] and step % options["keep_every"] == 0]
    best = options["keep_best"].count if options["keep_best"] else 0
    assert len(kept) <= options["keep_last"] + best + len(multiples) + 1


@given(checkpoint_lists, options, st.randoms())
def test_the_order_in_which_they_are_listed_does_not_matter(checkpoints, options, random):
    """A shuffled list gives the same answer."""
    shuffled = random.sample(checkpoints, len(checkpoints))
    assert retained_steps(checkpoints, **options) == retained_steps(shuffled, **options)


@given(checkpoint_lists, options)
def test_what_was_kept_is_kept_again(checkpoints, options):
    """Deleting the others changes nothing for those that were kept."""
    kept = retained_steps(checkpoints, **options)
    left = [one for one in checkpoints if one.step in kept]
    assert retained_steps(left, **options) == kept


@given(checkpoint_lists, options, st.integers(1, 100))
def test_going_on_never_brings_back_what_was_given_up(checkpoints, options, further):
    """What is deleted now would not be kept after the next checkpoint either."""
    newest = max((one.step for one in checkpoints), default=0)
    later = [*checkpoints, checkpoint(newest + further, 1.0)]
    assert retained_steps(later, **options) - {newest + further} <= retained_steps(checkpoints, **options)


@given(checkpoint_lists, options)
def test_the_last_healthy_one_is_always_kept(checkpoints, options):
    """Of the checkpoints without a NaN or an infinity in their metrics the newest stays."""
    healthy = [one.step for one in checkpoints if all(map(math.isfinite, one.metrics.values()))]
    if healthy:
        assert max(healthy) in retained_steps(checkpoints, **options)


@given(checkpoint_lists, st.integers(1, 50))
def test_multiples_are_kept_for_ever(checkpoints, keep_every):
    """Beside the newest and the last healthy one exactly the multiples stay."""
    kept = retained_steps(checkpoints, keep_last=1, keep_every=keep_every)
    others = kept - retained_steps(checkpoints, keep_last=1)
    assert {one.step for one in checkpoints if one.step % keep_every == 0} <= kept
    assert all(step % keep_every == 0 for step in others)


@given(checkpoint_lists, st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_no_discarded_checkpoint_is_better_than_a_best_one(checkpoints, count, mode):
    """What is kept for its metric is at least as good as everything that is not kept."""
    kept = retained_steps(checkpoints, keep_last=1, keep_best=KeepBest(METRIC, mode, count))
    anyway = retained_steps(checkpoints, keep_last=1)
    finite = {
        one.step: loss for one in checkpoints if math.isfinite(loss := one.metrics.get(METRIC, math.nan))
    }
    best = [loss for step, loss in finite.items() if step in kept - anyway]
    others = [loss for step, loss in finite.items() if step not in kept]
    if mode == "min":
        assert all(mine <= other for mine in best for other in others)
    else:
        assert all(mine >= other for mine in best for other in others)


@pytest.mark.parametrize(("mode", "kept"), [("min", {2, 4, 5}), ("max", {4, 5})])
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
    with pytest.raises(ValueError, match="keep_every >= 1, got 0"):
        retained_steps([checkpoint(1)], keep_last=1, keep_every=0)


def test_a_run_that_went_astray_keeps_a_way_back():
    """However many checkpoints with NaN follow, the last one from before stays."""
    checkpoints = [checkpoint(10, 1.0), checkpoint(20, 1.5), *(checkpoint(n, math.nan) for n in (30, 40, 50))]
    assert retained_steps(checkpoints, keep_last=2) == {20, 40, 50}
