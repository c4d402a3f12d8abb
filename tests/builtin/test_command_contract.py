"""The contract of commands: the commands of codex itself keep it, and each way to be wrong fails a check."""

from __future__ import annotations

import pytest

from codex_kernel.cli.init import init
from codex_kernel.cli.plugins import plugins
from codex_kernel.testing import CommandContract
from tests.testing.faulty import Fault, Faulty


class TestInit(CommandContract):
    right = (["first.yaml"],)
    wrong = (["there/is/no/such/folder.yaml"],)

    def make(self):
        return init

    def test_a_call_can_be_repeated(self, tmp_path):
        """It is refused the second time: what it has written is there."""
        assert [result.exit_code for result in self._right(tmp_path)] == [0]
        assert [result.exit_code for result in self._right(tmp_path)] != [0]


class TestPlugins(CommandContract):
    """A group whose commands are imported late."""

    right = (["list"], ["list", "--json"])
    wrong = (["show", "no-such-plugin"],)

    def make(self):
        return plugins


HEAD = """
import os, random, sys
import click
from codex_kernel import InputError
from codex_kernel.testing import CommandContract
del hookimpl

def sound():
    @click.command()
    @click.argument("words", nargs=-1, required=True)
    @click.option("--loud", is_flag=True, help="Say it in capitals.")
    def say(words, loud):
        \"\"\"Say WORDS.\"\"\"
        if words == ("nothing",):
            raise InputError("nothing to say", remedy="say something")
        click.echo(" ".join(words).upper() if loud else " ".join(words))

    return say

Sound = sound()

class Contract(CommandContract):
    right = (["hello"], ["hello", "--loud"])
    wrong = ([], ["nothing"], ["hello", "--quiet"])

    def make(self):
        return type(self).made

    def module(self):
        return __name__

del CommandContract
"""


def called(name: str, code: str, *fails: str, contract: str = "") -> Fault:
    """Return a command that does something else when it is called."""
    body = f"""
@click.command("say")
@click.argument("words", nargs=-1, required=True)
@click.option("--loud", is_flag=True, help="Say it in capitals.")
def {name}(words, loud):
    \"\"\"Say WORDS.\"\"\"
    if words == ("nothing",):
        raise InputError("nothing to say", remedy="say something")
    {code}
"""
    return Fault(body, fails, contract=contract, raw=True)


def changed(name: str, code: str, *fails: str, contract: str = "") -> Fault:
    """Return a sound command that was changed."""
    return Fault(f"{name} = sound()\n{code}", fails, contract=contract, raw=True)


FAULTS = {
    "IsSound": Fault("IsSound = sound()", raw=True),
    "IsAFunction": Fault("def IsAFunction(): pass", ["it_is_a_command_of_click"], raw=True),
    "HasACapitalName": changed(
        "HasACapitalName", "HasACapitalName.name = 'Say It'", "it_is_a_command_of_click"
    ),
    "SaysNothingOfItself": changed(
        "SaysNothingOfItself", "SaysNothingOfItself.help = None", "it_says_what_it_is_for"
    ),
    "LeavesAnOptionWithoutHelp": changed(
        "LeavesAnOptionWithoutHelp",
        "LeavesAnOptionWithoutHelp.params[1].help = None",
        "each_option_has_its_help",
    ),
    "HasNoHelp": changed("HasNoHelp", "HasNoHelp.add_help_option = False", "help_is_shown"),
    "NeedsNumpyForHelp": Fault(
        "from needs_numpy_for_help import NeedsNumpyForHelp",
        ["help_needs_nothing_heavy"],
        contract="def module(self): return 'needs_numpy_for_help'",
        raw=True,
    ),
    "ImportsNumpy": changed(
        "ImportsNumpy",
        "",
        "importing_it_loads_nothing_heavy",
        contract="def module(self): return 'imports_numpy'",
    ),
    "PrintsOnImport": changed(
        "PrintsOnImport",
        "",
        "importing_it_has_no_effect",
        contract="def module(self): return 'prints_on_import'",
    ),
    "TakesDebug": changed(
        "TakesDebug",
        "TakesDebug.params.append(click.Option(['--debug'], is_flag=True, help='Debug.'))",
        "it_takes_no_option_of_codex",
    ),
    "IgnoresWhatItDoesNotKnow": changed(
        "IgnoresWhatItDoesNotKnow",
        "IgnoresWhatItDoesNotKnow.ignore_unknown_options = True\n"
        "IgnoresWhatItDoesNotKnow.context_settings['ignore_unknown_options'] = True",
        "an_unknown_option_is_refused",
    ),
    "Fails": called("Fails", "raise ValueError('no')", "right_calls_succeed"),
    "CountsItsCalls": called(
        "CountsItsCalls",
        "CountsItsCalls.calls = getattr(CountsItsCalls, 'calls', 0) + 1; click.echo(CountsItsCalls.calls)",
        "a_call_can_be_repeated",
    ),
    "PaintsAPipe": called(
        "PaintsAPipe", "sys.stdout.write('\\x1b[31mhello\\x1b[0m')", "a_pipe_gets_no_colours"
    ),
    "ChangesTheFolder": called(
        "ChangesTheFolder", "os.environ['SAID'] = os.urandom(4).hex()", "the_process_is_left_as_it_was"
    ),
    "IsSilentWhereItIsWrong": Fault(
        """
        @click.command("say")
        @click.argument("words", nargs=-1)
        def IsSilentWhereItIsWrong(words):
            \"\"\"Say WORDS.\"\"\"
            raise KeyError(words)
        """,
        ["wrong_calls_are_explained"],
        raw=True,
    ),
}
FAULTY = Faulty("CommandContract", HEAD, FAULTS, common=False)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "needs_numpy_for_help.py").write_text(
        "import click\n\nclass Late(click.Command):\n    def get_help(self, ctx):\n        import numpy\n"
        "        return super().get_help(ctx)\n\n@click.command('tell', cls=Late)\ndef NeedsNumpyForHelp():\n"
        "    '''Say.'''\n"
    )
    return FAULTY.failed(folder)


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_commands_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound command passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
