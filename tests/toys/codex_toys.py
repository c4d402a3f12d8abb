"""A whole set of plugins without torch: a bigram model trained by gradient descent in numpy.

One rule: each is as small as a plugin of its kind can be and still does its work, so that the kernel is tested with
something real.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from attrs import define, field, frozen

from codex_kernel import (
    IGNORE_INDEX,
    Checkpoint,
    CheckpointState,
    Damaged,
    Document,
    Estimate,
    Evaluation,
    GenerateRequest,
    InputError,
    NoCheckpointError,
    Parts,
    Probe,
    Progress,
    RunContext,
    StorageError,
    TrainResult,
    hookimpl,
    option,
    retained_steps,
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
    forgets: Literal["nothing", "weights", "records"] = option(
        "nothing", help="What is not put back on resume: a fault for tests to find."
    )

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        return {"max_steps": steps}

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
            self._check_lr(state.values["trainer.json"]["lr"])
            first = state.values["trainer.json"]["step"]
            tokens_before = state.values["trainer.json"]["tokens"]
            if self.options.forgets != "weights":
                self.parts.model.logits_VV[:] = state.values["model/table.json"]
            if self.options.forgets != "records":
                self.run.report.load_state_dict(state.values["trainer.json"]["report"])
        epoch = first * 8 / len(self.parts.data.train)
        progress = Progress(first, self.options.max_steps, epoch, tokens_before, first * 8)
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
                self._save(progress, metrics)
            if self.run.stop.signal_number:
                return TrainResult(progress, metrics, "asked to stop", self.run.stop.signal_number)
        if self.parts.data.validation is not None and progress.step:
            metrics |= self._evaluate(progress)
        self._save(progress, metrics)
        return TrainResult(
            progress, {name: np.float32(value) for name, value in metrics.items()}, "max_steps reached"
        )

    def _check_lr(self, saved: float) -> None:
        if saved != self.options.lr and "trainer.lr" not in self.run.allowed_changes:
            raise InputError(
                f"trainer.lr: the checkpoint was saved with {saved}, now it is {self.options.lr}"
            )

    def _update(self, samples: Any) -> tuple[float, int]:
        batch = self.parts.data.train.gather(samples)
        loss, tokens, gradient_VV = _loss(self.parts.model.logits_VV, batch)
        self.parts.model.logits_VV -= self.options.lr * gradient_VV / tokens
        return loss / tokens, tokens

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        blocks = self.parts.data.validation
        assert blocks is not None
        every = np.arange(len(blocks))
        loss, tokens, _ = _loss(self.parts.model.logits_VV, blocks.gather(every))
        size = blocks.text_bytes(every)
        values = self.parts.evaluation_metrics(Evaluation(loss, tokens, size))
        self.run.report.metrics(progress, values, split="validation")
        return {f"validation/{name}": value for name, value in values.items()}

    def _save(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        values = {
            "trainer.json": {
                "step": progress.step,
                "tokens": progress.tokens,
                "lr": self.options.lr,
                "report": dict(self.run.report.state_dict()),
            },
            "model/table.json": self.parts.model.logits_VV.tolist(),
        }
        self.parts.checkpointer.save(progress.step, CheckpointState({}, values), metrics)

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

    def probe(self) -> Iterator[Probe]:
        table_VV, tokenizer = self.parts.model.logits_VV, self.parts.tokenizer
        yield Probe(
            "vocabulary", len(table_VV) >= tokenizer.vocab_size, f"the table has {len(table_VV)} rows"
        )
        yield Probe("dropout", None, "a table has none")
        batch = self.parts.data.train.gather(self.parts.data.samples(0, 8))
        loss, tokens, gradient_VV = _loss(table_VV, batch)
        after, _, _ = _loss(table_VV - self.options.lr * gradient_VV / tokens, batch)
        found = f"a step changes the loss from {loss / tokens:.3f} to {after / tokens:.3f}"
        yield Probe("step", after < loss, f"{found}; trainer.lr decides that")


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
    """Two JSON files a checkpoint: the state, and its digest with the metrics; it deletes none by itself."""

    every_steps: int | None = option(None, help="Steps between checkpoints.", gt=0)
    keep_last: int = option(100, help="Checkpoints that `codex checkpoints prune` keeps.", ge=1)

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        return {"every_steps": max(1, steps // 5)}

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path) -> JsonFiles:
        return JsonFiles(self, run, folder)


@define(eq=False)
class JsonFiles:
    """The files; satisfies `CheckpointArchive` too."""

    options: ToyCheckpointer
    run: RunContext
    folder: Path

    def due(self, step: int) -> bool:
        return self.options.every_steps is not None and step % self.options.every_steps == 0

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None:
        path, temporary = self.folder / f"step-{step:08d}", self.folder / f".tmp-{step:08d}"
        text = json.dumps(state.values)
        digest = hashlib.sha256(text.encode()).hexdigest()
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            (temporary / "state.json").write_text(text)
            about = {"sha256": digest, "metrics": {name: float(value) for name, value in metrics.items()}}
            (temporary / "about.json").write_text(json.dumps(about))
            if path.exists():
                self.delete(path)
            temporary.rename(path)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self.run.report.checkpoint_saved(Checkpoint(step, path, dict(metrics), len(text)))

    def newest(self) -> Checkpoint | None:
        for checkpoint in reversed(self.checkpoints()[0]):
            if not (faults := self.verify(checkpoint)):
                return checkpoint
            self.run.report.warning(f"checkpoint {checkpoint.path.name} is damaged: {faults[0]}")
        return None

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        return CheckpointState({}, json.loads((checkpoint.path / "state.json").read_text()))

    def close(self) -> None:
        pass

    def checkpoints(self) -> tuple[Sequence[Checkpoint], Sequence[Damaged]]:
        known, damaged = [], []
        for path in sorted(self.folder.glob("step-*")):
            try:
                metrics = json.loads((path / "about.json").read_text())["metrics"]
                size = (path / "state.json").stat().st_size
            except (OSError, ValueError) as error:
                damaged.append(Damaged(path, f"{type(error).__name__} in {path.name}"))
            else:
                known.append(Checkpoint(int(path.name[5:]), path, metrics, size))
        return known, damaged

    def verify(self, checkpoint: Checkpoint) -> Sequence[str]:
        digest = hashlib.sha256((checkpoint.path / "state.json").read_bytes()).hexdigest()
        about = json.loads((checkpoint.path / "about.json").read_text())
        return [] if digest == about["sha256"] else ["state.json: not the file that was saved"]

    def files(self, checkpoint: Checkpoint) -> Mapping[str, int]:
        return {"state.json": (checkpoint.path / "state.json").stat().st_size}

    def kept(self, checkpoints: Sequence[Checkpoint]) -> frozenset[int]:
        return retained_steps(checkpoints, keep_last=self.options.keep_last)

    def delete(self, path: Path) -> None:
        trash = path.with_name(f".trash-{path.name}")
        shutil.rmtree(trash, ignore_errors=True)
        path.rename(trash)
        shutil.rmtree(trash)

    def export(self, checkpoint: Checkpoint, folder: Path) -> None:
        if faults := self.verify(checkpoint):
            raise NoCheckpointError(f"{checkpoint.path} is damaged: {faults[0]}")
        table = self.load(checkpoint).values["model/table.json"]
        (folder / "table.json").write_text(json.dumps(table))


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
