"""The plugins: what their sections of a manifest hold, and the hooks that lead to the work.

One rule: no heavy import here, for `codex validate` imports this module; numpy comes in when a hook is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from codex_kernel import (
    CheckpointState,
    Estimate,
    GenerateRequest,
    InputError,
    KeepBest,
    Parts,
    PluginError,
    Probe,
    RunContext,
    TextPieces,
    Tokenizer,
    TrainResult,
    hookimpl,
    option,
    retained_steps,
)

if TYPE_CHECKING:
    from codex_ngram.checkpointer import CheckpointFolder
    from codex_ngram.model import NGrams


@frozen
class NGramModel:
    """Interpolated modified Kneser-Ney: the next token by the few tokens before it, from counts."""

    order: int = option(
        4, ge=1, on_resume="refused", help="Tokens of the longest n-gram, the predicted one included."
    )

    @hookimpl
    def codex_model(self, tokenizer: Tokenizer) -> NGrams:
        """Give a model that has counted nothing; raise InputError where its n-grams do not fit into 64 bits."""
        from codex_ngram.model import NGrams

        return NGrams(self.order, tokenizer.vocab_size)


@frozen
class NGramTrainer:
    """Counts the n-grams of each batch, once the batch has been predicted from those before it."""

    codex_capabilities: ClassVar[tuple[str, ...]] = ("resume", "generate")

    max_steps: int | None = option(None, gt=0, help="Batches to count.")
    epochs: float | None = option(
        None, gt=0, help="Passes over the training split; more than 1 learns nothing."
    )
    global_batch_size: int = option(
        64, gt=0, help="Blocks of a step; each step costs a pass over all counts."
    )
    log_every: int = option(10, gt=0, on_resume="harmless", help="Steps between records of metrics.")

    def __attrs_post_init__(self) -> None:
        if (self.max_steps is None) == (self.epochs is None):
            found = "neither" if self.epochs is None else "both"
            raise InputError(
                f"expected exactly one of max_steps and epochs, got {found}",
                remedy="set epochs: 1 for one pass over the training split",
            )

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        """End after that many steps and report each."""
        return {"max_steps": steps, "epochs": None, "log_every": 1}

    @hookimpl
    def codex_trainer(self, run: RunContext, parts: Parts) -> CountingTrainer:
        """Give the trainer; raise PluginError where the model is another than `ngram`."""
        return CountingTrainer(self, run, parts, _ngrams(parts.model))

    @hookimpl
    def codex_generate(
        self, model: Any, tokenizer: Tokenizer, state: CheckpointState, request: GenerateRequest
    ) -> TextPieces:
        """Continue a prompt."""
        from codex_ngram.generate import generate

        return generate(_ngrams(model), tokenizer, state, request)


@define(eq=False)
class CountingTrainer:
    """The trainer of one run; see `codex_kernel.Trainer`, `Estimates` and `Probes`."""

    options: NGramTrainer
    run: RunContext
    parts: Parts = field(repr=False)
    model: NGrams = field(repr=False)

    def fit(self, state: CheckpointState | None) -> TrainResult:
        """Count to the end, or to a stop request; go on from `state` where it is given."""
        from codex_ngram.training import fit

        return fit(self.options, self.run, self.parts, self.model, state)

    def estimate(self, *, measure: bool) -> Estimate:
        """Bound the n-grams by the tokens, and time a few steps on a model that is thrown away."""
        from codex_ngram.foretell import estimate

        return estimate(self.options, self.parts, self.model, measure=measure)

    def probe(self) -> Iterator[Probe]:
        """Check the model on the first batch."""
        from codex_ngram.foretell import probe

        return probe(self.options, self.parts, self.model)


@frozen
class NumpyCheckpointer:
    """Checkpoints of numpy arrays, as safetensors and JSON files, each with its SHA-256; no torch, no pickle."""

    every_steps: int | None = option(
        None, gt=0, help="Steps between checkpoints; null: only at the end, and when the run is stopped."
    )
    keep_last: int = option(2, ge=1, help="Newest checkpoints that are kept.")
    keep_best: KeepBest | None = option(None, help="Checkpoints that are kept beside them for a metric.")

    @hookimpl
    def codex_checkpointer(self, run: RunContext, folder: Path, read_only: bool) -> CheckpointFolder:  # noqa: FBT001 - the hook's signature
        """Give the checkpointer."""
        from codex_ngram.checkpointer import CheckpointFolder

        def kept(checkpoints: Any) -> frozenset[int]:
            return retained_steps(checkpoints, keep_last=self.keep_last, keep_best=self.keep_best)

        return CheckpointFolder(run, folder, kept, self.every_steps, read_only)

    @hookimpl
    def codex_shorten(self, steps: int) -> Mapping[str, object]:
        """Save five times in a rehearsal."""
        return {"every_steps": max(1, steps // 5)}


def _ngrams(model: Any) -> NGrams:
    from codex_ngram.model import NGrams

    if not isinstance(model, NGrams):
        raise PluginError(
            f"the trainer ngram counts n-grams, and the model is a {type(model).__name__}",
            remedy="set model: {type: ngram}",
        )
    return model
