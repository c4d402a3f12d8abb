"""From a manifest and what is installed to the plugins of a run, options checked.

One rule: nothing is built and nothing heavy is imported here; all faults are found, not only the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from codex_kernel import plugin_lock, static_manifest
from codex_kernel.catalog import Catalog, Entry
from codex_kernel.data.options import DataOptions
from codex_kernel.environment import check_alone
from codex_kernel.errors import InputError, ManifestError, PluginError, Problem
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import EvaluateOptions
from codex_kernel.loading import blaming, load
from codex_kernel.manifest import Manifest, Section, as_mapping, read_section
from codex_kernel.option_types import is_made_of_sources
from codex_kernel.schema_types import is_described
from codex_kernel.section_schema import check_options
from codex_kernel.structure import structure, unstructure
from codex_kernel.yaml_reader import child_path, in_file_order


@frozen(eq=False)
class Chosen:
    """A section of the manifest, the installed entry it names, and the plugin made from its options.

    `sources` are the datasets that a dataset is made of, by name.
    """

    section: Section
    entry: Entry
    plugin: object
    sources: Mapping[str, Chosen] = field(factory=dict)

    def resolved(self, changes: Mapping[int, Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return the section with every option written out, with changes by the identity of the plugin."""
        kind = {"on_error": self.section.on_error} if self.section.kind == "logger" else {}
        changed = (changes or {}).get(id(self.plugin), {})
        section = {"type": self.section.full_type, **kind, **unstructure(self.plugin), **changed}
        if self.sources:
            section["sources"] = {name: one.resolved(changes) for name, one in self.sources.items()}
        return section


@frozen(eq=False)
class Plan:
    """A run, ready to be built: the kernel's own options and the plugins, in the order of the manifest.

    `chosen` are those of its own sections; `everyone` yields those within them, too.
    """

    manifest: Manifest
    name: str
    seed: int
    data: DataOptions
    evaluate: EvaluateOptions
    chosen: tuple[Chosen, ...]

    def everyone(self) -> Iterator[Chosen]:
        """Yield all plugins; the sources of a dataset follow it."""
        for chosen in self.chosen:
            yield chosen
            yield from chosen.sources.values()

    def of_kind(self, kind: str) -> list[Chosen]:
        """Return the plugins of a kind, in the order of the manifest."""
        return [chosen for chosen in self.chosen if chosen.section.kind == kind]

    def resolved(self) -> dict[str, Any]:
        """Return the manifest with every default written out: the same run again, whatever the defaults become."""
        return as_mapping(self.manifest, {chosen.section.path: chosen.resolved() for chosen in self.chosen})

    def hooks(self) -> Hooks:
        """Register the plugins, in an order that pluggy's last-in-first-out turns into ours.

        An adapter wraps the model and the adapters before it; cleaners and loggers are called in the order of the
        manifest.
        """
        hooks = Hooks()
        for kind in ("trainer", "model", "adapter", "checkpointer", "tokenizer", "dataset", "metric"):
            for chosen in self.of_kind(kind):
                hooks.register(chosen.plugin, str(chosen.entry))
                for name, source in chosen.sources.items():
                    hooks.add_source(name, source.plugin, str(source.entry))
        for chosen in reversed(self.of_kind("cleaner")):
            hooks.register(chosen.plugin, str(chosen.entry))
        for chosen in reversed(self.of_kind("logger")):
            fails = chosen.section.on_error == "fail"
            hooks.register(chosen.plugin, str(chosen.entry), fail_with_run=fails)
        return hooks

    def ageing(self) -> list[Entry]:
        """Return the plugins that were made for an API which a later kernel drops, one for each distribution."""
        old = {one.entry.distribution: one.entry for one in self.everyone() if one.entry.status == "older"}
        return list(old.values())

    def lock(self) -> dict[str, Any]:
        """Return what `plugins.lock.json` says of the plugins."""
        return {"schema": 1, "plugins": plugin_lock.rows(chosen.entry for chosen in self.everyone())}


# What a class says of a value, it says by a ValueError; `structure` has read that.
_MAKING = ("cannot be made of its options", "a wrong value is a ValueError")

LoadClass = Callable[[Entry], type]
"""How the class of an entry is had: imported, or with its options alone, made of its static manifest."""


