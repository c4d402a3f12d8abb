"""The dataset `mixture`: its contract, and what its options take."""

from __future__ import annotations

import pytest
from attrs import evolve

from codex_kernel import BadRecord, Document, Mixing, Sources
from codex_kernel.builtin.mixture import Mixture, MixtureEntry
from codex_kernel.testing import DatasetContract

SOURCES = {
    "code": [
        Document("a.py", "repo", "x = 1\n"),
        BadRecord("b.py", "not text"),
        Document("c.py", "c", "y\n"),
    ],
    "chat": [Document("a.py", "repo", "hello", prompt="say: ")],
}
NAMES = Sources(("code", "chat"))


class TestMixture(DatasetContract):
    def make(self, folder):
        return Mixture(sources=NAMES)

    def sources(self):
        return SOURCES


def test_documents_are_changed_in_id_and_source_alone():
    """One source after the other; a group keeps its name, and a bad record stands in its place."""
    found = list(Mixture(sources=NAMES).codex_dataset(SOURCES))
    assert [document.id for document in found if isinstance(document, Document)] == [
        "code:a.py",
        "code:c.py",
        "chat:a.py",
    ]
    assert found[0] == evolve(SOURCES["code"][0], id="code:a.py", source="code")
    assert found[1] == SOURCES["code"][1]
    assert found[3].group == found[0].group == "repo"


def test_shares_are_given_as_they_are_written():
    """The kernel is told weights and schedule, or None where all blocks are trained equally often."""
    assert Mixture(sources=NAMES).codex_mixing() is None
    entry = MixtureEntry(from_tokens=5, weights={"code": 0, "chat": 1})
    given = Mixture(sources=NAMES, weights={"code": 7, "chat": 3}, schedule=[entry]).codex_mixing()
    assert given == Mixing({"code": 7, "chat": 3}, ((5, {"code": 0, "chat": 1}),))


def entries(*starts):
    """Return a schedule that begins its entries there."""
    return [MixtureEntry(from_tokens=start, weights={"code": 1, "chat": 1}) for start in starts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"code": 1, "chat": 1, "chta": 1}}, "unknown source 'chta', expected code, chat"),
        ({"weights": {"code": 1}}, "none for chat: 0 leaves a source out"),
        ({"weights": {"code": 1, "chat": -0.5}}, "a weight of 0 or more for 'chat', got -0.5"),
        ({"weights": {"code": float("nan"), "chat": 1}}, "a weight of 0 or more for 'code', got nan"),
        ({"weights": {"code": float("inf"), "chat": 1}}, "a weight of 0 or more for 'code', got inf"),
        ({"weights": {"code": 0, "chat": 0}}, "above 0, got 0 for all sources"),
        ({"weights": {}}, "none for code, chat"),
        ({"schedule": [MixtureEntry(1, {"code": 1})]}, r"schedule\[0\]\.weights: .* none for chat"),
        ({"schedule": entries(5, 5)}, r"from_tokens to rise from entry to entry, got \[5, 5\]"),
        ({"schedule": entries(9, 5)}, r"got \[9, 5\]"),
        ({"schedule": entries(0), "weights": {"code": 1, "chat": 1}}, "would never hold"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(options, message):
    """Each source has a weight, 0 or more, and entries follow one another."""
    with pytest.raises(ValueError, match=message):
        Mixture(sources=NAMES, **options)
