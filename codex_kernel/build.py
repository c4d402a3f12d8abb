"""The order in which the parts of a run are built: dataset, tokenizer, data, model, checkpointer.

One rule: every part is built from the plan and the parts before it, and from nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from codex_kernel.data import kept
from codex_kernel.data.build import build, reopen
from codex_kernel.data.cached import TOKENIZERS
from codex_kernel.data.clean import CleaningStep
from codex_kernel.data.corpus import Corpus
from codex_kernel.data.encode import default_fingerprint
from codex_kernel.data.kept import DamagedError, FileFacts
from codex_kernel.data.store import TokenData, folder_of
from codex_kernel.durable import read_json, storage_errors, sync_folder, sync_tree
from codex_kernel.errors import CodexError, InputError, PluginError, in_words
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import (
    Evaluation,
    FingerprintedTokenizer,
    Parts,
    RunContext,
    SavedTokenizer,
    Tokenizer,
    TrainedTokenizer,
)
from codex_kernel.plan import Chosen, Plan

_TOKENIZER_FORMAT = 1
_DECIDE_DATA = ("seed", "dataset", "cleaners", "tokenizer", "data")
"""Sections of the manifest; of `data` all but how many bad records may be skipped, which decides if there is data."""
_RECORDED = {"tokenizer": str, "fingerprint": str}
"""What a run that goes on needs of its `data.json`."""
_REOPENED = {"made_of": str, "key": str, "tokenizer_saved": bool}
"""What it needs besides, to open its tokens by their key."""
_WITHOUT_RECORD = (
    "put it back, or delete it: the data is built again, and the checkpoint knows which it must be"
)
_MANY_PASSES = 4  # up to here repeated data is worth about as much as new data (arXiv:2305.16264)


@frozen(eq=False)
class Source:
    """The tokenizer and the data of a run."""

    tokenizer: Tokenizer
    tokenizer_fingerprint: str
    data: TokenData
    made_of: str
    """Digest of the sections of the manifest that decide the data."""

    def report(self) -> dict[str, Any]:
        """Return what `data.json` holds."""
        saved = isinstance(self.tokenizer, SavedTokenizer)
        return {"schema": 1, **self.data.report, "tokenizer_saved": saved, "made_of": self.made_of}


def build_source(
    plan: Plan, hooks: Hooks, run: RunContext, saved: Path, before: Mapping[str, Any] | None = None
) -> Source:
    """Read the documents, train or load the tokenizer, and encode.

    saved: where the tokenizer's files are, or will be; a run that goes on finds them there.
    before: what `recorded` says of a run that goes on. Where the manifest asks for the same data still, its tokens are
        opened by their key, whatever became of the files that they were made of; else, or None, the dataset is read.
    """
    made_of = _made_of(plan)
    if before is not None and before.get("made_of") == made_of:
        source = _of_before(plan, hooks, run, saved, before)
        if source is not None:
            return source
    corpus = build_corpus(plan, hooks, run)
    tokenizer = build_tokenizer(plan, hooks, run, corpus, saved)
    fingerprint = tokenizer_fingerprint(plan, tokenizer)
    data = build(corpus, tokenizer, tokenizer_fingerprint=fingerprint)
    return Source(tokenizer, fingerprint, _mixed(data, hooks, run), made_of)


def recorded(path: Path) -> dict[str, Any] | None:
    """Return what the `data.json` of a run says, None where it has none; raise InputError where it is damaged."""
    try:
        about = read_json(path)
    except InputError as error:
        raise InputError(error.message, remedy=_WITHOUT_RECORD) from error
    if about is None:
        return None
    kinds = _RECORDED | (_REOPENED if "made_of" in about else {})
    wrong = [name for name, kind in kinds.items() if not isinstance(about.get(name), kind)]
    if wrong:
        raise InputError(
            f"{path} is not as codex wrote it: {', '.join(wrong)} missing, or no {kinds[wrong[0]].__name__}",
            remedy=_WITHOUT_RECORD,
        )
    return about


def settled(plan: Plan, record: Path, saved: Path, cache: Path) -> frozenset[str]:
    """Return the kinds of plugins whose files a run that goes on does not need: its tokens are in the cache.

    record: the run's `data.json`; saved: where the files of its tokenizer would be.
    """
    about = recorded(record)
    if about is None or about.get("made_of") != _made_of(plan):
        return frozenset()
    if not folder_of(cache, about["key"]).is_dir() or (about["tokenizer_saved"] and not saved.is_dir()):
        return frozenset()
    return frozenset({"dataset", "cleaner"} | ({"tokenizer"} if about["tokenizer_saved"] else set()))


def build_corpus(plan: Plan, hooks: Hooks, run: RunContext) -> Corpus:
    """Read the dataset once, and return its cleaned documents, which are made when they are needed."""
    return Corpus.of(
        hooks.dataset(run),
        plan.data,
        seed=plan.seed,
        make_steps=lambda: _cleaning_steps(plan, hooks, run),
        cache=run.cache,
        report=run.report,
    )


def _of_before(
    plan: Plan, hooks: Hooks, run: RunContext, saved: Path, before: Mapping[str, Any]
) -> Source | None:
    """Open what a run had before; None where the tokens are gone or damaged."""
    if before["tokenizer_saved"] and not saved.is_dir():
        return None
    tokenizer = load_tokenizer(hooks, run, saved)
    check_same_tokenizer(before, plan, tokenizer)
    data = reopen(run.cache, before["key"], run.report)
    if data is None:
        return None
    return Source(tokenizer, before["tokenizer"], _mixed(data, hooks, run), before["made_of"])


def _mixed(data: TokenData, hooks: Hooks, run: RunContext) -> TokenData:
    """Put the data in the order that the dataset asks for, and say how often it goes through each source."""
    mixing = hooks.mixing()
    if mixing is None:
        return data
    mixture = data.mixture_of(mixing)
    for entry in mixture.entries:
        passes = mixture.passes(entry)
        run.report.event("mixture", from_sample=entry.start, passes=passes)
        often = [f"{name!r} {times:.1f} times" for name, times in passes.items() if times > _MANY_PASSES]
        if often:
            run.report.warning(
                f"the weights of the mixture from sample {entry.start:,} on repeat {', '.join(often)} in as many "
                "samples as all sources have together"
            )
    return data.mixed(mixture)


def _made_of(plan: Plan) -> str:
    sections = {name: plan.resolved()[name] for name in _DECIDE_DATA}
    data = {name: value for name, value in sections["data"].items() if name != "skip_bad"}
    return kept.digest(**{**sections, "data": data})


def _cleaning_steps(plan: Plan, hooks: Hooks, run: RunContext) -> list[CleaningStep]:
    """Make the cleaning steps of a pass, each with all that decides what it does."""
    chosen = {id(one.plugin): one for one in plan.of_kind("cleaner")}
    steps = []
    for plugin, cleaner in hooks.cleaner(run):
        section = chosen[id(plugin)]
        files = getattr(cleaner, "fingerprint", None)
        description = [
            section.entry.distribution,
            section.entry.version,
            section.resolved(),
            files() if files else "",
        ]
        steps.append(CleaningStep(section.section.type, json.dumps(description, sort_keys=True), cleaner))
    return steps


# ── tokenizer ─────────────────────────────────────────────────────────────────────────────────────────────────────


def build_tokenizer(plan: Plan, hooks: Hooks, run: RunContext, corpus: Corpus, saved: Path) -> Tokenizer:
    """Load the run's tokenizer where it was saved before; else make it, and save it with the run.

    One that the corpus and its options alone decide is kept in the cache too, and taken from there.
    """
    if saved.is_dir():
        return hooks.tokenizer(run, corpus.texts(), saved)
    folder = run.cache / TOKENIZERS / _tokenizer_key(plan, corpus)
    with kept.locked(folder, run.report):
        if _copy_kept(folder, saved, run):
            run.report.event("tokenizer_reused", key=folder.name)
            return hooks.tokenizer(run, corpus.texts(), saved)
        tokenizer = hooks.tokenizer(run, corpus.texts(), None)
        if isinstance(tokenizer, SavedTokenizer):
            with _blaming(plan.of_kind("tokenizer")[0], "save"):
                _save(tokenizer, saved)
        if isinstance(tokenizer, TrainedTokenizer) and tokenizer.trained:
            _keep(saved, folder)
    return tokenizer


def load_tokenizer(hooks: Hooks, run: RunContext, saved: Path) -> Tokenizer:
    """Return the tokenizer of a run that is only read: from its files, or from its options where it has none."""
    return hooks.tokenizer(run, None, saved if saved.is_dir() else None)


def tokenizer_fingerprint(plan: Plan, tokenizer: Tokenizer) -> str:
    """Return the tokenizer's own fingerprint, or one of its options and of what it does to a fixed text."""
    return fingerprint_of(plan.of_kind("tokenizer")[0], tokenizer)


