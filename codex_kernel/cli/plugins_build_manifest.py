"""`codex plugins build-manifest`."""

from __future__ import annotations

from pathlib import Path

import click

from codex_kernel.cli.terminal import unicode


@click.command(
    "build-manifest",
    epilog="""
\b
Exit codes: 0 written, or up to date; 1 out of date (--check); 2 not a plugin's project;
7 a class cannot be imported or described.
""",
)
@click.argument(
    "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), metavar="[PROJECT-FOLDER]"
)
@click.option(
    "--check", is_flag=True, help="Write nothing; say what is out of date, and exit 1 where something is."
)
def build_manifest(folder: Path, check: bool) -> int:  # noqa: FBT001 - click passes by name
    """Write codex-plugin.json, the static manifest, into the package of a plugin project.

    It is made of the classes that the entry points in pyproject.toml name: they are imported by a process of their
    own, with `src` and the project's folder on the path. A wheel that holds the file lets codex check a manifest
    against these plugins without importing them; the hatch build hook `codex-plugin` makes it for each wheel.
    """
    from codex_kernel.durable import write_whole
    from codex_kernel.plugin_project import read_project
    from codex_kernel.static_manifest import build_apart, differences, text_of

    project = read_project(folder.absolute())
    place = project.manifest_file
    made = build_apart(project)
    if not check:
        write_whole(place, text_of(made).encode())
        count = len(project.entries)
        click.echo(
            unicode(f"wrote {_shown(place)}: {count} plugin{'' if count == 1 else 's'} of {project.name}")
        )
        return 0
    if not place.is_file():
        click.echo(unicode(f"{_shown(place)} is not there: codex plugins build-manifest writes it"))
        return 1
    outdated = differences(place.read_text(encoding="utf-8", errors="replace"), made)
    for line in outdated:
        click.echo(unicode(f"{_shown(place)}: {line}"))
    if not outdated:
        click.echo(unicode(f"{_shown(place)} is up to date"))
    return 1 if outdated else 0


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
