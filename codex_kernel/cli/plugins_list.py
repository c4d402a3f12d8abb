"""`codex plugins list`."""

from __future__ import annotations

import click

from codex_kernel.cli.terminal import json_option, print_json, print_table


@click.command("list")
@click.option("--kind", help="Only this kind: tokenizer, model, logger, …")
@json_option
def list_(kind: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """List the installed plugins. Only metadata is read: no plugin is imported."""
    from codex_kernel.catalog import GROUPS, Catalog

    if kind is not None and kind not in GROUPS:
        raise click.BadParameter(f"expected one of {', '.join(GROUPS)}, got {kind!r}", param_hint="--kind")
    entries = [entry for entry in Catalog.scan().entries if kind in (None, entry.kind)]
    if as_json:
        rows = [
            {
                "kind": e.kind,
                "name": e.name,
                "distribution": e.distribution,
                "version": e.version,
                "summary": e.summary,
                "status": e.status,
                "target": e.target,
            }
            for e in entries
        ]
        print_json({"schema_version": 1, "plugins": rows})
        return
    rows_ = [(e.kind, e.name, f"{e.distribution} {e.version}", e.status, e.summary) for e in entries]
    print_table(("kind", "name", "distribution", "status", "summary"), rows_)
