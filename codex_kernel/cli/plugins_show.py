"""`codex plugins show`.

One rule: no code of the plugin runs in this process; where it has no static manifest, another process reads its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.terminal import json_option, print_behind, print_json, print_table, unicode
from codex_kernel.errors import PluginError

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry
    from codex_kernel.static_file import PluginDescription


@click.command()
@click.argument("name")
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema of its section alone.")
@json_option
def show(name: str, as_schema: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show what the plugin NAME does, its options, and where it comes from.

    NAME is a plugin's name, or kind:name, distribution/name or distribution/kind:name where the name alone means
    several.
    """
    from codex_kernel.catalog import Catalog
    from codex_kernel.cli.plugins_named import named

    entry = named(Catalog.scan(), name)
    described, fault, remedy = _described(entry)
    if as_schema and described:
        print_json(described.options)
    elif as_json:
        print_json(_as_json(entry, described, fault))
    elif not as_schema:
        _print(entry, described)
    if fault:
        raise PluginError(fault, remedy=remedy)


def _described(entry: Entry) -> tuple[PluginDescription | None, str | None, str | None]:
    """Return what is known of a plugin; or None, what is wrong with it, and how to mend it."""
    from codex_kernel import static_file

    if static := static_file.read(entry):
        return static, None, None
    from codex_kernel.plugin_check import check_one

    checked = check_one(entry)
    if checked.description is not None:
        return static_file.PluginDescription(**checked.description), None, None
    reasons = "; ".join(checked.faults or checked.warnings).removeprefix(f"{entry} ").removeprefix(": ")
    return None, f"{entry}: what it does and its options are not known: {reasons}", checked.remedy


def _as_json(entry: Entry, described: PluginDescription | None, fault: str | None) -> dict[str, Any]:
    from codex_kernel.cli.plugins_named import full_id
    from codex_kernel.cli.plugins_origin import origin

    return {
        "schema_version": 1,
        "id": full_id(entry),
        "kind": entry.kind,
        "name": entry.name,
        "summary": described.summary if described else entry.summary,
        "status": entry.status,
        "reason": entry.reason,
        "distribution": entry.distribution,
        "version": entry.version,
        "origin": origin(entry),
        "target": entry.target,
        "plugin_api": list(entry.plugin_api) if entry.plugin_api else None,
        "kernel_requirement": entry.kernel_requirement,
        "described_by": ("static manifest" if described.static else "code") if described else None,
        "fault": fault,
        "hooks": list(described.hooks) if described else None,
        "capabilities": list(described.capabilities) if described else None,
        "options": described.options if described else None,
    }


def _print(entry: Entry, described: PluginDescription | None) -> None:
    """Print it for people: what it is, where it comes from, its options."""
    from codex_kernel.cli.plugins_options import rows
    from codex_kernel.cli.plugins_origin import origin

    about = (described.options.get("description") if described else None) or entry.summary
    print_behind("", f"{entry.kind} {entry.name}: {about}" if about else f"{entry.kind} {entry.name}")
    click.echo()
    facts = [
        ("distribution", f"{entry.distribution} {entry.version}"),
        ("from", origin(entry)),
        ("class", entry.target),
        ("status", f"{entry.status}: {entry.reason}" if entry.reason else entry.status),
        ("plugin API", _api(entry)),
    ]
    if described:
        facts += [
            ("hooks", ", ".join(described.hooks)),
            ("capabilities", ", ".join(described.capabilities) or "none declared"),
            ("known by", "its static manifest" if described.static else "its code, read in another process"),
        ]
    for label, text in facts:
        if text:
            print_behind(f"{label:<13} ", text)
    if described and entry.kind != "command":
        click.echo()
        if options := rows(described.options):
            print_table(
                ("option", "type", "default", "bounds", "meaning"),
                [tuple(map(unicode, row)) for row in options],
            )
        else:
            click.echo("no options")


def _api(entry: Entry) -> str:
    from codex_kernel.api import in_words

    made_for = f"made for {in_words(entry.plugin_api)}" if entry.plugin_api else ""
    wants = f"wants codex-kernel{entry.kernel_requirement}" if entry.kernel_requirement else ""
    return ", ".join(filter(None, (made_for, wants))) or "not declared"
