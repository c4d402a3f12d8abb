import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_torch.guard import Spikes

losses = st.floats(0, 50, allow_subnormal=False)


def after(values, sigmas=6.0, window=8):
    """Spikes that have seen these losses."""
    spikes = Spikes(sigmas, window)
    for value in values:
        spikes.add(value)
    return spikes


def test_nothing_is_a_spike_before_half_of_the_window_is_there():
    """Three losses of a window of eight say too little, four are enough."""
    assert not after([1.0, 1.1, 0.9]).is_spike(100.0)
    assert after([1.0, 1.1, 0.9, 1.0]).is_spike(100.0)


@given(st.lists(losses, min_size=4, max_size=40), losses, st.floats(0.5, 10))
def test_it_is_the_mean_and_the_deviation_of_the_last_losses(values, loss, sigmas):
    """The bound is mean + sigmas · deviation of the window, the deviation being 1 % of the mean at the least."""
    last = values[-8:]
    mean, deviation = statistics.fmean(last), statistics.pstdev(last)
    bound = mean + sigmas * max(deviation, 0.01 * mean)
    spikes = after(values, sigmas)
    if not math.isclose(loss, bound, rel_tol=1e-6, abs_tol=1e-6):
        assert spikes.is_spike(loss) == (loss > bound)


@given(st.lists(losses, max_size=40), st.lists(losses, max_size=20))
def test_a_state_that_was_put_back_judges_alike(before, later):
    """Through JSON and back, every later loss is judged by the same bound, bit by bit."""
    whole, resumed = after(before), Spikes(6.0, 8)
    resumed.load(json.loads(json.dumps(whole.state())))
    for loss in later:
        assert resumed.is_spike(loss) == whole.is_spike(loss)
        whole.add(loss)
        resumed.add(loss)
        assert (resumed._sum, resumed._sum_of_squares) == (whole._sum, whole._sum_of_squares)
    assert resumed.state() == whole.state() == (before + later)[-8:]


def test_a_state_replaces_what_was_there():
    """After a rollback the losses since then are forgotten."""
    spikes = after([100.0] * 8)
    spikes.load([1.0] * 8)
    assert spikes.is_spike(2.0)
    assert spikes.state() == [1.0] * 8


def test_losses_that_hardly_differ_make_no_spike_of_the_next_digit():
    """With equal losses 1 % of the mean stands for the deviation."""
    spikes = after([2.0] * 8)
    assert not spikes.is_spike(2.0 * 1.05)
    assert spikes.is_spike(2.0 * 1.07)


@pytest.mark.parametrize("loss", [1e-30, 3e38])
def test_losses_of_any_size_are_judged(loss):
    """Neither the smallest nor the largest number of fp32 breaks the sums."""
    spikes = after([loss] * 8)
    assert not spikes.is_spike(loss)
    assert spikes.is_spike(3e38) == (loss < 1)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_counted(loss):
    """It would make every later one no spike."""
    with pytest.raises(ValueError, match=f"a loss of {loss} was applied"):
        after([loss])
