"""Text from the counts, token by token.

One rule: the same request gives the same text, and the pieces put together are what the tokenizer makes of all new ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from codex_kernel import CheckpointState, GenerateRequest, InputError, TextPieces, Tokenizer
from codex_ngram.model import NGrams

_UNDECIDED = "\ufffd"
"""What a decoder makes of bytes that are no character yet; the next token may complete them."""


def generate(
    model: NGrams, tokenizer: Tokenizer, state: CheckpointState, request: GenerateRequest
) -> TextPieces:
    """Load the counts and return the pieces of the continuation; an empty prompt starts from the end-of-text token."""
    if request.max_new_tokens < 0 or request.temperature < 0:
        raise InputError("expected max_new_tokens >= 0 and temperature >= 0")
    model.load(state)
    prompt = list(tokenizer.encode(request.prompt)) or [tokenizer.eos_id]
    return _as_text(tokenizer, new_ids(model, prompt, tokenizer.eos_id, request))


def new_ids(model: NGrams, prompt: list[int], eos_id: int, request: GenerateRequest) -> Iterator[int]:
    """Yield the ids that follow the prompt, until the end-of-text token or `max_new_tokens`."""
    ids, chance = list(prompt), np.random.Generator(np.random.PCG64(request.seed))
    for _ in range(request.max_new_tokens):
        chosen = choose(model.distribution(ids[-request.context_tokens :]), request, chance)
        if chosen == eos_id:
            return
        ids.append(chosen)
        yield chosen


def choose(probabilities_V: Any, request: GenerateRequest, chance: np.random.Generator) -> int:
    """Return the next id: the likeliest at temperature 0, else drawn from the likeliest by `top_k` and `top_p`."""
    if request.temperature == 0:
        return int(probabilities_V.argmax())
    order_V = np.argsort(-probabilities_V, kind="stable")[: request.top_k]
    logits_V = np.log(probabilities_V[order_V]) / request.temperature
    kept_V = np.exp(logits_V - logits_V.max())
    kept_V /= kept_V.sum()
    if request.top_p is not None:
        kept_V = kept_V * (np.cumsum(kept_V) - kept_V < request.top_p)
    ends_V = np.cumsum(kept_V)
    return int(order_V[np.searchsorted(ends_V, chance.random() * ends_V[-1], side="right")])


def _as_text(tokenizer: Tokenizer, ids: Iterator[int]) -> Iterator[str]:
    known: list[int] = []
    told = ""
    for new_id in ids:
        known.append(new_id)
        text = tokenizer.decode(known)
        if not text.endswith(_UNDECIDED) and text.startswith(told) and text != told:
            yield text[len(told) :]
            told = text
    rest = tokenizer.decode(known)[len(told) :]
    if rest:
        yield rest
