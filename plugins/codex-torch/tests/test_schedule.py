import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import InputError
from codex_kernel.testing.training import ToyBlocks
from codex_torch.schedule import Length, Schedule

schedules = st.builds(
    Schedule,
    st.sampled_from(["cosine", "linear", "constant"]),
    st.floats(1e-6, 1.0),
    st.integers(0, 50),
    st.floats(0.0, 1.0),
    st.integers(1, 200),
)


@given(schedules)
def test_the_rate_is_never_above_its_highest(schedule):
    """Every step has a rate above 0, or at least the lowest, and none is higher than `lr`."""
    for step in range(schedule.total_steps):
        assert 0 <= schedule.lr_of(step) <= schedule.lr * (1 + 1e-12)


@given(schedules)
def test_it_rises_and_then_only_falls(schedule):
    """The rate rises through the warm-up and never rises after it."""
    rates = [schedule.lr_of(step) for step in range(schedule.total_steps)]
    peak = min(schedule.warmup_steps, schedule.total_steps)
    assert rates[:peak] == sorted(rates[:peak])
    assert all(
        later <= before * (1 + 1e-12) for before, later in zip(rates[peak:], rates[peak + 1 :], strict=False)
    )


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_the_last_step_has_the_lowest_rate(name):
    """A run ends at `min_lr_ratio` of the highest rate, which the end of the warm-up has."""
    schedule = Schedule(name, 1.0, 10, 0.1, 100)
    assert schedule.lr_of(9) == 1.0
    assert schedule.lr_of(99) == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle():
    """Half of the way down takes half of the steps."""
    assert Schedule("cosine", 1.0, 0, 0.0, 100).lr_of(49) == pytest.approx(0.5)


def test_constant_stays():
    """After the warm-up nothing changes, whatever the lowest rate."""
    schedule = Schedule("constant", 0.3, 2, 0.1, 9)
    assert [schedule.lr_of(step) for step in range(9)] == [0.15, *[0.3] * 8]


@given(st.integers(1, 40), st.floats(0.01, 5.0), st.integers(1, 9))
def test_epochs_take_every_block_that_often(blocks, epochs, batch):
    """A run of epochs takes epochs × blocks samples, rounded up, in the fewest steps that hold them."""
    length = Length.of(ToyBlocks(blocks), batch, epochs=epochs)
    assert length.samples == math.ceil(round(epochs * blocks, 6))
    assert sum(length.samples_of(step * batch) for step in range(length.steps)) == length.samples
    assert (length.steps - 1) * batch < length.samples


@given(st.integers(1, 12), st.integers(1, 5000), st.integers(1, 9))
def test_tokens_make_the_fewest_steps_of_mean_size(blocks, tokens, batch):
    """A limit of tokens is rounded up to whole steps, each with the split's mean number of targets."""
    train = ToyBlocks(blocks)
    length = Length.of(train, batch, max_tokens=tokens)
    mean = train.target_tokens / len(train) * batch
    assert (length.steps - 1) * mean < tokens <= length.steps * mean * (1 + 1e-9)


def test_fractions_of_an_epoch_are_not_rounded_up_by_accident():
    """0.1 of 30 blocks are three, though the product of the floats is a little more."""
    assert Length.of(ToyBlocks(30), 1, epochs=0.1).samples == 3


def test_a_run_without_a_step_is_refused():
    """Nothing to do is an error."""
    with pytest.raises(InputError, match="no optimizer step"):
        Length.of(ToyBlocks(4), 2, max_steps=0)
