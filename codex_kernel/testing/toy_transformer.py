"""A small transformer that keeps every rule of a model: what adapters are tested on.

One rule: torch is imported when the model is built, for the kernel works without it.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from attrs import frozen

from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import Model, Tokenizer


@frozen
class ToyTransformer:
    """A transformer of two layers without dropout, whose linear layers are called query, key, value, out, up, down."""

    width: int = 32

    @hookimpl
    def codex_model(self, tokenizer: Tokenizer) -> Model:
        """Build it."""
        model: Model = _module()(tokenizer.vocab_size, self.width)
        return model


@functools.cache
def _module() -> Any:
    torch: Any = import_module("torch")
    functional = torch.nn.functional

    class Layer(torch.nn.Module):  # type: ignore[misc] # torch is Any here
        """Attention within a document, to what came before, and a layer beside it."""

        def __init__(self, width: int) -> None:
            super().__init__()
            for name in ("query", "key", "value", "out"):
                setattr(self, name, torch.nn.Linear(width, width))
            self.up = torch.nn.Linear(width, 2 * width)
            self.down = torch.nn.Linear(2 * width, width)
            self.before_attention = torch.nn.LayerNorm(width)
            self.before_up = torch.nn.LayerNorm(width)

        def forward(self, x_BTD: Any, seen_BTT: Any) -> Any:
            h_BTD = self.before_attention(x_BTD)
            mixed_BTD = functional.scaled_dot_product_attention(
                self.query(h_BTD), self.key(h_BTD), self.value(h_BTD), attn_mask=seen_BTT
            )
            x_BTD = x_BTD + self.out(mixed_BTD)
            return x_BTD + self.down(functional.gelu(self.up(self.before_up(x_BTD))))

    class Transformer(torch.nn.Module):  # type: ignore[misc] # likewise
        """Embeddings of tokens and positions, the layers, a head of its own."""

        def __init__(self, vocab_size: int, width: int, positions: int = 64) -> None:
            super().__init__()
            self.tokens = torch.nn.Embedding(vocab_size, width)
            self.positions = torch.nn.Embedding(positions, width)
            self.layers = torch.nn.ModuleList(Layer(width) for _ in range(2))
            self.head = torch.nn.Linear(width, vocab_size, bias=False)

        def forward(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:
            length = input_ids_BT.shape[1]
            same_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
            earlier_TT = torch.ones(length, length, dtype=torch.bool, device=input_ids_BT.device).tril()
            x_BTD = self.tokens(input_ids_BT) + self.positions(position_ids_BT)
            for layer in self.layers:
                x_BTD = layer(x_BTD, same_BTT & earlier_TT)
            return self.head(x_BTD)

    return Transformer
