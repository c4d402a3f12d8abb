"""A run without a run folder's ceremony: enough to call any hook in a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from codex_kernel.interfaces import Checkpoint, Progress, RunContext


@define(eq=False)
class RecordingReporter:
    """A reporter that keeps what it is told, in order, in plain lists."""

    records: list[tuple[str, int, dict[str, float]]] = field(factory=list)
    """(split, step, metrics)"""
    activities: list[tuple[str, float, float | None]] = field(factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(factory=list)
    warnings: list[str] = field(factory=list)
    checkpoints: list[Checkpoint] = field(factory=list)

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Keep the record."""
        self.records.append((split, progress.step, dict(values)))

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:  # noqa: ARG002
        """Keep the activity."""
        self.activities.append((name, done, total))

    def event(self, name: str, **fields: Any) -> None:
        """Keep the event."""
        self.events.append((name, fields))

    def warning(self, message: str) -> None:
        """Keep the warning."""
        self.warnings.append(message)

    def checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint."""
        self.checkpoints.append(checkpoint)

    def state_dict(self) -> Mapping[str, Any]:
        """Return how many records there are."""
        return {"records": len(self.records)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget the records after the checkpoint."""
        del self.records[state["records"] :]


@define(eq=False)
class NeverStop:
    """A stop request that a test makes by setting `signal_number`."""

    signal_number: int | None = None


def make_run(folder: Path, *, seed: int = 17, name: str = "toy") -> RunContext:
    """Make a run whose folder, cache and base lie under `folder`; `run.report` is a RecordingReporter."""
    run_folder = folder / "run"
    run_folder.mkdir(parents=True, exist_ok=True)
    return RunContext(
        run_id="20260101-000000-toy0",
        name=name,
        seed=seed,
        folder=run_folder,
        cache=folder / "cache",
        base=folder,
        report=RecordingReporter(),
        stop=NeverStop(),
    )
