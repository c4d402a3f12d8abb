import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.data.order import LARGEST, at, rank_slice, samples

SIZES = st.integers(1, 300) | st.integers(4000, 5000) | st.sampled_from([2**16 - 1, 2**16, 2**16 + 1])


@given(SIZES, st.integers(0, 10**6), st.integers())
def test_each_epoch_is_a_permutation(n, epoch, seed):
    """The n positions of any epoch hold each of the n samples once."""
    ids = samples(epoch * n, n, n=n, seed=seed)
    assert ids.dtype == np.int64
    assert np.array_equal(np.sort(ids), np.arange(n))


@given(st.integers(1, 9000), st.integers(0, 10**9), st.integers(0, 700), st.integers(0, 700), st.integers())
def test_the_order_does_not_depend_on_how_it_is_asked_for(n, start, first, second, seed):
    """Asking for a piece at once or in two parts gives the same samples: the order has no state."""
    parts = [samples(start, first, n=n, seed=seed), samples(start + first, second, n=n, seed=seed)]
    assert np.array_equal(samples(start, first + second, n=n, seed=seed), np.concatenate(parts))


@given(
    st.integers(2, 5000),
    st.integers(0, 1000),
    st.integers(0, 50),
    st.integers(),
    st.sampled_from([1, 2, 3, 8]),
)
def test_ranks_share_the_order_out_exactly(n, step, batch, seed, world_size):
    """The slices of all ranks, put together, are the global batch, also where it does not divide evenly."""
    slices = [rank_slice(step * batch, batch, rank=rank, world_size=world_size) for rank in range(world_size)]
    ranks = [samples(start, count, n=n, seed=seed) for start, count in slices]
    assert np.array_equal(np.concatenate(ranks), samples(step * batch, batch, n=n, seed=seed))
    assert {count for _, count in slices} <= {batch // world_size, -(-batch // world_size)}


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_is_none_is_refused(rank, world_size):
    """Ranks count from 0 to one below the world size."""
    with pytest.raises(ValueError, match="expected 0 <= rank < world_size"):
        rank_slice(0, 8, rank=rank, world_size=world_size)


@given(SIZES, st.integers(0, 10**9), st.integers(1, 700), st.integers())
def test_positions_can_be_asked_for_one_by_one(n, start, count, seed):
    """Any positions, in any order, have the samples that they have in the endless order."""
    positions = np.random.default_rng(seed % 2**32).permutation(np.arange(start, start + count))
    whole = samples(start, count, n=n, seed=seed)
    assert np.array_equal(at(positions, n=n, seed=seed), whole[positions - start])


def test_epochs_and_seeds_differ():
    """Two epochs, and two seeds, have different permutations."""
    n = 1000
    first, second = samples(0, n, n=n, seed=1), samples(n, n, n=n, seed=1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, samples(0, n, n=n, seed=2))


def test_a_far_position_is_a_place_like_any():
    """A position beyond 2^63 tokens' worth of epochs is answered, and the largest split can be ordered."""
    far = samples(10**18, 64, n=1000, seed=3)
    assert ((far >= 0) & (far < 1000)).all()
    ids = samples(5, 4096, n=LARGEST, seed=3)
    assert len(np.unique(ids)) == 4096
    assert ids.max() > 2**31


def test_every_sample_comes_first_about_as_often():
    """Over many epochs, each place of an epoch has each sample about equally often, for tiny splits too."""
    for n in (2, 3, 5, 7, 8, 13, 33):
        epochs = 6000
        ids = samples(0, epochs * n, n=n, seed=11).reshape(epochs, n)
        for place in (0, n - 1):
            counts = np.bincount(ids[:, place], minlength=n)
            assert abs(counts - epochs / n).max() < 6 * (epochs / n) ** 0.5


def test_neighbours_are_not_kept_together():
    """In a large split the order has no trace of the samples' own order."""
    n = 50_000
    ids = samples(0, n, n=n, seed=1)
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(n), ids)[0, 1]) < 0.02
    assert (np.diff(ids) == 1).sum() < 10


@pytest.mark.parametrize(("start", "count", "n"), [(-1, 1, 5), (0, -1, 5), (0, 1, 0), (0, 1, LARGEST + 1)])
def test_impossible_questions_are_refused(start, count, n):
    """A negative start or count, and a split without samples or beyond the arithmetic, are a ValueError."""
    with pytest.raises(ValueError, match="expected"):
        samples(start, count, n=n, seed=1)
