"""Commands that plugins bring, and the flags that decide which plugins there are: through the real process."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.catalog import Catalog
from codex_kernel.cli import codex
from codex_kernel.cli.flags import Flags, take
from codex_kernel.cli.plugin_commands import against, blaming
from codex_kernel.errors import PluginError
from tests.command import Workplace, toy_workplace
from tests.docs.test_tutorials import environment
from tests.docs.tutorial import play
from tests.toys import install

GREET = '''
import click


@click.command()
@click.argument("name")
@click.option("--often", default=1)
@click.option("--loud", is_flag=True)
def greet(name, often, loud):
    """Say good day."""
    if name == "nobody":
        raise click.UsageError("nobody is there")
    if name == "boom":
        raise ValueError("no good day\\nat all")
    if name == "busy":
        raise click.ClickException("come back")
    if name == "five":
        click.get_current_context().exit(5)
    if name == "six":
        return 6
    if name == "text":
        return "text"
    if name == "seven":
        raise SystemExit(7 * 3)
    for _ in range(often):
        click.echo(f"good day, {name}" + "!" * loud)
'''
BOMB = "import os; os._exit(99)"


def add(
    workplace: Workplace, distribution: str, module: str, commands: dict[str, str], text: str, **how: Any
) -> Path:
    """Install a distribution with commands: name → attribute of its one module."""
    targets = {name: f"{module}:{attribute}" for name, attribute in commands.items()}
    return install(workplace.site, distribution, {"codex.commands": targets}, modules={module: text}, **how)


def describe(workplace: Workplace, metadata: Path, distribution: str, commands: list[dict[str, str]]) -> None:
    """Give a distribution the static manifest that its build would have made."""
    about = {
        "schema_version": 1,
        "distribution": distribution,
        "plugin_api": [1, 1],
        "plugins": [],
        "commands": commands,
    }
    folder = workplace.site / "described"
    folder.mkdir()
    (folder / "codex-plugin.json").write_text(json.dumps(about))
    with (metadata / "RECORD").open("a") as record:
        record.write("described/codex-plugin.json,,\n")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins with one command, and one that ends any process that imports it."""
    made = toy_workplace(tmp_path)
    add(made, "codex-greet", "codex_greet", {"greet": "greet"}, GREET)
    add(made, "codex-bomb", "codex_bomb", {"bomb": "bomb"}, BOMB)
    return made


# ── help ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_lists_the_commands_of_plugins_and_imports_none(workplace: Workplace) -> None:
    """They have a section of their own; without a static manifest their docstring or distribution describes them."""
    said = workplace.codex("--help")
    assert said.code == 0, said.err
    section = said.out.partition("From plugins:\n")[2].partition("\n\n")[0]
    assert [line.split(maxsplit=1) for line in section.splitlines()] == [
        ["bomb", "codex-bomb for tests"],
        ["greet", "Say good day."],
    ]


def test_help_has_no_section_where_no_plugin_has_a_command(tmp_path: Path) -> None:
    """Nothing is said of what is not there."""
    assert "From plugins" not in toy_workplace(tmp_path).codex("--help").out


def test_the_help_line_is_that_of_the_static_manifest(workplace: Workplace) -> None:
    """What the build wrote down describes the command, still without an import."""
    metadata = add(workplace, "codex-told", "codex_told", {"told": "told"}, BOMB)
    told = {"name": "told", "target": "codex_told:told", "help": "Do what was told."}
    describe(workplace, metadata, "codex-told", [told])
    assert re.search(r"^  told +Do what was told\.$", workplace.codex("--help").out, re.MULTILINE)


def test_a_damaged_static_manifest_does_not_spoil_help(workplace: Workplace) -> None:
    """The command is listed by its distribution's summary."""
    metadata = add(workplace, "codex-told", "codex_told", {"told": "told"}, BOMB)
    describe(workplace, metadata, "codex-told", [])
    (workplace.site / "described" / "codex-plugin.json").write_text("{nonsense")
    assert re.search(r"^  told +codex-told for tests$", workplace.codex("--help").out, re.MULTILINE)


def test_a_command_has_the_help_that_click_makes_of_it(workplace: Workplace) -> None:
    """`codex NAME --help` imports that one plugin."""
    said = workplace.codex("greet", "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Usage: codex greet [OPTIONS] NAME\n\n  Say good day.\n")


