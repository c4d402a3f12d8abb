"""The manifest: which plugins a run uses, and the options that are the kernel's own.

One rule: it names plugins and holds their options as they were written; what an option means only its plugin knows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from attrs import evolve, field, frozen

from codex_kernel import overrides, requirements
from codex_kernel.data.options import DataOptions
from codex_kernel.errors import ManifestError, Problem
from codex_kernel.interfaces import EvaluateOptions
from codex_kernel.option_types import did_you_mean
from codex_kernel.options import option
from codex_kernel.overrides import KERNEL_KEYS, SECTIONS
from codex_kernel.requirements import PluginsOptions
from codex_kernel.structure import structure, unstructure
from codex_kernel.yaml_reader import Node, child_path, in_file_order, read, shown
from codex_kernel.yaml_text import read_bytes

if TYPE_CHECKING:
    from codex_kernel.catalog import Catalog

T = TypeVar("T")

DEFAULT_CHECKPOINTER = "safetensors"
DEFAULT_LOGGERS = ("console",)
DEFAULT_METRICS = ("perplexity", "bits-per-byte")

PLUGIN_NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
DISTRIBUTION_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PYTHON_PATH = re.compile(r"[\w./\\-]*\w[.:]\w+|[\w./\\-]+:\w+")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Names that Windows keeps for devices, with or without an extension.
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@frozen
class Section:
    """A plugin that the manifest asks for.

    `distribution` is None unless the type was written `distribution/name`. `options` holds the plugin's own keys alone.
    `on_error` says what happens when a logger fails again and again; `where` and `path` are for messages.
    """

    kind: str
    type: str
    distribution: str | None
    options: Node
    where: str
    path: str
    on_error: Literal["detach", "fail"] = "detach"

    @property
    def full_type(self) -> str:
        """The type as the manifest may write it: `name` or `distribution/name`."""
        return f"{self.distribution}/{self.type}" if self.distribution else self.type


@frozen
class Evaluate:
    """The manifest's `evaluate:` section; `every_steps` None: only at the end, `max_blocks` None: all blocks."""

    every_steps: int | None
    max_blocks: int | None
    metrics: tuple[Section, ...]

    @property
    def options(self) -> EvaluateOptions:
        """What a trainer is told of it."""
        return EvaluateOptions(every_steps=self.every_steps, max_blocks=self.max_blocks)


@frozen
class Manifest:
    """A whole manifest, its overrides applied, its plugins not yet looked for.

    Without problems, only `cleaners`, `adapters` and `loggers` may be empty; a field is None where its section is
    missing or wrong, which then is among the problems. `root` is the tree it was made from, `text` the file as it was
    read, without overrides.
    """

    name: str | None
    seed: int
    plugins: PluginsOptions | None
    dataset: Section | None
    cleaners: tuple[Section, ...]
    tokenizer: Section | None
    model: Section | None
    adapters: tuple[Section, ...]
    trainer: Section | None
    data: DataOptions | None
    checkpointer: Section | None
    loggers: tuple[Section, ...]
    evaluate: Evaluate | None
    root: Node = field(repr=False)
    text: bytes = field(repr=False, eq=False)

    def decide(self, catalog: Catalog, problems: list[Problem]) -> Catalog:
        """Return what its `plugins:` leaves of a catalog.

        Where a distribution that it needs is missing, raise ManifestError with `problems` and that: nothing may be
        imported then.
        """
        before = len(problems)
        section = _child(self.root, "plugins")
        left = requirements.decide(section, catalog, problems) if section else catalog
        if len(problems) > before:
            raise ManifestError(in_file_order(problems))
        return left

    def sections(self) -> Iterator[Section]:
        """Yield the plugins, in the order in which a run calls for them."""
        yield from (self.dataset,) if self.dataset else ()
        yield from self.cleaners
        yield from (section for section in (self.tokenizer, self.model) if section)
        yield from self.adapters
        yield from (section for section in (self.checkpointer, self.trainer) if section)
        yield from self.evaluate.metrics if self.evaluate else ()
        yield from self.loggers


def load(
    path: Path,
    override_files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    problems: list[Problem] | None = None,
) -> Manifest:
    """Read a manifest with its overrides: file < override files, in order < `sets`, in order.

    What is wrong is added to `problems`, or raised as ManifestError where that is None. A file that is not YAML is
    raised always, with the faults of all files.
    """
    found: list[Problem] = []
    texts, roots = [], []
    for text, tree in _read_files((path, *override_files), found):
        texts.append(text)
        roots.append(tree)
    parsed = list(_parse_sets(sets, found))
    if len(roots) <= len(override_files):
        raise ManifestError(found)
    root = functools.reduce(overrides.merge, roots)
    manifest = parse(overrides.apply(root, parsed, found), found, texts[0])
    if problems is None and found:
        raise ManifestError(in_file_order(found))
    if problems is not None:
        problems.extend(in_file_order(found))
    return manifest


