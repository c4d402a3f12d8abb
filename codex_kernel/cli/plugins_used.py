"""Which plugin fills which section of a manifest, or filled it in a run.

One rule: metadata and records alone decide; a section whose plugin cannot be used says why, and the others go on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from codex_kernel.cli.plugins_origin import in_words, origin
from codex_kernel.errors import CodexError, InputError, ManifestError, PluginError
from codex_kernel.manifest import Manifest, Section, load, read_section

if TYPE_CHECKING:
    from codex_kernel.catalog import Catalog, Entry


@frozen
class Used:
    """A section and the plugin that fills it; `fault` and `remedy` where none does.

    `distribution` and `version` are None where nobody knows; `remark` tells how a run's plugin differs from the one
    that is installed now. `wraps` is the path of the section that an adapter wraps, `source_of` that of a mixture.
    """

    kind: str
    type: str
    path: str
    distribution: str | None = None
    version: str | None = None
    origin: str | None = None
    fault: str | None = None
    remedy: str | None = None
    remark: str | None = None
    wraps: str | None = None
    source_of: str | None = None
    sources: Mapping[str, Used] = field(factory=dict)

    @property
    def detail(self) -> str:
        """What is told of the plugin beside its name."""
        owner = f"{self.distribution} {self.version}" if self.distribution else None
        remedy = f" ({self.remedy})" if self.fault and self.remedy else ""
        fault = f"{self.fault}{remedy}" if self.fault else None
        return "  ".join(filter(None, (owner, self.origin, fault, self.remark)))

    def as_json(self) -> dict[str, Any]:
        """Return it for programs, without its sources, which are rows of their own."""
        names = (
            *("path", "kind", "type", "distribution", "version", "origin", "fault", "remedy", "remark"),
            *("wraps", "source_of"),
        )
        return {name: getattr(self, name) for name in names}


@frozen
class UsedByAll:
    """The sections of a manifest or a run, in the order in which a run calls for them."""

    what: str
    name: str
    sections: tuple[Used, ...]

    def everyone(self) -> Iterator[Used]:
        """Yield all sections; the sources of a dataset follow it."""
        for one in self.sections:
            yield one
            yield from one.sources.values()


def by_manifest(file: Path, catalog: Catalog) -> UsedByAll:
    """Return the plugins that a manifest names.

    Raises ManifestError where it cannot be read, or needs a distribution that is missing.
    """
    manifest = load(file)
    return UsedByAll("manifest", manifest.name or str(file), _used(manifest, manifest.decide(catalog, [])))


def by_run(runs: Path, run: str, catalog: Catalog) -> UsedByAll:
    """Return the plugins that a run used, by its records; raise InputError where there is no such run."""
    from codex_kernel.runfolder import find

    folder = find(runs, run)
    manifest = load(folder.resolved if folder.resolved.exists() else folder.manifest)
    rows = _recorded(folder.plugins_lock)
    with contextlib.suppress(
        ManifestError
    ):  # what it needs is missing by now: its record is all the same there
        catalog = manifest.decide(catalog, [])
    now = [_with_record(one, rows) for one in _used(manifest, catalog)]
    return UsedByAll("run", f"{folder.name}/{folder.run_id}", tuple(now))


def _recorded(lock: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what a run recorded of its plugins, by kind and name; raise InputError where that cannot be read."""
    try:
        rows = json.loads(lock.read_bytes())["plugins"]
        return {(row["kind"], row["name"]): row for row in rows if row["distribution"] and row["version"]}
    except FileNotFoundError:  # it ended before it had chosen them
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{lock} cannot be read: expected the plugins of a run, got {type(error).__name__}: {error}",
            remedy="put it back as codex wrote it",
        ) from error


def _with_record(one: Used, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> Used:
    """Return a section with the plugin that the run had, and a remark where it is not the one of now."""
    row = rows.get((one.kind, one.type.rpartition("/")[2]))
    sources = {name: _with_record(inner, rows) for name, inner in one.sources.items()}
    if row is None:
        return evolve(one, sources=sources, remark="not in the run's record")
    distribution, version = str(row["distribution"]), str(row["version"])
    remark = None
    if one.fault:
        remark = f"now: {one.fault}"
    elif (one.distribution, one.version) != (distribution, version):
        remark = f"now: {one.distribution} {one.version}"
    return evolve(
        one,
        distribution=distribution,
        version=version,
        origin=in_words(row.get("direct_url")),
        sources=sources,
        fault=None,
        remedy=None,
        remark=remark,
    )


def _used(manifest: Manifest, catalog: Catalog) -> tuple[Used, ...]:
    adapters = ["$.model", *(section.path for section in manifest.adapters)]
    wraps = dict(zip(adapters[1:], adapters, strict=False))
    return tuple(
        evolve(_of(section, catalog), wraps=wraps.get(section.path)) for section in manifest.sections()
    )


def _of(section: Section, catalog: Catalog, source_of: str | None = None) -> Used:
    """Return what fills a section."""
    one = Used(section.kind, section.full_type, section.path, source_of=source_of)
    try:
        entry = catalog.find(section.kind, section.type, section.distribution)
    except PluginError as error:
        return evolve(one, fault=error.message, remedy=error.remedy)
    sources = {} if source_of else _sources(section, entry, catalog)
    return evolve(
        one,
        distribution=entry.distribution,
        version=entry.version,
        origin=origin(entry),
        sources=sources,
    )


def _sources(section: Section, entry: Entry, catalog: Catalog) -> dict[str, Used]:
    """Return what fills the sections within a dataset's, where it is one that is made of others."""
    from codex_kernel import static_file
    from codex_kernel.section_schema import takes_sources

    options = section.options.value if isinstance(section.options.value, dict) else {}
    node = options.get("sources")
    known = static_file.read(entry)
    if section.kind != "dataset" or node is None or not isinstance(node.value, dict):
        return {}
    if known is not None and not takes_sources(known.options):
        return {}
    found = {}
    for name, child in node.value.items():
        try:
            inner = read_section(child, section.kind, f"{section.path}.sources.{name}", [])
        except CodexError:  # no section: the plugin has an option of its own of that name
            return {}
        if inner is None:
            return {}
        found[str(name)] = _of(inner, catalog, source_of=section.path)
    return found
