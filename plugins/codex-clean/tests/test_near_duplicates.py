"""The step `near-duplicates`: what is dropped, at which similarity, and what it costs."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_clean.minhash import NEAR_DUPLICATE, BandIndex, NearDuplicateFilter, bands
from codex_clean.near_duplicates import NearDuplicates
from codex_clean.shingles import pieces, tokens_of
from codex_kernel import Document, Message


def document(name: str, text: str) -> Document:
    """A document that is a group of its own."""
    return Document(name, name, text)


def words(seed: int, count: int) -> list[str]:
    """Words of which no two are alike, so that shingles of one word make sets of a known size."""
    return [f"w{seed}x{number}" for number in range(count)]


def pair(jaccard: float, size: int, seed: int) -> tuple[str, str]:
    """Two texts of `size` different words each whose sets of words have this Jaccard index."""
    shared = round(2 * size * jaccard / (1 + jaccard))
    common = words(seed, shared)
    return (
        " ".join(common + words(10 * seed + 1, size - shared)),
        " ".join(common + words(10 * seed + 2, size - shared)),
    )


def dropped(pairs, **options) -> int:
    """How many second texts are dropped, each pair in a pass of its own."""
    count = 0
    for first, second in pairs:
        step = NearDuplicateFilter(
            **{"threshold": 0.8, "shingle": 1, "unit": "words", "permutations": 128} | options
        )
        assert step.clean(document("a", first)).document is not None
        count += step.clean(document("b", second)).document is None
    return count


@pytest.mark.parametrize(
    ("jaccard", "least", "most"), [(0.95, 40, 40), (0.9, 39, 40), (0.7, 0, 1), (0.4, 0, 0)]
)
def test_planted_duplicates_are_found_by_their_similarity(jaccard, least, most):
    """Of 40 pairs at a known Jaccard index nearly all above the threshold of 0.8 are found, and nearly none below."""
    assert least <= dropped(pair(jaccard, 400, seed) for seed in range(1, 41)) <= most


def test_at_the_threshold_about_half_are_found():
    """A pair exactly at the threshold is found where chance makes the estimate no less: bands lose few of these."""
    assert 8 <= dropped(pair(0.8, 400, seed) for seed in range(1, 41)) <= 34


@pytest.mark.parametrize("jaccard", [0.2, 0.5, 0.8, 0.95])
def test_signatures_estimate_the_jaccard_index(jaccard):
    """The share of equal values is the Jaccard index, within four standard errors."""
    step = NearDuplicateFilter(threshold=0.5, shingle=1, unit="words", permutations=512)
    for seed in range(1, 6):
        first, second = (step.signature(text) for text in pair(jaccard, 2000, seed))
        assert abs(np.mean(first == second) - jaccard) < 4 * (jaccard * (1 - jaccard) / 512) ** 0.5


@given(threshold=st.floats(0.1, 1.0), permutations=st.integers(16, 256))
def test_bands_find_pairs_at_the_threshold(threshold, permutations):
    """As many rows as still find 95 % of the pairs at the threshold; never more values than there are."""
    count, rows = bands(threshold, permutations)
    assert count * rows <= permutations
    assert rows == 1 or 1 - (1 - threshold**rows) ** count >= 0.95


def test_the_first_stays_and_white_space_does_not_matter():
    """Of documents that are alike the first stays, with whatever layout; the later ones are counted."""
    text = "def mean(values):\n    total = sum(values)\n    return total / len(values)\n"
    step = NearDuplicates().codex_cleaner(None)
    first = document("a", text)
    assert step.clean(first).document is first
    again = step.clean(document("b", text.replace("    ", "\t").replace("\n", "\r\n\r\n")))
    assert (again.document, again.counts) == (None, {NEAR_DUPLICATE: 1})
    other = document("c", text.upper())
    assert step.clean(other).document is other


def test_a_dropped_document_drops_no_other():
    """What is like a dropped document, and not like a kept one, stays: similarity is not handed on."""
    every = words(1, 1000)
    texts = [
        " ".join(every[start : start + 600]) for start in (0, 80, 160)
    ]  # J = 0.76 to the next, 0.58 after
    step = NearDuplicateFilter(threshold=0.68, shingle=1, unit="words", permutations=512)
    assert [step.clean(document(str(n), text)).document is None for n, text in enumerate(texts)] == [
        False,
        True,
        False,
    ]


def test_short_texts_are_compared_whole():
    """A text of fewer tokens than a shingle is a duplicate of an equal one only; one without tokens never is."""
    step = NearDuplicates(unit="words").codex_cleaner(None)
    texts = ["one two", "One, two!", "one three", "", " \n", "?!", "?!"]
    kept = [step.clean(document(str(n), text)).document is not None for n, text in enumerate(texts)]
    assert kept == [True, False, True, True, True, True, True]


def test_prompts_and_turns_count():
    """The whole of a document is compared: a prompt with its text, and all turns of a conversation."""
    step = NearDuplicates(unit="words", shingle=2).codex_cleaner(None)
    documents = [
        Document("a", "a", "four five six", prompt="one two three "),
        Document("b", "b", "one two three four five six"),
        Document("c", "c", "four five six", prompt="other words here "),
        Document(
            "d", "d", messages=(Message("user", "one two three"), Message("assistant", "four five six"))
        ),
    ]
    assert [step.clean(each).document is None for each in documents] == [False, True, False, True]


@pytest.mark.parametrize("unit", ["code", "words", "characters"])
def test_a_long_text_is_hashed_in_pieces(monkeypatch, unit):
    """Runs of tokens do not depend on where a text is cut, as long as it has white space."""
    text = " ".join(f"word{number}, {number * number};" for number in range(2000))
    whole = np.unique(np.concatenate([piece.hashes(4) for piece in pieces(text, unit, 3)]))
    tokens = tokens_of(text, unit)
    monkeypatch.setattr("codex_clean.shingles._PIECE_CHARS", 97)
    cut = [piece.hashes(4) for piece in pieces(text, unit, 3)]
    assert len(cut) > 300
    assert tokens_of(text, unit) == tokens
    assert np.array_equal(np.unique(np.concatenate(cut)), whole)
    assert sum(map(len, cut)) == len(tokens) - 3


@given(st.text(), st.sampled_from(["code", "words", "characters"]))
def test_any_text_has_a_signature_or_no_token(text, unit):
    """Whatever a text holds, it has a signature exactly where it has a token; lone surrogates do no harm."""
    step = NearDuplicateFilter(threshold=0.8, shingle=3, unit=unit, permutations=16)
    assert (step.signature(text + "\ud800") is None) == (not tokens_of(text + "\ud800", unit))


def test_the_index_finds_what_it_holds_as_it_grows():
    """Every signature is found again among thousands, the memory is what is said, and strangers are not found."""
    random_signatures = np.random.default_rng(3).integers(0, 1 << 32, (6001, 128), dtype=np.uint32)
    index = BandIndex(18, 7)
    for signature in random_signatures[:6000]:
        index.add(signature)
    assert all(index.most_alike(signature) == 1.0 for signature in random_signatures[:6000:50])
    assert index.most_alike(random_signatures[6000]) < 0.1
    assert index.bytes <= (4 * 128 + 16 * 18) * 6000


def test_the_same_signatures_in_every_process():
    """Signatures do not follow the hash seed of the process."""
    code = (
        "from codex_clean.minhash import NearDuplicateFilter\n"
        "print(NearDuplicateFilter(0.8, 5, 'code', 16).signature('def f(a, b):\\n    return a + b\\n').tolist())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_many_documents_that_share_a_beginning_stay():
    """Files with the same long header and other code below it are no duplicates of one another."""
    header = "# " + " ".join(words(1, 60)) + "\n"
    draw = random.Random(4)
    step = NearDuplicates().codex_cleaner(None)
    kept = [
        step.clean(document(str(n), header + " ".join(str(draw.random()) for _ in range(60)))).document
        for n in range(300)
    ]
    assert None not in kept
