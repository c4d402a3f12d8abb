"""The contract of trainer plugins: what a run relies on, as tests; it trains on `codex_kernel.testing.training`.

    class TestMine(TrainerContract):
        def make(self, *, max_steps):
            return MyTrainer(max_steps=max_steps, log_every=1)

        def model(self):
            return MyToyModel(VOCABULARY)

One rule: it knows the hooks and the protocols only. It needs pytest and numpy.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from codex_kernel.errors import InputError
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import (
    IGNORE_INDEX,
    CheckpointState,
    Estimates,
    EvaluateOptions,
    Model,
    Parts,
    Probes,
    RunContext,
    Trainer,
    TrainResult,
)
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.plugin import SpawnedContract
from codex_kernel.testing.toys import NeverStop, RecordingReporter, make_run
from codex_kernel.testing.training import (
    VOCABULARY,
    ActingReporter,
    MemoryCheckpointer,
    ToyBlocks,
    ToyData,
    ToyTokenizer,
    evaluation_metrics,
)

STEPS = 8
TIMES = ("tokens_per_second", "step_seconds", "peak_memory_bytes")
"""Metrics that no two runs share."""


@frozen
class _ToyModelPlugin:
    build: Any

    @hookimpl
    def codex_model(self) -> Model:
        model: Model = self.build()
        return model


class _CrashError(Exception):
    """Stands for a process that is killed."""


# ── the contract ──────────────────────────────────────────────────────────────────────────────────────────────────


@frozen(eq=False)
class Training:
    """One run to be: its trainer, and what it was made of."""

    trainer: Trainer
    run: RunContext
    parts: Parts

    @property
    def records(self) -> list[tuple[str, int, dict[str, float]]]:
        """What was reported, without the times."""
        assert isinstance(self.run.report, RecordingReporter)
        return [
            (split, step, {name: value for name, value in metrics.items() if name not in TIMES})
            for split, step, metrics in self.run.report.records
        ]

    @property
    def checkpointer(self) -> MemoryCheckpointer:
        """The run's checkpointer."""
        assert isinstance(self.parts.checkpointer, MemoryCheckpointer)
        return self.parts.checkpointer


