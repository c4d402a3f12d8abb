"""A whole set of plugins without torch: a bigram model trained by gradient descent in numpy.

One rule: each is as small as a plugin of its kind can be and still does its work, so that the kernel is tested with
something real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen

from codex_kernel import (
    IGNORE_INDEX,
    Checkpoint,
    CheckpointState,
    Document,
    Estimate,
    Evaluation,
    GenerateRequest,
    Parts,
    Progress,
    RunContext,
    StorageError,
    TrainResult,
    hookimpl,
    option,
)

TEXTS = [f"def f{i}(x):\n    return x + {i % 7}\n" for i in range(60)]


@frozen
class ToyDataset:
    """Sixty small functions."""

    copies: int = option(1, help="How many documents have each text.", gt=0)

    @hookimpl
    def codex_preflight(self) -> list[str]:
        return ["too many copies"] if self.copies > 100 else []

    @hookimpl
    def codex_dataset(self) -> list[Document]:
        return [
            Document(id=f"{i}-{copy}", group=str(i), text=text)
            for i, text in enumerate(TEXTS)
            for copy in range(self.copies)
        ]


@define(eq=False)
class Bigrams:
    """Logits of the next token, given the token alone."""

    logits_VV: Any

    def __call__(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:
        return self.logits_VV[input_ids_BT]


@frozen
class ToyModel:
    """A bigram table."""

    @hookimpl
    def codex_model(self, tokenizer: Any) -> Bigrams:
        return Bigrams(np.zeros((tokenizer.vocab_size, tokenizer.vocab_size)))


@frozen
class Sharpen:
    """Multiplies the logits: an adapter of any callable model with a table."""

    factor: float = 2.0

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        model = yield
        model.logits_VV = model.logits_VV + self.factor
        return model


@frozen
class ToyTrainer:
    """Gradient descent on the bigram table."""

    max_steps: int = option(5, help="Optimizer steps.", ge=0)
    lr: float = option(5.0, help="Learning rate.", gt=0)
    fail_at: int | None = option(None, help="Raise before this step.")

    @hookimpl
    def codex_trainer(self, run: RunContext, parts: Parts) -> Descent:
        return Descent(self, run, parts)

    @hookimpl
    def codex_generate(
        self, model: Bigrams, tokenizer: Any, state: CheckpointState, request: GenerateRequest
    ) -> Any:
        logits_VV = np.array(state.values["model/table.json"])
        token = tokenizer.encode(request.prompt)[-1]
        for _ in range(request.max_new_tokens):
            token = int(logits_VV[token].argmax())
            yield tokenizer.decode([token])


@define(eq=False)
class Descent:
    """The loop."""

    options: ToyTrainer
    run: RunContext
    parts: Parts

    def fit(self, state: CheckpointState | None) -> TrainResult:
        first = tokens_before = 0
        if state is not None:
            first = state.values["trainer.json"]["step"]
            tokens_before = state.values["trainer.json"]["tokens"]
            self.parts.model.logits_VV[:] = state.values["model/table.json"]
            self.run.report.load_state_dict(state.values["trainer.json"]["report"])
        progress = Progress(first, self.options.max_steps, 0.0, tokens_before, first * 8)
        metrics: dict[str, float] = {}
        for step in range(first, self.options.max_steps):
            if step == self.options.fail_at:
                raise ValueError("asked to fail")
            loss, tokens = self._update(self.parts.data.samples(step * 8, 8))
            epoch = (step + 1) * 8 / len(self.parts.data.train)
            progress = Progress(
                step + 1, self.options.max_steps, epoch, progress.tokens + tokens, (step + 1) * 8
            )
            metrics["train/loss"] = loss
            self.run.report.metrics(progress, {"loss": loss})
            if self.parts.checkpointer.due(step + 1) or self.run.stop.signal_number:
                self._save(progress)
            if self.run.stop.signal_number:
                return TrainResult(progress, metrics, "asked to stop", self.run.stop.signal_number)
        if self.parts.data.validation is not None and progress.step:
            metrics |= self._evaluate(progress)
        self._save(progress)
        return TrainResult(
            progress, {name: np.float32(value) for name, value in metrics.items()}, "max_steps reached"
        )

    def _update(self, samples: Any) -> tuple[float, int]:
        batch = self.parts.data.train.gather(samples)
        loss, tokens, gradient_VV = _loss(self.parts.model.logits_VV, batch)
        self.parts.model.logits_VV -= self.options.lr * gradient_VV / tokens
        return loss / tokens, tokens

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        blocks = self.parts.data.validation
        assert blocks is not None
        loss, tokens, _ = _loss(self.parts.model.logits_VV, blocks.gather(np.arange(len(blocks))))
        values = self.parts.evaluation_metrics(Evaluation(loss, tokens, tokens * blocks.bytes_per_token))
        self.run.report.metrics(progress, values, split="validation")
        return {f"validation/{name}": value for name, value in values.items()}

    def _save(self, progress: Progress) -> None:
        values = {
            "trainer.json": {
                "step": progress.step,
                "tokens": progress.tokens,
                "report": dict(self.run.report.state_dict()),
            },
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
class ToyCheckpointer:
    """One JSON file a checkpoint."""

    every_steps: int | None = option(None, help="Steps between checkpoints.", gt=0)

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path) -> JsonFiles:
        return JsonFiles(self, run, folder)


@define(eq=False)
class JsonFiles:
    """The files."""

    options: ToyCheckpointer
    run: RunContext
    folder: Path

    def due(self, step: int) -> bool:
        return self.options.every_steps is not None and step % self.options.every_steps == 0

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None:
        path = self.folder / f"step-{step:08d}" / "state.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(state.values))
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self.run.report.checkpoint_saved(Checkpoint(step, path.parent, dict(metrics), path.stat().st_size))

    def newest(self) -> Checkpoint | None:
        folders = sorted(self.folder.glob("step-*"))
        return Checkpoint(int(folders[-1].name[5:]), folders[-1], {}, 0) if folders else None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        return CheckpointState({}, json.loads((checkpoint.path / "state.json").read_text()))

    def close(self) -> None:
        pass


@define(eq=False)
class ToyLogger:
    """Writes what it is told to a file in the run folder; can be told to fail."""

    fail: bool = option(default=False, help="Raise at each record of metrics.")
    fail_at_end: bool = option(default=False, help="Raise when the run is over.")
    told: list[str] = field(init=False, factory=list)

    @hookimpl
    def codex_run_started(self, settings: Mapping[str, object]) -> None:
        self.told.append(f"started lr={settings['trainer.lr']}")

    @hookimpl
    def codex_metrics(self, step: int, metrics: Mapping[str, float], split: str) -> None:
        if self.fail:
            raise RuntimeError("the tracker is down")
        self.told.append(f"{split} {step} {sorted(metrics)}")

    @hookimpl
    def codex_collect_metrics(self, step: int) -> dict[str, float]:
        return {"toy_temperature": 20.0 + step}

    @hookimpl
    def codex_checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        self.told.append(f"saved {checkpoint.step}")

    @hookimpl
    def codex_run_finished(self, run: RunContext, outcome: Any) -> None:
        if self.fail_at_end:
            raise RuntimeError("the last upload failed")
        self.told.append(f"finished {outcome.status}")
        (run.folder / "told.txt").write_text("\n".join(self.told))
