"""The model beside its definition: counts, probabilities, beginnings and document boundaries."""

from __future__ import annotations

import math
from collections import Counter

import ngram_reference as reference
import numpy as np
import pytest
from codex_ngram.counts import FALLBACK, Table
from codex_ngram.model import CONFIG, WEIGHTS, NGrams
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import CheckpointState, InputError

VOCABULARY = 5
tokens = st.integers(0, VOCABULARY - 1)
documents = st.lists(st.lists(tokens, min_size=1, max_size=9), max_size=6)
rows = st.lists(documents, min_size=1, max_size=4)
orders = st.integers(1, 5)


def counted(order, *batches, vocabulary=VOCABULARY):
    """Return a model that has counted some batches, each of them rows of documents."""
    model = NGrams(order, vocabulary)
    for batch in batches:
        model.count(reference.batch_of(*batch))
    return model


def as_dict(model):
    """Return n-gram → count, in the words of the reference."""
    found = {}
    mask = (1 << model.bits) - 1
    for order, table in enumerate(model.tables, start=1):
        for key, count in zip(table.keys_M.tolist(), table.counts_M.tolist(), strict=True):
            gram = [key >> (order - 1 - at) * model.bits & mask for at in range(order)]
            found[tuple(reference.BEGIN if token == model.vocab_size else token for token in gram)] = count
    return found


# ── counts ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(orders, st.lists(rows, min_size=1, max_size=3))
def test_counts_are_those_of_the_definition(order, batches):
    """Counted batch after batch, every n-gram has the adjusted count that one look at all documents gives it."""
    flat = [document for batch in batches for row in batch for document in row]
    assert as_dict(counted(order, *batches)) == reference.counts(order, flat)


@given(orders, rows)
def test_batches_do_not_matter(order, batch):
    """The same documents in one batch, or block by block from the last, leave the same bits."""
    one, other = counted(order, batch), counted(order, *[[row] for row in reversed(batch)])
    for name, array in one.tensors().items():
        assert array.tobytes() == other.tensors()[name].tobytes()


def test_no_ngram_crosses_a_document():
    """Two documents side by side in a block give the counts that they give in blocks of their own."""
    together, apart = counted(4, [[[1, 2, 3], [4, 0]]]), counted(4, [[[1, 2, 3]], [[4, 0]]])
    assert as_dict(together) == as_dict(apart)
    assert not any(gram[-2:] == (3, 4) for gram in as_dict(together))


def test_what_is_not_trained_is_read_and_not_counted():
    """A prompt's tokens are context of what follows, and no n-gram ends with one of them."""
    batch = reference.batch_of([[1, 2, 3, 4]])
    batch.targets_BT[0, :2] = -100
    model = NGrams(3, VOCABULARY)
    model.count(batch)
    assert as_dict(model) == {(2, 3, 4): 1, (3, 4): 1, (4,): 1}


# ── probabilities ─────────────────────────────────────────────────────────────────────────────────────────────────


@given(orders, rows, st.lists(tokens, max_size=7))
def test_probabilities_add_up_to_one(order, batch, context):
    """After any context, seen or not, all tokens of the vocabulary have a probability above 0, and together 1."""
    found_V = counted(order, batch).distribution(context)
    assert found_V.min() > 0
    assert math.fsum(found_V) == pytest.approx(1, abs=1e-12)


@given(st.integers(1, 4), rows, st.lists(tokens, min_size=1, max_size=6), tokens)
def test_a_probability_is_that_of_the_definition(order, batch, context, word):
    """The recursion of Chen and Goodman, written down token by token, gives the same number."""
    adjusted = reference.counts(order, [document for row in batch for document in row])
    expected = reference.probability(order, VOCABULARY, adjusted, (reference.BEGIN, *context), word)
    assert counted(order, batch).distribution(context)[word] == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 4), rows, rows)