def _read_files(paths: Iterable[Path], problems: list[Problem]) -> Iterator[tuple[bytes, Node]]:
    for path in paths:
        try:
            text = read_bytes(path)  # once: a pipe has no second time, and a file may be edited in between
            yield text, read(text, str(path))
        except ManifestError as error:
            problems.extend(error.problems)


def _parse_sets(sets: Sequence[str], problems: list[Problem]) -> Iterator[overrides.Override]:
    for text in sets:
        try:
            yield overrides.parse_set(text)
        except ManifestError as error:
            problems.extend(error.problems)


@frozen
class RunOptions:
    """The keys of the manifest that are neither a plugin nor a group of options."""

    name: str = option(help="Name of the run: its folder is runs/<name>/<run id>.")
    seed: int = option(17, ge=0, le=2**63 - 1, help="Decides every random choice of the run.")

    @name.validator
    def _check_name(self, _attribute: object, name: str) -> None:
        if not RUN_NAME.fullmatch(name):
            wanted = "1 to 100 letters, digits, dots, dashes and underscores, a letter or digit first"
            raise ValueError(f"expected {wanted}, got {shown(Node(name, ''))}")
        if _DEVICE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is the name of a device on Windows, no folder can have it")


@frozen
class EvaluateSection:
    """When the model is evaluated on the validation split."""

    every_steps: int | None = option(
        None, ge=1, help="Optimizer steps between evaluations; null: only at the end."
    )
    max_blocks: int | None = option(
        None, ge=1, help="Blocks of the validation split that are read; null: all."
    )


@frozen
class LoggerOptions:
    """The kernel's own key of a logger's section."""

    on_error: Literal["detach", "fail"] = option(
        "detach", help="What happens when the logger fails again and again: go on without it, or end the run."
    )


_LIST_KINDS = {"cleaners": "cleaner", "adapters": "adapter", "loggers": "logger"}
_KEYS = ("plugins", *SECTIONS, *_LIST_KINDS, "data", "evaluate")


def parse(root: Node, problems: list[Problem], text: bytes = b"") -> Manifest:
    """Make the manifest of a tree; add all that is wrong to `problems`, whatever the plugins' own options are."""
    run = structure(RunOptions, root, "$", problems, known=_KEYS)
    lists = {
        key: _section_list(_child(root, key), kind, f"$.{key}", problems) for key, kind in _LIST_KINDS.items()
    }
    loggers = (
        lists["loggers"]
        if _child(root, "loggers")
        else _defaults("logger", DEFAULT_LOGGERS, root, "$.loggers")
    )
    return Manifest(
        name=run.name if run else None,
        seed=run.seed if run else 17,
        plugins=requirements.read(_child(root, "plugins") or Node({}, root.where), problems),
        **{kind: _single_section(root, kind, problems) for kind in SECTIONS},
        cleaners=lists["cleaners"],
        adapters=lists["adapters"],
        data=structure(DataOptions, _child(root, "data") or Node({}, root.where), "$.data", problems),
        loggers=loggers,
        evaluate=_evaluate(root, problems),
        root=root,
        text=text,
    )


