"""What a manifest may use and what it needs is decided by metadata, before anything is imported."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.requirements import PluginsOptions, read
from codex_kernel.yaml_reader import Node
from tests.command import Workplace, toy_workplace
from tests.toys import TOY_MANIFEST, install


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Make a workplace with the toys and a logger that ends the process that imports it."""
    made = toy_workplace(tmp_path_factory.mktemp("requirements"))
    plugins = {"codex.loggers": {"bomb": "codex_bomb:Mine"}}
    install(made.site, "codex-bomb", plugins, version="0.3", modules={"codex_bomb": "import os\nos._exit(9)"})
    return made


def with_plugins(workplace: Workplace, section: str, *, logger: str = "toy") -> str:
    """Write a manifest with this `plugins:` as its second line, and return its name."""
    name, rest = TOY_MANIFEST.split("\n", 1)
    text = f"{name}\nplugins: {section}\n{rest}"
    return workplace.write("p.yaml", text.replace("loggers: [toy]", f"loggers: [{logger}]")).name


def test_what_is_needed_and_there_is_nothing_to_tell(workplace):
    """Plugins, packages without plugins, any writing of a name, and no versions at all."""
    section = '{require: ["codex_toys>=1,<2", "codex-bomb ~= 0.3.0", attrs, "Codex.Kernel>=0.1"]}'
    said = workplace.codex("validate", with_plugins(workplace, section))
    assert said.code == 0, said.err


def test_the_copy_that_is_used_decides_and_not_one_that_it_shadows(workplace):
    """A later copy on the path, whatever its plugins are called, is not what a run gets."""
    older = workplace.folder / "older"
    plugins = {"codex.datasets": {"aaa": "codex_bomb:Data"}}
    install(older, "codex-bomb", plugins, version="0.1", modules={"codex_bomb": ""})
    path = f"{workplace.site}{os.pathsep}{older}"
    said = Workplace(workplace.folder, {"PYTHONPATH": path}).codex(
        "validate", with_plugins(workplace, '{require: ["codex-bomb==0.3"]}')
    )
    assert said.code == 0, said.err


