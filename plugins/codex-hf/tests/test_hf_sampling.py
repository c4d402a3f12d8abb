"""Sampling and writing: which tokens of given logits can come up, and the text that they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from codex_hf.generation import pieces, sample
from codex_kernel import GenerateRequest, NonFiniteError, PluginError


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


class Utf8:
    """Bytes as tokens; `decode` puts U+FFFD where a character lacks bytes."""

    vocab_size, eos_id = 257, 256

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


class Reversed(Utf8):
    """The last token is the first byte."""

    def decode(self, ids):
        return super().decode(ids[::-1])


def written(tokenizer: Any, prompt: str, text: bytes) -> list[str]:
    """Return the pieces that a text comes in."""
    return list(pieces(tokenizer, tokenizer.encode(prompt), iter(text)))


def test_a_character_comes_whole():
    """The bytes of a character wait for its last one, also where the window begins within a character."""
    assert written(Utf8(), "漢字漢字", "x🙂é".encode()) == ["x", "🙂", "é"]


def test_bytes_that_are_no_text_are_told():
    """Bytes that no further one completes come as U+FFFD, in the text and at its end."""
    assert written(Utf8(), "a", b"b\xf0\x9fc\xf0") == ["b", "\ufffdc", "\ufffd"]


def test_text_that_does_not_grow_at_its_end_is_an_error():
    """A tokenizer whose text of more tokens does not begin with the text of fewer cannot write: it is an error."""
    with pytest.raises(PluginError, match="what read 'ba' reads 'xba'"):
        written(Reversed(), "ab", b"x")
