"""Where a tokenizer comes from, for commands that need nothing else of a run: a manifest, a run, a folder, a name.

One rule: what is opened is what a run would have; a tokenizer that is not the one its folder tells of is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import Factory, evolve, field, frozen

from codex_kernel.build import (
    build_corpus,
    build_tokenizer,
    check_same_tokenizer,
    fingerprint_of,
    load_tokenizer,
)
from codex_kernel.catalog import Catalog
from codex_kernel.data.activity import Activity
from codex_kernel.durable import beside, json_bytes, read_json, storage_errors, sync_folder, sync_tree
from codex_kernel.errors import CodexError, InputError, ManifestError, Problem
from codex_kernel.foretell import NeverStop
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import (
    CorpusText,
    Reporter,
    RunContext,
    SavedTokenizer,
    Tokenizer,
)
from codex_kernel.manifest import Section
from codex_kernel.option_types import did_you_mean
from codex_kernel.plan import Chosen, Plan, choose, preflight
from codex_kernel.runfolder import RunFolder, find, list_runs, open_run
from codex_kernel.yaml_reader import Node, read_value

RECORD = "codex-tokenizer.json"
RECORD_SCHEMA = 1
_SPEC = re.compile(
    r"(?:(?P<distribution>[A-Za-z0-9][A-Za-z0-9._-]*)/)?(?P<type>[A-Za-z0-9_-]+)(?::(?P<options>.*))?"
)
_OPTION = re.compile(r"\s*(?P<key>[A-Za-z_][A-Za-z0-9_-]*)=(?P<value>.*)", re.DOTALL)
_SEPARATOR = re.compile(r",(?![^\[]*\])")  # a comma of a list is part of the value
_MANIFEST_SUFFIXES = (".yaml", ".yml")
_KINDS = ("dataset", "cleaner", "tokenizer")


@frozen(eq=False)
class Place:
    """What a tokenizer is looked for in; a manifest is read with what is set over it, that of a run as it is."""

    base: Path
    cache: Path
    runs: Path
    report: Reporter
    read_plan: Callable[[Path], Plan]
    read_run: Callable[[Path], Plan] = field(default=Factory(lambda place: place.read_plan, takes_self=True))


@frozen(eq=False)
class Opened:
    """A tokenizer, and what made it.

    `name` is what the user called it. `texts` are those that its manifest trains on; None: it has no manifest.
    """

    name: str
    tokenizer: Tokenizer
    fingerprint: str
    made_by: Chosen
    texts: CorpusText | None = None


@contextmanager
def opened(name: str, place: Place) -> Iterator[Opened]:
    """Open the tokenizer that a user means, for as long as it is used.

    name: a manifest, a run (folder, id or name), a folder that `write_trained` made, or `TYPE[:key=value,…]`.
    Raises InputError where it is none of them, or where the tokenizer is not the one that its folder tells of.
    """
    with tempfile.TemporaryDirectory(prefix="codex-tokenizer-") as folder:
        yield _open(name, place, Path(folder))


def is_tokenizer(name: str, runs: Path) -> bool:
    """Say whether a name is more likely that of a tokenizer than that of a text file."""
    path = Path(name)
    if _is_installed(name) or path.is_dir():
        return True
    return path.suffix in _MANIFEST_SUFFIXES if path.exists() else _is_run(name, runs)


def _open(name: str, place: Place, folder: Path) -> Opened:
    path = Path(name)
    if _is_installed(name):
        return _of_spec(name, place, folder)
    if (path / "run.json").exists():
        return _of_run(name, open_run(path), place)
    if (path / RECORD).exists():
        return _of_folder(name, path, place, folder)
    if path.is_file():
        return _of_manifest(name, place.read_plan(path), place, folder)
    if not path.exists() and _is_run(name, place.runs):
        return _of_run(name, find(place.runs, name), place)
    raise _unknown(name)


def _is_installed(name: str) -> bool:
    found = _SPEC.fullmatch(name)
    return found is not None and found["type"] in Catalog.scan().names("tokenizer")


def _is_run(name: str, runs: Path) -> bool:
    return bool(name) and any(run.name == name or run.run_id.startswith(name) for run in list_runs(runs))


def _unknown(name: str) -> InputError:
    if Path(name).suffix in _MANIFEST_SUFFIXES:
        return InputError(f"{name}: no such file", remedy="codex init writes a manifest")
    known = Catalog.scan().names("tokenizer")
    meant = did_you_mean(name.partition(":")[0], known)
    return InputError(
        f"expected a manifest, a run, a folder of `codex tokenizer train` or one of {', '.join(known)}, got {name!r}",
        remedy=meant or "options follow a colon: spm:path=code.model",
    )


# ── the places ────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_manifest(name: str, plan: Plan, place: Place, folder: Path) -> Opened:
    """Train the tokenizer of a manifest, or take it from the cache, as its run would."""
    plan = _narrowed(plan)
    hooks = preflight(plan, place.base, place.cache)
    run = _context(place, folder, plan.seed)
    corpus = build_corpus(plan, hooks, run)
    tokenizer = build_tokenizer(plan, hooks, run, corpus, folder / "tokenizer")
    (chosen,) = plan.of_kind("tokenizer")
    return Opened(name, tokenizer, fingerprint_of(chosen, tokenizer), chosen, corpus.texts())


def _of_run(name: str, folder: RunFolder, place: Place) -> Opened:
    """Load the tokenizer of a run as it was saved; its texts are read only when they are asked for."""
    plan = _narrowed(place.read_run(folder.begun()))
    hooks = plan.hooks()  # no preflight: the data may be gone
    run = folder.context(plan.seed, place.cache, place.report, NeverStop(), frozenset())
    tokenizer = load_tokenizer(hooks, run, folder.tokenizer)
    check_same_tokenizer(read_json(folder.data), plan, tokenizer)
    (chosen,) = plan.of_kind("tokenizer")
    return Opened(name, tokenizer, fingerprint_of(chosen, tokenizer), chosen, _RunTexts(plan, hooks, run))


@frozen(eq=False)
class _RunTexts:
    plan: Plan
    hooks: Hooks
    run: RunContext

    def __iter__(self) -> Iterator[str]:
        yield from build_corpus(self.plan, self.hooks, self.run).texts()


def _of_folder(name: str, path: Path, place: Place, folder: Path) -> Opened:
    """Load what `codex tokenizer train` has written."""
    record = read_json(path / RECORD) or {}
    try:
        kind, options, expected = record["plugin"], record["options"], record["fingerprint"]
        node = read_value(json.dumps(options), str(path / RECORD))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / RECORD} is not as codex wrote it: it has no {error}") from error
    chosen = _chosen(
        kind, record.get("distribution"), node or Node({}, str(path / RECORD)), str(path / RECORD)
    )
    hooks = _hooks(chosen)
    tokenizer = hooks.tokenizer(_context(place, folder, record.get("seed", 0)), None, path)
    if (found := fingerprint_of(chosen, tokenizer)) != expected:
        raise InputError(
            f"{path}: the tokenizer changed since it was trained: fingerprint was {expected}, is {found}",
            remedy="bring its files back from a copy, or train it again",
        )
    return Opened(name, tokenizer, found, chosen)


def _of_spec(name: str, place: Place, folder: Path) -> Opened:
    """Make a tokenizer of its plugin's name and options alone."""
    found = _SPEC.fullmatch(name)
    if found is None:
        raise _unknown(name)
    where = f"tokenizer {name}"
    chosen = _chosen(
        found["type"], found["distribution"], _spec_options(found["options"] or "", where), where
    )
    hooks = _hooks(chosen)
    problems = [Problem(where, "", problem) for _, problem in hooks.preflight(place.base, place.cache)]
    if problems:
        raise ManifestError(problems)
    tokenizer = hooks.tokenizer(_context(place, folder, 0), None, None)
    return Opened(name, tokenizer, fingerprint_of(chosen, tokenizer), chosen)