def test_a_loss_is_that_of_the_distribution(order, seen, new):
    """The losses of a batch, all at once, are those that each token has alone, by its own document's tokens."""
    model = counted(order, seen)
    found = model.losses(reference.batch_of(*new)).tolist()
    expected = [
        -math.log(model.distribution(document[:at])[document[at]])
        for row in new
        for document in row
        for at in range(1, len(document))
    ]
    assert found == pytest.approx(expected, rel=1e-12)


@given(st.lists(tokens, min_size=2, max_size=40))
def test_order_1_has_a_closed_form(document):
    """Of one token at a time: (c - D(c)) / C + freed / (C V), with how often each was seen."""
    model, times = counted(1, [[document]]), Counter(document[1:])
    discount = reference.discounts(list(times.values()))
    total = sum(times.values())
    freed = sum(discount[min(count, 3)] for count in times.values())
    expected = [
        (times[word] - discount[min(times[word], 3)] + freed / VOCABULARY) / total
        for word in range(VOCABULARY)
    ]
    assert model.distribution([3]).tolist() == pytest.approx(expected, rel=1e-12)


def test_nothing_counted_is_uniform():
    """Before the first batch every token has the same probability: the loss is the logarithm of the vocabulary."""
    losses = NGrams(4, VOCABULARY).losses(reference.batch_of([[1, 2, 3]]))
    assert losses.tolist() == pytest.approx([math.log(VOCABULARY)] * 2)


def test_the_logits_of_a_batch_are_those_of_its_documents():
    """Called as a model is, it gives for each position what the tokens of its own document give."""
    model = counted(3, [[[1, 2, 3, 1, 2]]])
    batch = reference.batch_of([[1, 2], [1, 2, 3]])
    logits_BTV = model(batch.input_ids_BT, batch.position_ids_BT, batch.document_ids_BT)
    assert logits_BTV.shape == (1, 5, VOCABULARY)
    assert np.exp(logits_BTV[0, 3]).tolist() == pytest.approx(model.distribution([1, 2]).tolist())


def test_discounts_come_from_the_counts_of_counts():
    """The closed form where the counts of counts allow it, else the fallback."""
    table = Table(8, np.arange(10, dtype=np.uint64), np.array([1, 1, 1, 1, 1, 2, 2, 3, 3, 4]))
    y = 5 / 9
    expected = [0, 1 - 2 * y * 2 / 5, 2 - 3 * y * 2 / 2, 3 - 4 * y * 1 / 2]
    assert table.discounts().tolist() == pytest.approx(expected)
    assert Table(8, np.arange(2, dtype=np.uint64), np.array([1, 9])).discounts().tolist() == [0, *FALLBACK]


# ── limits and checkpoints ────────────────────────────────────────────────────────────────────────────────────────


def test_keys_fill_all_64_bits():
    """Four tokens of a vocabulary of 65,535 are the most that fits, and are told apart to the last bit."""
    last = 65_534
    model = counted(4, [[[last, last, last, last, last - 1]]], vocabulary=last + 1)
    assert as_dict(model)[last, last, last, last - 1] == 1
    assert sorted(np.argsort(model.distribution([last] * 4))[-2:].tolist()) == [last - 1, last]
    with pytest.raises(InputError, match="5 tokens of 16 bits do not fit into 64 bits"):
        NGrams(5, last + 1)


@given(orders, rows)
def test_counts_come_back(order, batch):
    """What a checkpoint keeps, put into another model, gives the same bits, and goes on apart from it."""
    model, other = counted(order, batch), NGrams(order, VOCABULARY)
    state = CheckpointState({WEIGHTS: model.tensors()}, {CONFIG: model.config()})
    other.load(state)
    model.count(reference.batch_of([[1, 1, 1, 1]]))
    assert as_dict(other) == as_dict(counted(order, batch))


def test_counts_of_another_model_are_refused():
    """Another order or another vocabulary is an error that names both."""
    model = counted(2, [[[1, 2]]])
    state = CheckpointState({WEIGHTS: model.tensors()}, {CONFIG: model.config()})
    with pytest.raises(InputError, match=r"'order': 2.*'order': 3"):
        NGrams(3, VOCABULARY).load(state)