def test_a_plugin_path_that_is_not_there_does_not_take_the_help_away(workplace: Workplace) -> None:
    """It is told in the place of the commands."""
    lost = evolve(workplace, variables={"CODEX_PLUGIN_PATH": "/no/such/folder"})
    said = lost.codex("--help")
    assert (said.code, "there is no folder /no/such/folder" in " ".join(said.out.split())) == (0, True)


def test_the_shell_completes_commands_of_plugins_and_imports_none(workplace: Workplace) -> None:
    """Beside the built-in ones, with their lines of help."""
    words = {"_CODEX_COMPLETE": "zsh_complete", "COMP_WORDS": "codex b", "COMP_CWORD": "1"}
    said = evolve(workplace, variables=words).codex()
    assert (said.code, said.out.split("\n")) == (0, ["plain", "bomb", "codex-bomb for tests", ""]), said.err


# ── calls ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (("you", "--often", "2"), 0, "good day, you\ngood day, you\n", ""),
        (("five",), 5, "", ""),
        (("six",), 6, "", ""),
        (("text",), 0, "", ""),
        (("seven",), 21, "", ""),
        (("busy",), 1, "", "Error: come back\n"),
        (("nobody",), 2, "", "Usage: codex greet .*Error: nobody is there\n"),
        ((), 2, "", "Usage: codex greet .*Error: Missing argument 'NAME'.\n"),
        (("you", "--oftn", "2"), 2, "", "Usage: codex greet .*Error: No such option .*--often.*\n"),
        (
            ("boom",),
            7,
            "",
            r"error: command 'greet' \(codex-greet 1.0\) failed: ValueError: no good day\n  --debug shows .*\n",
        ),
    ],
)
def test_a_command_of_a_plugin_ends_as_a_built_in_one(
    workplace: Workplace, arguments: tuple[str, ...], code: int, out: str, err: str
) -> None:
    """Its exit codes and usage errors are its own; what it does not explain is told in a line that names the plugin."""
    said = workplace.codex("greet", *arguments)
    assert (said.code, said.out) == (code, out), said.err
    assert re.fullmatch(err, said.err, re.DOTALL), said.err


def test_the_traceback_of_a_failing_command_is_shown_under_debug(workplace: Workplace) -> None:
    """With the line of the plugin that raised."""
    said = workplace.codex("greet", "boom", "--debug")
    assert said.code == 7
    assert 'raise ValueError("no good day' in said.err


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(3)", "it ended the process (SystemExit 3)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("other = 1", "AttributeError: module 'codex_broken' has no attribute 'broken'"),
        ("def broken(): pass", "codex_broken:broken is function, expected a click.Command"),
    ],
)
def test_a_broken_command_is_one_clear_error_where_it_is_called(
    workplace: Workplace, text: str, cause: str
) -> None:
    """Distribution, version and first cause, exit code 7; nobody else notices."""
    add(workplace, "codex-broken", "codex_broken", {"broken": "broken"}, text, version="2.1")
    for arguments in (("broken",), ("broken", "--help"), ("broken", "--no-such-option")):
        said = workplace.codex(*arguments)
        assert said.code == 7, said.err
        assert said.err.startswith("error: command 'broken' (codex-broken 2.1)")
        assert cause in said.err
        assert len(said.err.splitlines()) <= 3
        assert said.out == ""
    assert "Traceback" in workplace.codex("--debug", "broken").err
    assert workplace.codex("greet", "you").out == "good day, you\n"
    assert workplace.codex("--help").code == 0


def test_what_a_command_prints_when_it_is_imported_is_not_output(workplace: Workplace) -> None:
    """It goes to standard error with the plugin's name, once."""
    add(workplace, "codex-loud", "codex_loud", {"loud": "greet"}, f"print('hello from import')\n{GREET}")
    said = workplace.codex("loud", "you", "--no-such-flag", "--debug")
    assert (
        said.err.count("command 'loud' (codex-loud 1.0) printed while it was imported: 'hello from import'")
        == 1
    )
    assert workplace.codex("loud", "you").out == "good day, you\n"


