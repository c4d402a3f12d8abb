"""Text from a model, token by token.

One rule: the pieces put together are exactly what the tokenizer makes of all new ids, and a character is never broken.
Shapes: T tokens of the context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from codex_kernel import (
    CheckpointState,
    GenerateRequest,
    HiddenStates,
    InputError,
    Model,
    NonFiniteError,
    PluginError,
    TextPieces,
    Tokenizer,
)
from codex_torch import weights
from codex_torch.hardware import Hardware

_UNDECIDED = "\ufffd"
"""What a decoder makes of bytes that are no character yet; the next token may complete them."""


def generate(
    where: Hardware, model: Model, tokenizer: Tokenizer, state: CheckpointState, request: GenerateRequest
) -> TextPieces:
    """Load the checkpoint's weights into the model and return the pieces of the continuation.

    An empty prompt starts from the end-of-text token. The same request gives the same text. Raises InputError where
    the request asks for what cannot be.
    """
    _check(request)
    if not isinstance(model, nn.Module):
        raise PluginError(f"the trainer torch needs a torch.nn.Module, got a {type(model).__name__}")
    weights.load(model, state)
    model.to(where.device).eval()
    prompt = list(tokenizer.encode(request.prompt)) or [tokenizer.eos_id]
    return as_text(tokenizer, new_ids(where, model, prompt, tokenizer.eos_id, request))


def new_ids(
    where: Hardware, model: nn.Module, prompt: list[int], eos_id: int, request: GenerateRequest
) -> Iterator[int]:
    """Yield the ids that follow the prompt, until the end-of-text token or `max_new_tokens`."""
    ids = list(prompt)
    generator = torch.Generator().manual_seed(request.seed)
    for _ in range(request.max_new_tokens):
        with torch.no_grad(), where.autocast():
            logits_V = _next_logits(model, ids[-request.context_tokens :], where.device)
        chosen = choose(logits_V.float().cpu(), request, generator)
        if chosen == eos_id:
            return
        ids.append(chosen)
        yield chosen


def choose(logits_V: Tensor, request: GenerateRequest, generator: torch.Generator) -> int:
    """Return the next id: the likeliest at temperature 0, else drawn from the likeliest by `top_k` and `top_p`.

    `top_p` keeps the fewest tokens that have that probability together. Raises NonFiniteError.
    """
    if not bool(torch.isfinite(logits_V).all()):
        raise NonFiniteError(
            "the model's logits are not finite", remedy="generate from an earlier checkpoint"
        )
    if request.temperature == 0:
        return int(logits_V.argmax())
    # Always in order: top_k and top_p then only cut the end off.
    sorted_V, order_V = logits_V.sort(descending=True, stable=True)
    # A temperature near 0 is none in fp32, and makes logits infinite; below the likeliest they may be.
    scaled_V = ((sorted_V - sorted_V[0]).double() / request.temperature).float()
    probabilities_V = scaled_V[: request.top_k].softmax(dim=-1)
    if request.top_p is not None:
        before_V = probabilities_V.cumsum(dim=-1) - probabilities_V
        probabilities_V = probabilities_V * (before_V < request.top_p)
    drawn = torch.multinomial(probabilities_V, 1, generator=generator)
    return int(order_V[drawn])


def as_text(tokenizer: Tokenizer, ids: Iterator[int]) -> Iterator[str]:
    """Yield the text of the ids as it becomes certain."""
    known: list[int] = []
    told = ""
    for new_id in ids:
        known.append(new_id)
        text = tokenizer.decode(known)
        if text.endswith(_UNDECIDED) or not text.startswith(told):
            continue
        if len(text) > len(told):
            yield text[len(told) :]
        told = text
    text = tokenizer.decode(known)
    if not text.startswith(told):
        raise PluginError("the tokenizer changes the text of earlier ids when later ones follow")
    if len(text) > len(told):
        yield text[len(told) :]


def _next_logits(model: nn.Module, ids: list[int], device: torch.device) -> Tensor:
    """Return the logits of what follows the ids, one document from position 0."""
    input_ids_BT = torch.tensor([ids], device=device)
    position_ids_BT = torch.arange(len(ids), device=device)[None]
    document_ids_BT = torch.zeros_like(input_ids_BT)
    if isinstance(model, HiddenStates):  # the head is applied to one position instead of all
        hidden_BTD: Tensor = model.hidden(input_ids_BT, position_ids_BT, document_ids_BT)
        logits_V: Tensor = hidden_BTD[0, -1] @ model.head_weight().to(hidden_BTD.dtype).T
        return logits_V
    logits_BTV: Tensor = cast("Model", model)(input_ids_BT, position_ids_BT, document_ids_BT)
    return logits_BTV[0, -1]


def _check(request: GenerateRequest) -> None:
    wanted = (
        ("max_new_tokens >= 0", request.max_new_tokens, request.max_new_tokens >= 0),
        ("temperature >= 0", request.temperature, request.temperature >= 0),
        ("top_k >= 1", request.top_k, request.top_k is None or request.top_k >= 1),
        ("0 < top_p <= 1", request.top_p, request.top_p is None or 0 < request.top_p <= 1),
        ("context_tokens >= 1", request.context_tokens, request.context_tokens >= 1),
    )
    for expected, got, holds in wanted:
        if not holds:
            raise InputError(f"expected {expected}, got {got}")
