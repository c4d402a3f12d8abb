"""`codex init`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("manifest.yaml"))
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(path: Path, force: bool) -> None:  # noqa: FBT001 - click passes by name
    """Write a commented starter manifest to PATH (default: manifest.yaml)."""
    from codex_kernel.durable import write_whole
    from codex_kernel.errors import InputError

    if path.is_dir():
        path /= "manifest.yaml"
    if path.exists() and not force:
        raise InputError(f"{path} exists", remedy="choose another name, or replace it with --force")
    write_whole(path, (Path(__file__).parents[1] / "starter.yaml").read_bytes())
    click.echo(f"wrote {path}\n  check it  codex validate {path}\n  run it    codex run {path}")
