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
    from codex_kernel.plan import LoadClass, Plan

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


skip_bad_option = click.option(
    "--skip-bad",
    type=click.IntRange(0),
    metavar="N",
    help="Skip and count up to N records that cannot be read: --set data.skip_bad=N.",
)


def with_skip_bad(sets: tuple[str, ...], skip_bad: int | None) -> tuple[str, ...]:
    """Return the overrides with that of --skip-bad, where it was given, after them."""
    return sets if skip_bad is None else (*sets, f"data.skip_bad={skip_bad}")


def make_plan(
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    load_class: LoadClass | None = None,
) -> Plan:
    """Read the manifest, choose its plugins and check their options; raise ManifestError with all that is wrong.

    load_class: how their classes are had; None: imported.
    """
    from codex_kernel.catalog import Catalog
    from codex_kernel.loading import load as imported
    from codex_kernel.manifest import load
    from codex_kernel.plan import resolve

    problems: list[Problem] = []
    loaded = load(manifest, override_files, sets, problems)
    return resolve(loaded, Catalog.scan(), problems, load_class=load_class or imported)
