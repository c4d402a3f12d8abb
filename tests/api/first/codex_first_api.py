"""One plugin of every kind, written against plugin API 1.0.

It is frozen: a kernel that cannot run it needs a new major version of the API. It stands for the plugins of others,
which nobody changes for a new kernel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen

from codex_kernel import (
    IGNORE_INDEX,
    Checkpoint,
    CheckpointState,
    CorpusText,
    Document,
    Estimate,
    Evaluation,
    GenerateRequest,
    InputError,
    Outcome,
    Parts,
    Progress,
    RunContext,
    TrainResult,
    hookimpl,
    option,
)


@frozen
class FirstDataset:
    """Forty small functions."""

    count: int = option(40, help="How many documents.", gt=0)

    @hookimpl
    def codex_preflight(self, base: Path, cache: Path) -> Iterable[str] | None:
        return [] if base.is_dir() else [f"{base} is no folder"]

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document] | None:
        assert run.folder.is_dir()
        return [
            Document(id=str(i), group=str(i), text=f"def f{i}(x):\n    return x * {i}\n")
            for i in range(self.count)
        ]


@frozen
class FirstTokenizer:
    """The bytes of a text."""

    @hookimpl
    def codex_tokenizer(
        self, run: RunContext, corpus: CorpusText | None, saved: Path | None
    ) -> Letters | None:
        return Letters()


class Letters:
    """Ids 0 to 255, and the end of a text."""

    vocab_size = 257
    eos_id = 256

    def encode(self, text: str) -> Sequence[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i != self.eos_id).decode(errors="replace")


@define(eq=False)
class Table:
    """Logits of the next token, given the token alone."""

    logits_VV: Any

    def __call__(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:
        return self.logits_VV[input_ids_BT]


@frozen
class FirstModel:
    """A table of logits."""

    @hookimpl
    def codex_model(self, run: RunContext, tokenizer: Any, materialize: bool) -> Table | None:
        return Table(np.zeros((tokenizer.vocab_size, tokenizer.vocab_size)))


@frozen
class FirstAdapter:
    """Adds to every logit."""

    plus: float = 1.0

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        model = yield
        model.logits_VV = model.logits_VV + self.plus
        return model


@frozen
class FirstTrainer:
    """Gradient descent on the table."""

    max_steps: int = option(6, help="Optimizer steps.", ge=0)
    lr: float = option(5.0, help="Learning rate.", gt=0)

    @hookimpl
    def codex_trainer(self, run: RunContext, parts: Parts) -> Loop | None:
        return Loop(self, run, parts)

    @hookimpl
    def codex_generate(
        self, run: RunContext, model: Table, tokenizer: Any, state: CheckpointState, request: GenerateRequest
    ) -> Iterator[str] | None:
        logits_VV = np.array(state.values["model/table.json"])
        token = tokenizer.encode(request.prompt)[-1]
        for _ in range(request.max_new_tokens):
            token = int(logits_VV[token].argmax())
            yield tokenizer.decode([token])


@define(eq=False)
class Loop:
    """Eight samples a step."""

    options: FirstTrainer
    run: RunContext
    parts: Parts

    def fit(self, state: CheckpointState | None) -> TrainResult:
        first = tokens = 0
        if state is not None:
            saved = state.values["trainer.json"]
            first, tokens = saved["step"], saved["tokens"]
            self.parts.model.logits_VV[:] = state.values["model/table.json"]
            self.run.report.load_state_dict(saved["report"])
        progress = Progress(first, self.options.max_steps, 0.0, tokens, first * 8)
        metrics: dict[str, float] = {}
        for step in range(first, self.options.max_steps):
            batch = self.parts.data.train.gather(self.parts.data.samples(step * 8, 8))
            loss, count, gradient_VV = _loss(self.parts.model.logits_VV, batch)
            self.parts.model.logits_VV -= self.options.lr * gradient_VV / count
            epoch = (step + 1) * 8 / len(self.parts.data.train)
            progress = Progress(
                step + 1, self.options.max_steps, epoch, progress.tokens + count, (step + 1) * 8
            )
            metrics["train/loss"] = loss / count
            self.run.report.metrics(progress, {"loss": loss / count})
            if self.parts.checkpointer.due(step + 1) or self.run.stop.signal_number:
                self._save(progress)
            if self.run.stop.signal_number:
                return TrainResult(progress, metrics, "asked to stop", self.run.stop.signal_number)
        if self.parts.data.validation is not None and progress.step:
            metrics |= self._evaluate(progress)
        self._save(progress)
        return TrainResult(progress, metrics, "max_steps reached")

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        blocks = self.parts.data.validation
        assert blocks is not None
        every = np.arange(len(blocks))
        loss, count, _ = _loss(self.parts.model.logits_VV, blocks.gather(every))
        values = self.parts.evaluation_metrics(Evaluation(loss, count, blocks.text_bytes(every)))
        self.run.report.metrics(progress, values, split="validation")
        return {f"validation/{name}": value for name, value in values.items()}

    def _save(self, progress: Progress) -> None:
        report = dict(self.run.report.state_dict())
        values = {
            "trainer.json": {"step": progress.step, "tokens": progress.tokens, "report": report},
            "model/table.json": self.parts.model.logits_VV.tolist(),
        }
        self.parts.checkpointer.save(progress.step, CheckpointState({}, values), {})

    def estimate(self, *, measure: bool) -> Estimate:
        parameters = self.parts.model.logits_VV.size
        return Estimate(
            parameters=parameters,
            trainable_parameters=parameters,
            memory_bytes={"weights": 8 * parameters},
            steps=self.options.max_steps,
            tokens=self.options.max_steps * 8 * self.parts.data.train.seq_len,
            checkpoint_bytes=8 * parameters,
            seconds_per_step=0.25 if measure else None,
        )


def _loss(logits_VV: Any, batch: Any) -> tuple[float, int, Any]:
    """Return the summed cross-entropy in nats, the number of targets, and the gradient of the sum."""
    kept = batch.targets_BT != IGNORE_INDEX
    inputs_N, targets_N = batch.input_ids_BT[kept], batch.targets_BT[kept]
    logits_NV = logits_VV[inputs_N]
    logits_NV = logits_NV - logits_NV.max(axis=1, keepdims=True)
    probabilities_NV = np.exp(logits_NV) / np.exp(logits_NV).sum(axis=1, keepdims=True)
    rows = np.arange(len(targets_N))
    loss = float(-np.log(probabilities_NV[rows, targets_N]).sum())
    probabilities_NV[rows, targets_N] -= 1
    gradient_VV = np.zeros_like(logits_VV)
    np.add.at(gradient_VV, inputs_N, probabilities_NV)
    return loss, len(targets_N), gradient_VV


@frozen
class FirstCheckpointer:
    """One JSON file a checkpoint."""

    every_steps: int | None = option(None, help="Steps between checkpoints.", gt=0)

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path, read_only: bool) -> Files | None:
        return Files(self, run, folder)


@define(eq=False)
class Files:
    """The files."""

    options: FirstCheckpointer
    run: RunContext
    folder: Path

    def due(self, step: int) -> bool:
        return self.options.every_steps is not None and step % self.options.every_steps == 0

    def save(self, step: int, state: CheckpointState, metrics: Mapping[str, float]) -> None:
        path = self.folder / f"step-{step:08d}" / "state.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(state.values))
        self.run.report.checkpoint_saved(Checkpoint(step, path.parent, dict(metrics), path.stat().st_size))

    def newest(self) -> Checkpoint | None:
        folders = sorted(self.folder.glob("step-*"))
        return Checkpoint(int(folders[-1].name[5:]), folders[-1], {}, 0) if folders else None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        return CheckpointState({}, json.loads((checkpoint.path / "state.json").read_text()))

    def close(self) -> None:
        pass


@frozen
class FirstMetric:
    """Nats for each byte."""

    @hookimpl
    def codex_metric(self, evaluation: Evaluation) -> Mapping[str, float] | None:
        if evaluation.tokens <= 0:
            raise InputError("an evaluation without tokens")
        return {"nats_per_byte": evaluation.loss_sum / evaluation.bytes}


@define(eq=False)
class FirstLogger:
    """Writes which hooks were called, with all the arguments that the first API gave them."""

    told: list[str] = field(init=False, factory=list)

    @hookimpl
    def codex_run_started(self, run: RunContext, settings: Mapping[str, object]) -> None:
        self.told.append(f"started lr={settings['trainer.lr']}")

    @hookimpl
    def codex_activity(self, run: RunContext, name: str, done: float, total: float | None, unit: str) -> None:
        self.told.append(f"activity {unit}")

    @hookimpl
    def codex_metrics(
        self, run: RunContext, step: int, metrics: Mapping[str, float], split: str, progress: Progress
    ) -> None:
        self.told.append(f"{split} {step} of {progress.total_steps}: {sorted(metrics)}")

    @hookimpl
    def codex_collect_metrics(self, run: RunContext, step: int) -> Mapping[str, float] | None:
        return {"first_temperature": 20.0 + step}

    @hookimpl
    def codex_event(self, run: RunContext, name: str, fields: Mapping[str, object]) -> None:
        self.told.append(f"event {name}")

    @hookimpl
    def codex_checkpoint_saved(self, run: RunContext, checkpoint: Checkpoint) -> None:
        self.told.append(f"saved {checkpoint.step}")

    @hookimpl
    def codex_run_finished(self, run: RunContext, outcome: Outcome) -> None:
        self.told.append(f"finished {outcome.status}")
        (run.folder / "told.txt").write_text("\n".join(self.told))