def _spec_options(text: str, where: str) -> Node:
    """Read `key=value,key=value`; the values are YAML, as with --set."""
    options: dict[str, Node] = {}
    for item in filter(None, _SEPARATOR.split(text)):
        found = _OPTION.fullmatch(item)
        value = read_value(found["value"], where) if found else None
        if found is None or value is None:
            raise ManifestError([Problem(where, "", f"expected key=value after the colon, got {item!r}")])
        if found["key"] in options:
            raise ManifestError([Problem(where, found["key"], "given twice")])
        options[found["key"]] = value
    return Node(options, where)


def _chosen(kind: str, distribution: str | None, options: Node, where: str) -> Chosen:
    """Make the plugin of a tokenizer that no manifest names; raise ManifestError where its options are wrong."""
    problems: list[Problem] = []
    if isinstance(options.value, dict):
        options = evolve(options, value={key: one for key, one in options.value.items() if key != "type"})
    section = Section("tokenizer", kind, distribution, options, where, "$.tokenizer")
    chosen = choose(section, Catalog.scan(), problems)
    if problems or chosen is None:
        raise ManifestError(problems)
    return chosen


def _hooks(chosen: Chosen) -> Hooks:
    hooks = Hooks()
    hooks.register(chosen.plugin, str(chosen.entry))
    return hooks


