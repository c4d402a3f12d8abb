"""The batch of the next optimizer step, gathered in a thread while this one is computed.

One rule: it changes when a batch is read, never which: what was not foreseen is read at once.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import attrs
import torch
from attrs import define, field

from codex_kernel import Batch, Data

_ARRAYS = ("input_ids_BT", "targets_BT", "position_ids_BT", "document_ids_BT")


@define(eq=False)
class Prefetch:
    """The training split, read one step ahead where a device computes; its thread ends with it.

    For CUDA the arrays lie in pinned memory, so that the copy to the device waits for nothing. On a CPU a thread would
    only take time from the one that computes (measured: 0.2 ms a step, for batches that are gathered in 0.05 ms).
    """

    data: Data
    device: torch.device
    ahead: bool
    """Whether the next batch is read in the thread."""
    _thread: ThreadPoolExecutor = field(
        init=False, factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="codex-prefetch")
    )
    _wanted: tuple[int, int] = field(init=False, default=(-1, 0))
    _coming: Future[Batch] | None = field(init=False, default=None)

    def take(self, position: int, count: int, next_count: int) -> Batch:
        """Return the samples position … position + count - 1, and begin to read the `next_count` ones after them."""
        if self._coming is not None and self._wanted == (position, count):
            batch = self._coming.result()
        else:
            batch = self._gather(position, count)
        self._wanted = (position + count, next_count)
        reads_on = self.ahead and next_count > 0
        self._coming = self._thread.submit(self._gather, *self._wanted) if reads_on else None
        return batch

    def _gather(self, position: int, count: int) -> Batch:
        batch = self.data.train.gather(self.data.samples(position, count))
        if self.device.type != "cuda":
            return batch
        pinned: dict[str, Any] = {
            name: torch.from_numpy(getattr(batch, name)).pin_memory().numpy() for name in _ARRAYS
        }
        return attrs.evolve(batch, **pinned)