def fingerprint_of(chosen: Chosen, tokenizer: Tokenizer) -> str:
    """Return the same, of a tokenizer and the plugin that made it."""
    if isinstance(tokenizer, FingerprintedTokenizer):
        with _blaming(chosen, "fingerprint"):
            return str(tokenizer.fingerprint())
    return default_fingerprint(
        tokenizer, f"{chosen.entry.distribution} {chosen.entry.version} {chosen.resolved()}"
    )


@contextmanager
def _blaming(chosen: Chosen, method: str) -> Iterator[None]:
    """Turn an error of a plugin's own into a PluginError that names it."""
    try:
        yield
    except CodexError:
        raise
    except Exception as error:
        raise PluginError(
            f"{chosen.entry} failed in {method}: {in_words(error)}",
            remedy="--debug shows the traceback",
        ) from error


def _save(tokenizer: SavedTokenizer, saved: Path) -> None:
    temporary = saved.with_name(f".tmp-{saved.name}")
    with storage_errors(saved):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tokenizer.save(temporary)
        sync_tree(temporary)
        temporary.rename(saved)
        sync_folder(saved.parent)


def _tokenizer_key(plan: Plan, corpus: Corpus) -> str:
    chosen = plan.of_kind("tokenizer")[0]
    made_by = [chosen.entry.distribution, chosen.entry.version, chosen.resolved()]
    return kept.digest(format=_TOKENIZER_FORMAT, corpus=corpus.key, made_by=made_by, seed=plan.seed)


