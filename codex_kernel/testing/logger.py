"""The contract of logger plugins: what a run relies on, as tests.

    class TestMine(LoggerContract):
        def make(self, folder):
            return MyLogger(path="log.txt")

One rule: it knows the hooks only, and calls them in the order in which a run does. It needs pytest.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from codex_kernel.hookspecs import LoggerSpecs
from codex_kernel.interfaces import Checkpoint, Outcome, Progress, RunContext
from codex_kernel.testing._calls import hooks_of, implements, listing
from codex_kernel.testing.plugin import PluginContract
from codex_kernel.testing.toys import make_run

HOOKS = tuple(name for name in vars(LoggerSpecs) if name.startswith("codex_"))
COMPLETED = Outcome("completed", 0, "max_steps", 3, 96, 12, 1.5, {"train/loss": 2.5}, "step-00000003", ())
FAILED = Outcome("failed", 7, "a plugin failed", 0, 0, 0, 0.1, {}, None, ())
RECORD = {"loss": 2.5, "lr": 1e-3, "grad_norm": 0.7, "tokens_per_second": 1234.5, "step_seconds": 0.1}


class LoggerContract(PluginContract):
    """What holds for every logger plugin; subclass it and give `make`."""

    kind = "logger"

    def make(self, folder: Path) -> Any:
        """Return the plugin; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:
        """Return the plugin."""
        return self.make(folder)

    def start(self, run: RunContext) -> Any:
        """Make a plugin, tell it that the run started, and return its hook caller."""
        hooks = hooks_of(self.make(run.base))
        hooks.codex_run_started(run=run, settings={"trainer.lr": 1e-3, "seed": 17, "name": "toy"})
        return hooks

    def train(self, hooks: Any, run: RunContext, record: Mapping[str, float] = RECORD) -> None:
        """Report three training steps, each with a record."""
        for step in (1, 2, 3):
            progress = Progress(step, 3, step / 3, step * 32, step * 4)
            metrics = dict(record)
            hooks.codex_metrics(run=run, step=step, metrics=metrics, split="train", progress=progress)

    def test_it_implements_a_hook_of_loggers(self, tmp_path: Path) -> None:
        """It has at least one hook of loggers, and none that codex does not know."""
        plugin = self.make(tmp_path)
        assert any(implements(plugin, name) for name in HOOKS)

    def test_a_whole_run_passes(self, tmp_path: Path) -> None:
        """A run with preparation, training, evaluation, system metrics, a warning and a checkpoint is taken in."""
        run = make_run(tmp_path)
        hooks = self.start(run)
        hooks.codex_activity(run=run, name="read", done=1, total=None, unit="documents")
        hooks.codex_activity(run=run, name="encode", done=10, total=10, unit="documents")
        self.train(hooks, run)
        progress = Progress(3, 3, 1.0, 96, 12)
        hooks.codex_metrics(
            run=run, step=3, metrics={"loss": 2.4, "perplexity": 11.0}, split="validation", progress=progress
        )
        hooks.codex_metrics(run=run, step=3, metrics={"rss_bytes": 1e9}, split="system", progress=progress)
        hooks.codex_collect_metrics(run=run, step=3)
        hooks.codex_event(run=run, name="warning", fields={"message": "[red]disk\x1b[31m nearly full"})
        hooks.codex_event(run=run, name="other", fields={})
        hooks.codex_checkpoint_saved(
            run=run, checkpoint=Checkpoint(3, run.folder / "checkpoints", {"loss": 2.5}, 10)
        )
        hooks.codex_run_finished(run=run, outcome=COMPLETED)

    def test_a_run_that_fails_at_once_passes(self, tmp_path: Path) -> None:
        """A run that ends before its first step is taken in."""
        run = make_run(tmp_path)
        self.start(run).codex_run_finished(run=run, outcome=FAILED)

    def test_numbers_that_are_not_finite_pass(self, tmp_path: Path) -> None:
        """NaN and infinities among the metrics are taken in."""
        run = make_run(tmp_path)
        hooks = self.start(run)
        for value in (math.nan, math.inf, -math.inf):
            self.train(hooks, run, dict.fromkeys(RECORD, value))
        hooks.codex_run_finished(run=run, outcome=COMPLETED)

    def test_new_metrics_may_turn_up(self, tmp_path: Path) -> None:
        """A metric that the first record did not have, or any text as its name, is taken in."""
        run = make_run(tmp_path)
        hooks = self.start(run)
        self.train(hooks, run)
        self.train(hooks, run, {**RECORD, "late": 1.0, 'odd, "name"\nover two lines': 2.0})
        hooks.codex_run_finished(run=run, outcome=COMPLETED)

    def test_a_run_without_known_end_passes(self, tmp_path: Path) -> None:
        """Progress without a total number of steps, and records without any metric, are taken in."""
        run = make_run(tmp_path)
        hooks = self.start(run)
        hooks.codex_metrics(run=run, step=1, metrics={}, split="train", progress=Progress(1, None, 0.0, 1, 1))
        hooks.codex_metrics(
            run=run, step=2, metrics=dict(RECORD), split="train", progress=Progress(2, None, 0.0, 2, 2)
        )
        hooks.codex_run_finished(run=run, outcome=COMPLETED)

    def test_metrics_are_left_as_they_are(self, tmp_path: Path) -> None:
        """The mapping of metrics, which others are shown as well, is not changed."""
        run = make_run(tmp_path)
        hooks = self.start(run)
        metrics = dict(RECORD)
        hooks.codex_metrics(
            run=run, step=1, metrics=metrics, split="train", progress=Progress(1, 3, 0.3, 1, 1)
        )
        hooks.codex_run_finished(run=run, outcome=COMPLETED)
        assert metrics == RECORD

    def test_a_run_can_be_resumed(self, tmp_path: Path) -> None:
        """A new plugin goes on in the run's folder, and what was written for the first part is still there."""
        run = make_run(tmp_path)
        first = self.start(run)
        self.train(first, run)
        first.codex_run_finished(run=run, outcome=attrs.evolve(COMPLETED, status="stopped"))
        written = {name for name, data in listing(run.folder).items() if data}
        second = self.start(run)
        self.train(second, run)
        second.codex_run_finished(run=run, outcome=COMPLETED)
        assert written <= set(listing(run.folder))

    def test_two_runs_at_once_do_not_meet(self, tmp_path: Path) -> None:
        """Two plugins in one process serve two runs: nothing of them is global."""
        runs = [make_run(tmp_path / "first"), attrs.evolve(make_run(tmp_path / "second"), run_id="other")]
        hooks = [self.start(run) for run in runs]
        for each, run in zip(hooks, runs, strict=True):
            self.train(each, run)
        for each, run in zip(hooks, runs, strict=True):
            each.codex_run_finished(run=run, outcome=COMPLETED)

    def test_another_thread_may_call(self, tmp_path: Path) -> None:
        """All hooks may be called from a thread that did not make the plugin, as the kernel does."""
        run = make_run(tmp_path)
        plugin = self.make(run.base)
        failures: list[BaseException] = []

        def work() -> None:
            try:
                hooks = hooks_of(plugin)
                hooks.codex_run_started(run=run, settings={})
                self.train(hooks, run)
                hooks.codex_run_finished(run=run, outcome=COMPLETED)
            except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that asks
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert failures == []

    def test_no_thread_is_left(self, tmp_path: Path) -> None:
        """When the run is finished, the plugin's threads are as well."""
        run = make_run(tmp_path)
        before = set(threading.enumerate())
        hooks = self.start(run)
        self.train(hooks, run)
        hooks.codex_run_finished(run=run, outcome=COMPLETED)
        assert {
            thread for thread in threading.enumerate() if thread not in before and thread.is_alive()
        } == set()
