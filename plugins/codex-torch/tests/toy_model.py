"""A causal transformer small enough for any test, with dropout and without any library but torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from codex_kernel.testing.training import VOCABULARY


class ToyTransformer(nn.Module):
    """Two blocks of attention, tied embeddings; position t sees only its own document up to t."""

    def __init__(
        self, vocabulary: int = VOCABULARY, width: int = 16, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(64, width)
        self.layers = nn.ModuleList(ToyLayer(width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.1)

    def _hidden(self, input_ids_BT: Tensor, position_ids_BT: Tensor, document_ids_BT: Tensor) -> Tensor:
        T = input_ids_BT.shape[1]
        same_BTT = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
        causal_TT = torch.ones(T, T, dtype=torch.bool, device=input_ids_BT.device).tril()
        mask_B1TT = (same_BTT & causal_TT)[:, None]
        hidden_BTD = self.embed(input_ids_BT) + self.positions(position_ids_BT % 64)
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, mask_B1TT)
        return self.norm(hidden_BTD)

    def forward(self, input_ids_BT: Tensor, position_ids_BT: Tensor, document_ids_BT: Tensor) -> Tensor:
        return self.head(self._hidden(input_ids_BT, position_ids_BT, document_ids_BT))


class HeadedToy(ToyTransformer):
    """The same model, which can stop before its head."""

    def hidden(self, input_ids_BT: Tensor, position_ids_BT: Tensor, document_ids_BT: Tensor) -> Tensor:
        return self._hidden(input_ids_BT, position_ids_BT, document_ids_BT)

    def head_weight(self) -> Tensor:
        return self.head.weight


class ToyLayer(nn.Module):
    """Attention and a feed-forward block, each with dropout."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        # No bias: that of the keys has no gradient, and Adam would blow up the rounding in it.
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_BTD: Tensor, mask_B1TT: Tensor) -> Tensor:
        query, key, value = (
            part[:, None] for part in self.qkv(self.attention_norm(hidden_BTD)).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B1TT)[:, 0]
        hidden_BTD = hidden_BTD + self.dropout(self.out(seen))
        return hidden_BTD + self.dropout(self.feed(self.feed_norm(hidden_BTD)))
