"""The contract of metric plugins: what a trainer and the record of a run rely on, as tests.

    class TestMine(MetricContract):
        def make(self, folder):
            return MyMetric()

One rule: it knows the hook and `Evaluation` only. It needs pytest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from codex_kernel.interfaces import Evaluation
from codex_kernel.metric_values import as_numbers
from codex_kernel.metrics import RESERVED
from codex_kernel.testing._calls import hooks_of, listing
from codex_kernel.testing.plugin import SpawnedContract

EVALUATION = Evaluation(loss_sum=250.0, tokens=100, bytes=320.0)
"""An evaluation like any other: 2.5 nats a token, 3.2 bytes a token."""
BEFORE_TRAINING = Evaluation(loss_sum=1_080_000.0, tokens=100_000, bytes=431_000.5)
WITHOUT_TEXT = Evaluation(loss_sum=250.0, tokens=100, bytes=0.0)
EMPTY = Evaluation(loss_sum=0.0, tokens=0, bytes=0.0)
HUGE = Evaluation(loss_sum=1e300, tokens=1, bytes=1.0)
PERFECT = Evaluation(loss_sum=0.0, tokens=100, bytes=320.0)
DIVERGED = (
    Evaluation(loss_sum=math.nan, tokens=100, bytes=320.0),
    Evaluation(loss_sum=math.inf, tokens=100, bytes=320.0),
)
EVALUATIONS = (EVALUATION, BEFORE_TRAINING, PERFECT, HUGE, WITHOUT_TEXT, EMPTY, *DIVERGED)


class MetricContract(SpawnedContract):
    """What holds for every metric plugin; subclass it and give `make`."""

    kind = "metric"

    def make(self, folder: Path) -> Any:
        """Return the plugin; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:
        """Return the plugin."""
        return self.make(folder)

    def answer(self, plugin: Any, evaluation: Evaluation = EVALUATION) -> dict[str, float]:
        """Ask a plugin for its metrics as the kernel does; none where it gives None."""
        answers = hooks_of(plugin).codex_metric(evaluation=attrs.evolve(evaluation))
        assert len(answers) <= 1
        return as_numbers(answers[0]) if answers else {}

    def test_an_evaluation_has_metrics(self, tmp_path: Path) -> None:
        """Of an evaluation like any other it gives at least one metric, finite."""
        metrics = self.answer(self._plugin(tmp_path))
        assert metrics
        assert all(math.isfinite(value) for value in metrics.values()), metrics

    def test_metrics_are_names_and_numbers(self, tmp_path: Path) -> None:
        """It gives a mapping of texts to single numbers: no text, no truth value, no tensor of several."""
        plugin = self._plugin(tmp_path)
        for evaluation in EVALUATIONS:
            for answer in hooks_of(plugin).codex_metric(evaluation=evaluation):
                assert isinstance(answer, Mapping)
                as_numbers(answer)

    def test_names_are_free(self, tmp_path: Path) -> None:
        """No metric has a name that is the trainer's (`loss`) or the record's own (`step`, `split`, …)."""
        taken = {"loss", *RESERVED} & set(self.answer(self._plugin(tmp_path)))
        assert not taken, f"{', '.join(sorted(taken))} cannot be the name of a metric"

    def test_names_are_words(self, tmp_path: Path) -> None:
        """A name is a word without spaces or slashes, as a column and as the end of `validation/NAME`."""
        for name in self.answer(self._plugin(tmp_path)):
            assert name == name.strip()
            assert name.isprintable()
            assert name
            assert not set(name) & set(" /\\,;=\"'"), name

    def test_names_stay_the_same(self, tmp_path: Path) -> None:
        """Evaluations with tokens and text have the same metrics each time: a table of them has no holes."""
        plugin = self._plugin(tmp_path)
        assert set(self.answer(plugin, BEFORE_TRAINING)) == set(self.answer(plugin, EVALUATION))

    def test_a_perfect_model_passes(self, tmp_path: Path) -> None:
        """A loss of zero is taken in, and gives finite metrics or none."""
        assert all(math.isfinite(value) for value in self.answer(self._plugin(tmp_path), PERFECT).values())

    def test_a_loss_too_large_for_any_number_passes(self, tmp_path: Path) -> None:
        """A loss whose exponential no float holds is taken in."""
        self.answer(self._plugin(tmp_path), HUGE)

    def test_a_loss_that_is_not_finite_passes(self, tmp_path: Path) -> None:
        """A loss that is NaN or infinite is taken in, and does not look like a good one."""
        plugin = self._plugin(tmp_path)
        usual = self.answer(plugin)
        for evaluation in DIVERGED:
            metrics = self.answer(plugin, evaluation)
            hidden = [name for name, value in metrics.items() if math.isfinite(value) and value < usual[name]]
            assert not hidden, f"the loss is {evaluation.loss_sum}, and {hidden[0]} is better than usual"

    def test_an_evaluation_without_text_passes(self, tmp_path: Path) -> None:
        """Tokens that stand for no text (0 bytes) are taken in."""
        self.answer(self._plugin(tmp_path), WITHOUT_TEXT)

    def test_an_evaluation_without_tokens_passes(self, tmp_path: Path) -> None:
        """An evaluation over nothing is taken in."""
        self.answer(self._plugin(tmp_path), EMPTY)

    def test_the_sums_alone_decide(self, tmp_path: Path) -> None:
        """The same sums give the same metrics, whatever was evaluated before: a resumed run records the same."""
        plugin = self._plugin(tmp_path)
        first = self.answer(plugin)
        self.answer(plugin, BEFORE_TRAINING)
        assert self.answer(plugin) == first
        assert self.answer(self._plugin(tmp_path / "again")) == first

    def test_two_runs_in_one_process_do_not_meet(self, tmp_path: Path) -> None:
        """Two plugins, asked in turn, each give what one alone gives."""
        one, other = self._plugin(tmp_path / "one"), self._plugin(tmp_path / "other")
        self.answer(one, BEFORE_TRAINING)
        assert self.answer(other) == self.answer(self._plugin(tmp_path / "alone"))

    def test_being_asked_leaves_no_trace(self, tmp_path: Path) -> None:
        """It writes nothing, draws nothing at random, and leaves the evaluation as it is."""
        plugin = self._plugin(tmp_path)
        evaluation = attrs.evolve(EVALUATION)
        before, state = listing(tmp_path), random.getstate()
        hooks_of(plugin).codex_metric(evaluation=evaluation)
        assert listing(tmp_path) == before
        assert random.getstate() == state
        assert evaluation == EVALUATION
