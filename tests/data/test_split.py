from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.data.split import in_validation

GROUPS = st.lists(st.text(), unique=True)
FRACTIONS = st.floats(0, 1, exclude_max=True)


@given(GROUPS, GROUPS, FRACTIONS, st.integers())
def test_adding_and_reordering_documents_moves_none(first, more, fraction, seed):
    """A group's split is the same whatever other groups there are and in whatever order."""
    alone = {group: in_validation(group, fraction=fraction, seed=seed) for group in first}
    together = {
        group: in_validation(group, fraction=fraction, seed=seed) for group in [*more, *reversed(first)]
    }
    assert {group: together[group] for group in first} == alone


@given(st.text(), FRACTIONS, FRACTIONS, st.integers())
def test_a_larger_fraction_keeps_what_a_smaller_one_chose(group, first, second, seed):
    """Raising the fraction never takes a group out of the validation split."""
    low, high = sorted((first, second))
    assert in_validation(group, fraction=low, seed=seed) <= in_validation(group, fraction=high, seed=seed)


def test_the_share_is_about_the_fraction():
    """Of many groups, about the asked share is kept, and none for a fraction of 0."""
    groups = [f"repository-{n}" for n in range(20_000)]
    share = sum(in_validation(group, fraction=0.05, seed=17) for group in groups) / len(groups)
    assert 0.045 < share < 0.055
    assert not any(in_validation(group, fraction=0.0, seed=17) for group in groups)


def test_the_seed_decides():
    """Another seed chooses other groups."""
    groups = [f"repository-{n}" for n in range(200)]
    chosen = [[in_validation(group, fraction=0.5, seed=seed) for group in groups] for seed in (1, 2)]
    assert chosen[0] != chosen[1]
