"""The logger `jsonl`: metrics as JSON lines.

One rule: every line is JSON by the standard, so a number that JSON cannot write is null, and the line says so.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from attrs import define, field

from codex_kernel import Outcome, Progress, RunContext, hookimpl, option, write_whole
from codex_kernel.builtin.records import (
    Entry,
    is_shared,
    kept_records,
    misplaced,
    open_records,
    place,
    rewound,
)


@define(eq=False)
class JsonlLogger:
    """Metrics as JSON lines, one flat object a record."""

    path: str = option("metrics.jsonl", help="File to append to, in the run's folder unless absolute.")
    _file: TextIO | None = field(init=False, default=None)

    @hookimpl
    def codex_preflight(self) -> Iterable[str]:
        """Name a path that leads out of the run's folder."""
        problem = misplaced(self.path)
        return [problem] if problem else []

    @hookimpl
    def codex_run_started(self, run: RunContext) -> None:
        """Open the file."""
        self._open(run)

    @hookimpl
    def codex_metrics(
        self, run: RunContext, step: int, metrics: Mapping[str, float], split: str, progress: Progress
    ) -> None:
        """Write one line."""
        record: dict[str, object] = {
            "run_id": run.run_id,
            "time": time.time(),
            "step": step,
            "epoch": progress.epoch,
            "tokens": progress.tokens,
            "split": split,
        }
        for name, value in metrics.items():
            if name in record:
                raise ValueError(f"a metric may not be named {name!r}: each record has a field of that name")
            record[name] = value if math.isfinite(value) else None
        if None in record.values():
            record["nonfinite"] = True
        file = self._open(run)
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()

    @hookimpl
    def codex_event(self, run: RunContext, name: str, fields: Mapping[str, Any]) -> None:
        """Go back with the run's metrics to a checkpoint, so that the file has each step once."""
        if name == "metrics_rewound":
            self._rewind(run, fields["size_bytes"])

    @hookimpl
    def codex_run_finished(self, outcome: Outcome) -> None:  # noqa: ARG002 - every outcome is the same here
        """Close the file."""
        self._close()

    def _rewind(self, run: RunContext, size_bytes: int) -> None:
        """Write the file anew, with the lines of the records that the run has kept."""
        self._close()
        path = place(self.path, run.folder)
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [
            Entry(record["run_id"], record["step"], record["split"], line)
            for line in lines
            for record in [json.loads(line)]
        ]
        if not is_shared(path, entries, run):
            lines = rewound(entries, kept_records(run, size_bytes), _line_of_record)
            write_whole(path, "".join(lines).encode())

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, run: RunContext) -> TextIO:
        if self._file is None:
            self._file = open_records(self.path, run)
        return self._file


def _line_of_record(record: Mapping[str, Any]) -> list[str]:
    """Return the line of a record of `metrics.ndjson`."""
    line = {name: value for name, value in record.items() if name not in {"schema", "nonfinite"}}
    if "nonfinite" in record:
        line["nonfinite"] = True
    return [json.dumps(line, allow_nan=False) + "\n"]
