"""Reports reach the disk at once and the observers in order; no observer can hold up a step."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import define, evolve, field

from codex_kernel import metrics, reporter
from codex_kernel.errors import InputError, PluginError
from codex_kernel.hooks import Hooks
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import Outcome, Progress
from codex_kernel.metrics import MetricsLog, NdjsonFile
from codex_kernel.reporter import RunReporter
from codex_kernel.testing import make_run

OUTCOME = Outcome("completed", 0, "max_steps reached", 3, 300, 24, 1.0, {}, None, [])


@define(eq=False)
class Watcher:
    """Keeps what it is told; waits for `gate`, and fails where it is asked to."""

    error: Exception | None = None
    gate: threading.Event | None = None
    told: list[Any] = field(factory=list)

    @hookimpl
    def codex_metrics(self, step: int, split: str) -> None:
        if self.gate:
            self.gate.wait(20)
        if self.error:
            raise self.error
        self.told.append((split, step))

    @hookimpl
    def codex_collect_metrics(self, step: int) -> dict[str, float]:
        return {"temperature": 20.0 + step}

    @hookimpl
    def codex_event(self, name: str) -> None:
        self.told.append(name)

    @hookimpl
    def codex_run_finished(self, outcome: Outcome) -> None:
        self.told.append(outcome.status)


def begin(folder: Path, *watchers: Watcher, strict: bool = False) -> RunReporter:
    """Start a reporter with these observers in the run folder of `folder`."""
    hooks = Hooks()
    for watcher in reversed(watchers):
        hooks.register(watcher, "logger 'watcher' (test 1.0)", fail_with_run=strict)
    run = make_run(folder)
    made = RunReporter(
        hooks,
        MetricsLog(NdjsonFile(run.folder / "metrics.ndjson"), "r1", lambda: 0.0),
        NdjsonFile(run.folder / "events.ndjson"),
        clock=lambda: 0.0,
    )
    made.start(evolve(run, report=made))
    return made


def report(made: RunReporter, steps: int) -> None:
    """Report that many steps."""
    for step in range(1, steps + 1):
        made.metrics(Progress(step, steps, 0.0, 0, 0), {"loss": 1.0})


def events(folder: Path) -> list[dict[str, Any]]:
    """Return the events that were written."""
    return list(metrics.read(folder / "run" / "events.ndjson"))


def test_records_reach_the_file_and_the_observers_in_order(tmp_path: Path) -> None:
    """Each training record is followed by the metrics of the machine."""
    watcher = Watcher()
    made = begin(tmp_path, watcher)
    report(made, 2)
    made.finish(OUTCOME)
    assert watcher.told == [("train", 1), ("system", 1), ("train", 2), ("system", 2), "completed"]
    records = list(metrics.read(tmp_path / "run" / "metrics.ndjson"))
    assert [r["step"] for r in records if r["split"] == "train"] == [1, 2]
    assert [r["temperature"] for r in records if r["split"] == "system"] == [21.0, 22.0]


def test_a_failing_observer_is_recorded_detached_and_told_to_the_others(tmp_path: Path) -> None:
    """The run goes on; the record says who failed, and why."""
    bad, good = Watcher(error=OSError("no route to host")), Watcher()
    made = begin(tmp_path, bad, good)
    report(made, 4)
    made.finish(OUTCOME)
    assert [entry for entry in good.told if entry[0] == "train"] == [("train", n) for n in (1, 2, 3, 4)]
    assert made.detached == ["logger 'watcher' (test 1.0)"]
    failed = [event for event in events(tmp_path) if event["event"] == "observer_failed"]
    assert [event["detached"] for event in failed] == [False, False, True]
    assert failed[0]["error"] == "OSError: no route to host"


def test_an_observer_that_must_not_fail_ends_the_run_at_the_next_report(tmp_path: Path) -> None:
    """`on_error: fail` reaches the training thread as a PluginError."""
    made = begin(tmp_path, Watcher(error=OSError("no route to host")), strict=True)
    report(made, 1)
    made.finish(OUTCOME)
    with pytest.raises(PluginError, match="failed in codex_metrics: OSError: no route to host"):
        made.raise_if_failed()


def test_a_hanging_observer_neither_blocks_a_step_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that do not fit its queue are counted; the file has them all; the end waits a bounded time."""
    monkeypatch.setattr(reporter, "CLOSING_SECONDS", 0.2)
    gate = threading.Event()
    made = begin(tmp_path, Watcher(gate=gate))
    report(made, reporter.QUEUE_LENGTH + 50)
    made.finish(OUTCOME)
    gate.set()
    made._calls.put(None)
    made._thread.join()
    made.metrics_log.file.close()
    made.events.close()
    records = [r for r in metrics.read(tmp_path / "run" / "metrics.ndjson") if r["split"] == "train"]
    assert len(records) == reporter.QUEUE_LENGTH + 50
    names = [event["event"] for event in events(tmp_path)]
    assert "observers_abandoned" in names
    assert "observers_too_slow" in names