def test_a_group_of_commands_is_a_command(workplace: Workplace) -> None:
    """The subcommands of a plugin's group are called, and blamed, as its own."""
    text = (
        "import click\n@click.group()\ndef many(): 'Many.'\n@many.command()\ndef one(): raise OSError('x')\n"
    )
    add(workplace, "codex-many", "codex_many", {"many": "many"}, text)
    assert "one" in workplace.codex("many", "--help").out
    said = workplace.codex("many", "one")
    assert (said.code, "command 'many' (codex-many 1.0) failed: OSError: x" in said.err) == (7, True)


# ── whose name it is ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_cannot_replace_a_built_in_command(workplace: Workplace) -> None:
    """The built-in runs, the plugin's is not imported and not in the help; it can be called by its full name."""
    add(workplace, "codex-thief", "codex_thief", {"init": "greet"}, GREET)
    assert workplace.codex("init").code == 0
    assert (workplace.folder / "manifest.yaml").exists()
    assert "codex-thief" not in workplace.codex("--help").out
    assert workplace.codex("codex-thief/init", "you").out == "good day, you\n"
    entries = Catalog.scan([str(workplace.site)]).entries
    (thief,) = [entry for entry in against(["init"], entries) if entry.distribution == "codex-thief"]
    assert (thief.status, thief.reason) == (
        "built in",
        "codex init is a command of its own: call this one as codex codex-thief/init",
    )
    assert [entry.status for entry in against(["run"], entries)] == ["ok"] * len(entries)


def test_a_name_that_two_distributions_claim_is_an_error_where_it_is_called(workplace: Workplace) -> None:
    """Both are named; each can be called with its distribution before its name."""
    add(workplace, "codex-other", "codex_other", {"greet": "greet"}, GREET.replace("good day", "hello"))
    said = workplace.codex("greet", "you")
    assert said.code == 7
    assert said.err == (
        "error: command 'greet' is claimed by codex-greet 1.0 and codex-other 1.0\n"
        "  call one of them: codex codex-greet/greet, or codex codex-other/greet\n"
    )
    assert workplace.codex("codex-other/greet", "you").out == "hello, you\n"
    assert workplace.codex("Codex_Greet/greet", "you").out == "good day, you\n"
    assert {"codex-greet/greet", "codex-other/greet"} <= set(workplace.codex("--help").out.split())


def test_an_incompatible_command_is_refused_with_its_reason(workplace: Workplace) -> None:
    """It is not imported, and not in the help."""
    add(workplace, "codex-new", "codex_new", {"new": "new"}, BOMB, requires="codex-kernel>=99")
    said = workplace.codex("new")
    assert said.code == 7
    assert "command 'new' (codex-new 1.0): needs codex-kernel>=99, this is " in said.err
    assert not re.search(r"^  new ", workplace.codex("--help").out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [("--no-plugins", "bomb"), ("bomb", "--no-plugins"), ("bomb", "x", "--debug", "--no-plugins")],
)
def test_no_plugins_decides_before_import_wherever_it_stands(
    workplace: Workplace, arguments: tuple[str, ...]
) -> None:
    """A command that is not allowed is refused with the reason."""
    said = workplace.codex(*arguments)
    assert said.code == 7
    assert "command 'bomb' (codex-bomb 1.0): --no-plugins or CODEX_PLUGINS= leaves codex-bomb out" in said.err
    assert "From plugins" not in workplace.codex("--help", "--no-plugins").out


def test_a_command_whose_module_is_gone_is_refused_with_its_reason(workplace: Workplace) -> None:
    """Metadata without code is told as such."""
    (workplace.site / "codex_greet.py").unlink()
    said = workplace.codex("greet")
    assert (said.code, "its module codex_greet is not there" in said.err) == (7, True)


@pytest.mark.parametrize(
    ("slip", "meant"), [("gret", "greet"), ("rnu", "run"), ("verify_resume", "verify-resume")]
)
def test_a_misspelt_command_is_told_what_may_have_been_meant(
    workplace: Workplace, slip: str, meant: str
) -> None:
    """Among the built-in commands and those of plugins; nothing is imported."""
    said = workplace.codex(slip)
    assert (said.code, f"No such command {slip!r}: did you mean {meant!r}?" in said.err) == (2, True), (
        said.err
    )
    assert "No such command 'qqqq'.\n" in workplace.codex("qqqq").err


