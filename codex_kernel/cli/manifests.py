"""Reading a manifest from the command line: the options that all such commands share, and the plan they make.

One rule: what a user sees of a wrong manifest is the same, whichever command found it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from codex_kernel.errors import Problem
    from codex_kernel.plan import Plan

F = TypeVar("F", bound=Callable[..., object])


def override_options(function: F) -> F:
    """Give a command what may be set over a manifest."""
    for decorator in (
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set one value, such as trainer.lr=3e-4; repeatable, the last wins.",
        ),
        click.option(
            "--override-file",
            "override_files",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Merge a YAML file over the manifest, before any --set; repeatable.",
        ),
    ):
        function = decorator(function)
    return function


def manifest_arguments(function: F) -> F:
    """Give a command the manifest and its overrides."""
    return click.argument("manifest", type=click.Path(path_type=Path))(override_options(function))


def make_plan(manifest: Path, override_files: tuple[Path, ...], sets: tuple[str, ...]) -> Plan:
    """Read the manifest, choose its plugins and check their options; raise ManifestError with all that is wrong."""
    from codex_kernel.catalog import Catalog
    from codex_kernel.manifest import load
    from codex_kernel.plan import resolve

    problems: list[Problem] = []
    loaded = load(manifest, override_files, sets, problems)
    return resolve(loaded, Catalog.scan(), problems)
