"""The loss: cross-entropy summed over the targets of some blocks.

One rule: it is a sum, never a mean, so that the caller can divide by the targets of a whole optimizer step.
Shapes: B blocks, T tokens of a block, V vocabulary, D width of the hidden state, N = B·T.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn
from torch.nn import LinearCrossEntropyOptions

from codex_kernel import IGNORE_INDEX, HiddenStates, Model

CHUNK_TOKENS = 256
"""Rows of logits that exist at a time: 256 × 50,257 in fp32 are 51 MB.

Measured on one CPU thread (D 256, fp32, forward and backward, time over that of plain cross-entropy on all logits):
V 4,096: 0.91, V 8,192: 0.80, V 32,768: 0.75 to 0.85, V 50,257: 0.65 to 0.82. torch's own choice of the chunk
(4 to 64 rows at N = 1,024) took 1.75 to 3.9 times as long as plain, so the size is always given.
"""
MIN_CHUNKED_VOCABULARY = 1024
"""Below it the two are level (V 512: 0.93 to 1.08), and the plain way has the simpler backward."""


def chunked(model: object, tokens: int) -> bool:
    """Say whether the loss of that many tokens is taken chunk by chunk, without the logits of them all."""
    if not isinstance(model, HiddenStates) or tokens <= CHUNK_TOKENS:
        return False
    return bool(model.head_weight().shape[0] >= MIN_CHUNKED_VOCABULARY)


def loss_sum(
    model: nn.Module,
    input_ids_BT: Tensor,
    targets_BT: Tensor,
    position_ids_BT: Tensor,
    document_ids_BT: Tensor,
) -> Tensor:
    """Return the summed cross-entropy (nats, fp32 scalar) of all targets that are not IGNORE_INDEX."""
    targets_N = targets_BT.reshape(-1)
    if chunked(model, targets_N.numel()):
        head = cast("HiddenStates", model)
        hidden_BTD: Tensor = head.hidden(input_ids_BT, position_ids_BT, document_ids_BT)
        hidden_ND = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
        device_type = hidden_ND.device.type
        if torch.is_autocast_enabled(device_type):  # as where the model applies its head
            hidden_ND = hidden_ND.to(torch.get_autocast_dtype(device_type))
        weight_VD: Tensor = head.head_weight().to(hidden_ND.dtype)
        # Both are of one dtype already; autocast would change one of them.
        with torch.autocast(device_type, enabled=False):
            if not torch.is_grad_enabled():
                return _summed_by_chunks(hidden_ND, weight_VD, targets_N)
            return _linear_cross_entropy(hidden_ND, weight_VD, targets_N)
    logits_BTV: Tensor = cast("Model", model)(input_ids_BT, position_ids_BT, document_ids_BT)
    return _cross_entropy(logits_BTV.reshape(-1, logits_BTV.shape[-1]), targets_N)


def _linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    half = hidden_ND.dtype != torch.float32
    losses = F.linear_cross_entropy(
        hidden_ND,
        weight_VD,
        targets_N,
        # The sum has the dtype of the hidden states, and bf16 has three digits: 9,293.75 becomes 9,280. A token's
        # loss in bf16 is off by 0.2 % at the most, and the errors cancel.
        reduction="none" if half else "sum",
        ignore_index=IGNORE_INDEX,
        options=LinearCrossEntropyOptions(
            batch_chunk_size=CHUNK_TOKENS,
            # torch's own choice in bf16 took three times as long on the CPU.
            acc_policy="accurate" if half and hidden_ND.device.type == "cpu" else "auto",
        ),
    )
    return losses.float().sum()


def _summed_by_chunks(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Return the loss without a gradient: chunk by chunk, each in fp32."""
    chunks = zip(torch.split(hidden_ND, CHUNK_TOKENS), torch.split(targets_N, CHUNK_TOKENS), strict=True)
    return torch.stack(
        [_cross_entropy(F.linear(hidden, weight_VD), targets) for hidden, targets in chunks]
    ).sum()


def _cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="sum", ignore_index=IGNORE_INDEX)
