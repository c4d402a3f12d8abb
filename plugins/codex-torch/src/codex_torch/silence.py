"""A reporter for what is tried out and is no part of a run.

One rule: nothing of a trial reaches the run's record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codex_kernel import Checkpoint, Progress


class Silence:
    """A reporter that says nothing; see `codex_kernel.Reporter`."""

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Say nothing."""

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:
        """Say nothing."""

    def event(self, name: str, **fields: Any) -> None:
        """Say nothing."""

    def warning(self, message: str) -> None:
        """Say nothing."""

    def checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        """Say nothing."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return nothing: there are no metrics to rewind."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Say nothing."""
