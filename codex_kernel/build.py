"""The order in which the parts of a run are built: dataset, tokenizer, data, model, checkpointer.

One rule: every part is built from the plan and the parts before it, and from nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from codex_kernel.data.build import build
from codex_kernel.data.encode import default_fingerprint
from codex_kernel.data.select import train_texts
from codex_kernel.data.store import TokenData
from codex_kernel.durable import storage_errors, sync_folder, sync_tree
from codex_kernel.errors import InputError
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import (
    Evaluation,
    Parts,
    RunContext,
    SavedTokenizer,
    Tokenizer,
)
from codex_kernel.plan import Plan


@frozen(eq=False)
class Source:
    """The tokenizer and the data of a run."""

    tokenizer: Tokenizer
    tokenizer_fingerprint: str
    data: TokenData


def build_source(plan: Plan, hooks: Hooks, run: RunContext, saved: Path) -> Source:
    """Read the documents, train or load the tokenizer, and encode.

    saved: where the tokenizer's files are, or will be; a run that goes on finds them there.
    """
    options, seed = plan.data, plan.seed
    documents = hooks.dataset(run)
    corpus = train_texts(documents, options, seed=seed)
    tokenizer = build_tokenizer(hooks, run, corpus, saved)
    fingerprint = tokenizer_fingerprint(plan, tokenizer)
    data = build(
        documents,
        tokenizer,
        options,
        seed=seed,
        cache=run.cache,
        tokenizer_fingerprint=fingerprint,
        report=run.report,
    )
    return Source(tokenizer, fingerprint, data)


def build_tokenizer(hooks: Hooks, run: RunContext, corpus: Iterable[str] | None, saved: Path) -> Tokenizer:
    """Load the run's tokenizer where it was saved before; else make it, and save it with the run."""
    if saved.is_dir():
        return hooks.tokenizer(run, corpus, saved)
    tokenizer = hooks.tokenizer(run, corpus, None)
    if isinstance(tokenizer, SavedTokenizer):
        temporary = saved.with_name(f".tmp-{saved.name}")
        with storage_errors(saved):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            tokenizer.save(temporary)
            sync_tree(temporary)
            temporary.rename(saved)
            sync_folder(saved.parent)
    return tokenizer


def tokenizer_fingerprint(plan: Plan, tokenizer: Tokenizer) -> str:
    """Return the tokenizer's own fingerprint, or one of its options and of what it does to a fixed text."""
    if isinstance(tokenizer, SavedTokenizer):
        return tokenizer.fingerprint()
    chosen = plan.of_kind("tokenizer")[0]
    return default_fingerprint(
        tokenizer, f"{chosen.entry.distribution} {chosen.entry.version} {chosen.resolved()}"
    )


def build_parts(  # noqa: PLR0913 - what is built, from what, where to, and for what
    plan: Plan,
    hooks: Hooks,
    run: RunContext,
    source: Source,
    checkpoints: Path,
    *,
    materialize: bool,
    read_only: bool = False,
) -> Parts:
    """Build the model and the checkpointer, and put everything together for the trainer.

    Without `materialize` (a plan that measures nothing) the model has shapes and no weights.
    """
    run.report.activity("build model", 0, 1)  # imports of its library included, often the longest wait of all
    model = hooks.model(run, source.tokenizer, materialize=materialize)
    run.report.activity("build model", 1, 1)
    checkpointer = hooks.checkpointer(run, checkpoints, read_only=read_only)

    def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
        return {"loss": evaluation.loss_sum / evaluation.tokens, **hooks.metric(evaluation)}

    return Parts(
        tokenizer=source.tokenizer,
        data=source.data,
        model=model,
        checkpointer=checkpointer,
        evaluate=plan.evaluate,
        evaluation_metrics=evaluation_metrics,
    )


def check_same_data(before: dict[str, object] | None, source: Source) -> None:
    """Raise InputError where a resumed run would go on with other data or another tokenizer than it began with."""
    if before is None:
        return
    pairs = (
        ("data", before["fingerprint"], source.data.fingerprint),
        ("tokenizer", before["tokenizer"], source.tokenizer_fingerprint),
    )
    for what, old, new in pairs:
        if old != new:
            raise InputError(
                f"the {what} changed since the run began: fingerprint was {old}, is {new}",
                remedy=f"put the {what} back, or start a new run",
            )
