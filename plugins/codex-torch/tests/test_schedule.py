import itertools
import math

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import InputError
from codex_kernel.testing.training import ToyBlocks
from codex_torch.schedule import Length, Schedule

NAMES = ["cosine", "linear", "constant", "inverse-sqrt", "wsd"]
DOWN = ["cosine", "linear", "wsd"]


@st.composite
def schedules(draw, names=NAMES):
    """Any schedule that the options allow."""
    name = draw(st.sampled_from(names))
    return Schedule(
        name,
        lr=draw(st.floats(1e-6, 1.0)),
        warmup_steps=draw(st.integers(1 if name == "inverse-sqrt" else 0, 50)),
        min_lr_ratio=draw(st.floats(0.0, 1.0)),
        total_steps=draw(st.integers(1, 200)),
        decay_steps=draw(st.none() | st.integers(1, 80)) if name == "wsd" else None,
    )


def rates_of(schedule):
    """The rate of every step."""
    return [schedule.lr_of(step) for step in range(schedule.total_steps)]


@given(schedules())
def test_the_rate_stays_between_its_bounds(schedule):
    """No step has a rate above `lr`, none after the warm-up one below the lowest, and none is 0 but the lowest."""
    rates = rates_of(schedule)
    lowest = schedule.lr * schedule.min_lr_ratio
    assert all(0 <= rate <= schedule.lr * (1 + 1e-12) for rate in rates)
    assert all(rate >= lowest * (1 - 1e-12) for rate in rates[schedule.warmup_steps :])
    assert all(rate > 0 for rate in rates[: schedule.warmup_steps])


@given(schedules())
def test_the_warm_up_is_a_straight_line(schedule):
    """Step k of the warm-up has k shares of `lr`, so that its last one has all of it."""
    for step, rate in enumerate(rates_of(schedule)[: schedule.warmup_steps], start=1):
        assert rate == pytest.approx(schedule.lr * step / schedule.warmup_steps)


@given(schedules())
def test_after_the_warm_up_it_never_rises(schedule):
    """From the end of the warm-up on the rate only falls, or stays."""
    rates = rates_of(schedule)[max(schedule.warmup_steps - 1, 0) :]
    assert all(later <= before * (1 + 1e-12) for before, later in itertools.pairwise(rates))


@given(schedules(DOWN))
def test_the_last_step_has_the_lowest_rate(schedule):
    """A schedule with a way down ends at exactly `min_lr_ratio` of `lr`, where there is a step after the warm-up."""
    if schedule.warmup_steps < schedule.total_steps:
        assert rates_of(schedule)[-1] == pytest.approx(schedule.lr * schedule.min_lr_ratio, abs=1e-15)


@given(schedules(["cosine", "linear"]), st.integers(20, 200))
def test_no_step_is_a_jump(schedule, rest):
    """Cosine and linear change by no more than a few shares of the way from one step to the next, joints included."""
    schedule = evolve(schedule, total_steps=schedule.warmup_steps + rest, min_lr_ratio=0.0)
    rates = rates_of(schedule)[max(schedule.warmup_steps - 1, 0) :]
    most = schedule.lr * math.pi / 2 / rest
    assert all(abs(one - other) <= most * (1 + 1e-9) for one, other in itertools.pairwise(rates))


@given(schedules(["inverse-sqrt"]))
def test_inverse_sqrt_leaves_the_warm_up_without_a_jump(schedule):
    """The curve goes through `lr` at the last step of the warm-up, and on from there down to its floor."""
    warmup = schedule.warmup_steps
    before, after = schedule.lr_of(warmup - 1), schedule.lr_of(warmup)
    assert before == pytest.approx(schedule.lr)
    expected = max(schedule.min_lr_ratio, math.sqrt(warmup / (warmup + 1)))
    assert after == pytest.approx(schedule.lr * expected)


def test_inverse_sqrt_halves_at_four_times_the_steps():
    """The rate goes by the square root of the steps done, and needs no end."""
    schedule = Schedule("inverse-sqrt", 1.0, 100, 0.1, None)
    assert schedule.lr_of(399) == pytest.approx(0.5)
    assert schedule.lr_of(10**9) == pytest.approx(0.1)


