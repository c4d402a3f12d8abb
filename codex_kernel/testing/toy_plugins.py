"""Plugins for a whole run without a training library: a dataset, a model and a trainer that need numpy alone.

They are small and right: the trainer passes `TrainerContract`, so that a run with them says something about the plugin
that is tested beside them.

One rule: every number follows from the manifest; nothing is read, and nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from codex_kernel.errors import InputError
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import (
    IGNORE_INDEX,
    Batch,
    CheckpointState,
    Document,
    Estimate,
    Evaluation,
    Model,
    Parts,
    Progress,
    RunContext,
    Tokenizer,
    TrainResult,
)
from codex_kernel.options import option

_WORDS = ("total", "count", "item", "value", "name", "path", "line", "node", "size", "first")


def toy_corpus(count: int = 60) -> list[Document]:
    """Return so many small Python functions, no two alike, each a document and a group of its own."""
    texts = [
        f"def {_WORDS[number % 10]}_{number}({_WORDS[number // 3 % 10]}, step={number}):\n"
        f'    """Return number {number * number}."""\n'
        f"    return {_WORDS[number // 3 % 10]} + step * {number % 7}\n"
        for number in range(count)
    ]
    return [Document(f"toy/{n}.py", f"toy/{n}.py", text, language="python") for n, text in enumerate(texts)]


@frozen
class ToyDataset:
    """Small Python functions, no two alike."""

    count: int = option(60, help="Documents.", ge=1)

    @hookimpl
    def codex_dataset(self) -> list[Document]:
        """Give the functions."""
        return toy_corpus(self.count)


@define(eq=False)
class NextToken:
    """Logits of the next token, which follow from the token before it alone: those of one row of a table."""

    table_CV: Any

    def __call__(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:  # noqa: ARG002
        """Return the row of each token."""
        return self.table_CV[input_ids_BT % len(self.table_CV)]


@frozen
class ToyModel:
    """A table with a row of logits for each token, modulo `rows`: it stays small for any vocabulary."""

    rows: int = option(32, help="Rows of the table.", ge=1)

    @hookimpl
    def codex_model(self, tokenizer: Tokenizer) -> Model:
        """Give a table of zeros, which knows nothing."""
        import numpy as np

        return NextToken(np.zeros((self.rows, tokenizer.vocab_size), dtype=np.float32))


@frozen
class ToyTrainer:
    """Gradient descent on the table of the toy model."""

    max_steps: int = option(6, help="Optimizer steps.", ge=1)
    lr: float = option(20.0, help="Learning rate.", gt=0)
    batch_size: int = option(4, help="Blocks of a step.", ge=1)

    @hookimpl
    def codex_shorten(self, steps: int) -> Mapping[str, object]:
        """Train for as many steps as a rehearsal has."""
        return {"max_steps": steps}

    @hookimpl
    def codex_trainer(self, run: RunContext, parts: Parts) -> Descent:
        """Give the loop."""
        return Descent(self, run, parts)


@define(eq=False)
class Descent:
    """The loop: a step, its record, an evaluation and a checkpoint where they are due."""

    options: ToyTrainer
    run: RunContext
    parts: Parts
    step: int = 0
    tokens: int = 0
    metrics: dict[str, float] = field(factory=dict)

    def fit(self, state: CheckpointState | None) -> TrainResult:
        """Train to the last step, or until someone asks to stop."""
        if state is not None:
            self._go_on(state)
        while self.step < self.options.max_steps:
            self._take_a_step()
            signal, ended = self.run.stop.signal_number, self.step == self.options.max_steps
            if ended or _due(self.parts.evaluate.every_steps, self.step):
                self._evaluate()
            if ended or signal is not None or self.parts.checkpointer.due(self.step):
                self._save()
            if signal is not None and not ended:
                return TrainResult(self._progress(), dict(self.metrics), "asked to stop", signal)
        return TrainResult(self._progress(), dict(self.metrics), "max_steps reached")

    def estimate(self, *, measure: bool) -> Estimate:
        """Foretell the run for `codex plan`."""
        size = int(self._table().size)
        return Estimate(
            parameters=size,
            trainable_parameters=size,
            memory_bytes={"weights": 4 * size},
            steps=self.options.max_steps,
            tokens=None,
            checkpoint_bytes=4 * size,
            seconds_per_step=0.01 if measure else None,
        )

    def _table(self) -> Any:
        model: Any = self.parts.model
        return model.table_CV

    def _progress(self) -> Progress:
        samples = self.step * self.options.batch_size
        epoch = samples / len(self.parts.data.train)
        return Progress(self.step, self.options.max_steps, epoch, self.tokens, samples)

    def _take_a_step(self) -> None:
        size = self.options.batch_size
        batch = self.parts.data.train.gather(self.parts.data.samples(self.step * size, size))
        loss_sum, tokens, gradient_CV = _loss(self._table(), batch)
        self._table()[:] -= self.options.lr * gradient_CV / max(tokens, 1)
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        self.metrics["train/loss"] = loss_sum / max(tokens, 1)
        self.run.report.metrics(self._progress(), {"loss": self.metrics["train/loss"]})

    def _evaluate(self) -> None:
        import numpy as np

        blocks, limit = self.parts.data.validation, self.parts.evaluate.max_blocks
        if blocks is None:
            return
        every = np.arange(len(blocks) if limit is None else min(limit, len(blocks)))
        loss_sum, tokens, _ = _loss(self._table(), blocks.gather(every))
        values = self.parts.evaluation_metrics(Evaluation(loss_sum, tokens, blocks.text_bytes(every)))
        self.run.report.metrics(self._progress(), values, split="validation")
        self.metrics |= {f"validation/{name}": float(value) for name, value in values.items()}

    def _save(self) -> None:
        about = {
            "step": self.step,
            "tokens": self.tokens,
            "metrics": dict(self.metrics),
            "data": self.parts.data.fingerprint,
            "report": dict(self.run.report.state_dict()),
        }
        state = CheckpointState(
            {"model/model.safetensors": {"table": self._table()}}, {"trainer.json": about}
        )
        self.parts.checkpointer.save(self.step, state, self.metrics)

    def _go_on(self, state: CheckpointState) -> None:
        about, ours = state.values["trainer.json"], self.parts.data.fingerprint
        if about["data"] != ours:
            raise InputError(
                f"the checkpoint was trained on the data {about['data']}, these are {ours}",
                remedy="go on with the data of the checkpoint, or begin another run",
            )
        self.step, self.tokens, self.metrics = about["step"], about["tokens"], dict(about["metrics"])
        self._table()[:] = state.tensors["model/model.safetensors"]["table"]
        self.run.report.load_state_dict(about["report"])


def _due(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0


def _loss(table_CV: Any, batch: Batch) -> tuple[float, int, Any]:
    """Return the summed cross-entropy in nats, the number of targets, and the gradient of the sum."""
    import numpy as np

    trained = batch.targets_BT != IGNORE_INDEX
    rows_N, targets_N = batch.input_ids_BT[trained] % len(table_CV), batch.targets_BT[trained]
    gradient_CV, loss_sum = np.zeros_like(table_CV), 0.0
    for row in np.unique(rows_N):  # all tokens of a row have the same logits
        counts_V = np.bincount(targets_N[rows_N == row], minlength=table_CV.shape[1])
        logits_V = table_CV[row].astype(np.float64)
        log_probabilities_V = logits_V - logits_V.max()
        log_probabilities_V -= np.log(np.exp(log_probabilities_V).sum())
        loss_sum -= float(counts_V @ log_probabilities_V)
        gradient_CV[row] = counts_V.sum() * np.exp(log_probabilities_V) - counts_V
    return loss_sum, len(targets_N), gradient_CV
