"""`codex plugins new`: a plugin project that installs, passes its tests and runs as it is written.

One rule: the project is there whole or not at all, and it is named like nothing that is installed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.terminal import unicode
from codex_kernel.errors import InputError

if TYPE_CHECKING:
    from codex_kernel.scaffold import Project

MAX_NAME = 40
"""Characters of a name: it becomes part of a distribution, a package and a class."""


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder in which the project is made. [default: the working folder]",
)
def new(kind: str, name: str, output: Path) -> None:
    """Write a complete plugin project: code, tests, CI, a manifest that uses it.

    KIND is dataset, cleaner, tokenizer, model, adapter, trainer, checkpointer, logger, metric or command; NAME is what
    a manifest writes after `type:`. The project is the folder codex-plugin-NAME.
    """
    from codex_kernel._version import __version__
    from codex_kernel.scaffold import Project, distribution_of

    _check_kind(kind)
    _check_name(kind, name)
    folder = output / distribution_of(name)
    project = Project(kind, name, folder.as_posix(), __version__, datetime.now(UTC).year)
    _check_free(project.kind, project.name, project.package)
    _check_folder(folder)
    count = _write(project, folder)
    click.echo(unicode(f"wrote {folder}: {count} files, the {kind} {name!r}"))
    for what, line in _next_commands(project, folder):
        click.echo(unicode(f"  {what:<14}  {line}"))


# ── what may not be ───────────────────────────────────────────────────────────────────────────────────────────────


def _check_kind(kind: str) -> None:
    from codex_kernel.option_types import did_you_mean
    from codex_kernel.scaffold import KINDS

    if kind not in KINDS:
        close = did_you_mean(kind, list(KINDS))
        raise InputError(
            f"{kind!r} is no kind of plugin", remedy=close or f"expected one of {', '.join(KINDS)}"
        )


def _check_name(kind: str, name: str) -> None:
    from codex_kernel.manifest import PLUGIN_NAME

    if kind == "command" and not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise InputError(
            f"{name!r} cannot be the name of a command",
            remedy="small letters and digits, joined by -, a letter first",
        )
    if not PLUGIN_NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise InputError(
            f"{name!r} cannot be the name of a plugin",
            remedy=f"letters and digits, joined by - or _, {MAX_NAME} characters at the most",
        )


def _check_free(kind: str, name: str, package: str) -> None:
    """Raise InputError where another distribution has the name, or the package that the project would have."""
    from importlib.util import find_spec

    from codex_kernel.catalog import Catalog
    from codex_kernel.known import known_plugins

    remedy = "choose another name: a name of a kind belongs to one distribution"
    for entry in Catalog.scan().entries:
        if (entry.kind, entry.name) == (kind, name) and entry.status != "stale":
            raise InputError(f"{entry} is installed already", remedy=remedy)
    if (known := known_plugins().get(kind, {}).get(name)) is not None:
        raise InputError(f"the {kind} {name!r} is one of {known.distribution}", remedy=remedy)
    if kind == "command" and name in _built_in_commands():
        raise InputError(f"codex has a command {name!r} of its own", remedy="choose another name")
    found = find_spec(package)
    if found is not None:
        where = f" in {Path(found.origin).parent}" if found.origin else ""
        raise InputError(
            f"the package {package} is there already{where}",
            remedy="choose another name, or uninstall what has it",
        )


def _built_in_commands() -> list[str]:
    from codex_kernel.cli import SECTIONS

    return [name for commands in SECTIONS.values() for name in commands]


def _check_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is there already, and is no folder", remedy="choose another --output")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} is there already, and not empty", remedy="choose another --output or name"
        )


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(project: Project, folder: Path) -> int:
    """Write the project beside its place and move it there; return how many files it has."""
    from codex_kernel.durable import beside, storage_errors

    temporary = beside(folder)
    with storage_errors(folder):
        try:
            temporary.mkdir(parents=True)
            count = _fill(project, temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return count


def _fill(project: Project, folder: Path) -> int:
    """Write the files, the static manifest that is made of them among these; return their number."""
    from codex_kernel.plugin_project import read_project
    from codex_kernel.scaffold import files_of
    from codex_kernel.static_manifest import build_apart, text_of

    files = files_of(project)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    made = read_project(folder)
    made.manifest_file.write_text(text_of(build_apart(made)), encoding="utf-8")
    for cache in [*folder.rglob("__pycache__")]:  # of the import that describing a class takes
        shutil.rmtree(cache)
    return len(files) + 1


# ── what comes next ───────────────────────────────────────────────────────────────────────────────────────────────


def _next_commands(project: Project, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (what it does, command line), which work as they stand in the folder that this command is given in."""
    import shlex

    from codex_kernel.installers import called, install_line

    place = shlex.quote(str(folder))
    if missing := _missing(folder / "manifest.yaml"):
        yield "the run needs", install_line(*missing)
    yield "install it", _install_line(project, folder)
    yield "test it", f"{called('pytest', is_to_come=True)} {place}"
    if project.kind == "command":
        yield "use it", f"codex {project.name} {shlex.quote(str(folder / 'example'))}"
    else:
        yield "use it", f"codex run {shlex.quote(str(folder / 'manifest.yaml'))}"


def _install_line(project: Project, folder: Path) -> str:
    """Return the line that installs the project so that changes count at once, with what its tests need."""
    from importlib.util import find_spec

    from codex_kernel.installers import install_line
    from codex_kernel.scaffold import KINDS

    tested_with = ("pytest", "hypothesis", *KINDS[project.kind].modules)
    extra = "" if all(find_spec(module) for module in tested_with) else "[test]"
    return install_line("-e", f"{folder}{extra}")  # a path, not a distribution's name


def _missing(manifest: Path) -> list[str]:
    """Return the distributions that a manifest's plugins are of and that are not installed."""
    from codex_kernel.catalog import Catalog
    from codex_kernel.known import known_plugins
    from codex_kernel.manifest import load

    catalog, known = Catalog.scan(), known_plugins()
    wanted = [(section.kind, section.type) for section in load(manifest).sections()]
    homes = [
        known[kind][name].distribution
        for kind, name in wanted
        if name not in catalog.names(kind) and name in known.get(kind, {})
    ]
    return list(dict.fromkeys(homes))
