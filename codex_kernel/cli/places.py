"""Where commands find runs, and keep what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import click

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Folder that holds runs.",
)


def cache_folder() -> Path:
    """Return the folder for what can be made again: encoded data, fetched and converted models."""
    if chosen := os.environ.get("CODEX_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "codex"
