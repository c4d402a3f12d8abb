"""`codex plugins search`.

One rule: an install line names only what the index that comes with codex names; no name is made up from a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from codex_kernel.cli.terminal import json_option, print_json, print_table, unicode

if TYPE_CHECKING:
    from codex_kernel.catalog import Catalog


class Match(NamedTuple):
    """A plugin that is known or installed; `version` is None where it is not installed, as `install` then says how."""

    kind: str
    name: str
    distribution: str
    summary: str
    version: str | None
    install: str | None


@click.command()
@click.argument("word")
@json_option
def search(word: str, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Search the known plugins for WORD: in their names, kinds, distributions and summaries.

    Searched is the index that comes with codex, and what is installed; nothing is asked over a network.
    """
    from codex_kernel.catalog import Catalog
    from codex_kernel.option_types import did_you_mean

    known = _known(Catalog.scan())
    found = [match for match in known if _has(match, word)]
    near = None if found else did_you_mean(word, {match.name for match in known})
    if as_json:
        print_json(
            {"schema_version": 1, "word": word, "plugins": [match._asdict() for match in found], "near": near}
        )
    elif found:
        _print(found)
    else:
        said = f"no known plugin has {word!r} in its name, kind, distribution or summary"
        click.echo(unicode(f"{said}; {near}" if near else f"{said}; codex plugins list shows all"), err=True)


def _known(catalog: Catalog) -> list[Match]:
    """Return what is installed and can be used, and what the index knows besides."""
    from codex_kernel.catalog import GROUPS
    from codex_kernel.installers import install_line
    from codex_kernel.known import known_plugins
    from codex_kernel.metadata import normal

    found = {
        (entry.kind, entry.name, normal(entry.distribution)): Match(
            entry.kind, entry.name, entry.distribution, entry.summary, entry.version, None
        )
        for entry in catalog.entries
        if entry.status not in {"shadowed", "stale"}
    }
    for kind, rows in known_plugins().items():
        for name, row in rows.items():
            match = Match(kind, name, row.distribution, row.summary, None, install_line(row.distribution))
            found.setdefault((kind, name, normal(row.distribution)), match)
    kinds = list(GROUPS)
    return sorted(found.values(), key=lambda match: (kinds.index(match.kind), match.name, match.distribution))


def _has(match: Match, word: str) -> bool:
    """Say whether all words of a search are in what is known of a plugin."""
    text = f"{match.kind} {match.name} {match.distribution} {match.summary}".casefold()
    return all(part in text for part in word.casefold().split())


def _print(found: list[Match]) -> None:
    """Print a table, and below it how to install what is not."""
    rows = [
        tuple(map(unicode, (m.kind, m.name, m.distribution, m.version or "not installed", m.summary)))
        for m in found
    ]
    print_table(("kind", "name", "distribution", "installed", "summary"), rows)
    for line in dict.fromkeys(match.install for match in found if match.install):
        click.echo(unicode(f"to install: {line}"))
