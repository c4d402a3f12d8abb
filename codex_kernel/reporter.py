"""Where a run reports to: metrics and events go to disk at once, then to the observers in a thread of their own.

One rule: nothing an observer does can block a training step or end the run, unless its section says `on_error: fail`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from attrs import asdict, define, field

from codex_kernel import metrics
from codex_kernel.errors import CodexError, PluginError, in_words
from codex_kernel.hooks import Hooks, ObserverFailure
from codex_kernel.interfaces import Checkpoint, Outcome, Progress, RunContext
from codex_kernel.metric_values import as_numbers
from codex_kernel.metrics import MetricsLog, NdjsonFile

QUEUE_LENGTH = 1000
CLOSING_SECONDS = 15.0
ACTIVITY_SECONDS = 0.2


@define(eq=False)
class RunReporter:
    """The reporter of one run. `run` is set before the first report; `clock` gives seconds since the epoch.

    `on_going` is called once: when the trainer has put its state back, or else before the first record.
    """

    hooks: Hooks
    metrics_log: MetricsLog
    events: NdjsonFile
    clock: Callable[[], float] = time.time
    on_going: Callable[[], None] | None = None
    failed_saves: int = field(init=False, default=0)
    detached: list[str] = field(init=False, factory=list)
    finished: bool = field(init=False, default=False)
    last_progress: Progress = field(init=False, default=Progress(0, None, 0.0, 0, 0))
    last_checkpoint: str | None = field(init=False, default=None)
    run: RunContext = field(init=False)
    _calls: queue.Queue[Callable[[], None] | None] = field(
        init=False, factory=lambda: queue.Queue(QUEUE_LENGTH)
    )
    _thread: threading.Thread = field(init=False)
    _dropped: int = field(init=False, default=0)
    _fatal: CodexError | None = field(init=False, default=None)
    _last_activity: tuple[str, float] = field(init=False, default=("", 0.0))
    _told: set[str] = field(init=False, factory=set)
    _rewinding: threading.Lock = field(init=False, factory=threading.Lock)
    _rewinds: int = field(init=False, default=0)
    _kept_steps: Mapping[str, int] = field(init=False, factory=dict)

    def start(self, run: RunContext) -> None:
        """Begin to pass reports on to the observers."""
        self.run = run
        self.hooks.on_observer_failure = self._observer_failed
        self._thread = threading.Thread(target=self._work, name="codex-observers", daemon=True)
        self._thread.start()

    # ── the Reporter protocol ─────────────────────────────────────────────────────────────────────────────────────

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Write one record of metrics and tell the loggers."""
        self.raise_if_failed()
        self._go_on()
        # Read-only, since all loggers are given the same one.
        values = MappingProxyType(as_numbers(values))
        self.metrics_log.write(progress, values, split)
        self.last_progress = progress
        rewinds = self._rewinds
        self._pass_on(lambda: self._tell_metrics(progress, values, split, rewinds))

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:
        """Tell how far a piece of work outside the training loop is."""
        last_name, last_time = self._last_activity
        now = time.monotonic()
        # The end of a piece of work is always told, its middle only now and then.
        if name == last_name and now - last_time < ACTIVITY_SECONDS and done != total:
            return
        self._last_activity = (name, now)
        self._pass_on(lambda: self.hooks.activity(self.run, name, done, total, unit))

    def event(self, name: str, **fields: Any) -> None:
        """Write one record to the run's events and tell the loggers."""
        self._write_event(name, **fields)
        if name == "checkpoint_failed":
            self.failed_saves += 1
        self._pass_on(lambda: self.hooks.event(self.run, name, fields))

    def warning(self, message: str) -> None:
        """Write an event and show it to the user."""
        self.event("warning", message=message)

    def checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        """Tell that a checkpoint is safe on disk."""
        self.last_checkpoint = str(checkpoint.path)
        self._write_event(
            "checkpoint_saved",
            step=checkpoint.step,
            path=str(checkpoint.path),
            size_bytes=checkpoint.size_bytes,
        )
        self._pass_on(lambda: self.hooks.checkpoint_saved(self.run, checkpoint))

    def state_dict(self) -> Mapping[str, Any]:
        """Return the length of the metrics file, safe on disk: a checkpoint that outlives a power cut counts on it."""
        return {
            "metrics_bytes": self.metrics_log.file.durable_size(),
            "progress": asdict(self.last_progress),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Cut the metrics file back to the checkpoint; what follows is kept in a file beside it.

        At the start of a resume, and again whenever the trainer goes back to a checkpoint. Raises InputError where the
        file is not that of the checkpoint, StorageError where it cannot be cut.
        """
        size = state["metrics_bytes"]
        with self._rewinding:
            cut = self.metrics_log.file.cut(size)
            self._rewinds += 1
            self._kept_steps = metrics.last_steps(metrics.read(self.metrics_log.file.path))
        self.last_progress = Progress(**state["progress"])
        fields = {"step": self._kept_steps.get("train", 0), "size_bytes": size, "cut_bytes": cut}
        self._write_event("metrics_rewound", **fields)
        # Never left out: an observer that mirrors the file would keep what is no longer in it.
        self._insist(lambda: self.hooks.event(self.run, "metrics_rewound", fields))
        self._go_on()

    def _go_on(self) -> None:
        """Tell whoever waits for it that the run has begun, or goes on, at the first sign of it."""
        if (told := self.on_going) is not None:
            self.on_going = None
            told()

    # ── start and end ─────────────────────────────────────────────────────────────────────────────────────────────

    def run_started(self, settings: Mapping[str, object]) -> None:
        """Tell the observers that the run starts."""
        self._pass_on(lambda: self.hooks.run_started(self.run, settings))

    def finish(self, outcome: Outcome) -> None:
        """Tell the observers that the run is over and wait for them, not longer than CLOSING_SECONDS."""
        self.finished = True
        deadline = time.monotonic() + CLOSING_SECONDS
        try:
            self._calls.put(lambda: self.hooks.run_finished(self.run, outcome), timeout=CLOSING_SECONDS)
            self._calls.put(None, timeout=CLOSING_SECONDS)
        except queue.Full:  # an observer hangs; said below
            pass
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._dropped:
            self._write_event("observers_too_slow", records_left_out=self._dropped)
        if self._thread.is_alive():
            # It may still want to write, so the files stay open until the process ends.
            self._write_event("observers_abandoned", after_seconds=CLOSING_SECONDS)
            return
        self.metrics_log.file.close()
        self.events.close()

    def settle(self) -> None:
        """Wait, not longer than CLOSING_SECONDS, until the observers have had all reports; raise what went wrong."""
        settled = threading.Event()
        with contextlib.suppress(queue.Full):  # an observer hangs; `finish` says so
            self._calls.put(settled.set, timeout=CLOSING_SECONDS)
            settled.wait(CLOSING_SECONDS)
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        """Raise what went wrong in the observers' thread and must end the run."""
        if self._fatal is not None:
            raise self._fatal

    def _write_event(self, name: str, **fields: Any) -> None:
        """Write one record to the run's events."""
        self.events.append({"time": round(self.clock(), 3), "event": name, **fields})

    # ── the observers' thread ─────────────────────────────────────────────────────────────────────────────────────

    def _pass_on(self, call: Callable[[], None]) -> None:
        """Queue a call; where the observers are too slow it is left out and counted, for the file has the record."""
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._dropped += 1

    def _insist(self, call: Callable[[], None]) -> None:
        """Queue a call, and wait for room where there is none."""
        try:
            self._calls.put(call, timeout=CLOSING_SECONDS)
        except queue.Full:  # an observer hangs; `finish` says so
            self._dropped += 1

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the disk, not an observer: raised in the training thread
                text = f"the loggers' thread failed: {in_words(error)}"
                self._fatal = self._fatal or (error if isinstance(error, CodexError) else CodexError(text))

    def _tell_metrics(
        self, progress: Progress, values: Mapping[str, float], split: str, rewinds: int
    ) -> None:
        """Give the record to the loggers; after one of training, ask for metrics of the machine and give those too.

        rewinds: how often the metrics had been rewound when the record was written; it may have been cut off since.
        """
        with self._rewinding:
            stale, kept_step = rewinds != self._rewinds, self._kept_steps.get(split, -1)
        if stale and progress.step > kept_step:
            return
        self.hooks.metrics(self.run, progress.step, values, split, progress)
        if split != "train" or stale:
            return
        collected = self.hooks.collect_metrics(self.run, progress.step)
        if not collected:
            return
        with self._rewinding:
            if rewinds != self._rewinds:
                return
            self.metrics_log.write(progress, collected, "system")
        self.hooks.metrics(self.run, progress.step, collected, "system", progress)

    def _observer_failed(self, failure: ObserverFailure) -> None:
        """Put a failure into the record; called in the observers' thread."""
        self._write_event(
            "observer_failed",
            plugin=failure.plugin,
            hook=failure.hook,
            error=in_words(failure.error),
            detached=failure.detached,
        )
        if failure.fatal:
            remedy = "its section says on_error: fail; with on_error: detach the run goes on"
            self._fatal = self._fatal or PluginError(str(failure), remedy=remedy)
        if failure.detached:
            self.detached.append(failure.plugin)
        if failure.detached or failure.plugin not in self._told:
            self._told.add(failure.plugin)
            self.hooks.event(self.run, "warning", {"message": str(failure)})
