"""`codex plugins check`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.terminal import json_option, print_json, print_table, size, terminal_columns, unicode
from codex_kernel.errors import PluginError

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry
    from codex_kernel.plugin_check import Checked

WIDE = 120
"""Columns of a terminal that has room for the whole table."""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the import of a plugin may take.",
)
@json_option
def check(names: tuple[str, ...], timeout: float, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Import the plugins, each in a process of its own, and say which of them work and what they cost.

    NAME is a plugin's name, kind:name or distribution/name; without one, all plugins are checked. Whatever a plugin
    does at its import, the others are checked, too. Exit code 7: a plugin is broken.
    """
    from codex_kernel.cli.progress import ProgressReporter
    from codex_kernel.plugin_check import check as checks

    entries = _chosen(names)
    done: list[Checked] = []
    with closing(ProgressReporter()) as progress, closing(checks(entries, timeout)) as found:
        if len(entries) > 1:
            progress.activity("check plugins", 0, len(entries), "plugins")
        for checked in found:
            done.append(checked)
            if len(entries) > 1:
                progress.activity("check plugins", len(done), len(entries), "plugins")
    places = [(entry.kind, entry.name, entry.metadata) for entry in entries]
    done.sort(key=lambda one: places.index((one.entry.kind, one.entry.name, one.entry.metadata)))
    # Who asks for a plugin by its name wants to use it.
    broken = [c for c in done if c.verdict == "broken" or (names and c.verdict == "not imported")]
    if as_json:
        plugins = [one.as_json() for one in done]
        print_json({"schema_version": 1, "broken": len(broken), "plugins": plugins})
    else:
        _print(done)
    if broken:
        raise PluginError(_how_many(broken, done), remedy=_remedy(broken))


def _chosen(names: tuple[str, ...]) -> list[Entry]:
    from codex_kernel.catalog import Catalog
    from codex_kernel.cli.plugins_named import named

    catalog = Catalog.scan()
    if not names:
        return list(catalog.entries)
    return list(dict.fromkeys(named(catalog, name) for name in names))


def _how_many(broken: list[Checked], done: list[Checked]) -> str:
    if len(done) == 1:
        return f"{broken[0].entry} cannot be used: {_remark(broken[0])}"
    which = ", ".join(str(one.entry) for one in broken[:3])
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""  # noqa: PLR2004 - a line holds about three
    return f"{len(broken)} of {len(done)} plugins cannot be used: {which}{more}"


def _remedy(broken: list[Checked]) -> str | None:
    """Say how to mend them, where that is one thing."""
    remedies = {one.remedy for one in broken}
    return remedies.pop() if len(remedies) == 1 else "codex plugins check NAME tells how to mend each of them"


def _print(done: list[Checked]) -> None:
    """Print a line for each plugin; what is wrong with it is worth more than what it imports."""
    if not done:
        click.echo("no plugin is installed", err=True)
        return
    columns = ["kind", "name", "distribution", "verdict", "import", "peak memory", "remarks"]
    table = [dict(zip(columns, map(unicode, _row(one)), strict=True)) for one in done]
    if (terminal_columns() or WIDE) < WIDE:
        columns = [name for name in columns if name not in {"distribution", "peak memory"}]
    print_table(columns, [[row[name] for name in columns] for row in table], right=("import", "peak memory"))


def _row(one: Checked) -> tuple[str, ...]:
    seconds, memory = one.import_seconds, one.peak_memory_bytes
    return (
        *(one.entry.kind, one.entry.name, one.entry.distribution, one.verdict),
        "" if seconds is None else f"{seconds:.2f} s",
        "" if memory is None else size(memory),
        _remark(one),
    )


def _remark(one: Checked) -> str:
    """Return what is wrong, or else the packages that took a hundredth of a second or more."""
    if told := [*one.faults, *one.warnings]:
        return "; ".join(told).replace(f"{one.entry} ", "").replace(f"{one.entry}: ", "")
    heavy = [weight for weight in one.heaviest if weight.seconds >= 0.01]  # noqa: PLR2004 - less is not felt
    return ", ".join(f"{weight.package} {weight.seconds:.2f} s" for weight in heavy)
