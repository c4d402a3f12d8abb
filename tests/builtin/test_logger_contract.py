"""The contract of loggers finds what is broken: a logger with one fault fails the check that says so."""

from __future__ import annotations

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """
import json, time
from codex_kernel.testing import LoggerContract

@frozen
class Sound:
    name: str = "log.txt"

    def write(self, run, text):
        with (run.folder / self.name).open("a") as file:
            file.write(f"{text}\\n")

    @hookimpl
    def codex_run_started(self, run, settings):
        self.write(run, "started")

    @hookimpl
    def codex_metrics(self, run, step, metrics, progress):
        self.write(run, f"{step} {dict(metrics)}")

    @hookimpl
    def codex_run_finished(self, run, outcome):
        self.write(run, outcome.status)

class Contract(LoggerContract):
    made = Sound

    def make(self, folder):
        return self.made()

del LoggerContract
"""

FAULTS = {
    "LogsNothing": Fault(
        """
        @frozen
        class LogsNothing:
            @hookimpl
            def codex_preflight(self): return []
        """,
        ["it_implements_a_hook_of_loggers"],
        raw=True,
    ),
    "FallsOverWarnings": Fault(
        """
        @hookimpl
        def codex_event(self, name, fields):
            fields["message"]
        """,
        ["a_whole_run_passes"],
    ),
    "NeedsSteps": Fault(
        """
        @hookimpl
        def codex_run_finished(self, run, outcome):
            self.write(run, outcome.seconds / outcome.steps)
        """,
        ["a_run_that_fails_at_once_passes"],
    ),
    "FallsOverNaN": Fault(
        """
        @hookimpl
        def codex_metrics(self, run, metrics):
            self.write(run, json.dumps(dict(metrics), allow_nan=False))
        """,
        ["numbers_that_are_not_finite_pass"],
    ),
    "HasFixedColumns": Fault(
        """
        columns: set[str] = field(init=False, factory=set)

        @hookimpl
        def codex_metrics(self, run, metrics):
            if self.columns and set(metrics) - self.columns:
                raise ValueError("another column")
            self.columns.update(metrics)
        """,
        ["new_metrics_may_turn_up"],
        stateful=True,
    ),
    "NeedsATotal": Fault(
        """
        @hookimpl
        def codex_metrics(self, run, step, progress):
            self.write(run, step / progress.total_steps)
        """,
        ["a_run_without_known_end_passes"],
    ),
    "AddsToTheMetrics": Fault(
        """
        @hookimpl
        def codex_metrics(self, metrics):
            metrics["seen"] = 1.0
        """,
        ["metrics_are_left_as_they_are"],
    ),
    "BeginsAnew": Fault(
        """
        @hookimpl
        def codex_run_started(self, run):
            for file in run.folder.glob("log*"):
                file.unlink()
            (run.folder / f"log-{time.time_ns()}.txt").write_text("begun")

        @hookimpl
        def codex_metrics(self): pass

        @hookimpl
        def codex_run_finished(self): pass
        """,
        ["a_run_can_be_resumed"],
    ),
    "ServesOneRunAtATime": Fault(
        """
        current: ClassVar[list] = []

        @hookimpl
        def codex_run_started(self, run):
            self.current[:] = [run.folder]

        @hookimpl
        def codex_metrics(self, run):
            if self.current != [run.folder]:
                raise ValueError("another run")
        """,
        ["two_runs_at_once_do_not_meet"],
    ),
    "KnowsOneThread": Fault(
        """
        thread: int = field(init=False, factory=threading.get_ident)

        @hookimpl
        def codex_metrics(self):
            if threading.get_ident() != self.thread:
                raise RuntimeError("called from another thread")
        """,
        ["another_thread_may_call"],
        stateful=True,
    ),
    "LeavesAThread": Fault(
        """
        @hookimpl
        def codex_run_started(self, run):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """,
        ["no_thread_is_left"],
    ),
}
FAULTY = Faulty("LoggerContract", HEAD, FAULTS)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_loggers_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound logger passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
