"""The logger `csv`: metrics as a table in long form, a row for each value.

One rule: the header never changes, so a metric that turns up late needs no new column and files can be joined.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from attrs import define, field

from codex_kernel import Outcome, RunContext, hookimpl, option, write_whole
from codex_kernel.builtin.records import (
    Entry,
    is_shared,
    kept_records,
    misplaced,
    open_records,
    place,
    rewound,
)

COLUMNS = ("run_id", "time", "step", "split", "metric", "value")


@define(eq=False)
class CsvLogger:
    """Metrics as a CSV table, a row for each value: run_id, time, step, split, metric, value."""

    path: str = option("metrics.csv", help="File to append to, in the run's folder unless absolute.")
    _file: TextIO | None = field(init=False, default=None)

    @hookimpl
    def codex_preflight(self) -> Iterable[str]:
        """Name a path that leads out of the run's folder."""
        problem = misplaced(self.path)
        return [problem] if problem else []

    @hookimpl
    def codex_run_started(self, run: RunContext) -> None:
        """Open the file; a new one gets its header."""
        self._open(run)

    @hookimpl
    def codex_metrics(self, run: RunContext, step: int, metrics: Mapping[str, float], split: str) -> None:
        """Write a row for each metric."""
        file = self._open(run)
        now = time.time()
        csv.writer(file, lineterminator="\n").writerows(_rows(run.run_id, now, step, split, metrics))
        file.flush()

    @hookimpl
    def codex_event(self, run: RunContext, name: str, fields: Mapping[str, Any]) -> None:
        """Go back with the run's metrics to a checkpoint, so that the table has each step once."""
        if name == "metrics_rewound":
            self._rewind(run, fields["size_bytes"])

    @hookimpl
    def codex_run_finished(self, outcome: Outcome) -> None:  # noqa: ARG002 - every outcome is the same here
        """Close the file."""
        self._close()

    def _rewind(self, run: RunContext, size_bytes: int) -> None:
        """Write the table anew, with the rows of the records that the run has kept."""
        self._close()
        path = place(self.path, run.folder)
        if not path.exists():
            return
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [list(COLUMNS)]
        entries = [Entry(row[0], int(row[2]), row[3], row) for row in rows]
        if is_shared(path, entries, run):
            return
        text = io.StringIO()
        kept = rewound(entries, kept_records(run, size_bytes), _rows_of_record)
        csv.writer(text, lineterminator="\n").writerows([header, *kept])
        write_whole(path, text.getvalue().encode())

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, run: RunContext) -> TextIO:
        if self._file is None:
            self._file = open_records(self.path, run)
            if self._file.tell() == 0:
                csv.writer(self._file, lineterminator="\n").writerow(COLUMNS)
                self._file.flush()
        return self._file


def _rows(run_id: str, now: float, step: int, split: str, metrics: Mapping[str, float]) -> list[list[Any]]:
    """Return the rows of a record."""
    return [[run_id, now, step, split, name, float(value)] for name, value in metrics.items()]


def _rows_of_record(record: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of a record of `metrics.ndjson`; null there is a number that was not finite."""
    known = ("schema", "run_id", "time", "step", "epoch", "tokens", "split", "nonfinite")
    metrics = {name: value for name, value in record.items() if name not in known}
    metrics = {name: float("nan") if value is None else value for name, value in metrics.items()}
    return _rows(record["run_id"], record["time"], record["step"], record["split"], metrics)
