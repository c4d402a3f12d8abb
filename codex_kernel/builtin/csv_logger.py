"""The logger `csv`: metrics as a table in long form, a row for each value.

One rule: the header never changes, so a metric that turns up late needs no new column and files can be joined.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping
from typing import TextIO

from attrs import define, field

from codex_kernel import Outcome, RunContext, hookimpl, option
from codex_kernel.builtin.records import misplaced, open_records

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
        rows = [(run.run_id, now, step, split, name, float(value)) for name, value in metrics.items()]
        csv.writer(file, lineterminator="\n").writerows(rows)
        file.flush()

    @hookimpl
    def codex_run_finished(self, outcome: Outcome) -> None:  # noqa: ARG002 - every outcome is the same here
        """Close the file."""
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