@define(eq=False)
class Gauge:
    """Gives this as the metrics of the machine."""

    answer: Any

    @hookimpl
    def codex_collect_metrics(self) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"step": 1.0}, "a metric cannot be named step: that name is taken"),
        ({"gpu": None}, "expected a number for the metric 'gpu', got None"),
        ({"gpu": "hot"}, "expected a number for the metric 'gpu', got 'hot'"),
        ([1], "expected metrics by their names, got list"),
    ],
)
def test_wrong_metrics_of_the_machine_are_that_plugins_fault_alone(
    tmp_path: Path, answer: Any, error: str
) -> None:
    """The plugin is named and detached; the others get every record, and the run goes on."""
    watcher = Watcher()
    made = begin(tmp_path, watcher)
    made.hooks.register(Gauge(answer), "gauge")
    report(made, 4)
    made.finish(OUTCOME)
    made.raise_if_failed()
    assert [entry for entry in watcher.told if entry[0] == "train"] == [("train", n) for n in (1, 2, 3, 4)]
    failed = [event for event in events(tmp_path) if event["event"] == "observer_failed"]
    assert {event["plugin"] for event in failed} == {"gauge"}
    assert error in failed[0]["error"]
    assert made.detached == ["gauge"]


def test_numbers_of_any_library_are_written(tmp_path: Path) -> None:
    """Numpy's scalars become floats; what is no number is refused where it is reported."""
    made = begin(tmp_path)
    made.hooks.register(Gauge({"gpu": np.float32(1.5)}), "gauge")
    made.metrics(Progress(1, 1, 0.0, 0, 0), {"loss": np.float64(2.5), "count": np.int64(3)})
    with pytest.raises(TypeError, match="expected a number for the metric 'loss', got 'low'"):
        made.metrics(Progress(1, 1, 0.0, 0, 0), {"loss": "low"})  # type: ignore[dict-item]
    made.finish(OUTCOME)
    train, system = metrics.read(tmp_path / "run" / "metrics.ndjson")
    assert (train["loss"], train["count"], system["gpu"]) == (2.5, 3.0, 1.5)


def test_a_logger_cannot_change_what_the_others_are_told(tmp_path: Path) -> None:
    """The metrics that loggers get are read-only."""

    @define(eq=False)
    class Forger:
        @hookimpl
        def codex_metrics(self, metrics: dict[str, float]) -> None:
            metrics["loss"] = 0.0

    made = begin(tmp_path)
    made.hooks.register(Forger(), "forger")
    report(made, 1)
    made.finish(OUTCOME)
    (failed,) = (event for event in events(tmp_path) if event["event"] == "observer_failed")
    assert "TypeError" in failed["error"]