def test_all_that_is_missing_is_told_with_its_place_and_install_line_and_nothing_is_imported(workplace):
    """A version that does not fit, a distribution that is not there, a slip of the index: one line each; exit 7."""
    section = '{require: ["codex-toys>=2,<3", "codex-nowhere>=1", "codex-mlfow", "codex-bomb==0.3"]}'
    said = workplace.codex("run", with_plugins(workplace, section, logger="bomb"), "--run-dir", "never")
    assert said.code == 7
    assert said.err.splitlines() == [
        (
            "p.yaml:2:21: $.plugins.require[0]: codex-toys 1.0 is installed, codex-toys>=2,<3 is needed "
            "(pip install 'codex-toys>=2,<3')"
        ),
        (
            "p.yaml:2:41: $.plugins.require[1]: codex-nowhere is not installed "
            "(it is not in the index of codex: look at its documentation for how to install it)"
        ),
        "p.yaml:2:61: $.plugins.require[2]: codex-mlfow is not installed (did you mean 'codex-mlflow'?)",
        "error: 3 problems found, nothing was run",
    ]
    assert not (workplace.folder / "never").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('{require: ["codex-toys >> 1"]}', "2:21: $.plugins.require[0]: expected a distribution and its versions"),
        ('{require: ["codex-toys[x]>=1"]}', "$.plugins.require[0]: expected a distribution and its versions"),
        ('{require: ["x @ https://e.org/x.whl"]}', "$.plugins.require[0]: expected a distribution and its versions"),
        ('{require: ["codex-toys; python_version<\'4\'"]}', "$.plugins.require[0]: expected a distribution and its"),
        ("{require: [1]}", "$.plugins.require[0]: expected a string, got 1"),
        ("{require: codex-toys}", "$.plugins.require: expected a list, got 'codex-toys'"),
        ('{allow: ["codex-toys>=1"]}', "$.plugins.allow[0]: expected the name of a distribution"),
        ("{alow: []}", "$.plugins.alow: unknown key 'alow' (did you mean 'allow'?)"),
        ("[codex-toys]", "$.plugins: expected a mapping"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error_with_its_place(workplace, section, message):
    """A requirement is a name and versions; anything else is refused as it is read, exit 2."""
    said = workplace.codex("validate", with_plugins(workplace, section))
    assert said.code == 2
    assert message in said.err


def test_an_allow_list_that_leaves_out_a_plugin_of_the_manifest_is_an_error_at_its_section(workplace):
    """The section that names the plugin is told, and the plugin is not imported."""
    path = with_plugins(workplace, "{allow: [codex-toys]}", logger="bomb")
    said = workplace.codex("validate", path)
    assert said.code == 7
    assert said.err.splitlines()[0] == (
        "p.yaml:9:11: $.loggers[0]: logger 'bomb' (codex-bomb 0.3): plugins.allow leaves codex-bomb out "
        "(add codex-bomb to it)"
    )


def test_an_allow_list_that_has_all_that_is_named_lets_the_run_through(workplace):
    """It is written down with the run; a later change of it is harmless, and said."""
    path = with_plugins(workplace, "{allow: [codex-toys], require: [codex-toys]}")
    said = workplace.codex("run", path, "--run-dir", "allowed")
    assert said.code == 0, said.err
    resolved = (workplace.folder / "allowed" / "resolved.yaml").read_text()
    assert re.search(r"plugins:\n +allow:\n +- codex-toys\n +require:\n +- codex-toys\n", resolved)
    more = ["--set", "trainer.max_steps=8", "--allow-change", "trainer.max_steps"]
    said = workplace.codex("resume", "allowed", "--set", "plugins.allow=null", *more)
    assert said.code == 0, said.err
    events = (workplace.folder / "allowed" / "events.ndjson").read_text()
    assert '"key": "plugins.allow"' in events or '"key":"plugins.allow"' in events


def test_a_manifest_without_the_section_has_none_in_its_resolved_form(workplace):
    """Nothing is allowed or needed in particular."""
    said = workplace.codex("run", "toy.yaml", "--run-dir", "plain")
    assert said.code == 0, said.err
    assert "plugins:" not in (workplace.folder / "plain" / "resolved.yaml").read_text()


def test_a_slip_of_an_installed_name_and_a_known_one_that_is_missing(workplace):
    """The nearest of the index and of what is installed; an install line only for a name that the index has."""
    none = Workplace(workplace.folder, {"PYTHONPATH": str(workplace.site)})
    said = none.codex("validate", with_plugins(workplace, '{require: ["codex-bomp", "codex_toyz>=1"]}'))
    assert said.code == 7
    assert "require[0]: codex-bomp is not installed (did you mean 'codex-bomb'?)" in said.err
    assert "require[1]: codex_toyz is not installed (did you mean 'codex-toys'?)" in said.err
    assert "pip" not in said.err


def test_all_entries_that_are_not_understood_are_told_at_once(workplace):
    """What is no text, and text that is no requirement; none of it is looked for."""
    section = '{require: [3, "codex-toys >> 1", null], allow: [7, "codex-toys>=1"]}'
    said = workplace.codex("validate", with_plugins(workplace, section))
    assert said.code == 2
    for told in (
        "$.plugins.require[0]: expected a string, got 3",
        "$.plugins.require[1]: expected a distribution and its versions",
        "$.plugins.require[2]: expected a string, got null",
        "$.plugins.allow[0]: expected a string, got 7",
        "$.plugins.allow[1]: expected the name of a distribution",
    ):
        assert told in said.err
    assert "3 is not installed" not in said.err


def test_an_allowed_distribution_that_is_not_there_is_a_warning(workplace):
    """It hurts nobody unless the manifest needs it, and then its section says so."""
    said = workplace.codex("validate", with_plugins(workplace, "{allow: [codex-toys, codex-bomp]}"))
    assert said.code == 0
    assert said.err == (
        "warning: plugins.allow names codex-bomp, which is not installed (did you mean 'codex-bomb'?)\n"
    )


def test_a_version_of_what_came_from_a_folder_is_not_looked_for_in_an_index(tmp_path):
    """The folder is told instead."""
    made = toy_workplace(tmp_path)
    (metadata,) = made.site.glob("codex_toys-*.dist-info")
    (metadata / "direct_url.json").write_text('{"url": "file:///my/toys", "dir_info": {}}')
    said = made.codex("validate", with_plugins(made, '{require: ["codex-toys>=2"]}'))
    assert "(it came from /my/toys: install a version that fits from there)" in said.err


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_is_a_requirement_or_a_problem(texts):
    """Reading ends in options or in a problem for each text that is none, never in an exception."""
    problems = []
    nodes = [Node(text, "m.yaml:1:1") for text in texts]
    made = read(Node({"require": Node(nodes, "m.yaml:1:1")}, "m.yaml:1:1"), problems)
    assert (made is None) == bool(problems)
    assert made is None or made == PluginsOptions(None, tuple(texts))
