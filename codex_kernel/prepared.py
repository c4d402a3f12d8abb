"""The data of a manifest, a run or a kept token store, for commands that look at data and train nothing.

One rule: what is looked at is what a run has, or would have: the same documents, tokenizer, options and seed. A run, or
a store that is there already, is read and never changed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from codex_kernel.build import (
    build_corpus,
    build_source,
    build_tokenizer,
    check_same_tokenizer,
    load_tokenizer,
)
from codex_kernel.data import corpus as corpora
from codex_kernel.data import store
from codex_kernel.data.check import Checked, Lengths, check, lengths
from codex_kernel.data.corpus import StoredCorpus
from codex_kernel.data.kept import DamagedError
from codex_kernel.data.store import TokenData
from codex_kernel.durable import read_json
from codex_kernel.errors import InputError, StorageError
from codex_kernel.foretell import NeverStop
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import RunContext, Tokenizer
from codex_kernel.plan import Plan, preflight
from codex_kernel.runfolder import RunFolder, find, open_run
from codex_kernel.tokenizers import Place

_KINDS = ("dataset", "cleaner", "tokenizer")
_KEY = re.compile(r"[0-9a-f]{4,64}")


@frozen(eq=False)
class Prepared:
    """Blocks of tokens, the folder they lie in, and the tokenizer that made them; None: only the store is known."""

    name: str
    folder: Path
    data: TokenData
    tokenizer: Tokenizer | None

    def corpus(self, cache: Path) -> StoredCorpus | None:
        """Return the documents that the tokens were made of; None where they are gone from the cache, or damaged."""
        key = self.data.report["corpus"]
        try:
            return corpora.read(cache / corpora.FOLDER / key, key)
        except (FileNotFoundError, DamagedError):
            return None


@contextmanager
def opened(name: str, place: Place) -> Iterator[Prepared]:
    """Open the data that a user means, for as long as it is looked at; that of a manifest is built if need be.

    name: a manifest, a run (folder, id or name), or the key of a token store, or the start of one.
    Raises InputError where it is none of them or a run's tokens are gone, StorageError where they are damaged.
    """
    path = Path(name)
    if path.is_file():
        with built(place.read_plan(path), place) as prepared:
            yield prepared
    elif (path / "run.json").exists():
        yield _of_run(name, open_run(path), place)
    elif keys := _keys(name, place.cache):
        yield _of_key(name, keys, place)
    else:
        yield _of_run(name, _found(name, place), place)


@contextmanager
def built(plan: Plan, place: Place) -> Iterator[Prepared]:
    """Build the data of a plan, or find it in the cache, as its run would."""
    with _context(plan, place) as (hooks, run):
        source = build_source(plan, hooks, run, run.folder / "tokenizer")
        key = source.data.report["key"]
        yield Prepared(plan.name, store.folder_of(place.cache, key), source.data, source.tokenizer)


def checked(plan: Plan, place: Place, limit: int) -> Checked:
    """Read all records of a plan's dataset and say what is wrong with them, naming up to `limit` of each kind."""
    with _context(plan, place) as (hooks, run):
        return check(hooks.dataset(run), limit, run.report)


def measured(plan: Plan, place: Place, limit: int) -> Lengths:
    """Encode the documents of a plan, after cleaning, and say which of them do not fit; no tokens are kept."""
    with _context(plan, place) as (hooks, run):
        corpus = build_corpus(plan, hooks, run)
        tokenizer = build_tokenizer(plan, hooks, run, corpus, run.folder / "tokenizer")
        return lengths(corpus.stored(), tokenizer, plan.data, plan.seed, limit, run.report)


@contextmanager
def _context(plan: Plan, place: Place) -> Iterator[tuple[Hooks, RunContext]]:
    """Give the hooks that make the data of a plan, and a run; what else it names need not be able to run."""
    narrowed = evolve(plan, chosen=tuple(one for one in plan.chosen if one.section.kind in _KINDS))
    hooks = preflight(narrowed, place.base, place.cache)
    with tempfile.TemporaryDirectory(prefix="codex-data-") as folder:
        run = RunContext(
            run_id="data",
            name=plan.name,
            seed=plan.seed,
            folder=Path(folder),
            cache=place.cache,
            base=place.base,
            report=place.report,
            stop=NeverStop(),
        )
        yield hooks, run


# ── what is there already ─────────────────────────────────────────────────────────────────────────────────────────


def _of_run(name: str, folder: RunFolder, place: Place) -> Prepared:
    about = read_json(folder.data)
    if about is None:
        raise InputError(f"{folder.path} has no {folder.data.name}: the run ended before its data was there")
    plan = place.read_run(folder.begun())
    run = folder.context(plan.seed, place.cache, place.report, NeverStop(), frozenset())
    hooks = plan.hooks()
    tokenizer = load_tokenizer(hooks, run, folder.tokenizer)
    check_same_tokenizer(about, plan, tokenizer)
    found = _read(name, _key_of(about, folder), place, tokenizer, again=str(folder.resolved))
    mixing = hooks.mixing()
    return found if mixing is None else evolve(found, data=found.data.mixed(found.data.mixture_of(mixing)))


def _key_of(about: dict[str, Any], folder: RunFolder) -> str:
    key = about.get("key")
    if isinstance(key, str) and _KEY.fullmatch(key):
        return key
    raise InputError(f"{folder.data} names no token store: expected a key, got {key!r}")


def _of_key(name: str, keys: list[str], place: Place) -> Prepared:
    if len(keys) > 1:
        raise InputError(f"{name!r} is the start of {len(keys)} keys", remedy="write more of it")
    return _read(name, keys[0], place, None, again="MANIFEST")


def _read(name: str, key: str, place: Place, tokenizer: Tokenizer | None, *, again: str) -> Prepared:
    folder = store.folder_of(place.cache, key)
    remedy = f"codex data build {again} makes them again"
    try:
        return Prepared(name, folder, store.read(folder, key), tokenizer)
    except FileNotFoundError:
        raise InputError(f"{name}: its tokens are not in the cache: no {folder}", remedy=remedy) from None
    except DamagedError as damage:
        raise StorageError(
            f"{folder}: the tokens kept there are damaged: {damage}", remedy=remedy
        ) from damage


def _keys(name: str, cache: Path) -> list[str]:
    folder = cache / store.FOLDER
    if not _KEY.fullmatch(name) or not folder.is_dir():
        return []
    return sorted(path.name for path in folder.glob(f"{name}*") if path.is_dir() and not path.suffix)


def _found(name: str, place: Place) -> RunFolder:
    if Path(name).suffix in {".yaml", ".yml"}:
        raise InputError(f"{name}: no such file", remedy="codex init writes a manifest")
    try:
        return find(place.runs, name)
    except InputError as error:
        raise InputError(
            f"{error.message}; nor a manifest, nor the key of a token store in {place.cache / store.FOLDER}",
            remedy="codex data prune --dry-run lists the keys, codex runs list the runs",
        ) from error