def _narrowed(plan: Plan) -> Plan:
    """Leave out of a plan what neither gives texts nor is the tokenizer: it is not asked whether it could run."""
    return evolve(plan, chosen=tuple(one for one in plan.chosen if one.section.kind in _KINDS))


def _context(place: Place, folder: Path, seed: int) -> RunContext:
    return RunContext(
        run_id="tokenizer",
        name="tokenizer",
        seed=seed,
        folder=folder,
        cache=place.cache,
        base=place.base,
        report=place.report,
        stop=NeverStop(),
    )


# ── training ──────────────────────────────────────────────────────────────────────────────────────────────────────


def train(manifest: Path, output: Path, place: Place) -> dict[str, Any]:
    """Train the tokenizer of a manifest on its training split and write it into a new folder, whole or not at all.

    Returns what the folder's record says. Raises InputError where `output` is there already, or where the tokenizer is
    none that is trained; StorageError where it cannot be written.
    """
    if output.exists():
        raise InputError(f"{output} is there already", remedy="name a new folder, or delete that one")
    plan = place.read_plan(manifest)
    with tempfile.TemporaryDirectory(prefix="codex-tokenizer-") as folder:
        _require_training(plan, place, Path(folder))
        made = _of_manifest(str(manifest), plan, place, Path(folder))
    if not isinstance(made.tokenizer, SavedTokenizer):
        raise _not_trained(made.made_by, "has no vocabulary")
    record = {**_about(made, plan.seed), "corpus": _corpus_facts(made.texts or (), place.report)}
    write_trained(made.tokenizer, record, output)
    return record


def _require_training(plan: Plan, place: Place, folder: Path) -> None:
    """Raise InputError for a tokenizer that needs no corpus: it is asked to do without one."""
    plan = _narrowed(plan)
    hooks = preflight(plan, place.base, place.cache)
    try:
        tokenizer = hooks.tokenizer(_context(place, folder, plan.seed), None, None)
    except CodexError:
        return  # it is made with the corpus; whatever else is wrong is found then
    why = "reads a file" if isinstance(tokenizer, SavedTokenizer) else "has no vocabulary"
    raise _not_trained(plan.of_kind("tokenizer")[0], why)


def _not_trained(chosen: Chosen, why: str) -> InputError:
    return InputError(
        f"{chosen.entry} {why}: there is nothing to train", remedy="choose another tokenizer in the manifest"
    )


def _about(made: Opened, seed: int) -> dict[str, Any]:
    entry = made.made_by.entry
    return {
        "schema": RECORD_SCHEMA,
        "plugin": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "options": {key: value for key, value in made.made_by.resolved().items() if key != "type"},
        "seed": seed,
        "fingerprint": made.fingerprint,
        "vocab_size": made.tokenizer.vocab_size,
        "eos_id": made.tokenizer.eos_id,
    }


def _corpus_facts(texts: CorpusText, report: Reporter) -> dict[str, Any]:
    """Return a digest of the training texts, in their order, and how many there are."""
    activity = Activity(report, "digest", "texts")
    digest, count, text_bytes = hashlib.sha256(), 0, 0
    for count, text in enumerate(texts, 1):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
        text_bytes += len(data)
        activity.at(count)
    activity.end(count)
    return {"sha256": digest.hexdigest(), "texts": count, "bytes": text_bytes}


def write_trained(tokenizer: SavedTokenizer, record: Mapping[str, Any], output: Path) -> None:
    """Write a tokenizer and its record into a new folder, whole or not at all."""
    temporary = beside(output)
    with storage_errors(output):
        try:
            temporary.mkdir(parents=True)
            tokenizer.save(temporary)
            (temporary / RECORD).write_bytes(json_bytes(record, indent=2) + b"\n")
            sync_tree(temporary)
            temporary.rename(output)
            sync_folder(output.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
