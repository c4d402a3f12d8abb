"""The hooks of codex: what a plugin may answer, and what it may watch.

One rule: a plugin is an attrs class that the manifest names; its fields are its section of the manifest, its
`@hookimpl` methods implement some of these hooks, taking any subset of the arguments by their names.

Providers are called once, in the order of this file, in every process; the first answer that is not None counts, and an
exception ends the run (exit 7, with the plugin's name). Observers are called on rank 0 alone, in one background thread,
each guarded by itself; one that fails again and again is detached, which the run records, or ends the run where its
section says `on_error: fail`. No hook is called per token or per sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pluggy

from codex_kernel.interfaces import (
    BadRecord,
    Checkpoint,
    Checkpointer,
    CheckpointState,
    Cleaner,
    CorpusText,
    Document,
    Evaluation,
    GenerateRequest,
    Mixing,
    Model,
    Outcome,
    Parts,
    Progress,
    RunContext,
    TextPieces,
    Tokenizer,
    Trainer,
)

hookspec = pluggy.HookspecMarker("codex")
hookimpl = pluggy.HookimplMarker("codex")


class PreflightSpecs:
    """Checks before the first expensive second."""

    @hookspec
    def codex_preflight(self, base: Path, cache: Path) -> Iterable[str] | None:
        """Name what would make the run fail later: a missing file, a package that is not installed.

        Called by `codex validate`, `plan`, `run` and `resume` for every plugin of the manifest, before anything is
        built, in the launching process. It must be quick and import no heavy package (torch, transformers).

        base: the folder that relative paths of the manifest start from.
        cache: the folder shared by all runs; it may not exist yet.
        Returns one sentence per problem; None or nothing where all is well.
        """


class RehearsalSpecs:
    """A short rehearsal of a run, for `codex verify-resume`."""

    @hookspec
    def codex_shorten(self, steps: int) -> Mapping[str, object] | None:
        """Give the changes to this plugin's own section of the manifest that make a short rehearsal of the run.

        Called by `codex verify-resume` alone, for every plugin of the manifest, before anything is built, in its
        own process.

        steps: optimizer steps of the rehearsal. A trainer ends after them and reports each one; a checkpointer saves
            several times in them.
        Returns option → value, nothing else is changed; None: the section stays as it is.
        """


class DatasetSpecs:
    """`dataset:` of the manifest; entry-point group `codex.datasets`."""

    @hookspec(firstresult=True)
    def codex_dataset(
        self, run: RunContext, sources: Mapping[str, Iterable[Document | BadRecord]]
    ) -> Iterable[Document | BadRecord] | None:
        """Give the documents: first of all providers, on every rank.

        sources: name → documents of the datasets that this one is made of; empty unless it has the option `sources`,
            declared as `Sources`. Documents of one source (`Document.source`) are given one after the other.

        Returns an iterable that can be gone through more than once and gives the same documents in the same order; a
        record that cannot be read is given as a BadRecord in its place, for the kernel to refuse or to count.
        None: this plugin has none (another one may answer).
        """

    @hookspec(firstresult=True)
    def codex_mixing(self) -> Mixing | None:
        """Say in which shares the sources of the dataset are trained: after the dataset, on every rank.

        Returns None where all blocks are trained equally often.
        """


class CleanerSpecs:
    """`cleaners:` of the manifest; entry-point group `codex.cleaners`."""

    @hookspec
    def codex_cleaner(self, run: RunContext) -> Cleaner | None:
        """Give a cleaning step, anew for each pass over the documents; after the dataset, on every rank.

        The steps of a manifest are asked in its order, each for every document that those before it have kept. A step
        that reads files of its own (an evaluation set) gives an object with `fingerprint()`, a hex digest of them: the
        documents are cleaned anew when it changes. Returns None where its options leave nothing to do.
        """


class TokenizerSpecs:
    """`tokenizer:` of the manifest; entry-point group `codex.tokenizers`."""

    @hookspec(firstresult=True)
    def codex_tokenizer(
        self, run: RunContext, corpus: CorpusText | None, saved: Path | None
    ) -> Tokenizer | None:
        """Give the tokenizer: after the dataset, on every rank.

        corpus: the texts of the training split, to train a vocabulary on; None where the run only reads (generate).
        saved: a folder that `SavedTokenizer.save` filled earlier in this run, to load from; None in a new run.
        Returns None to leave the answer to another plugin.
        """


class ModelSpecs:
    """`model:` and `adapters:` of the manifest; entry-point groups `codex.models` and `codex.adapters`."""

    @hookspec(firstresult=True)
    def codex_model(self, run: RunContext, tokenizer: Tokenizer, materialize: bool) -> Model | None:  # noqa: FBT001 - pluggy passes by name
        """Give the model: after the tokenizer, on every rank, on the CPU; the trainer has seeded the random generators.

        tokenizer: for the number of embedding rows and the special ids.
        materialize: False where shapes are enough (`codex plan`): the call then stands under `torch.device("meta")`,
            so build from a configuration and read no weights. A plugin may ignore it.
        The trainer's plugin may wrap this hook too: it seeds its library's generators and sets the device.
        Returns None to leave the answer to another plugin. An adapter (LoRA, quantisation, freezing) is a
        `@hookimpl(wrapper=True)` of this hook: it yields, gets the model, and returns the changed one;
        `adapters: [quant, lora]` gives lora(quant(model)).
        """


class CheckpointerSpecs:
    """`checkpointer:` of the manifest; entry-point group `codex.checkpointers`."""

    @hookspec(firstresult=True)
    def codex_checkpointer(
        self,
        run: RunContext,
        folder: Path,
        read_only: bool,  # noqa: FBT001 - pluggy passes by name
    ) -> Checkpointer | None:
        """Give the checkpointer: after the model, on every rank.

        folder: where checkpoints belong, inside the run's folder; it may not exist yet.
        read_only: True where a run is only read (`codex generate`, `codex plan`): another process may be saving there,
            so nothing in the folder may be changed.
        Returns None to leave the answer to another plugin.
        """


class TrainerSpecs:
    """`trainer:` of the manifest; entry-point group `codex.trainers`."""

    @hookspec(firstresult=True)
    def codex_trainer(self, run: RunContext, parts: Parts) -> Trainer | None:
        """Give the trainer: last of all providers, on every rank.

        parts: everything built before. A trainer that also satisfies `Estimates` serves `codex plan`.
        Returns None to leave the answer to another plugin.
        """

    @hookspec(firstresult=True)
    def codex_generate(
        self,
        run: RunContext,
        model: Model,
        tokenizer: Tokenizer,
        state: CheckpointState,
        request: GenerateRequest,
    ) -> TextPieces | None:
        """Continue a prompt with the model of a checkpoint; called by `codex generate` alone, in its one process.

        The adapters' plugins are asked first, then the model's, then the trainer's.
        model, tokenizer: as the run built them. state: the checkpoint; its model part is not yet in `model`.
        request: the prompt and how to sample.
        Returns an iterator over pieces of text, without the prompt; None: this plugin cannot generate.
        """


class MetricSpecs:
    """`evaluate.metrics:` of the manifest; entry-point group `codex.metrics`."""

    @hookspec
    def codex_metric(self, evaluation: Evaluation) -> Mapping[str, float] | None:
        """Derive metrics from an evaluation: after each one, on rank 0, in the training thread.

        evaluation: sums over the validation split.
        Returns name → value, or None; two plugins giving one name is an error.
        """


class LoggerSpecs:
    """`loggers:` of the manifest; entry-point group `codex.loggers`. All are observers."""

    @hookspec
    def codex_run_started(self, run: RunContext, settings: Mapping[str, object]) -> None:
        """Once, on rank 0, before any other observer and the first provider; also when a run is resumed.

        settings: the resolved manifest, flat (`trainer.lr` → value), secrets as their references.
        """

    @hookspec
    def codex_activity(self, run: RunContext, name: str, done: float, total: float | None, unit: str) -> None:
        """Work outside the training loop goes on (reading, encoding, saving); a few times a second, on rank 0.

        name, unit: what is done, and counted in what; done, total: how far it is (total None: not known).
        """

    @hookspec
    def codex_metrics(
        self, run: RunContext, step: int, metrics: Mapping[str, float], split: str, progress: Progress
    ) -> None:
        """Each record of metrics, in order, on rank 0; one may be left out for observers that are too slow (counted).

        step: optimizer steps done. metrics: name → value (NaN and infinities are possible).
        split: `train`, `validation` or `system`. progress: where the run stands.
        """

    @hookspec
    def codex_collect_metrics(self, run: RunContext, step: int) -> Mapping[str, float] | None:
        """Asked on rank 0 after each record of the training split: give metrics of the machine, quickly.

        step: optimizer steps done.
        Returns name → value, written as split `system`; None: nothing new.
        """

    @hookspec
    def codex_event(self, run: RunContext, name: str, fields: Mapping[str, object]) -> None:
        """Each record of the run's events, on rank 0, warnings included.

        name: what happened. fields: the rest of the record; of a `warning` the text is `fields["message"]`.
        """

    @hookspec
    def codex_checkpoint_saved(self, run: RunContext, checkpoint: Checkpoint) -> None:
        """A checkpoint is safe on disk; on rank 0.

        checkpoint: its step, path, size and metrics.
        """

    @hookspec
    def codex_run_finished(self, run: RunContext, outcome: Outcome) -> None:
        """Once, on rank 0, after the last record, however the run ended; let go of resources.

        outcome: completed, stopped or failed, and the totals.
        """


PROVIDERS = (
    "codex_dataset",
    "codex_mixing",
    "codex_cleaner",
    "codex_tokenizer",
    "codex_model",
    "codex_checkpointer",
    "codex_trainer",
    "codex_generate",
)
SPECS = (
    PreflightSpecs,
    RehearsalSpecs,
    DatasetSpecs,
    CleanerSpecs,
    TokenizerSpecs,
    ModelSpecs,
    CheckpointerSpecs,
    TrainerSpecs,
    MetricSpecs,
    LoggerSpecs,
)