class TrainerContract(SpawnedContract):
    """What holds for every trainer plugin; subclass it and give `make` and `model`."""

    kind = "trainer"

    def make(self, *, max_steps: int) -> Any:
        """Return the plugin: that many optimizer steps, each of them reported, fewer than ten blocks in each."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:  # noqa: ARG002 - a trainer reads no files
        """Return the plugin."""
        return self.make(max_steps=STEPS)

    def model(self) -> Model:
        """Return a new model for VOCABULARY tokens; let it draw its weights, and in training use dropout."""
        raise NotImplementedError

    def training(  # noqa: PLR0913 - what a run can differ in
        self,
        run: RunContext,
        *,
        max_steps: int = STEPS,
        data: ToyData | None = None,
        checkpoint_every: int | None = None,
        evaluate_every: int | None = None,
        max_blocks: int | None = None,
    ) -> Training:
        """Build model, checkpointer and trainer by the hooks, in the order in which a run does."""
        hooks = hooks_of(_ToyModelPlugin(self.model), self.make(max_steps=max_steps))
        parts = Parts(
            tokenizer=ToyTokenizer(),
            data=data or ToyData(),
            model=hooks.codex_model(run=run, tokenizer=ToyTokenizer(), materialize=True),
            checkpointer=MemoryCheckpointer(run, checkpoint_every),
            evaluate=EvaluateOptions(every_steps=evaluate_every, max_blocks=max_blocks),
            evaluation_metrics=evaluation_metrics,
        )
        return Training(hooks.codex_trainer(run=run, parts=parts), run, parts)

    def trained(self, folder: Path, **options: Any) -> tuple[Training, TrainResult]:
        """Train a run from its first step to its end."""
        training = self.training(make_run(folder), **options)
        return training, training.trainer.fit(None)

    def resumed(
        self, before: Training, step: int | None = None, **options: Any
    ) -> tuple[Training, TrainResult]:
        """Go on from a checkpoint of another run, its newest one where no step is given, with the same reporter."""
        run = attrs.evolve(before.run, stop=NeverStop(), report=_plain(before.run.report))
        training = self.training(run, **options)
        checkpoint = before.checkpointer.newest()
        assert checkpoint is not None
        wanted = checkpoint if step is None else attrs.evolve(checkpoint, step=step)
        return training, training.trainer.fit(before.checkpointer.load(wanted))

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    def test_it_trains_to_its_limit(self, tmp_path: Path) -> None:
        """The result has all steps, counts what was seen, says why it ended, and names no signal."""
        import pytest

        training, result = self.trained(tmp_path)
        assert result.progress.step == result.progress.total_steps == STEPS
        assert result.progress.tokens > 0
        assert result.progress.samples > 0
        assert result.progress.epoch == pytest.approx(
            result.progress.samples / len(training.parts.data.train)
        )
        assert result.stop_reason
        assert result.signal_number is None

    def test_it_counts_the_targets_it_was_given(self, tmp_path: Path) -> None:
        """`tokens` is the number of trained targets in the samples of the training order."""
        training, result = self.trained(tmp_path)
        data = training.parts.data
        batch = data.train.gather(data.samples(0, result.progress.samples))
        assert result.progress.tokens == int((batch.targets_BT != IGNORE_INDEX).sum())

    def test_each_step_is_reported(self, tmp_path: Path) -> None:
        """There is one training record a step, in order, each with a finite loss."""
        training, _ = self.trained(tmp_path)
        train = [(step, metrics["loss"]) for split, step, metrics in training.records if split == "train"]
        assert [step for step, _ in train] == list(range(1, STEPS + 1))
        assert all(math.isfinite(loss) for _, loss in train)

    def test_the_loss_starts_where_nothing_is_known(self, tmp_path: Path) -> None:
        """The loss is the mean over targets in nats: about ln(VOCABULARY) before anything is learnt."""
        import pytest

        training, _ = self.trained(tmp_path)
        first = training.records[0][2]["loss"]
        assert first == pytest.approx(math.log(VOCABULARY), rel=0.5)

    def test_the_end_is_saved(self, tmp_path: Path) -> None:
        """There is a checkpoint of the last step, also where none is due."""
        training, _ = self.trained(tmp_path)
        assert list(training.checkpointer.states) == [STEPS]

    def test_it_saves_when_it_is_due(self, tmp_path: Path) -> None:
        """Checkpoints are saved at the steps that the checkpointer says, and at the end, each once."""
        training, _ = self.trained(tmp_path, checkpoint_every=3)
        assert [checkpoint.step for checkpoint in _recorder(training).checkpoints] == [3, 6, 8]

    def test_a_checkpoint_is_plain_data(self, tmp_path: Path) -> None:
        """Tensors stand under *.safetensors, JSON values under *.json, and the weights below model/."""
        training, _ = self.trained(tmp_path)
        state = training.checkpointer.states[STEPS]
        assert all(name.endswith(".safetensors") for name in state.tensors)
        assert all(name.endswith(".json") for name in state.values)
        assert not any(name.endswith((".safetensors", ".json")) for name in state.files)
        assert json.loads(json.dumps(state.values)) == state.values
        assert any(name.startswith("model/") for name in state.tensors)
        assert all(isinstance(content, bytes) for content in state.files.values())

    def test_the_same_seed_gives_the_same_run(self, tmp_path: Path) -> None:
        """Two runs report the same numbers and end with the same bits, whatever was drawn at random before."""
        first, _ = self.trained(tmp_path / "first")
        random.random()
        second, _ = self.trained(tmp_path / "second")
        assert first.records == second.records
        assert tensor_bits(first) == tensor_bits(second)

    def test_two_runs_in_one_process_do_not_meet(self, tmp_path: Path) -> None:
        """Two trainers that were made before either began give the numbers and bits of one alone."""
        alone, _ = self.trained(tmp_path / "alone")
        both = [self.training(make_run(tmp_path / name)) for name in ("first", "second")]
        for training in reversed(both):
            training.trainer.fit(None)
        for training in both:
            assert training.records == alone.records
            assert tensor_bits(training) == tensor_bits(alone)

    def test_a_crash_loses_nothing_that_was_saved(self, tmp_path: Path) -> None:
        """A run that crashes and goes on from a checkpoint ends with the records and the bits of one that did not."""
        import pytest

        whole, result = self.trained(tmp_path / "whole", evaluate_every=2)
        run = _acting(make_run(tmp_path / "crashed"), 7, _crash)
        crashed = self.training(run, checkpoint_every=1, evaluate_every=2)
        with pytest.raises(_CrashError):
            crashed.trainer.fit(None)
        for step in (1, 3, 6):
            resumed, again = self.resumed(crashed, step, evaluate_every=2)
            assert resumed.records == whole.records, f"from step {step}"
            assert tensor_bits(resumed) == tensor_bits(whole), f"from step {step}"
            assert again == result, f"from step {step}"

    def test_a_stop_request_is_followed(self, tmp_path: Path) -> None:
        """The step under way is finished and saved, and the result names the signal."""
        run = make_run(tmp_path)
        run = _acting(run, 3, lambda: setattr(run.stop, "signal_number", 15))
        training = self.training(run)
        result = training.trainer.fit(None)
        assert (result.progress.step, result.signal_number) == (3, 15)
        assert list(training.checkpointer.states) == [3]

    def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(self, tmp_path: Path) -> None:
        """Stopped and resumed, a run ends with the records and the bits of one without a break."""
        whole, result = self.trained(tmp_path / "whole")
        run = make_run(tmp_path / "stopped")
        run = _acting(run, 5, lambda: setattr(run.stop, "signal_number", 2))
        stopped = self.training(run)
        stopped.trainer.fit(None)
        resumed, again = self.resumed(stopped)
        assert resumed.records == whole.records
        assert tensor_bits(resumed) == tensor_bits(whole)
        assert again == result

    def test_a_finished_run_has_nothing_left_to_do(self, tmp_path: Path) -> None:
        """Resumed from its last checkpoint, it gives the same result without another record."""
        training, result = self.trained(tmp_path)
        resumed, again = self.resumed(training)
        assert again.progress == result.progress
        assert again.metrics == result.metrics
        assert resumed.records == training.records

    def test_other_data_are_refused(self, tmp_path: Path) -> None:
        """Going on with other data than the checkpoint's is an error with both fingerprints."""
        import pytest

        training, _ = self.trained(tmp_path)
        other = ToyData(seed=99)
        with pytest.raises(InputError) as caught:
            self.resumed(training, data=other)
        assert other.fingerprint in caught.value.message
        assert training.parts.data.fingerprint in caught.value.message

    def test_it_evaluates_at_the_end(self, tmp_path: Path) -> None:
        """The whole validation split is summed up, reported, and part of the result and of the last checkpoint."""
        import pytest

        training, result = self.trained(tmp_path)
        validation = ToyData().validation
        assert validation is not None
        split, step, metrics = training.records[-1]
        assert (split, step) == ("validation", STEPS)
        assert metrics["tokens"] == validation.target_tokens
        assert metrics["bytes"] == pytest.approx(validation.target_tokens * validation.bytes_per_token)
        assert result.metrics["validation/loss"] == metrics["loss"]
        assert training.checkpointer.metrics[STEPS]["validation/loss"] == metrics["loss"]
        assert math.isfinite(result.metrics["train/loss"])

    def test_it_evaluates_when_it_is_told(self, tmp_path: Path) -> None:
        """Evaluations fall on the multiples of `every_steps` and on the end, over `max_blocks` at the most."""
        training, _ = self.trained(tmp_path, evaluate_every=3, max_blocks=2)
        evaluated = [(step, m["tokens"]) for split, step, m in training.records if split == "validation"]
        batch = ToyBlocks(5, seed=1).gather(range(2))
        targets = int((batch.targets_BT != IGNORE_INDEX).sum())
        assert evaluated == [(3, targets), (6, targets), (8, targets)]

    def test_evaluation_disturbs_nothing(self, tmp_path: Path) -> None:
        """Evaluated after every step or never, training gives the same numbers and bits."""
        often, _ = self.trained(tmp_path / "often", evaluate_every=1)
        never, _ = self.trained(tmp_path / "never", data=ToyData(validation=None))
        assert [record for record in often.records if record[0] == "train"] == never.records
        weights = [name for name in often.checkpointer.states[STEPS].tensors if name.startswith("model/")]
        assert weights
        for name in weights:
            assert tensor_bits(often)[name] == tensor_bits(never)[name]

    def test_an_estimate_leaves_no_trace(self, tmp_path: Path) -> None:
        """A trainer that can estimate foretells the steps, and the run afterwards is the same as without it."""
        plain, result = self.trained(tmp_path / "plain")
        training = self.training(make_run(tmp_path / "estimated"))
        if not isinstance(training.trainer, Estimates):
            return
        estimate = training.trainer.estimate(measure=True)
        assert training.records == []
        assert training.checkpointer.states == {}
        assert estimate.steps == STEPS
        assert estimate.parameters >= estimate.trainable_parameters > 0
        assert estimate.checkpoint_bytes > 0
        assert estimate.seconds_per_step is not None
        assert estimate.seconds_per_step > 0
        assert training.trainer.fit(None) == result
        assert training.records == plain.records

    def test_probes_leave_no_trace(self, tmp_path: Path) -> None:
        """A trainer that can probe says what each probe found, and the run afterwards is the same as without them."""
        plain, result = self.trained(tmp_path / "plain")
        training = self.training(make_run(tmp_path / "probed"))
        if not isinstance(training.trainer, Probes):
            return
        found = list(training.trainer.probe())
        assert training.records == []
        assert training.checkpointer.states == {}
        assert found
        assert len({probe.name for probe in found}) == len(found)
        assert all(probe.passed in {True, False, None} and probe.detail for probe in found)
        assert training.trainer.fit(None) == result
        assert training.records == plain.records


# ── what the tests are made with ──────────────────────────────────────────────────────────────────────────────────


def tensor_bits(training: Training) -> dict[str, dict[str, bytes]]:
    """Return the bytes of every tensor in the run's newest checkpoint."""
    return bits_of_state(training.checkpointer.states[max(training.checkpointer.states)])


def bits_of_state(state: CheckpointState) -> dict[str, dict[str, bytes]]:
    """Return the bytes of every tensor in a state."""
    import numpy as np

    return {
        file: {name: np.asarray(tensor).tobytes() for name, tensor in tensors.items()}
        for file, tensors in state.tensors.items()
    }


def _acting(run: RunContext, at_step: int, act: Any) -> RunContext:
    return attrs.evolve(run, report=ActingReporter(at_step=at_step, act=act))


def _plain(report: Any) -> RecordingReporter:
    """Return a reporter with the same records, that does nothing else."""
    return RecordingReporter(records=list(report.records))


def _recorder(training: Training) -> RecordingReporter:
    assert isinstance(training.run.report, RecordingReporter)
    return training.run.report


def _crash() -> None:
    raise _CrashError
