"""`plugins:` of a manifest: which distributions a run may use, and which it needs.

One rule: it is decided by metadata, before anything is imported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from attrs import frozen

from codex_kernel.errors import Problem
from codex_kernel.installers import install_line, source_of
from codex_kernel.metadata import KERNEL, normal
from codex_kernel.options import option
from codex_kernel.structure import structure
from codex_kernel.yaml_reader import Node, child_path, shown

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

    from codex_kernel.catalog import Catalog

PATH = "$.plugins"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(rf"({_NAME})\s*([<>=!~].*)?")


@frozen
class PluginsOptions:
    """Which distributions a run may use, and which it needs; decided before anything is imported."""

    allow: tuple[str, ...] | None = option(
        None, help="Distributions whose plugins may be used; codex-kernel's always may. null: all."
    )
    require: tuple[str, ...] = option(
        (), help="Distributions that must be installed, with their versions: codex-mlflow>=0.1,<1."
    )


def read(node: Node, problems: list[Problem]) -> PluginsOptions | None:
    """Read the section; None after adding to `problems` all that is wrong with it, each at its place."""
    before = len(problems)
    made = structure(PluginsOptions, node, PATH, problems)
    for place, path, text in _items(node, "allow") or ():
        if not re.fullmatch(_NAME, text):
            message = f"expected the name of a distribution, got {shown(place)}"
            problems.append(Problem(place.where, path, message, "such as codex-mlflow, without versions"))
    for place, path, text in _items(node, "require") or ():
        if _parse(text) is None:
            message = f"expected a distribution and its versions, got {shown(place)}"
            problems.append(Problem(place.where, path, message, "such as codex-mlflow>=0.1,<1"))
    return made if len(problems) == before else None


def decide(node: Node, catalog: Catalog, problems: list[Problem]) -> Catalog:
    """Return the catalog that a manifest's section leaves; add to `problems` what it needs and is not installed.

    node: the section, as `read` took it.
    """
    for place, path, text in _items(node, "require") or ():
        if (parsed := _parse(text)) and (fault := _fault(*parsed, text, catalog)):
            problems.append(Problem(place.where, path, *fault, plugin=True))
    allowed = _items(node, "allow")
    if allowed is None:
        return catalog
    names = [text for _, _, text in allowed]
    catalog.warn_of_unknown([name for name in names if re.fullmatch(_NAME, name)], "plugins.allow")
    return catalog.allowing(names, "plugins.allow")


def _items(node: Node, key: str) -> list[tuple[Node, str, str]] | None:
    """Return (node, path, text) of each text in a list of the section; None where it has no such list.

    What is no text is told with the form of the options.
    """
    listed = node.value.get(key) if isinstance(node.value, dict) else None
    if listed is None or not isinstance(listed.value, list):
        return None
    return [
        (item, child_path(f"{PATH}.{key}", i), item.value)
        for i, item in enumerate(listed.value)
        if isinstance(item.value, str)
    ]


def _parse(text: str) -> tuple[str, SpecifierSet] | None:
    """Return the name and the versions of a requirement; None where it is none, or says more than these two."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    match = _REQUIREMENT.fullmatch(text.strip())
    try:
        return (match[1], SpecifierSet(match[2] or "")) if match else None
    except InvalidSpecifier:
        return None


def _fault(name: str, versions: SpecifierSet, text: str, catalog: Catalog) -> tuple[str, str] | None:
    """Return what is wrong and how to mend it; None where the distribution is there in a version that fits."""
    version = _installed(name, catalog)
    if version is None:
        return f"{name} is not installed", _way_to(name, text, catalog)
    if not versions.contains(version, prereleases=True):
        return f"{name} {version} is installed, {text} is needed", _other_version(name, text, catalog)
    return None


def _way_to(name: str, text: str, catalog: Catalog) -> str:
    """Say how to get a distribution: a name that the index of codex does not have is never looked up elsewhere."""
    from codex_kernel.known import known_plugins

    known = {row.distribution for rows in known_plugins().values() for row in rows.values()}
    if normal(name) in {KERNEL, *known}:
        return install_line(text.replace(" ", ""))
    if near := catalog.close_distribution(name):
        return f"did you mean {near!r}?"
    return "it is not in the index of codex: look at its documentation for how to install it"


def _other_version(name: str, text: str, catalog: Catalog) -> str:
    """Say how to get another version of what is installed, from where it came."""
    for entry in catalog.entries:
        if normal(entry.distribution) == normal(name) and entry.status not in {"shadowed", "stale"}:
            if source := source_of(entry.metadata):
                return f"it came from {source.text}: install a version that fits from there"
            break
    return install_line(text.replace(" ", ""))


def _installed(name: str, catalog: Catalog) -> str | None:
    """Return the version of a distribution, whether it has plugins or not; None where it is not installed."""
    found = [
        e.version
        for e in catalog.entries
        if normal(e.distribution) == normal(name) and e.status not in {"shadowed", "stale"}
    ]
    if found:
        return found[0]
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