@given(schedules(["wsd"]))
def test_wsd_holds_the_rate_and_then_lowers_it(schedule):
    """`lr` stands from the warm-up to the way down, which takes decay_steps, or what is left, and is convex."""
    total, warmup = schedule.total_steps, schedule.warmup_steps
    asked = max(1, total // 10) if schedule.decay_steps is None else schedule.decay_steps
    down = max(min(asked, total - warmup), 0)
    rates = rates_of(schedule)
    assert rates[warmup : total - down] == pytest.approx([schedule.lr] * max(total - down - warmup, 0))
    way = [schedule.lr, *rates[total - down :]] if down else []
    falls = [before - after for before, after in itertools.pairwise(way)]
    assert all(later <= before + 1e-12 for before, later in itertools.pairwise(falls))


def test_wsd_has_the_shape_of_one_minus_the_root():
    """A quarter of the way down takes half of what there is to lose."""
    schedule = Schedule("wsd", 1.0, 0, 0.0, 1000, 100)
    assert schedule.lr_of(899) == 1.0
    assert schedule.lr_of(924) == pytest.approx(0.5)
    assert schedule.lr_of(999) == pytest.approx(0.0)


def test_cosine_is_half_way_in_the_middle():
    """Half of the way down takes half of the steps."""
    assert Schedule("cosine", 1.0, 0, 0.0, 100).lr_of(49) == pytest.approx(0.5)


def test_constant_stays():
    """After the warm-up nothing changes, whatever the lowest rate and the length."""
    for total in (9, None):
        schedule = Schedule("constant", 0.3, 2, 0.1, total)
        assert [schedule.lr_of(step) for step in range(9)] == [0.15, *[0.3] * 8]


@pytest.mark.parametrize("name", DOWN)
def test_a_way_down_needs_an_end(name):
    """Without the number of steps there is no such schedule."""
    with pytest.raises(ValueError, match=f"the schedule {name} needs the number of steps"):
        Schedule(name, 1.0, 0, 0.1, None)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (Schedule("cosine", 1.0, 10, 0.1, 10), "ends in its warm-up: 10 steps, warmup_steps 10"),
        (Schedule("wsd", 1.0, 4, 0.1, 10, 8), "takes 6 steps instead of decay_steps 8"),
        (Schedule("wsd", 1.0, 4, 0.1, 10, 6), None),
        (Schedule("wsd", 1.0, 9, 0.1, 10), None),
        (Schedule("constant", 1.0, 10, 0.1, None), None),
    ],
)
def test_a_run_too_short_for_its_schedule_is_remarked_on(schedule, said):
    """A warm-up or a way down that does not fit in is said in words."""
    remarks = list(schedule.remarks())
    assert remarks == [] if said is None else said in remarks[0]


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


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_a_clock_alone_leaves_the_extent_open(batch, position):
    """With max_minutes alone no number of steps is known, and every step takes a whole batch."""
    length = Length.of(ToyBlocks(4), batch, max_minutes=0.5)
    assert (length.steps, length.samples) == (None, None)
    assert length.samples_of(position) == batch


def test_a_clock_beside_another_limit_changes_nothing():
    """The extent is that of the other limit."""
    assert Length.of(ToyBlocks(4), 2, max_steps=7, max_minutes=0.5) == Length.of(ToyBlocks(4), 2, max_steps=7)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), st.booleans())
def test_a_run_comes_to_its_end_with_another_batch_since_a_resume(blocks, before, now, done, by_steps):
    """Epochs end with their blocks, `max_steps` with its steps, whatever the batch was in the steps that are done."""
    limit = {"max_steps": blocks} if by_steps else {"epochs": 1.0}
    old, new = (Length.of(ToyBlocks(blocks), batch, **limit) for batch in (before, now))
    step, taken = min(done, old.steps), sum(old.samples_of(before * n) for n in range(min(done, old.steps)))
    while left := new.steps_left(step, taken):
        count = new.samples_of(taken)
        assert 0 < count <= now
        assert not by_steps or count == now
        step, taken = step + 1, taken + count
        assert new.steps_left(step, taken) == left - 1
    assert (step if by_steps else taken) == blocks
