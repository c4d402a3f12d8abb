"""Sampling: which tokens of given logits can come up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from codex_hf.generation import sample
from codex_kernel import GenerateRequest, NonFiniteError


def drawn(logits: list[float], **changes: Any) -> set[int]:
    """Return which tokens come up in 50 draws."""
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, **changes}
    generator = torch.Generator().manual_seed(1)
    asked = GenerateRequest("", 1, seed=1, context_tokens=64, **settings)
    return {sample(torch.tensor(logits), asked, generator) for _ in range(50)}


@pytest.mark.parametrize("temperature", [1e-40, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature):
    """A temperature so small that dividing by it overflows takes the likeliest token."""
    assert drawn([-3.0, 5.0, 4.9, 0.0], temperature=temperature) == {1}


def test_top_k_keeps_exactly_k():
    """Of equally likely tokens the first k are kept, and a k above the vocabulary keeps all."""
    assert drawn([0.0, 1.0, 1.0, 1.0], top_k=2) == {1, 2}
    assert drawn([1.0, 1.0, 1.0], top_k=9) == {0, 1, 2}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad, temperature):
    """NaN and infinity end the text with an error, greedy or not."""
    with pytest.raises(NonFiniteError, match="logits are not finite"):
        drawn([0.0, bad], temperature=temperature)
