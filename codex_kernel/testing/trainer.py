"""The contract of trainer plugins: what a run relies on, as tests; and the toy data and checkpointer it trains with.

    class TestMine(TrainerContract):
        def make(self, *, max_steps):
            return MyTrainer(max_steps=max_steps, log_every=1)

        def model(self):
            return MyToyModel(VOCABULARY)

One rule: it knows the hooks and the protocols only. It needs pytest and numpy.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen

from codex_kernel.errors import InputError
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import (
    IGNORE_INDEX,
    Batch,
    Checkpoint,
    CheckpointState,
    Estimates,
    EvaluateOptions,
    Evaluation,
    Model,
    Parts,
    Progress,
    RunContext,
    Trainer,
    TrainResult,
)
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.toys import NeverStop, RecordingReporter, make_run

VOCABULARY = 32
STEPS = 8
TIMES = ("tokens_per_second", "step_seconds")
"""Metrics that no two runs share."""


# ── toys ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen(eq=False)
class ToyBlocks:
    """Blocks of documents of unequal length, in which each token follows from the one before it."""

    count: int
    seq_len: int = 12
    seed: int = 0
    bytes_per_token: float = 2.5
    _rows: Sequence[Batch] = field(init=False)

    def __attrs_post_init__(self) -> None:
        chance = random.Random(self.seed)
        rows = [self._row(chance, number) for number in range(self.count)]
        object.__setattr__(self, "_rows", rows)

    @property
    def target_tokens(self) -> int:
        """Targets of all blocks that are not IGNORE_INDEX."""
        return sum(int((row.targets_BT != IGNORE_INDEX).sum()) for row in self._rows)

    def __len__(self) -> int:
        """Blocks of the split."""
        return self.count

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers."""
        import numpy as np

        rows = [self._rows[int(number)] for number in sample_ids_B]
        names = ("input_ids_BT", "targets_BT", "position_ids_BT", "document_ids_BT", "sample_ids_B")
        return Batch(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in names})

    def _row(self, chance: random.Random, number: int) -> Batch:
        """Make one block: documents of 3 to 7 tokens, the last of them padded in every third block."""
        import numpy as np

        length = self.seq_len - (4 if number % 3 == 2 else 0)
        ids, targets = [0] * self.seq_len, [IGNORE_INDEX] * self.seq_len
        positions, documents = [0] * self.seq_len, [-1] * self.seq_len
        start, document = 0, 0
        while start < length:
            end = min(length, start + chance.randint(3, 7))
            token = chance.randrange(VOCABULARY)
            for position in range(start, end):
                ids[position], positions[position], documents[position] = token, position - start, document
                token = (5 * token + 3) % VOCABULARY
                targets[position] = token if position + 1 < end else IGNORE_INDEX
            start, document = end, document + 1
        columns = ([ids], [targets], [positions], [documents], [number])
        return Batch(*(np.array(column, dtype=np.int64) for column in columns))


@frozen(eq=False)
class ToyData:
    """Two splits of toy blocks; every epoch is a permutation that follows from the seed."""

    train: ToyBlocks = field(factory=lambda: ToyBlocks(10))
    validation: ToyBlocks | None = field(factory=lambda: ToyBlocks(5, seed=1))
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Hex digest of what makes the data."""
        splits = [
            (split.count, split.seq_len, split.seed) for split in (self.train, self.validation) if split
        ]
        return hashlib.sha256(repr((splits, self.seed)).encode()).hexdigest()

    def samples(self, start: int, count: int) -> Any:
        """Return sample ids of the endless training order."""
        import numpy as np

        return np.array([self._sample(position) for position in range(start, start + count)], dtype=np.int64)

    def _sample(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.train))
        order = list(range(len(self.train)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return order[offset]


@frozen
class ToyTokenizer:
    """Characters of a small alphabet; the last id ends a text."""

    vocab_size: int = VOCABULARY
    eos_id: int = VOCABULARY - 1

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, wrapped around the vocabulary."""
        return [ord(character) % self.eos_id for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return a letter for each id."""
        return "".join(chr(ord("A") + number) for number in ids if number != self.eos_id)


@define(eq=False)
class MemoryCheckpointer:
    """A checkpointer that keeps copies of all states in memory."""

    run: RunContext
    every_steps: int | None = None
    states: dict[int, CheckpointState] = field(init=False, factory=dict)
    metrics: dict[int, dict[str, float]] = field(init=False, factory=dict)

    def due(self, step: int) -> bool:
        """Say whether a checkpoint is to be saved after this step."""
        return self.every_steps is not None and step % self.every_steps == 0

    def save(self, step: int, state: CheckpointState, metrics: Mapping[str, float]) -> None:
        """Keep a copy."""
        self.states[step] = copy.deepcopy(state)
        self.metrics[step] = dict(metrics)
        self.run.report.checkpoint_saved(self._checkpoint(step))

    def newest(self) -> Checkpoint | None:
        """Return the one with the most steps."""
        return self._checkpoint(max(self.states)) if self.states else None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return a copy of the state."""
        return copy.deepcopy(self.states[checkpoint.step])

    def close(self) -> None:
        """Do nothing."""

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(step, Path(f"step-{step:08d}"), self.metrics[step], 0)


@define(eq=False)
class ActingReporter(RecordingReporter):
    """A reporter that does something when a training step is reported, after it has kept the record."""

    at_step: int = 0
    act: Any = None

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Keep the record; act at the step."""
        super().metrics(progress, values, split=split)
        if split == "train" and progress.step == self.at_step:
            self.act()


@frozen
class _ToyModelPlugin:
    build: Any

    @hookimpl
    def codex_model(self) -> Model:
        model: Model = self.build()
        return model


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return what the kernel makes of an evaluation, and its sums."""
    return {
        "loss": evaluation.loss_sum / evaluation.tokens,
        "tokens": evaluation.tokens,
        "bytes": evaluation.bytes,
    }


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


class TrainerContract:
    """What holds for every trainer plugin; subclass it and give `make` and `model`."""

    def make(self, *, max_steps: int) -> Any:
        """Return the plugin: that many optimizer steps, each of them reported, fewer than ten blocks in each."""
        raise NotImplementedError

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
