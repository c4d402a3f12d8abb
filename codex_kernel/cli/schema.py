"""`codex schema`."""

from __future__ import annotations

from pathlib import Path

import click

from codex_kernel.cli.terminal import print_json


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Write to a file instead of standard output.")
def schema(output: Path | None) -> None:
    """Print the JSON Schema (draft 2020-12) of manifests, composed from the installed plugins.

    An editor that knows YAML schemas completes and checks manifests with it: write it to codex.schema.json beside them.
    """
    import json

    from codex_kernel.catalog import GROUPS, Catalog
    from codex_kernel.errors import PluginError
    from codex_kernel.plan import classes
    from codex_kernel.schema import manifest_schema

    plugins: dict[str, dict[str, type | None]] = {}
    for kind, found in classes(Catalog.scan(), [kind for kind in GROUPS if kind != "command"]).items():
        plugins[kind] = {}
        for name, loaded in found.items():
            if isinstance(loaded, PluginError):
                click.echo(f"warning: {loaded.message}; its options are left open in the schema", err=True)
            plugins[kind][name] = None if isinstance(loaded, PluginError) else loaded
    composed = manifest_schema(plugins)
    if output is None:
        print_json(composed)
        return
    from codex_kernel.durable import write_whole

    write_whole(output, (json.dumps(composed, indent=2) + "\n").encode())
    click.echo(f"wrote {output}", err=True)