def test_what_a_strict_observer_fails_at_last_is_raised_when_the_reports_are_settled(tmp_path: Path) -> None:
    """A failure in the last record of a run is not overtaken by its end."""
    made = begin(tmp_path, Watcher(error=OSError("no route to host")), strict=True)
    report(made, 1)
    with pytest.raises(PluginError, match="no route to host"):
        made.settle()
    made.finish(OUTCOME)


def test_metrics_are_rewound_to_a_checkpoint(tmp_path: Path) -> None:
    """What was reported after the checkpoint is cut, and the event says so."""
    made = begin(tmp_path)
    report(made, 1)
    state = made.state_dict()
    report(made, 3)
    made.load_state_dict(state)
    made.finish(OUTCOME)
    assert [r["step"] for r in metrics.read(tmp_path / "run" / "metrics.ndjson")] == [1]
    assert events(tmp_path)[0]["event"] == "metrics_rewound"


def test_a_rewind_is_told_with_its_step_also_where_nothing_was_cut(tmp_path: Path) -> None:
    """A mirror may be ahead of the file after a power cut, so it is told always: how many bytes are kept."""
    made = begin(tmp_path)
    report(made, 2)
    made.settle()
    state = made.state_dict()
    made.load_state_dict(state)
    made.finish(OUTCOME)
    (event,) = events(tmp_path)
    assert (event["step"], event["cut_bytes"], event["size_bytes"]) == (2, 0, state["metrics_bytes"])


def test_going_back_in_the_middle_of_a_run_leaves_out_what_observers_had_not_seen(tmp_path: Path) -> None:
    """Records still queued when they are cut reach nobody, and no metrics of the machine are collected for them."""
    gate = threading.Event()
    watcher = Watcher(gate=gate)
    made = begin(tmp_path, watcher)
    report(made, 1)
    state = made.state_dict()
    report(made, 5)  # the observers' thread waits in the first record
    made.load_state_dict(state)
    assert made.last_progress.step == 1
    made.metrics(Progress(2, 5, 0.0, 0, 0), {"loss": 0.5})
    gate.set()
    made.finish(OUTCOME)
    records = list(metrics.read(tmp_path / "run" / "metrics.ndjson"))
    assert [(r["split"], r["step"]) for r in records] == [("train", 1), ("train", 2), ("system", 2)]
    assert watcher.told[-4:] == ["metrics_rewound", ("train", 2), ("system", 2), "completed"]
    assert {told for told in watcher.told[:-4] if told[0] == "train"} == {("train", 1)}


def test_a_run_goes_on_once_and_only_after_the_restore(tmp_path: Path) -> None:
    """Who waits for it is told by the first rewind, or the first record where there is none; never twice."""
    made, told = begin(tmp_path), []
    made.on_going = lambda: told.append(len(events(tmp_path)))
    made.load_state_dict(made.state_dict())
    assert told == [1], "the metrics have been rewound by then"
    report(made, 1)
    made.load_state_dict(made.state_dict())
    made.finish(OUTCOME)
    assert told == [1]


def test_a_rewind_that_fails_does_not_let_the_run_go_on(tmp_path: Path) -> None:
    """A metrics file that is not that of the checkpoint ends the resume before anything of the run changes."""
    made, told = begin(tmp_path), []
    made.on_going = lambda: told.append(True)
    report(made, 1)
    told.clear()
    made.on_going = lambda: told.append(True)
    state = {**made.state_dict(), "metrics_bytes": 10}
    with pytest.raises(InputError, match="is damaged"):
        made.load_state_dict(state)
    made.finish(OUTCOME)
    assert told == []


def test_failed_saves_are_counted(tmp_path: Path) -> None:
    """Each event `checkpoint_failed` is one."""
    made = begin(tmp_path)
    for step in (2, 4):
        made.event("checkpoint_failed", step=step, reason="no room")
    made.finish(OUTCOME)
    assert made.failed_saves == 2
