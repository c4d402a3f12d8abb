"""The loss curve of a fixed run is the one that is stored: see tests/golden."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from attrs import evolve

from tests.command import Workplace
from tests.golden.curve import STORED, TOLERANCE, Curve, differences, read, same_kind, train, write


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Curve:
    """Return the curve of this machine."""
    return train(Workplace(tmp_path_factory.mktemp("golden")))


def of_another_kind(curve: Curve) -> Curve:
    """Return the curve as if another processor had made it."""
    return evolve(curve, made_by={**curve.made_by, "processor": "another"})


def moved(curve: Curve, factor: float) -> Curve:
    """Return the curve with its last loss changed."""
    *others, (split, step, loss) = curve.losses
    return evolve(curve, losses=[*others, (split, step, loss * factor)])


def test_the_losses_are_the_stored_ones(found: Curve) -> None:
    """Thirty steps and three evaluations: to the last bit on the processor they were stored on, else to 1e-4."""
    assert [split for split, _, _ in found.losses].count("train") == 30
    assert [(split, step) for split, step, _ in found.losses if split == "validation"] == [
        ("validation", 10),
        ("validation", 20),
        ("validation", 30),
    ]
    assert differences(read(STORED), found) == [], "meant to be so? See tests/golden/renew.py"


def test_the_stored_curve_is_one_of_learning() -> None:
    """It begins at the loss of guessing one of 257 tokens, and ends far below."""
    losses = [loss for split, _, loss in read(STORED).losses if split == "train"]
    assert losses[0] == pytest.approx(math.log(257), abs=0.1)
    assert losses[-1] < 3


@pytest.mark.slow
def test_another_kind_of_kernels_stays_within_the_tolerance(found: Curve, tmp_path: Path) -> None:
    """With torch's kernels for a processor without vector units the curve is another kind's, and agrees to 1e-4."""
    plain = train(Workplace(tmp_path, {"ATEN_CPU_CAPABILITY": "default"}))
    assert plain.made_by["kernels"].endswith("DEFAULT")
    assert differences(found, plain) == []
    assert differences(read(STORED), plain) == []


@pytest.mark.slow
def test_one_option_changed_by_one_per_cent_is_found(found: Curve, tmp_path: Path) -> None:
    """The tolerance hides no change of what is computed: clipping to 1.01 instead of 1 is beyond it."""
    changed = train(Workplace(tmp_path), "--set", "trainer.max_grad_norm=1.01")
    assert differences(of_another_kind(found), changed)


def test_on_the_same_kind_a_changed_bit_is_a_difference(found: Curve) -> None:
    """The next float after a loss is reported, with its step; the same curve is not."""
    split, step, loss = found.losses[-1]
    next_float = evolve(found, losses=[*found.losses[:-1], (split, step, math.nextafter(loss, 9))])
    assert same_kind(found, next_float)
    assert differences(found, found) == []
    (line,) = differences(found, next_float)
    assert line.startswith(f"{split} step {step}: ")


def test_on_another_kind_the_tolerance_decides(found: Curve) -> None:
    """Half of the tolerance is no difference there, twice the tolerance is one."""
    other = of_another_kind(found)
    assert not same_kind(other, found)
    assert differences(other, moved(found, 1 + TOLERANCE / 2)) == []
    assert len(differences(other, moved(found, 1 + 2 * TOLERANCE))) == 1


def test_a_record_too_few_is_a_difference(found: Curve) -> None:
    """A curve that ends early does not agree, on any kind of processor."""
    short = evolve(found, losses=found.losses[:-1])
    assert differences(found, short)
    assert differences(of_another_kind(found), short)


def test_a_stored_curve_comes_back_to_the_last_bit(found: Curve, tmp_path: Path) -> None:
    """What renewing writes is what the test reads."""
    write(found, tmp_path / "curve.json")
    assert read(tmp_path / "curve.json") == found
