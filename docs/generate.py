"""Write the parts of pages that the code itself says: hooks, commands, options, manifest keys, what scaffolds hold.

    python docs/generate.py            rewrite them
    python docs/generate.py --check    say which pages are out of date, and fail

One rule: what stands between `<!-- generated: NAME -->` and `<!-- generated: end -->` comes from the code alone; the
rest of a page is written by hand and left as it is.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click
from click.testing import CliRunner

from codex_kernel import cli, hookspecs, scaffold
from codex_kernel._version import __version__
from codex_kernel.catalog import GROUPS, Catalog, Entry
from codex_kernel.data.options import DataOptions
from codex_kernel.loading import load
from codex_kernel.manifest import EvaluateSection, LoggerOptions, RunOptions
from codex_kernel.option_types import Option, in_words, members, options_of
from codex_kernel.options import Secret
from codex_kernel.requirements import PluginsOptions
from codex_kernel.structure import unstructure

ROOT = Path(__file__).parent
FOLDERS = ("reference", "how-to/plugins")
FIRST_PARTY = (
    "codex-kernel",
    "codex-torch",
    "codex-hf",
    "codex-spm",
    "codex-clean",
    "codex-mlflow",
    "codex-sysmon",
)
MARK = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- generated: end -->)", re.DOTALL)
LINE_WIDTH = 100
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


# ── hooks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def hooks() -> str:
    """Return a section for each group of hooks, and in it a heading for each hook."""
    return "\n\n".join(_hook_group(group) for group in hookspecs.SPECS)


def _hook_group(group: type) -> str:
    title = group.__name__.removesuffix("Specs")
    found = [function for name, function in vars(group).items() if name.startswith("codex_")]
    return "\n\n".join([f"## {title}", inspect.getdoc(group) or "", *(_hook(function) for function in found)])


def _hook(function: Callable[..., object]) -> str:
    signature = inspect.signature(function)
    names = [name for name in signature.parameters if name != "self"]
    return "\n\n".join(
        [
            f"### {function.__name__}({', '.join(names)})",
            f"```python\n{_signature(function.__name__, signature)}\n```",
            _manner(function.__name__),
            "\n".join(_described(inspect.getdoc(function) or "", names)),
        ]
    )


def _signature(name: str, signature: inspect.Signature) -> str:
    parameters = [f"{p.name}: {p.annotation}" for p in signature.parameters.values() if p.name != "self"]
    line = f"{name}({', '.join(parameters)}) -> {signature.return_annotation}"
    if len(line) <= LINE_WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {p}," for p in parameters), f") -> {signature.return_annotation}"])


def _manner(name: str) -> str:
    if name in hookspecs.PROVIDERS:
        return "*Provider: the first answer that is not None counts; an error ends the run.*"
    if name in {"codex_preflight", "codex_shorten", "codex_metric"}:
        return "*Every plugin that has it is asked; an error ends the run.*"
    return "*Observer: rank 0 only, in the observers' thread, each call guarded by itself.*"


def _described(docstring: str, names: list[str]) -> Iterator[str]:
    """Turn a docstring into Markdown: its lines of arguments become a list."""
    in_list = False
    for line in docstring.splitlines():
        head, colon, rest = line.partition(": ")
        arguments = head.split(", ")
        if colon and all(argument in names for argument in arguments):
            yield f"- {', '.join(f'`{argument}`' for argument in arguments)}: {rest}"
            in_list = True
        elif line.startswith("    "):
            yield f"  {line.strip()}"
        else:
            if in_list and line:
                yield ""
            in_list = False
            yield line


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


def commands() -> str:
    """Return the help of every command of codex itself, as `codex COMMAND --help` prints it."""
    with without_plugins():
        return _commands()


@contextmanager
def without_plugins() -> Iterator[None]:
    """Let codex see none of the plugins that happen to be installed: they may have commands."""
    before = os.environ.get("CODEX_PLUGINS")
    os.environ["CODEX_PLUGINS"] = ""
    try:
        yield
    finally:
        del os.environ["CODEX_PLUGINS"]
        if before is not None:
            os.environ["CODEX_PLUGINS"] = before


def _commands() -> str:
    return "\n\n".join(_command(words) for words in _command_words())


def _command_words() -> Iterator[list[str]]:
    context = click.Context(cli.codex)
    yield []
    for name in cli.codex.list_commands(context):
        command = cli.codex.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ([name, sub] for sub in command.list_commands(context))
        else:
            yield [name]


def _command(words: list[str]) -> str:
    result = CliRunner().invoke(cli.codex, [*words, "--help"], prog_name="codex", terminal_width=96)
    if result.exit_code:
        raise RuntimeError(result.output)
    title = " ".join(["codex", *words])
    return f"## {title}\n\n```text\n{result.output.rstrip()}\n```"


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────────────


def plugins() -> str:
    """Return every first-party plugin with its options, in the order of the kinds."""
    entries = [entry for entry in Catalog.scan().entries if entry.distribution in FIRST_PARTY]
    return "\n\n".join(_kind(kind, [e for e in entries if e.kind == kind]) for kind in _kinds(entries))


def _kinds(entries: list[Entry]) -> list[str]:
    return [kind for kind in GROUPS if any(entry.kind == kind for entry in entries)]


def _kind(kind: str, entries: list[Entry]) -> str:
    return "\n\n".join([f"## {kind}", *(_plugin(entry) for entry in entries)])


def _plugin(entry: Entry) -> str:
    plugin = load(entry)
    text = textwrap.dedent(inspect.getdoc(plugin) or "")
    return "\n\n".join([f"### {entry.name}", f"*{entry.distribution}.* {text}", options_table(plugin)])


def options_table(cls: type) -> str:
    """Return a Markdown table of the options of an attrs class."""
    rows = list(_rows(cls))
    if not rows:
        return "No options."
    return "\n".join(["| option | type | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _rows(cls: type, prefix: str = "") -> Iterator[str]:
    for option in options_of(cls):
        cells = (f"`{prefix}{option.name}`", _type(option), _default(option), option.help)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        for member in members(option.type):
            if attrs.has(member) and member is not Secret:
                yield from _rows(member, f"{prefix}{option.name}.")


def _type(option: Option) -> str:
    bounds = ", ".join(f"{_BOUNDS[name]} {limit:g}" for name, limit in option.bounds.items())
    return in_words(option.type) + (f" ({bounds})" if bounds else "")


def _default(option: Option) -> str:
    if option.required:
        return "required"
    default: Any = option.default
    return (
        f"`{json.dumps(unstructure(default.factory() if isinstance(default, attrs.Factory) else default))}`"  # type: ignore[arg-type] # attrs types Factory as a function
    )


# ── scaffolds ─────────────────────────────────────────────────────────────────────────────────────────────────────


def scaffolded(kind: str, *, tests: bool) -> str:
    """Return the modules that `codex plugins new KIND mine` writes: those of the package, or the test."""
    project = scaffold.Project(kind, "mine", "codex-plugin-mine", __version__, 2026)
    part = f"tests/test_{project.word}.py" if tests else f"src/{project.package}/"
    files = {str(path): text for path, text in scaffold.files_of(project).items()}
    names = sorted(name for name in files if name.startswith(part) and name.endswith(".py"))
    return "\n\n".join(f"`{name}`:\n\n```python\n{files[name].rstrip()}\n```" for name in names)


def _scaffolds() -> Iterator[tuple[str, Callable[[], str]]]:
    for kind in scaffold.KINDS:
        yield f"scaffold {kind}", functools.partial(scaffolded, kind, tests=False)
        yield f"scaffold test {kind}", functools.partial(scaffolded, kind, tests=True)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SECTIONS: Mapping[str, Callable[[], str]] = {
    "hooks": hooks,
    "commands": commands,
    "plugins": plugins,
    "run options": lambda: options_table(RunOptions),
    "plugins options": lambda: options_table(PluginsOptions),
    "data options": lambda: options_table(DataOptions),
    "evaluate options": lambda: options_table(EvaluateSection),
    "logger options": lambda: options_table(LoggerOptions),
    **dict(_scaffolds()),
}


def renewed(text: str) -> str:
    """Return a page with its generated parts as the code gives them now."""
    return MARK.sub(lambda match: f"{match[1]}\n{SECTIONS[match[2]]()}\n\n{match[3]}", text)


def stale() -> list[tuple[Path, str]]:
    """Return the pages that are out of date, each with the text that it should have."""
    found = [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))]
    pages = [(page, page.read_text(encoding="utf-8")) for page in found]
    return [(page, new) for page, old in pages if (new := renewed(old)) != old]


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with --check only say which are out of date."""
    found = stale()
    for page, text in found:
        print(f"{'out of date' if arguments else 'wrote'}: {page.name}")
        if not arguments:
            page.write_text(text, encoding="utf-8")
    return 1 if arguments and found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
