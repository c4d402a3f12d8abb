"""Continuing a prompt, a token at a time, with transformers' key-value cache.

One rule: the cache changes the cost, not the text: the tokens are those of a loop that recomputes everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from codex_hf.module import BASE_FILE, HFModule, positions_of
from codex_kernel import (
    CheckpointState,
    GenerateRequest,
    InputError,
    Model,
    NoCheckpointError,
    NonFiniteError,
    PluginError,
    PretrainedFormat,
    TextPieces,
    Tokenizer,
)

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_WINDOW_TOKENS = 8


def generate(
    model: Model, transformer: Any, tokenizer: Tokenizer, state: CheckpointState, request: GenerateRequest
) -> TextPieces:
    """Load the checkpoint's weights and return an iterator over pieces of text, without the prompt.

    Raises NoCheckpointError where the checkpoint is of another model.
    """
    load_state(model, state)
    transformer.eval()
    if torch.cuda.is_available():
        transformer.cuda()
    # An empty prompt starts where a document starts: after the end of another.
    prompt = list(tokenizer.encode(request.prompt)) or [tokenizer.eos_id]
    tokens = _tokens(transformer, prompt, tokenizer, request)
    return pieces(tokenizer, prompt, tokens)


def load_state(model: Model, state: CheckpointState) -> None:
    """Put the weights of a checkpoint into the model."""
    if not isinstance(model, PretrainedFormat):
        raise InputError(f"{type(model).__name__} keeps no weights of transformers' format")
    file = f"model/{model.weights_file}"
    if file not in state.tensors:
        raise NoCheckpointError(f"the checkpoint has no {file}; it has {', '.join(sorted(state.tensors))}")
    _check_base(model, state)
    try:
        model.load_weights(state.tensors[file])
    except ValueError as error:
        raise NoCheckpointError(f"the checkpoint is of another model: {error}") from error


def _check_base(model: PretrainedFormat, state: CheckpointState) -> None:
    """Raise NoCheckpointError where an adapter was trained on another base than the one it is put into."""
    trained_on = state.values.get(f"model/{BASE_FILE}")
    present = model.config_files().get(BASE_FILE)
    if trained_on is not None and present is not None and trained_on != json.loads(present):
        raise NoCheckpointError(
            f"the adapter was trained on another base: expected {trained_on}, got {json.loads(present)}",
            remedy="use the model that it was trained on",
        )


def transformer_of(model: Model) -> Any | None:
    """Return the transformers model inside, adapted or not; None where there is none."""
    module = model if isinstance(model, HFModule) else getattr(model, "base", None)
    return module.transformer if isinstance(module, HFModule) else None


def _tokens(
    transformer: Any, prompt: Sequence[int], tokenizer: Tokenizer, request: GenerateRequest
) -> Iterator[int]:
    """Yield new tokens until the end of the text, or `max_new_tokens` of them."""
    generator = torch.Generator().manual_seed(request.seed)
    limit = _context_tokens(transformer, request)
    tokens = list(prompt)
    cache = None
    for _ in range(request.max_new_tokens):
        # Keys that have moved out of the context have left their trace in the cache: then everything is read again.
        cache = cache if len(tokens) <= limit else None
        unread = tokens[-1:] if cache is not None else tokens[-limit:]
        with torch.no_grad():
            output = transformer(
                input_ids=torch.tensor([unread], device=transformer.device),
                past_key_values=cache,
                use_cache=len(tokens) < limit,
                logits_to_keep=1,
            )
        cache = output.past_key_values
        # An embedding may have more rows than the vocabulary has tokens; they stand for nothing.
        logits_V = output.logits[0, -1, : tokenizer.vocab_size]
        token = sample(logits_V.float().cpu(), request, generator)
        if token == tokenizer.eos_id:
            return
        yield token
        tokens.append(token)


def _context_tokens(transformer: Any, request: GenerateRequest) -> int:
    """Return how many tokens may be read at once: those of training, and no more than there are positions."""
    return min(request.context_tokens, positions_of(transformer) or request.context_tokens)


def sample(logits_V: torch.Tensor, request: GenerateRequest, generator: torch.Generator) -> int:
    """Choose a token: the likeliest at temperature 0, else one at random among the likeliest `top_k` and `top_p`.

    Raises NonFiniteError where a logit is NaN or infinite.
    """
    if not logits_V.isfinite().all():
        raise NonFiniteError(
            "the model's logits are not finite", remedy="generate from an earlier checkpoint of the run"
        )
    if request.temperature == 0:
        return int(logits_V.argmax())
    sorted_V, order_V = logits_V.double().sort(descending=True, stable=True)
    # Less the maximum, a tiny temperature leaves 0 and -inf instead of inf, whose softmax is NaN.
    scaled_V = (sorted_V - sorted_V[0]) / request.temperature
    if request.top_k is not None:
        scaled_V = scaled_V[: request.top_k]
    probabilities_V = scaled_V.softmax(-1)
    if request.top_p is not None:
        # The token that crosses top_p is still in, so at least one is.
        before_V = probabilities_V.cumsum(-1) - probabilities_V
        probabilities_V = probabilities_V.masked_fill(before_V >= request.top_p, 0)
    return int(order_V[torch.multinomial(probabilities_V, 1, generator=generator)])


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterator[int]) -> Iterator[str]:
    """Turn tokens into text as they come; a character whose bytes are spread over tokens waits for its last one.

    Each piece is what a window of tokens reads with the new ones, less what it read without: some decoders treat the
    first token of a text differently, so tokens cannot be decoded alone.
    Raises PluginError where more tokens do not read as the text so far and more of it.
    """
    window = list(prompt[-_WINDOW_TOKENS:])
    told = tokenizer.decode(window)
    waiting = 0
    for token in tokens:
        window.append(token)
        waiting += 1
        text = tokenizer.decode(window)
        if text.endswith(_REPLACEMENT):
            continue
        yield _after(told, text)
        window = window[-max(_WINDOW_TOKENS, waiting) :]
        told, waiting = tokenizer.decode(window), 0
    if waiting:
        yield _after(told, tokenizer.decode(window))


def _after(told: str, text: str) -> str:
    """Return what `text` has after `told`, whose last character may be one that lacked bytes."""
    if text.startswith(told):
        return text[len(told) :]
    whole = told.rstrip(_REPLACEMENT)
    if text.startswith(whole):
        return text[len(whole) :]
    raise PluginError(
        "this tokenizer cannot write text as it comes: with one token more, what "
        f"read {told[-30:]!r} reads {text[-30:]!r}",
        remedy="use a tokenizer in which the text of the first tokens is the beginning of the text of all",
    )
