"""`codex plugins list`.

One rule: what is left out of the table is counted below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.terminal import json_option, print_json, print_table, unicode

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry

STATUSES = ("ok", "older", "claimed twice", "shadowed", "incompatible", "not allowed", "stale", "built in")
USABLE = ("ok", "older")
REMAINS = ("shadowed", "stale")
"""What an installer left behind, or another copy hides: of interest when something is wrong."""


@click.command("list")
@click.option("--kind", help="Only this kind: tokenizer, model, logger, …")
@click.option("--distribution", help="Only the plugins of this distribution.")
@click.option("--status", help=f"Only this status: {', '.join(STATUSES)}.")
@click.option(
    "--all", "everything", is_flag=True, help="Show also what is shadowed by another copy, or stale."
)
@click.option(
    "--requirements", is_flag=True, help="Print name==version of the distributions that have plugins."
)
@json_option
def list_(  # noqa: PLR0913 - the options of a command
    kind: str | None,
    distribution: str | None,
    status: str | None,
    everything: bool,  # noqa: FBT001 - click passes by name
    requirements: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """List the installed plugins. Only metadata is read: no plugin is imported.

    A plugin that cannot be used says why in place of its summary.
    """
    from codex_kernel.catalog import GROUPS, Catalog
    from codex_kernel.cli import SECTIONS
    from codex_kernel.cli.plugin_commands import against
    from codex_kernel.metadata import normal

    built_in = [name for commands in SECTIONS.values() for name in commands]
    _check_choice(kind, GROUPS, "--kind")
    _check_choice(status, STATUSES, "--status")
    entries = [
        entry
        for entry in against(built_in, Catalog.scan().entries)
        if kind in (None, entry.kind)
        and status in (None, entry.status)
        and (distribution is None or normal(distribution) == normal(entry.distribution))
    ]
    shown = [e for e in entries if everything or status is not None or e.status not in REMAINS]
    hidden = Counter(entry.status for entry in entries if entry not in shown)
    if requirements:
        _print_requirements(shown, as_json=as_json)
    elif as_json:
        rows = [_row(entry) for entry in shown]
        print_json({"schema_version": 1, "plugins": rows, "hidden": dict(hidden)})
    else:
        _print(shown)
    if hidden and not as_json:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(hidden.items()))
        click.echo(f"not shown: {counts} (--all shows them)", err=True)


def _check_choice(value: str | None, choices: Sequence[str] | dict[str, str], option: str) -> None:
    if value is not None and value not in choices:
        raise click.BadParameter(f"expected one of {', '.join(choices)}, got {value!r}", param_hint=option)


def _row(entry: Entry) -> dict[str, Any]:
    """Return an entry for programs; only one that has a bad status has a reason for it."""
    row = {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": entry.summary,
        "status": entry.status,
        "target": entry.target,
    }
    return row if entry.status == "ok" else {**row, "reason": entry.reason}


def _print(entries: Sequence[Entry]) -> None:
    """Print the table; the reason of a bad status is worth more than the summary."""
    if not entries:
        click.echo("no such plugin is installed; codex plugins search WORD knows others", err=True)
        return
    rows = [
        (
            *(unicode(cell) for cell in (e.kind, e.name, f"{e.distribution} {e.version}", e.status)),
            unicode(e.summary if e.status == "ok" else e.reason or e.summary),
        )
        for e in entries
    ]
    print_table(("kind", "name", "distribution", "status", "summary"), rows)


def _print_requirements(entries: Sequence[Entry], *, as_json: bool) -> None:
    """Print the distributions as an installer reads them."""
    lines = sorted({f"{entry.distribution}=={entry.version}" for entry in entries})
    if as_json:
        print_json({"schema_version": 1, "requirements": lines})
        return
    for line in lines:
        click.echo(unicode(line))
