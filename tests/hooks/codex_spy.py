"""A plugin of every kind that writes down each call of a hook: the toys, watched.

One rule: what a spy answers is decided by its options, so that a test can see what the answer does.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codex_toys as toys
import numpy as np
from attrs import define, evolve, frozen

from codex_kernel import Cleaned, Document, Mixing, Sources, hookimpl, option
from codex_kernel.builtin.bytes_tokenizer import Utf8Bytes


def note(hook: str, who: str, /, **what: Any) -> None:
    """Write down a call: the hook, the plugin, the thread, and what it was given."""
    if path := os.environ.get("SPY"):
        line = {"hook": hook, "who": who, "thread": threading.current_thread().name, **what}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


def of(run: Any) -> dict[str, Any]:
    """Return what a run says of itself."""
    return {"run_id": run.run_id, "folder": run.folder, "rank": run.rank, "seed": run.seed}


@frozen
class Dataset(toys.ToyDataset):
    """The toys, in two sources."""

    problems: list[str] = option(factory=list, help="What preflight finds.")
    even: float | None = option(None, help="Share of the source `even`; null: no shares.")
    empty: bool = option(default=False, help="Leave the answer to others.")

    @hookimpl
    def codex_preflight(self, base: Path, cache: Path) -> Iterator[str]:
        note("codex_preflight", "dataset", base=base, cache=cache)
        yield from self.problems

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        note("codex_shorten", "dataset", steps=steps)
        return {"copies": 2}

    @hookimpl
    def codex_dataset(self, run: Any, sources: Any) -> list[Document] | None:
        note("codex_dataset", "dataset", **of(run), sources=dict(sources))
        if self.empty:
            return None
        return [
            Document(f"{i}-{copy}", group=str(i), text=text, source="odd" if i % 2 else "even")
            for odd in (0, 1)
            for i, text in enumerate(toys.TEXTS)
            for copy in range(self.copies)
            if i % 2 == odd
        ]

    @hookimpl
    def codex_mixing(self) -> Mixing | None:
        note("codex_mixing", "dataset")
        return None if self.even is None else Mixing({"even": self.even, "odd": 1.0})


@frozen
class Made:
    """A dataset that is made of others."""

    sources: Sources = option(help="Sections.")

    @hookimpl
    def codex_dataset(self, sources: Any) -> list[Document]:
        note("codex_dataset", "made", sources={name: len(list(given)) for name, given in sources.items()})
        return [
            evolve(document, id=f"{name}:{document.id}", source=name)
            for name, given in sources.items()
            for document in given
        ]


@frozen
class Cleaner:
    """Drops the documents that have a word."""

    word: str = option("", help="The word; empty: nothing to do.")

    @hookimpl
    def codex_cleaner(self, run: Any) -> Word | None:
        note("codex_cleaner", self.word, **of(run))
        return Word(self.word) if self.word else None


@define(eq=False)
class Word:
    """The step."""

    word: str
    first: bool = True

    def clean(self, document: Document) -> Cleaned:
        if self.first:
            self.first = False
            note("clean", self.word, document=document.id)
        return Cleaned(None if self.word in document.text else document)


class Words(Utf8Bytes):
    """Bytes with files of their own."""

    def save(self, folder: Path) -> None:
        (folder / "words.txt").write_text("words")


@frozen
class Tokenizer:
    """Bytes."""

    empty: bool = option(default=False, help="Leave the answer to others.")

    @hookimpl
    def codex_tokenizer(self, run: Any, corpus: Any, saved: Path | None) -> Words | None:
        texts = None if corpus is None else len(list(corpus))
        note("codex_tokenizer", "tokenizer", **of(run), texts=texts, saved=saved)
        return None if self.empty else Words()


@frozen
class Model(toys.ToyModel):
    """A bigram table."""

    @hookimpl
    def codex_model(self, run: Any, tokenizer: Any, materialize: bool) -> toys.Bigrams:
        note("codex_model", "model", **of(run), tokenizer=type(tokenizer).__name__, materialize=materialize)
        return toys.Bigrams(np.zeros((tokenizer.vocab_size, tokenizer.vocab_size)))


@frozen
class Adapter:
    """Adds to the table."""

    name: str = option("a", help="What it is called.")

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        note("codex_model", f"{self.name} before")
        model = yield
        note(
            "codex_model",
            f"{self.name} after",
            model=type(model).__name__,
            mean=float(model.logits_VV.mean()),
        )
        return toys.Bigrams(model.logits_VV + 1)


@frozen
class Checkpointer(toys.ToyCheckpointer):
    """JSON files."""

    @hookimpl
    def codex_checkpointer(self, run: Any, folder: Path, read_only: bool) -> toys.JsonFiles:
        note("codex_checkpointer", "checkpointer", run=str(run.folder), place=folder, read_only=read_only)
        return toys.JsonFiles(self, run, folder)

    @hookimpl
    def codex_shorten(self, steps: int) -> None:
        note("codex_shorten", "checkpointer", steps=steps)


@frozen
class Trainer(toys.ToyTrainer):
    """Descent."""

    @hookimpl
    def codex_trainer(self, run: Any, parts: Any) -> toys.Descent:
        note(
            "codex_trainer",
            "trainer",
            **of(run),
            model=float(parts.model.logits_VV.mean()),
            tokenizer=type(parts.tokenizer).__name__,
            checkpointer=type(parts.checkpointer).__name__,
            blocks=len(parts.data.train),
        )
        return toys.Descent(self, run, parts)

    @hookimpl
    def codex_generate(self, run: Any, model: Any, tokenizer: Any, state: Any, request: Any) -> Iterator[str]:
        note(
            "codex_generate",
            "trainer",
            **of(run),
            model=float(model.logits_VV.mean()),
            tokenizer=type(tokenizer).__name__,
            state=sorted(state.values),
            prompt=request.prompt,
            temperature=request.temperature,
        )
        yield "one "
        yield "two"

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        note("codex_shorten", "trainer", steps=steps)
        return {"max_steps": steps}


@frozen
class Metric:
    """A number of its own."""

    name: str = option("spied", help="What the metric is called.")
    value: float = option(0.5, help="What it is.")

    @hookimpl
    def codex_metric(self, evaluation: Any) -> dict[str, float]:
        note(
            "codex_metric",
            self.name,
            tokens=evaluation.tokens,
            loss=evaluation.loss_sum,
            bytes=evaluation.bytes,
        )
        return {self.name: self.value}


@define(eq=False)
class Logger:
    """All observers."""

    name: str = option("spy", help="What it is called.")
    raises: str = option("", help="The hook that fails.")

    def note(self, hook: str, **what: Any) -> None:
        note(hook, self.name, **what)
        if self.raises == hook:
            raise RuntimeError("asked to")

    @hookimpl
    def codex_run_started(self, run: Any, settings: Any) -> None:
        self.note("codex_run_started", **of(run), settings=dict(settings))

    @hookimpl
    def codex_activity(self, run: Any, name: str, done: float, total: float | None, unit: str) -> None:
        self.note("codex_activity", run_id=run.run_id, name=name, done=done, total=total, unit=unit)

    @hookimpl
    def codex_metrics(self, run: Any, step: int, metrics: Any, split: str, progress: Any) -> None:
        values = dict(metrics)
        self.note(
            "codex_metrics", run_id=run.run_id, step=step, metrics=values, split=split, at=progress.step
        )

    @hookimpl
    def codex_collect_metrics(self, run: Any, step: int) -> dict[str, float] | None:
        self.note("codex_collect_metrics", run_id=run.run_id, step=step)
        return {f"{self.name}_heat": 20.0 + step} if step % 2 else None

    @hookimpl
    def codex_event(self, run: Any, name: str, fields: Any) -> None:
        self.note("codex_event", run_id=run.run_id, name=name, fields=dict(fields))

    @hookimpl
    def codex_checkpoint_saved(self, run: Any, checkpoint: Any) -> None:
        there = checkpoint.path.is_dir()
        self.note(
            "codex_checkpoint_saved",
            run_id=run.run_id,
            step=checkpoint.step,
            there=there,
            size=checkpoint.size_bytes,
            metrics=dict(checkpoint.metrics),
        )

    @hookimpl
    def codex_run_finished(self, run: Any, outcome: Any) -> None:
        self.note("codex_run_finished", run_id=run.run_id, status=outcome.status, steps=outcome.steps)