def as_mapping(manifest: Manifest, resolved: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a manifest file would hold, with these sections by their paths."""
    single = {kind: resolved[f"$.{kind}"] for kind in SECTIONS}
    metrics = manifest.evaluate.metrics if manifest.evaluate else ()
    evaluate = unstructure(manifest.evaluate.options) if manifest.evaluate else {}
    decided = {} if manifest.plugins == PluginsOptions() else {"plugins": unstructure(manifest.plugins)}
    return {
        "name": manifest.name,
        "seed": manifest.seed,
        **decided,
        "dataset": single["dataset"],
        "cleaners": [resolved[section.path] for section in manifest.cleaners],
        "tokenizer": single["tokenizer"],
        "model": single["model"],
        "adapters": [resolved[section.path] for section in manifest.adapters],
        "trainer": single["trainer"],
        "data": unstructure(manifest.data),
        "checkpointer": single["checkpointer"],
        "loggers": [resolved[section.path] for section in manifest.loggers],
        "evaluate": {**evaluate, "metrics": [resolved[section.path] for section in metrics]},
    }


# ── sections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _child(node: Node, key: str) -> Node | None:
    return node.value.get(key) if isinstance(node.value, dict) else None


def _defaults(kind: str, types: Sequence[str], root: Node, path: str) -> tuple[Section, ...]:
    """Return the sections that a manifest without that list has."""
    return tuple(
        Section(kind, name, None, Node({}, root.where), root.where, child_path(path, i))
        for i, name in enumerate(types)
    )


def _single_section(root: Node, kind: str, problems: list[Problem]) -> Section | None:
    node = _child(root, kind)
    if node is not None:
        if kind == "checkpointer" and isinstance(node.value, dict) and "type" not in node.value:
            # The section has a default type, so its options may be set without naming it.
            node = evolve(node, value={"type": Node(DEFAULT_CHECKPOINTER, node.where), **node.value})
        return read_section(node, kind, f"$.{kind}", problems)
    if kind == "checkpointer":
        return Section(kind, DEFAULT_CHECKPOINTER, None, Node({}, root.where), root.where, f"$.{kind}")
    message = f"missing section {kind!r}: {_EXPECTED}"
    problems.append(Problem(root.where, f"$.{kind}", message, "codex plugins list shows what is installed"))
    return None


_EXPECTED = "expected a plugin's name, or a mapping with its type and options"


def _section_list(node: Node | None, kind: str, path: str, problems: list[Problem]) -> tuple[Section, ...]:
    if node is None:
        return ()
    if not isinstance(node.value, list):
        hint = "start each plugin with a dash" if node.value is not None else "write [] for none"
        problems.append(Problem(node.where, path, f"expected a list of plugins, got {shown(node)}", hint))
        return ()
    made = (read_section(item, kind, child_path(path, i), problems) for i, item in enumerate(node.value))
    return tuple(section for section in made if section)


def read_section(node: Node, kind: str, path: str, problems: list[Problem]) -> Section | None:
    """Read a section, or its short form; None where it does not say which plugin it is."""
    if isinstance(node.value, str):
        node = evolve(node, value={"type": Node(node.value, node.where, node.place)})
    if not isinstance(node.value, dict):
        problems.append(Problem(node.where, path, f"{_EXPECTED}, got {shown(node)}"))
        return None
    on_error = _on_error(node, kind, path, problems)
    options = {key: child for key, child in node.value.items() if key not in KERNEL_KEYS}
    written = node.value.get("type")
    if written is None:
        slips = [key for key in options if did_you_mean(key, ["type"])]
        hint = f"is {slips[0]!r} meant to be it?" if slips else None
        message = "missing 'type': expected a plugin's name"
        problems.append(Problem(node.place, child_path(path, "type"), message, hint))
        return None
    names = _plugin_name(written, child_path(path, "type"), problems)
    if names is None:
        return None
    distribution, name = names
    return Section(kind, name, distribution, evolve(node, value=options), node.place, path, on_error)


def _plugin_name(node: Node, path: str, problems: list[Problem]) -> tuple[str | None, str] | None:
    """Read `name` or `distribution/name`."""
    if isinstance(node.value, str):
        distribution, slash, name = node.value.rpartition("/")
        if PLUGIN_NAME.fullmatch(name) and (not slash or DISTRIBUTION_NAME.fullmatch(distribution)):
            return distribution or None, name
        if _PYTHON_PATH.fullmatch(node.value):
            message = f"expected a plugin's name, never a Python path, got {shown(node)}"
            hint = "install a distribution that has the plugin, codex plugins list shows its name"
            problems.append(Problem(node.where, path, message, hint))
            return None
    hint = "letters and digits, joined by - or _; distribution/name where two distributions have it"
    problems.append(Problem(node.where, path, f"expected a plugin's name, got {shown(node)}", hint))
    return None


def _on_error(node: Node, kind: str, path: str, problems: list[Problem]) -> Literal["detach", "fail"]:
    """Read the kernel's own key of a logger's section."""
    key = _child(node, "on_error")
    if key is None:
        return "detach"
    if kind != "logger":
        message = "unknown key 'on_error': only a logger may fail without ending the run"
        problems.append(Problem(key.place, child_path(path, "on_error"), message))
        return "detach"
    made = structure(LoggerOptions, evolve(node, value={"on_error": key}), path, problems)
    return made.on_error if made else "detach"


def _evaluate(root: Node, problems: list[Problem]) -> Evaluate | None:
    node = _child(root, "evaluate") or Node({}, root.where)
    path = "$.evaluate.metrics"
    listed = _child(node, "metrics")
    options = structure(EvaluateSection, node, "$.evaluate", problems, known=("metrics",))
    metrics = (
        _section_list(listed, "metric", path, problems)
        if listed
        else _defaults("metric", DEFAULT_METRICS, root, path)
    )
    return Evaluate(options.every_steps, options.max_blocks, metrics) if options else None
