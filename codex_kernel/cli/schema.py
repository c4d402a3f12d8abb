"""`codex schema`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.terminal import print_json

if TYPE_CHECKING:
    from codex_kernel.section_schema import Schema


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Write to a file instead of standard output.")
def schema(output: Path | None) -> None:
    """Print the JSON Schema (draft 2020-12) of manifests, composed from the installed plugins.

    An editor that knows YAML schemas completes and checks manifests with it: write it to codex.schema.json beside them.
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
    from codex_kernel.static_manifest import describe, fault

    catalog = Catalog.scan()
    sections: dict[str, dict[str, type | Schema | None]] = {}
    told = set()
    for kind in GROUPS:
        for name in catalog.names(kind) if kind != "command" else ():
            found = sections.setdefault(kind, {})
            try:
                entry = catalog.find(kind, name)
                if (wrong := fault(entry)) and wrong not in told:
                    told.add(wrong)
                    click.echo(f"warning: {wrong}", err=True)
                found[name] = dict(describe(entry).options)
            except PluginError as error:
                click.echo(f"warning: {error.message}; its options are left open in the schema", err=True)
                found[name] = None
    return sections
