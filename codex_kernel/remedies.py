"""Why a plugin that was named cannot be had, and the way out.

One rule: each error ends in something to do; an installer's line only for what is installed or in the bundled index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from codex_kernel.errors import PluginError
from codex_kernel.installers import install_line, source_of, uninstall_line, upgrade_line
from codex_kernel.known import known_plugins
from codex_kernel.metadata import KERNEL, NONE_ALLOWED, Entry, normal, twice

if TYPE_CHECKING:
    from codex_kernel.catalog import Catalog


def unknown(catalog: Catalog, kind: str, name: str, distribution: str | None) -> PluginError:
    """Return the error of a name that nothing installed has; distribution: the one that should have it, if any."""
    if distribution is None:
        return PluginError(f"unknown {kind} {name!r}", remedy=_how_to_get(catalog, kind, name))
    remedy = _owned(catalog, kind, name, distribution)
    return PluginError(f"unknown {kind} {f'{distribution}/{name}'!r}", remedy=remedy)


def _owned(catalog: Catalog, kind: str, name: str, distribution: str) -> str:
    """Say why a distribution does not have a plugin of that name, and who has it."""
    there = [e for e in catalog.entries if normal(e.distribution) == normal(distribution)]
    home = known_plugins().get(kind, {}).get(name)
    if home and normal(home.distribution) == normal(distribution) and not there:
        return install_line(home.distribution)
    why = f"{distribution} has no such plugin" if there else f"no plugin of {distribution} is installed"
    if owners := dict.fromkeys(e.full_name for e in catalog.named(kind, name) if e.takes_part):
        return f"{why}; write type: {' or '.join(owners)}"
    if home:
        return f"{why}; {home.distribution} has it: {install_line(home.distribution)}"
    near = "" if there else catalog.close_distribution(distribution)
    return f"{why}{near and f'; did you mean {near!r}?'}"


def _how_to_get(catalog: Catalog, kind: str, name: str) -> str:
    """Say how to get a plugin of that name: a close one that is installed, or a known distribution that has it."""
    import difflib

    index = known_plugins().get(kind, {})
    if home := index.get(name):
        return install_line(home.distribution)
    elsewhere = [e for e in catalog.entries if e.name == name and e.kind != kind]
    if elsewhere:
        return f"{name!r} is a {elsewhere[0].kind}, not a {kind}"
    names = catalog.names(kind)
    close = difflib.get_close_matches(name, dict.fromkeys([*names, *index]), n=1)
    if close and close[0] in names:
        return f"did you mean {close[0]!r}?"
    if close:
        return f"did you mean {close[0]!r}? {install_line(index[close[0]].distribution)}"
    return f"installed: {', '.join(names)}" if names else f"no {kind} plugin is installed"


def unusable(entry: Entry) -> PluginError:
    """Return the error of a plugin that is there and may not be used."""
    return PluginError(f"{entry}: {entry.reason}", remedy=_REMEDIES[entry.status](entry))


def _not_allowed(entry: Entry) -> str:
    if entry.reason.startswith(NONE_ALLOWED):
        return "leave --no-plugins away, and CODEX_PLUGINS unset"
    return f"add {entry.distribution} to it"


def _incompatible(entry: Entry) -> str:
    source = source_of(entry.metadata)
    if source is None:
        return upgrade_line(entry.distribution, KERNEL)
    return f"mend {source.text} for this kernel, or {upgrade_line(KERNEL)}"


def _stale(entry: Entry) -> str:
    project = entry.metadata / "pyproject.toml"
    if project.is_file():
        return f"mend the entry point in {project}"
    source, remove = source_of(entry.metadata), uninstall_line(entry.distribution)
    if source is None:
        return f"{remove}, or again: {install_line(entry.distribution)}"
    return f"mend the entry point in {source.text} and install it again from there, or {remove}"


_REMEDIES: dict[str, Callable[[Entry], str]] = {
    "incompatible": _incompatible,
    "not allowed": _not_allowed,
    "stale": _stale,
}


def ambiguous(kind: str, name: str, usable: Sequence[Entry]) -> PluginError:
    """Return the error of a name that several entries have: of several distributions, or of one."""
    owners: dict[str, list[Entry]] = {}
    for entry in usable:
        owners.setdefault(entry.full_name, []).append(entry)
    clear = [full for full, entries in owners.items() if len(entries) == 1]
    first = usable[0]
    if len(owners) == 1:
        source = source_of(first.metadata)
        place = source.text if source else f"{first.metadata / 'entry_points.txt'}, whose authors made it"
        return PluginError(
            f"{first}: {twice(e.target for e in usable)}", remedy=f"leave one of them in {place}"
        )
    claimed = " and ".join(dict.fromkeys(f"{e.distribution} {e.version}" for e in usable))
    if kind == "command":
        remedy = f"call one of them: {', or '.join(f'codex {full}' for full in clear or owners)}"
    else:
        remedy = f"write type: {' or '.join(clear or owners)}"
    return PluginError(f"{kind} {name!r} is claimed by {claimed}", remedy=remedy)
