"""What others rely on by name, read from the code: the surface of codex.

One rule: a name on it is changed on purpose or not at all, so the list lies in surface.json and a test compares.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import codex_kernel
import codex_kernel.testing
from codex_kernel import cli, errors, hookspecs, schema
from codex_kernel.catalog import GROUPS, Catalog
from codex_kernel.loading import load
from codex_kernel.option_types import options_of
from codex_kernel.runfolder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).with_name("surface.json")
EVENT = re.compile(r'\b(?:_write_event|report\.event|reporter\.event|self\.event)\(\s*"([a-z_]+)"')


def surface() -> dict[str, dict[str, Any]]:
    """Return group → name → what else is relied on: arguments, options, a code, a path."""
    return {group: dict(sorted(read())) for group, read in GROUPS_OF_NAMES.items()}


def _names() -> Iterator[tuple[str, Any]]:
    for module in (codex_kernel, codex_kernel.testing):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", True


def _hooks() -> Iterator[tuple[str, Any]]:
    for group in hookspecs.SPECS:
        for name, function in vars(group).items():
            if name.startswith("codex_"):
                yield name, [word for word in inspect.signature(function).parameters if word != "self"]


def _commands() -> Iterator[tuple[str, Any]]:
    yield from _commands_of(cli.codex, ["codex"])


def _commands_of(command: click.Command, words: list[str]) -> Iterator[tuple[str, Any]]:
    yield " ".join(words), sorted(map(_parameter, command.params))  # each has --help beside them
    if isinstance(command, click.Group):
        context = click.Context(command)
        own = {
            name for part in cli.SECTIONS.values() for name in part
        }  # not those of plugins that are installed
        for name in command.list_commands(context):
            if command is cli.codex and name not in own:
                continue
            below = command.get_command(context, name)
            assert below is not None
            yield from _commands_of(below, [*words, name])


def _parameter(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return f"{parameter.make_metavar(click.Context(click.Command('codex')))}"
    return " ".join(sorted([*parameter.opts, *parameter.secondary_opts]))


def _manifest_keys() -> Iterator[tuple[str, Any]]:
    composed = schema.manifest_schema({})
    for name, section in composed["properties"].items():
        yield name, sorted(section.get("properties", {}))


def _options() -> Iterator[tuple[str, Any]]:
    first_party = {"codex-kernel", *(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))}
    for entry in Catalog.scan().entries:
        if entry.distribution in first_party and entry.kind != "command":
            yield f"{entry.kind} {entry.name}", sorted(option.name for option in options_of(load(entry)))


def _events() -> Iterator[tuple[str, Any]]:
    for source in (*ROOT.glob("codex_kernel/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")):
        for name in EVENT.findall(source.read_text(encoding="utf-8")):
            yield name, True


def _files() -> Iterator[tuple[str, Any]]:
    folder = RunFolder(Path("run"), "id", "name", Path())
    for name, value in vars(RunFolder).items():
        if isinstance(value, property):
            path = getattr(folder, name)
            if isinstance(path, Path):
                yield path.name, True


def _exit_codes() -> Iterator[tuple[str, Any]]:
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.CodexError):
            yield name, "128+n" if error is errors.StoppedError else error.exit_code


GROUPS_OF_NAMES: dict[str, Callable[[], Iterator[tuple[str, Any]]]] = {
    "python names": _names,
    "hooks": _hooks,
    "entry-point groups": lambda: iter(GROUPS.items()),
    "commands": _commands,
    "manifest keys": _manifest_keys,
    "plugin options": _options,
    "events": _events,
    "files of a run": _files,
    "exit codes": _exit_codes,
}


def differences(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return a line for each name that was added, is gone, or has changed."""
    lines = []
    for group in sorted({*stored, *found}):
        before, now = stored.get(group, {}), found.get(group, {})
        lines += [f"{group}: {name} is gone" for name in before.keys() - now.keys()]
        lines += [f"{group}: {name} is new" for name in now.keys() - before.keys()]
        lines += [
            f"{group}: {name} was {before[name]}, is {now[name]}"
            for name in before.keys() & now.keys()
            if before[name] != now[name]
        ]
    return sorted(lines)


def read() -> dict[str, Any]:
    """Return the stored surface."""
    stored: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return stored


def write(found: dict[str, Any]) -> None:
    """Store a surface, a line for each name."""
    STORED.write_text(_text(found), encoding="utf-8")


def _text(found: dict[str, Any]) -> str:
    groups = []
    for group, names in found.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in names.items()]
        groups.append(f"  {json.dumps(group)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(groups) + "\n}\n"
