"""The flags that may stand anywhere on the line: `--debug`, `--no-plugins`, `--plugin-path`, `--trace-plugins`.

One rule: what belongs to others is theirs: nothing is taken after `--`, and nothing that is the value of an option.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import click

DEBUG, NO_PLUGINS, PLUGIN_PATH, TRACE = "--debug", "--no-plugins", "--plugin-path", "--trace-plugins"
_ALL = (DEBUG, NO_PLUGINS, PLUGIN_PATH, TRACE)


_VARIABLES = ("CODEX_PLUGINS", "CODEX_PLUGIN_PATH")


class Flags(NamedTuple):
    """The flags of a command line; `trace` is None where nothing is traced, "" where no file is named."""

    debug: bool = False
    no_plugins: bool = False
    plugin_paths: tuple[str, ...] = ()
    trace: str | None = None

    def apply(self) -> None:
        """Set the variables that decide which plugins there are, for the processes that this one starts, too."""
        if self.no_plugins:
            os.environ["CODEX_PLUGINS"] = ""
        if self.plugin_paths:
            known = os.environ.get("CODEX_PLUGIN_PATH", "").split(os.pathsep)
            paths = [*map(os.path.abspath, self.plugin_paths), *known]  # a child may work in another folder
            os.environ["CODEX_PLUGIN_PATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Trace the plugins, if asked to, for as long as the command runs."""
        if self.trace is None:
            yield
            return
        from pathlib import Path

        from codex_kernel import tracing

        tracing.start(Path(self.trace) if self.trace else None)
        try:
            yield
        finally:
            tracing.stop()


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Leave the variables that flags set, and the path that plugins are added to, as they were found."""
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def take(arguments: Sequence[str], root: click.Group) -> tuple[Flags, list[str]]:
    """Return the flags of a command line and the rest of it; raise click.UsageError where one is not written rightly.

    `root` is asked for commands, and these for their options, only where there is a flag at all.
    """
    if not any(argument.startswith(_ALL) for argument in arguments):
        return Flags(), list(arguments)
    return _Walk(list(arguments), root).walk()


class _Walk:
    """One way along the arguments."""

    def __init__(self, arguments: list[str], root: click.Group) -> None:
        self._arguments, self._place = arguments, 0
        self._command: click.Command | None = root
        self._kept: list[str] = []
        self._flags = Flags()

    def walk(self) -> tuple[Flags, list[str]]:
        """Go to the end, or to `--`."""
        while self._place < len(self._arguments):
            word = self._next()
            if word == "--":
                self._kept += ["--", *self._arguments[self._place :]]
                break
            if not self._take(word):
                self._keep(word)
        return self._flags, self._kept

    def _next(self) -> str:
        self._place += 1
        return self._arguments[self._place - 1]

    def _take(self, word: str) -> bool:
        """Take a flag; say whether it is one."""
        name, has_value, value = word.partition("=")
        if name == TRACE:
            if has_value and not value:
                raise click.UsageError(f"{TRACE}= needs a file; without one leave out the =")
            self._flags = self._flags._replace(trace=value)
        elif name == PLUGIN_PATH:
            self._flags = self._flags._replace(
                plugin_paths=(*self._flags.plugin_paths, _folder(value if has_value else self._value()))
            )
        elif word == DEBUG:
            self._flags = self._flags._replace(debug=True)
        elif word == NO_PLUGINS:
            self._flags = self._flags._replace(no_plugins=True)
        else:
            return False
        return True

    def _value(self) -> str:
        if self._place == len(self._arguments) or self._arguments[self._place].startswith("-"):
            raise click.UsageError(f"{PLUGIN_PATH} needs a folder")
        return self._next()

    def _keep(self, word: str) -> None:
        """Keep an option together with its values, or a word; one that names a command says what comes next."""
        self._kept.append(word)
        if word.startswith("-") and len(word) > 1:
            for _ in range(_values_after(word, self._command)):
                if self._place < len(self._arguments):
                    self._kept.append(self._next())
        elif isinstance(self._command, click.Group):
            self._command = self._find(word, self._command)

    def _find(self, name: str, group: click.Group) -> click.Command | None:
        """Return a command, None where there is none; raise PluginError where it is a plugin's that cannot be used."""
        context = click.Context(group)
        if name not in group.list_commands(context):
            self._look_ahead()
        return group.get_command(context, name)

    def _look_ahead(self) -> None:
        """Apply the flags after a plugin's command that decide whether it may be imported, or where it lies."""
        rest = list(itertools.takewhile(lambda word: word != "--", self._arguments[self._place :]))
        paths = [word.partition("=")[2] for word in rest if word.startswith(f"{PLUGIN_PATH}=")]
        paths += [folder for word, folder in itertools.pairwise(rest) if word == PLUGIN_PATH]
        self._flags._replace(
            no_plugins=self._flags.no_plugins or NO_PLUGINS in rest,
            plugin_paths=(*self._flags.plugin_paths, *paths),
        ).apply()


def _values_after(word: str, command: click.Command | None) -> int:
    """Return how many of the words after an option are its values."""
    for option in command.params if command else ():
        if not isinstance(option, click.Option) or option.is_flag or option.count:
            continue
        optional = option._flag_needs_value  # noqa: SLF001 - click has no public name for an option with or without
        for name in option.opts:
            if word == name:
                return 0 if optional else option.nargs
            short = len(name) == 2 and not word.startswith("--")  # noqa: PLR2004 - a dash and a letter
            if short and word.endswith(name[1]) and _all_flags(word[1:-1], command):
                return 0 if optional else option.nargs
    return 0


def _all_flags(letters: str, command: click.Command | None) -> bool:
    """Say whether each letter is a flag, so that what follows them in one word is an option of its own."""
    flags = {
        name
        for option in (command.params if command else ())
        if isinstance(option, click.Option) and (option.is_flag or option.count)
        for name in option.opts
    }
    return all(f"-{letter}" in flags for letter in letters)


def _folder(path: str) -> str:
    """Return the folder; raise click.UsageError where it is none."""
    if not os.path.isdir(path):  # noqa: PTH112 - as it was written
        raise click.UsageError(f"{PLUGIN_PATH}: expected a folder, got {path!r}")
    if os.pathsep in path:
        raise click.UsageError(
            f"{PLUGIN_PATH}: the name of a folder cannot have a {os.pathsep!r}, got {path!r}"
        )
    return path