def _copy_kept(folder: Path, saved: Path, run: RunContext) -> bool:
    """Give the run a copy of a tokenizer that was trained before; say whether there was one."""
    try:
        meta = kept.read_meta(folder, folder.name, _TOKENIZER_FORMAT)
    except FileNotFoundError:
        return False
    except DamagedError as damage:
        run.report.warning(f"{folder}: the tokenizer kept there is damaged and is trained anew ({damage})")
        kept.set_aside(folder)
        return False
    temporary = saved.with_name(f".tmp-{saved.name}")
    with storage_errors(saved):
        shutil.rmtree(temporary, ignore_errors=True)
        for name in meta["files"]:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, temporary / name)
        sync_tree(temporary)
        temporary.rename(saved)
        sync_folder(saved.parent)
    return True


def _keep(saved: Path, folder: Path) -> None:
    """Put a copy of a trained tokenizer into the cache."""
    with kept.storage(folder.parent), kept.temporary_folder(folder) as temporary:
        files = {}
        for path in sorted(path for path in saved.rglob("*") if path.is_file()):
            name = path.relative_to(saved).as_posix()
            data = path.read_bytes()
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(data)
            files[name] = FileFacts(len(data), hashlib.sha256(data).hexdigest())
        sync_tree(temporary)
        kept.commit(temporary, folder, folder.name, _TOKENIZER_FORMAT, files, {})


# ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────


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


def check_same_data(before: Mapping[str, Any] | None, source: Source) -> None:
    """Raise InputError where a resumed run would go on with other data or another tokenizer than it began with."""
    if before is None:
        return
    # The tokenizer first: where it is another one, so is the data.
    _refuse_another("tokenizer", before["tokenizer"], source.tokenizer_fingerprint)
    _refuse_another("data", before["fingerprint"], source.data.fingerprint)


def check_same_tokenizer(before: Mapping[str, Any] | None, plan: Plan, tokenizer: Tokenizer) -> None:
    """Raise InputError where a run's tokenizer is not the one that it began with, by what `data.json` says."""
    if before is not None:
        _refuse_another("tokenizer", before["tokenizer"], tokenizer_fingerprint(plan, tokenizer))


def _refuse_another(what: str, old: str, new: str) -> None:
    if old != new:
        raise InputError(
            f"the {what} changed since the run began: fingerprint was {old}, is {new}",
            remedy=f"put the {what} back, or start a new run",
        )
