"""The copy of a state that is written while training goes on.

One rule: its buffers are kept from save to save, for filling fresh memory takes several times as long as copying.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor

from codex_kernel import CodexError

Files = Mapping[str, Mapping[str, Tensor]]
"""File → name → tensor, as in `CheckpointState.tensors`."""


@define(eq=False)
class Staging:
    """Buffers on the CPU for the tensors of a state; pinned for tensors of a GPU, which are then copied at once."""

    _buffers: dict[tuple[str, str], Tensor] = field(init=False, factory=dict)

    def copy(self, tensors: Files) -> dict[str, dict[str, Tensor]]:
        """Return copies of all tensors, contiguous and on the CPU; they are overwritten by the next call.

        Raises CodexError where there is no memory for them.
        """
        sources = {
            (file, name): tensor.detach() for file, named in tensors.items() for name, tensor in named.items()
        }
        # Buffers that do not fit go before new ones come, so that both never stand side by side.
        self._buffers = {
            key: self._buffers[key]
            for key, source in sources.items()
            if key in self._buffers and _fits(self._buffers[key], source)
        }
        for key, source in sources.items():
            if key not in self._buffers:
                self._buffers[key] = _empty(source, sources.values())
        targets = [self._buffers[key] for key in sources]
        if targets:
            torch._foreach_copy_(targets, list(sources.values()), non_blocking=True)
        for device in {source.device for source in sources.values() if source.is_cuda}:
            torch.cuda.synchronize(device)
        return {file: {name: self._buffers[file, name] for name in named} for file, named in tensors.items()}

    def free(self) -> None:
        """Let go of the buffers."""
        self._buffers.clear()


def _fits(buffer: Tensor, source: Tensor) -> bool:
    """Say whether a buffer can take a tensor."""
    # `is_pinned` of a tensor asks the driver, and on the CPU alone it is never asked.
    return (
        buffer.shape == source.shape
        and buffer.dtype == source.dtype
        and (buffer.is_pinned() if source.is_cuda else True)
    )


def _empty(source: Tensor, everything: Iterable[Tensor]) -> Tensor:
    """Return a buffer for a tensor."""
    options: dict[str, Any] = {"dtype": source.dtype, "device": "cpu", "pin_memory": source.is_cuda}
    try:
        return torch.empty(source.shape, **options)
    except RuntimeError as error:
        needed = sum(tensor.nbytes for tensor in everything)
        raise CodexError(
            f"no memory for the copy of a checkpoint that is written in the background: {needed:,} bytes",
            remedy="with checkpointer.asynchronous: false none is made",
        ) from error