# ── flags ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def project(folder: Path) -> Path:
    """Make a folder with a project that is not installed."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "codex-local"\nversion = "0.1"\n'
        '[project.entry-points."codex.commands"]\nlocal = "codex_local:greet"\n'
    )
    (folder / "codex_local.py").write_text(GREET)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("--plugin-path", "mine", "local", "you"),
        ("--plugin-path=mine", "local", "you"),
        ("local", "you", "--plugin-path", "mine"),
        ("local", "--plugin-path=mine", "you"),
    ],
)
def test_a_plugin_path_adds_a_folder_wherever_it_stands(
    workplace: Workplace, arguments: tuple[str, ...]
) -> None:
    """A project in it need not be installed."""
    project(workplace.folder / "mine")
    said = workplace.codex(*arguments)
    assert (said.code, said.out) == (0, "good day, you\n"), said.err
    assert "local" in workplace.codex("--plugin-path", "mine", "--help").out.partition("From plugins")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plugin-path", "nowhere", "runs"), "--plugin-path: expected a folder, got 'nowhere'"),
        (("runs", "--plugin-path"), "--plugin-path needs a folder"),
        (("runs", "--plugin-path", "--debug"), "--plugin-path needs a folder"),
        (("runs", "--trace-plugins="), "--trace-plugins= needs a file"),
        (("validate", "toy.yaml", "--trace-plugins=no/such/place"), "cannot write no/such/place"),
    ],
)
def test_a_flag_that_is_not_written_rightly_is_a_usage_error(
    workplace: Workplace, arguments: tuple[str, ...], message: str
) -> None:
    """Exit code 2, and what was expected."""
    said = workplace.codex(*arguments)
    assert (said.code, message in said.err) == (2, True), said.err


@pytest.mark.parametrize(
    ("arguments", "flags", "rest"),
    [
        ("run m.yaml", Flags(), "run m.yaml"),
        ("run m.yaml --debug --no-plugins", Flags(debug=True, no_plugins=True), "run m.yaml"),
        ("--trace-plugins run m.yaml", Flags(trace=""), "run m.yaml"),
        ("run --trace-plugins=t.ndjson m.yaml", Flags(trace="t.ndjson"), "run m.yaml"),
        ("generate r --prompt --no-plugins", Flags(), "generate r --prompt --no-plugins"),
        ("generate r --prompt=--debug", Flags(), "generate r --prompt=--debug"),
        ("generate --prompt --debug --debug r", Flags(debug=True), "generate --prompt --debug r"),
        ("generate r --json --debug --prompt x", Flags(debug=True), "generate r --json --prompt x"),
        ("runs list --json --debug", Flags(debug=True), "runs list --json"),
        ("runs list --runs --debug", Flags(), "runs list --runs --debug"),
        ("run -- --debug", Flags(), "run -- --debug"),
        ("--debug run -- --no-plugins", Flags(debug=True), "run -- --no-plugins"),
        ("greet --often --loud --debug", Flags(debug=True), "greet --often --loud"),
    ],
)
def test_flags_are_taken_and_what_belongs_to_others_is_left(
    arguments: str, flags: Flags, rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the value of an option, nor what follows `--`."""
    monkeypatch.setattr(codex, "get_command", _with_greet(codex.get_command))
    assert take(arguments.split(), codex) == (flags, rest.split())


def _with_greet(before: Any) -> Any:
    namespace: dict[str, Any] = {}
    exec(GREET, namespace)  # noqa: S102 - the source of this file
    return lambda ctx, name: namespace["greet"] if name == "greet" else before(ctx, name)


@click.group()
def short() -> None:
    """Stand for a group with short options."""


@short.command()
@click.option("-v", "--verbose", count=True)
@click.option("-n", "--name")
@click.option("-p", "--pair", nargs=2)
@click.option("-x", is_flag=True)
@click.argument("words", nargs=-1)
def command(**_options: object) -> None:
    """Stand for a command with them."""


WORDS = st.sampled_from(
    [
        "-v",
        "-n",
        "-p",
        "-x",
        "-xn",
        "-vxn",
        "-nx",
        "--name",
        "--pair",
        "--name=a",
        "a",
        "b",
        "-",
        "--",
        "--debug",
    ]
)


