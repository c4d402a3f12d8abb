"""The order of a mixture: shares that are kept, and a pure function of the position."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_kernel.data import order
from codex_kernel.data.mixture import WINDOW, MixedOrder, whole_weights
from codex_kernel.data.store import TokenData
from codex_kernel.errors import InputError
from codex_kernel.interfaces import Mixing

WEIGHTS = st.sampled_from([0.0, 1e-6, 0.001, 0.05, 0.3, 1 / 3, 0.5, 0.7, 1.0, 7.0, 1e6])


def spans_of(sizes):
    """Lay out sources of these sizes one after the other."""
    spans, first = {}, 0
    for name, blocks in sizes.items():
        spans[name] = (first, blocks)
        first += blocks
    return spans


def mixed(sizes, weights=None, schedule=(), *, seq_len=1, seed=3):
    """Return the order of sources with these sizes."""
    return MixedOrder.of(Mixing(weights, tuple(schedule)), spans_of(sizes), seq_len=seq_len, seed=seed)


@st.composite
def mixtures(draw, most_sources=8, most_entries=4):
    """Draw a mixture whose entries begin anywhere in the first thousand samples."""
    names = [f"s{i}" for i in range(draw(st.integers(1, most_sources)))]
    sizes = {name: draw(st.integers(1, 400)) for name in names}

    def weights():
        return draw(
            st.lists(WEIGHTS, min_size=len(names), max_size=len(names))
            .filter(any)
            .map(lambda values: dict(zip(names, values, strict=True)))
        )

    starts = draw(st.lists(st.integers(1, 1000), max_size=most_entries - 1, unique=True).map(sorted))
    schedule = [(start, weights()) for start in starts]
    return mixed(sizes, weights(), schedule, seed=draw(st.integers(0, 5)))


def sources_of(mixture, ids):
    """Return the number of the source that each sample is from."""
    return np.searchsorted([first for first, _ in mixture.spans], ids, side="right") - 1


def farthest(mixture, upto):
    """Return by how many samples a source is farthest from its exact share, where windows end."""
    sources = sources_of(mixture, mixture.samples(0, upto))
    had = np.cumsum(np.eye(len(mixture.names), dtype=np.int64)[sources], axis=0)
    due, worst = [Fraction(0)] * len(mixture.names), Fraction(0)
    for entry, end in zip(mixture.entries, [*(e.start for e in mixture.entries[1:]), upto], strict=True):
        total = sum(entry.weights)
        ends = [*range(entry.start + WINDOW, end, WINDOW), *([end] if entry != mixture.entries[-1] else [])]
        for position in ends:
            for source, weight in enumerate(entry.weights):
                share = due[source] + Fraction((position - entry.start) * weight, total)
                worst = max(worst, abs(int(had[position - 1, source]) - share))
        due = [
            old + Fraction((end - entry.start) * weight, total)
            for old, weight in zip(due, entry.weights, strict=True)
        ]
    return worst


@given(mixtures(most_sources=4, most_entries=1))
def test_shares_are_kept_to_within_one_sample(mixture):
    """With up to four sources, each has its exact share of the samples so far, to within one."""
    assert farthest(mixture, 2000) < 1


@given(mixtures(most_sources=2))
def test_two_sources_keep_a_schedule_to_half_a_sample(mixture):
    """Two sources are never farther off, however often their weights change: what was rounded is made up for."""
    assert farthest(mixture, 2000) <= Fraction(1, 2)


@settings(max_examples=50)
@given(mixtures())
def test_many_sources_and_a_schedule_keep_the_shares_to_within_three(mixture):
    """Over all entries together, so that rounding does not add up."""
    assert farthest(mixture, 2000) < 3


@given(mixtures(), st.integers(0, 10**12), st.integers(0, 200), st.integers(0, 200))
def test_the_order_does_not_depend_on_how_it_is_asked_for(mixture, start, first, second):
    """Asking at once or in parts, near or far, gives the same samples: the order has no state."""
    parts = [mixture.samples(start, first), mixture.samples(start + first, second)]
    assert np.array_equal(mixture.samples(start, first + second), np.concatenate(parts))


@given(mixtures(), st.integers(0, 1500), st.integers(0, 200))
def test_any_place_is_reached_as_from_the_start(mixture, start, count):
    """Random access gives what going through everything gives, across entries and windows."""
    assert np.array_equal(mixture.samples(start, count), mixture.samples(0, start + count)[start:])


@given(mixtures(), st.integers(0, 50), st.integers(0, 50), st.sampled_from([1, 2, 3, 8]))
def test_ranks_share_the_order_out_exactly(mixture, step, batch, world_size):
    """The slices of all ranks, put together, are the global batch, also where it does not divide evenly."""
    slices = [
        order.rank_slice(step * batch, batch, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    parts = [mixture.samples(*each) for each in slices]
    assert np.array_equal(np.concatenate(parts), mixture.samples(step * batch, batch))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(mixtures(most_entries=1), st.integers(0, 40))
def test_every_pass_over_a_source_is_a_permutation(mixture, windows):
    """A source gives each of its blocks once before it gives one again."""
    upto = windows * WINDOW
    ids = mixture.samples(0, upto)
    sources = sources_of(mixture, ids)
    for source, (first, blocks) in enumerate(mixture.spans):
        seen = np.bincount(ids[sources == source] - first, minlength=blocks)
        # A window in which a pass ends may give the next one's first blocks before the last of this one.
        assert seen.max() - seen.min() <= 1
        assert seen.sum() == mixture.counts(upto)[mixture.names[source]]


@given(mixtures(), st.integers(0, 1500))
def test_a_source_without_weight_is_not_trained(mixture, upto):
    """Not even near to where the weights change."""
    sources = sources_of(mixture, mixture.samples(0, upto))
    for entry, end in zip(mixture.entries, [*(e.start for e in mixture.entries[1:]), upto], strict=True):
        for source in set(sources[entry.start : end].tolist()):
            assert entry.weights[source] > 0


def test_a_schedule_holds_from_the_first_block_that_begins_after_its_tokens():
    """640 tokens are 20 blocks of 32, 641 are 21."""
    for tokens, blocks in ((640, 20), (641, 21)):
        mixture = mixed({"a": 50, "b": 50}, {"a": 1, "b": 0}, [(tokens, {"a": 0, "b": 1})], seq_len=32)
        sources = sources_of(mixture, mixture.samples(0, 100))
        assert sources.tolist() == [0] * blocks + [1] * (100 - blocks)


def test_entries_that_begin_within_one_block_are_one():
    """The later one holds."""
    mixture = mixed(
        {"a": 5, "b": 5}, {"a": 1, "b": 1}, [(1, {"a": 1, "b": 0}), (2, {"a": 0, "b": 1})], seq_len=8
    )
    assert set(sources_of(mixture, mixture.samples(1, 100)).tolist()) == {1}


def test_sources_do_not_alternate_in_a_fixed_pattern():
    """Halves do not take turns; within a window both orders of two neighbours occur."""
    mixture = mixed({"a": 500, "b": 500}, {"a": 1, "b": 1})
    sources = sources_of(mixture, mixture.samples(0, 6400))
    same = (sources[1:] == sources[:-1]).mean()
    assert 0.4 < same < 0.6
    first = sources.reshape(-1, WINDOW)
    assert len({tuple(window) for window in first.tolist()}) == len(first)


def test_one_tiny_and_one_huge_source():
    """One block and 2^31: the tiny one comes at its share, and repeats."""
    mixture = mixed({"tiny": 1, "huge": 2**31}, {"tiny": 1e-6, "huge": 1 - 1e-6})
    ids = mixture.samples(5 * 10**11, 4 * 10**6 // WINDOW * WINDOW)
    assert (ids == 0).sum() in {3, 4, 5}
    assert ids.max() > 2**30


def test_without_weights_the_sizes_are_the_weights():
    """Before a schedule begins, each source is gone through once in as many samples as all have."""
    mixture = mixed({"a": 3, "b": 61}, None, [(640, {"a": 1, "b": 1})])
    assert sorted(mixture.samples(0, 64).tolist()) == list(range(64))


def test_the_order_of_a_source_does_not_depend_on_its_neighbours():
    """The blocks of a source come in an order of their own, which another seed changes."""

    def of_a(**sizes):
        mixture = mixed({"a": 30, **sizes}, {"a": 1, **dict.fromkeys(sizes, 0)})
        return mixture.samples(0, 30).tolist()

    assert of_a(b=7) == of_a(c=9)
    assert (
        mixed({"a": 30}, seed=1).samples(0, 30).tolist() != mixed({"a": 30}, seed=2).samples(0, 30).tolist()
    )


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([0.7, 0.3], (7, 3)),
        ([7, 3], (7, 3)),
        ([0.1, 0.2], (1, 2)),
        ([0.25, 0], (1, 0)),
        ([1e-12, 1.0], (1, 2**31)),
        ([0, 5e300], (0, 1)),
    ],
)
def test_weights_are_shares_in_any_unit(weights, whole):
    """They need not sum to one; decimal numbers are meant as they are written; what is above 0 stays so."""
    assert np.allclose(whole_weights(weights), whole, rtol=1e-9, atol=0)


def test_hundreds_of_sources_keep_their_shares_too():
    """The tree over them is made in time and is no deeper than a program may be; shares are kept to within two."""
    sizes = {f"s{i}": 3 for i in range(500)}
    for weights in (
        {name: 1.0 + i % 7 for i, name in enumerate(sizes)},
        {n: 0.9**i for i, n in enumerate(sizes)},
    ):
        mixture = mixed(sizes, weights)
        assert farthest(mixture, 64 * WINDOW) <= 2


def test_a_weight_for_nothing_is_an_error():
    """A source that is to be trained has blocks; one of weight 0 need not."""
    with pytest.raises(InputError, match=r"source 'b' of the mixture has a weight of 0\.3 and no block"):
        mixed({"a": 5}, {"a": 0.7, "b": 0.3})
    assert mixed({"a": 5}, {"a": 0.7, "b": 0}).samples(0, 5).max() == 4


def test_how_often_a_source_is_repeated_is_told():
    """In as many samples as all sources have together."""
    mixture = mixed({"a": 10, "b": 30}, {"a": 0.5, "b": 0.5})
    assert mixture.passes(mixture.entries[0]) == {"a": 2.0, "b": 20 / 30}


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1)])
def test_impossible_questions_are_refused(start, count):
    """A negative start or count is a ValueError."""
    with pytest.raises(ValueError, match="expected"):
        mixed({"a": 5}).samples(start, count)


@given(st.integers(0, 10_000), st.integers(0, 9000), st.booleans())
def test_a_batch_is_cut_from_what_was_found_ahead(start, count, is_mixed):
    """The data of a run finds many samples at once; it gives the same, and a caller may change what it is given."""
    mixture = mixed({"a": 100, "b": 5000}, {"a": 1, "b": 1})
    data = TokenData(range(5100), None, "", 3, {}, mixture if is_mixed else None)
    wanted = mixture.samples(start, count) if is_mixed else order.samples(start, count, n=5100, seed=3)
    data.samples(start, count)[:] = -1
    assert np.array_equal(data.samples(start, count), wanted)


def test_weights_change_the_fingerprint_and_tokens_do_too():
    """Equal shares of equal tokens are equal data, in whatever unit."""

    def fingerprint(tokens, weights):
        mixture = mixed({"a": 10, "b": 30}, weights)
        report = {"splits": {"train": {"sources": {}}}}
        return TokenData(range(40), None, tokens, 3, report).mixed(mixture).fingerprint

    one = fingerprint("x", {"a": 1, "b": 3})
    assert one == fingerprint("x", {"a": 0.25, "b": 0.75})
    assert len({one, fingerprint("y", {"a": 1, "b": 3}), fingerprint("x", {"a": 1, "b": 2})}) == 3