def resolve(
    manifest: Manifest, catalog: Catalog, problems: list[Problem], *, load_class: LoadClass = load
) -> Plan:
    """Choose and make the plugins of a manifest; raise ManifestError with `problems` and all that are found here."""
    catalog = manifest.decide(catalog, problems)  # before anything is imported
    chosen = [
        one
        for section in manifest.sections()
        if (one := choose(section, catalog, problems, load_class=load_class))
    ]
    name, data, evaluate = manifest.name, manifest.data, manifest.evaluate
    if problems:
        raise ManifestError(in_file_order(problems))
    if name is None or data is None or evaluate is None:
        raise ValueError("a manifest without problems has a name, data and evaluate")
    return Plan(manifest, name, manifest.seed, data, evaluate.options, tuple(chosen))


def choose(
    section: Section,
    catalog: Catalog,
    problems: list[Problem],
    *,
    is_source: bool = False,
    load_class: LoadClass = load,
) -> Chosen | None:
    """Make the plugin of one section, and of those within it; add what is wrong to `problems`."""
    try:
        entry = catalog.find(section.kind, section.type, section.distribution)
        plugin_class = load_class(entry)
        with blaming(entry, *_MAKING):
            made_of_sources = is_made_of_sources(plugin_class)
        if is_described(plugin_class):
            static_manifest.check_hooks(entry)
    except PluginError as error:
        problems.append(_of_plugin(section, error))
        return None
    if made_of_sources and is_source:
        message = f"a source is a dataset by itself, and {section.type!r} is made of sources"
        hint = "put its sources beside the other ones"
        problems.append(Problem(section.where, child_path(section.path, "type"), message, hint))
        return None
    sources = _sources(section, catalog, problems, load_class) if made_of_sources else {}
    try:
        with blaming(entry, *_MAKING):
            plugin: object = structure(plugin_class, section.options, section.path, problems)
            if not is_described(plugin_class):
                _check_options(entry, plugin_class)
    except PluginError as error:
        problems.append(_of_plugin(section, error))
        return None
    return None if plugin is None else Chosen(section, entry, plugin, sources)


def _check_options(entry: Entry, plugin_class: type) -> None:
    """Raise PluginError, with the plugin's name, where its class has an option that no manifest can write."""
    try:
        check_options(plugin_class)
    except PluginError as error:
        raise PluginError(f"{entry}: {error.message}", remedy=error.remedy) from error


def _of_plugin(section: Section, error: PluginError) -> Problem:
    """Return the problem of a section whose plugin is at fault."""
    return Problem(section.where, section.path, error.message, error.remedy, plugin=True, cause=error)


def _sources(
    section: Section, catalog: Catalog, problems: list[Problem], load_class: LoadClass
) -> dict[str, Chosen]:
    """Make the plugins of the sections within a dataset's; whether they are a mapping is told with its options."""
    options = section.options.value if isinstance(section.options.value, dict) else {}
    node = options.get("sources")
    found = {}
    for name, child in node.value.items() if node and isinstance(node.value, dict) else ():
        path = child_path(f"{section.path}.sources", name)
        inner = read_section(child, section.kind, path, problems)
        if inner is None:
            continue
        if chosen := choose(inner, catalog, problems, is_source=True, load_class=load_class):
            found[name] = chosen
    return found


def preflight(plan: Plan, base: Path, cache: Path, settled: Collection[str] = ()) -> Hooks:
    """Return the plan's hooks, its plugins asked what would go wrong later; raise ManifestError with all of it.

    Raises InputError in one of several processes of a launcher.

    settled: kinds of plugins whose work is done already, so that nothing of theirs can go wrong.
    """
    check_alone()
    hooks = plan.hooks()
    sections = {id(chosen.plugin): chosen.section for chosen in plan.everyone()}
    problems = [
        Problem(sections[id(plugin)].where, sections[id(plugin)].path, message)
        for plugin, message in hooks.preflight(base, cache)
        if sections[id(plugin)].kind not in settled
    ]
    if problems:
        raise ManifestError(problems)
    return hooks


def changed_plugins(lock: dict[str, Any], plan: Plan) -> Iterator[str]:
    """Yield one line for each plugin that is not the one that the lock names: its version, its origin, its files.

    Raises InputError where the lock is none.
    """
    locked = lock.get("plugins")
    if not isinstance(locked, list):
        raise InputError(
            "plugins.lock.json is no lock of plugins: plugins: expected a list",
            remedy="put back the plugins.lock.json that codex wrote into the run's folder",
        )
    yield from plugin_lock.changed(locked, plan.lock()["plugins"])
