"""`codex schema`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.terminal import print_json, unicode

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry
    from codex_kernel.section_schema import Schema


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Write to a file instead of standard output.")
def schema(output: Path | None) -> None:
    """Print the JSON Schema (draft 2020-12) of manifests, composed from the installed plugins.

    An editor that knows YAML schemas completes and checks manifests with it: write it to codex.schema.json beside them.
    A plugin without a static manifest is imported in a process of its own.
    """
    import json

    from codex_kernel.schema import manifest_schema

    composed = manifest_schema(_sections())
    if output is None:
        print_json(composed)
        return
    from codex_kernel.durable import write_whole

    write_whole(output, (json.dumps(composed, indent=2) + "\n").encode())
    click.echo(f"wrote {output}", err=True)


def _sections() -> dict[str, dict[str, type | Schema | None]]:
    """Return kind → name → schema of the options of all that is installed; None where nobody can say."""
    from codex_kernel.catalog import GROUPS, Catalog
    from codex_kernel.errors import PluginError
    from codex_kernel.metadata import KERNEL
    from codex_kernel.static_file import fault, read
    from codex_kernel.static_manifest import describe

    catalog = Catalog.scan()
    sections: dict[str, dict[str, type | Schema | None]] = {}
    warnings: dict[str, None] = {}
    unknown: list[Entry] = []
    for kind in GROUPS:
        for name in catalog.names(kind) if kind != "command" else ():
            found = sections.setdefault(kind, {})
            found[name] = None
            try:
                entry = catalog.find(kind, name)
                static = read(entry) or (describe(entry) if entry.distribution == KERNEL else None)
            except PluginError as error:
                warnings[f"{error.message}; its options are left open in the schema"] = None
                continue
            if wrong := fault(entry):
                warnings[wrong] = None
            if static is None:
                unknown.append(entry)
            else:
                found[name] = dict(static.options)
    for entry, options, wrong in _of_code(unknown):
        sections[entry.kind][entry.name] = options
        if wrong:
            warnings[f"{entry}: {wrong}; its options are left open in the schema"] = None
    for warning in warnings:
        click.echo(unicode(f"warning: {warning}"), err=True)
    return sections


def _of_code(entries: list[Entry]) -> Iterator[tuple[Entry, Schema | None, str]]:
    """Yield (plugin, schema of its options, what is wrong): each imported in a process of its own, which it may end."""
    from codex_kernel.plugin_check import check

    for checked in check(entries):
        described = checked.description
        options = dict(described["options"]) if described else None
        yield checked.entry, options, "" if described else "; ".join(checked.faults or checked.warnings)
