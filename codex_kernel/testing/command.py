"""The contract of commands that plugins add to `codex`: what a user at a terminal relies on, as tests.

    class TestMine(CommandContract):
        right = (["runs/first"], ["runs/first", "--json"])
        wrong = (["no such run"],)

        def make(self):
            return my_command

One rule: it knows a command as click does. It needs pytest.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.testing import CliRunner, Result

from codex_kernel.errors import CodexError
from codex_kernel.loading import HEAVY
from codex_kernel.testing._calls import check_same
from codex_kernel.testing._imports import check_help, check_light, check_without_effect

OWN_OPTIONS = {"--debug", "--trace-plugins", "--no-plugins", "--plugin-path"}
"""Options that `codex` reads itself, anywhere on the line."""
_ESCAPES = re.compile(r"\x1b\[")
_USAGE = 2


class CommandContract:
    """What holds for every command; subclass it, give `make` and, if it can be called, lines that are `right`."""

    heavy: Sequence[str] = HEAVY
    """Libraries that neither the import of the command nor its --help may load."""
    right: Sequence[Sequence[str]] = ()
    """Arguments of calls that succeed, again and again, in a folder that `prepare` filled."""
    wrong: Sequence[Sequence[str]] = ()
    """Arguments of calls that the command refuses."""

    def make(self) -> click.Command:
        """Return the command, the value of its entry point."""
        raise NotImplementedError

    def module(self) -> str:
        """Return the module that the entry point names; asked where the command's function lies elsewhere."""
        function = self.make().callback
        return type(self).__module__ if function is None else function.__module__

    def prepare(self, folder: Path) -> None:
        """Put what the `right` calls need into the folder that they are called in."""

    def call(self, folder: Path, arguments: Sequence[str]) -> Result:
        """Call the command in a folder, as `codex` does."""
        folder.mkdir(exist_ok=True)
        with contextlib.chdir(folder):
            return CliRunner().invoke(self.make(), list(arguments), prog_name="codex mine")

    def test_it_is_a_command_of_click(self) -> None:
        """The value is a command or a group with a name, made once and not at each asking."""
        command = self.make()
        assert isinstance(command, click.Command)
        assert command.name
        assert re.fullmatch(r"[a-z][a-z0-9-]*", command.name), command.name

    def test_it_says_what_it_is_for(self) -> None:
        """Each command, and each command of a group, has a first line of help for the list of commands."""
        for name, command in _commands(self.make()):
            assert command.get_short_help_str(limit=200).strip(), f"{name} has no docstring"

    def test_each_option_has_its_help(self) -> None:
        """No option is left without an explanation."""
        for name, command in _commands(self.make()):
            for parameter in command.params:
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    assert parameter.help, f"{name} {parameter.opts[0]} has no help"

    def test_help_is_shown(self, tmp_path: Path) -> None:
        """`--help` ends with 0 and shows the usage and every option, for each command of a group too."""
        for name, command in _commands(self.make()):
            shown = self.call(tmp_path, [*name.split()[1:], "--help"])
            assert shown.exit_code == 0, shown.output
            assert "Usage:" in shown.stdout
            for parameter in command.params:
                if isinstance(parameter, click.Option) and not parameter.hidden:
                    assert max(parameter.opts, key=len) in shown.stdout

    def test_help_needs_nothing_heavy(self) -> None:
        """`--help` loads no library that takes long: what the work needs is imported when the work is done."""
        check_help(self.module(), self.make().name or "", self.heavy)

    def test_importing_it_loads_nothing_heavy(self) -> None:
        """Importing the command's module loads no library that takes long."""
        check_light(self.module(), self.heavy)

    def test_importing_it_has_no_effect(self) -> None:
        """Importing its module prints nothing, starts no thread, and leaves environment and signals as they are."""
        check_without_effect(self.module())

    def test_it_takes_no_option_of_codex(self) -> None:
        """No option has a name that `codex` reads itself, before the command is asked."""
        for name, command in _commands(self.make()):
            for parameter in command.params:
                taken = OWN_OPTIONS & {*parameter.opts, *parameter.secondary_opts}
                assert not taken, f"{name} takes {', '.join(sorted(taken))}, which are codex's own"

    def test_an_unknown_option_is_refused(self, tmp_path: Path) -> None:
        """An option that is none ends with 2 and is named, and nothing is done."""
        for name, _ in _commands(self.make()):
            refused = self.call(tmp_path, [*name.split()[1:], "--no-such-option"])
            assert refused.exit_code == _USAGE, refused.output
            assert "--no-such-option" in refused.output
            assert list(tmp_path.iterdir()) == []

    def test_right_calls_succeed(self, tmp_path: Path) -> None:
        """Each of the `right` calls ends with 0."""
        for result in self._right(tmp_path):
            assert result.exit_code == 0, f"{result.output}{result.exception!r}"

    def test_a_call_can_be_repeated(self, tmp_path: Path) -> None:
        """A second call in the same process prints what the first did: nothing of a call is left in the command."""
        first = [result.output for result in self._right(tmp_path / "first")]
        check_same([result.output for result in self._right(tmp_path / "first")], first)

    def test_a_pipe_gets_no_colours(self, tmp_path: Path) -> None:
        """What is written to a file or a pipe has no escape codes."""
        for result in self._right(tmp_path):
            assert not _ESCAPES.search(result.stdout), repr(result.stdout[:200])

    def test_the_process_is_left_as_it_was(self, tmp_path: Path) -> None:
        """A call leaves the working folder, the environment and the random generator as they were."""
        tmp_path.joinpath("here").mkdir()
        with contextlib.chdir(tmp_path / "here"):
            before = (Path.cwd(), dict(os.environ), random.getstate(), list(sys.path))
            self.prepare(Path.cwd())
            for arguments in self.right:
                CliRunner().invoke(self.make(), list(arguments))
            assert (Path.cwd(), dict(os.environ), random.getstate(), list(sys.path)) == before

    def test_wrong_calls_are_explained(self, tmp_path: Path) -> None:
        """Each of the `wrong` calls is refused by click, or by a codex error with a remedy, and not by a traceback."""
        tmp_path.joinpath("calls").mkdir()
        self.prepare(tmp_path / "calls")
        for arguments in self.wrong:
            result = self.call(tmp_path / "calls", arguments)
            assert result.exit_code != 0, f"{arguments} is no error"
            if isinstance(result.exception, CodexError):
                assert result.exception.remedy, f"{arguments}: {result.exception.message} has no remedy"
            else:
                assert isinstance(result.exception, SystemExit), f"{arguments}: {result.exception!r}"
                assert result.stderr.strip(), f"{arguments} fails without a word"

    def _right(self, folder: Path) -> Iterator[Result]:
        folder.mkdir(exist_ok=True)
        self.prepare(folder)
        for arguments in self.right:
            yield self.call(folder, arguments)


def _commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield a command by its words, and those within a group."""
    words = f"{path} {command.name}".strip()
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=command.name)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, f"{words} lists {name} and does not have it"
            yield from _commands(inner, words)