@given(st.lists(WORDS, max_size=8))
def test_a_flag_is_where_click_itself_would_see_one(words: list[str]) -> None:
    """Had the command the flag as an option of its own, click would find it set by the same words."""
    flags, rest = take(["command", *words], short)
    own = click.Option(["--debug"], is_flag=True)
    with_flag = click.Command("command", params=[*command.params, own])
    try:
        theirs = with_flag.make_context("command", list(words)).params
    except click.UsageError:
        return  # nothing is run
    assert flags.debug is theirs.pop("debug")
    assert command.make_context("command", rest[1:]).params == theirs


def test_the_variables_are_set_for_processes_that_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders become absolute, those of the line come before those of the environment, none is there twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CODEX_PLUGIN_PATH", os.pathsep.join(["/before", str(tmp_path / "b")]))
    monkeypatch.setenv("CODEX_PLUGINS", "mine")
    Flags(plugin_paths=("a", "b")).apply()
    assert os.environ["CODEX_PLUGINS"] == "mine"
    assert os.environ["CODEX_PLUGIN_PATH"].split(os.pathsep) == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "/before",
    ]
    Flags(no_plugins=True).apply()
    assert os.environ["CODEX_PLUGINS"] == ""


def test_a_run_uses_the_plugins_of_a_path_and_none_where_there_are_to_be_none(workplace: Workplace) -> None:
    """The flags hold for manifests as for commands."""
    assert workplace.codex("validate", "toy.yaml").code == 0
    said = workplace.codex("validate", "toy.yaml", "--no-plugins")
    assert said.code == 7
    assert "CODEX_PLUGINS= leaves codex-toys out" in said.err


def test_a_broken_command_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for flags behind its name does not import it a second time."""
    text = "from pathlib import Path\nwith Path('count').open('a') as file: file.write('x')\n1 / 0\n"
    install(
        tmp_path / "site",
        "codex-counted",
        {"codex.commands": {"counted": "codex_counted:counted"}},
        modules={"codex_counted": text},
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        take(["counted", "--debug"], codex)
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.slow
def test_the_page_on_commands_is_as_it_shows(tmp_path: Path) -> None:
    """The command of the page is written, tried, installed and removed exactly as the page says."""
    (tmp_path / "work").mkdir()
    page = Path(__file__).parents[1] / "docs" / "how-to" / "add-a-command.md"
    play(page, tmp_path / "work", environment(tmp_path))


class OddError(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("error", [OddError("strange"), GeneratorExit("strange")])
def test_a_command_that_raises_what_is_no_exception_is_named(tmp_path: Path, error: BaseException) -> None:
    """One error with exit code 7; Ctrl-C and the end of the process stay what they are."""
    install(tmp_path, "codex-odd", {"codex.commands": {"odd": "odd:odd"}}, modules={"odd": ""})
    entry = Catalog.scan([str(tmp_path)]).find("command", "odd")
    with (
        pytest.raises(PluginError, match=r"^command 'odd' \(codex-odd 1.0\) failed: .+: strange$"),
        blaming(entry),
    ):
        raise error
    for meant in (KeyboardInterrupt(), SystemExit(3), click.Abort()):
        with pytest.raises(type(meant)), blaming(entry):
            raise meant


def test_help_leaves_out_a_command_that_its_distribution_has_twice(workplace: Workplace) -> None:
    """It cannot be called; who calls it is told why."""
    metadata = add(workplace, "codex-odd", "codex_odd", {"odd": "odd"}, "")
    with (metadata / "entry_points.txt").open("a") as points:
        points.write("odd = codex_odd:other\n")
    assert "odd" not in workplace.codex("--help").out
    said = workplace.codex("odd")
    told = "command 'odd' (codex-odd 1.0): the distribution names it twice: codex_odd:odd and codex_odd:other"
    assert (said.code, told in said.err) == (7, True)


def test_a_shell_that_completes_hears_no_warning(workplace: Workplace) -> None:
    """The user is typing."""
    variables = {
        "CODEX_PLUGINS": "codex-gret",
        "_CODEX_COMPLETE": "bash_complete",
        "COMP_WORDS": "codex ",
        "COMP_CWORD": "1",
    }
    said = Workplace(workplace.folder, variables).codex()
    assert (said.code, said.err) == (0, "")
