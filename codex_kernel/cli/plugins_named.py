"""Which installed plugin a word on the command line means: `NAME`, `kind:NAME`, `distribution/NAME`, or both.

One rule: a word that means several is an error that lists them, each by the word that means it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from codex_kernel.errors import PluginError

if TYPE_CHECKING:
    from codex_kernel.catalog import Catalog, Entry


def full_id(entry: Entry) -> str:
    """Return the word that means this plugin alone: `distribution/kind:name`."""
    return f"{entry.distribution}/{entry.kind}:{entry.name}"


def named(catalog: Catalog, word: str) -> Entry:
    """Return the one plugin that a word means; raise PluginError where it means none or several."""
    found = matching(catalog, word)
    if len(found) > 1:
        raise PluginError(
            f"{word!r} may be any of {len(found)} plugins",
            remedy=f"write one of {', '.join(full_id(entry) for entry in found)}",
        )
    if not found:
        raise PluginError(f"no plugin {word!r} is installed", remedy=_remedy(catalog, word))
    return found[0]


def matching(catalog: Catalog, word: str) -> list[Entry]:
    """Return the plugins that a word means; what another copy hides only where nothing else is meant."""
    from codex_kernel.metadata import normal

    distribution, kind, name = _parts(word)
    found = [
        entry
        for entry in catalog.entries
        if entry.name == name
        and kind in ("", entry.kind)
        and (not distribution or normal(entry.distribution) == normal(distribution))
    ]
    return [entry for entry in found if entry.status != "shadowed"] or found[:1]


def _parts(word: str) -> tuple[str, str, str]:
    """Return distribution, kind and name of a word; "" for what it leaves open."""
    distribution, _, rest = word.rpartition("/")
    kind, _, name = rest.rpartition(":")
    return distribution, kind, name


def _remedy(catalog: Catalog, word: str) -> str:
    """Say how to get a plugin of that name, or which one may be meant."""
    from codex_kernel.installers import install_line
    from codex_kernel.known import known_plugins
    from codex_kernel.option_types import did_you_mean

    _, kind, name = _parts(word)
    index = {k: rows for k, rows in known_plugins().items() if kind in ("", k)}
    homes: Sequence[str] = [rows[name].distribution for rows in index.values() if name in rows]
    if homes:
        return install_line(homes[0])
    if elsewhere := [entry for entry in catalog.entries if entry.name == name]:
        return f"did you mean {full_id(elsewhere[0])!r}?"
    names = [entry.name for entry in catalog.entries if kind in ("", entry.kind)]
    near = did_you_mean(name, [*names, *(n for rows in index.values() for n in rows)])
    return near or "codex plugins list shows what is installed"
