"""`codex validate` and `codex schema` need no code of a plugin that brings a static manifest."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from attrs import frozen
from described import manifest_of, put

from codex_kernel.options import option
from tests.command import Workplace, toy_workplace
from tests.toys import install

KILLS = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
ASKS = """\
from attrs import frozen
from codex_kernel import hookimpl, option

@frozen
class Bomb:
    every: int = option(10, ge=1, help="Steps between lines.")

    @hookimpl
    def codex_preflight(self, base, cache):
        return ["the sink is not there"]

    @hookimpl
    def codex_metrics(self, step, metrics):
        pass
"""


@frozen
class Bomb:
    """Ends the process that imports it."""

    every: int = option(10, ge=1, help="Steps between lines.")


def bombed(folder: Path, code: str = KILLS, content: object = None) -> Workplace:
    """Make a workplace with a logger `bomb` whose code is not to be imported, and which brings a manifest."""
    workplace = toy_workplace(folder)
    target = "codex_bomb:Bomb"
    metadata = install(
        workplace.site, "codex-bomb", {"codex.loggers": {"bomb": target}}, modules={"codex_bomb": code}
    )
    put(metadata, content or manifest_of("codex-bomb", [("logger", "bomb", target, Bomb)]))
    text = (folder / "toy.yaml").read_text().replace("loggers: [toy]", "loggers:\n  - {type: bomb, every: 5}")
    workplace.write("bomb.yaml", text)
    return workplace


def test_validate_finds_a_wrong_option_without_the_plugin(tmp_path):
    """With file, line, column, path and hint, though the plugin's code would kill the process."""
    workplace = bombed(tmp_path)
    said = workplace.codex("validate", "bomb.yaml")
    assert said.code == 0, said.err
    assert "bomb.yaml: ok, 8 plugins" in said.out
    workplace.write(
        "wrong.yaml", (tmp_path / "bomb.yaml").read_text().replace("every: 5", "every: 0, evry: 2")
    )
    said = workplace.codex("validate", "wrong.yaml", "--json")
    assert said.code == 2
    problems = json.loads(said.out)["problems"]
    assert [(one["path"], one["message"], one["hint"]) for one in problems] == [
        ("$.loggers[0].every", "expected a number >= 1, got 0", None),
        ("$.loggers[0].evry", "unknown key 'evry'", "did you mean 'every'?"),
    ]
    assert [one["where"] for one in problems] == ["wrong.yaml:9:25", "wrong.yaml:9:28"]


def test_schema_has_the_options_of_a_plugin_that_nobody_can_import(tmp_path):
    """The composed schema takes its section and refuses a wrong one."""
    workplace = bombed(tmp_path)
    said = workplace.codex("schema")
    assert (said.code, said.err) == (0, "")
    schema = json.loads(said.out)
    manifest = yaml.safe_load((tmp_path / "bomb.yaml").read_text())
    jsonschema.validate(manifest, schema, cls=jsonschema.Draft202012Validator)
    manifest["loggers"][0]["every"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema, cls=jsonschema.Draft202012Validator)


def test_validate_says_whose_preflight_was_not_asked(tmp_path):
    """As text and as JSON; with --preflight all are asked, and what they say is a problem of their section."""
    workplace = bombed(tmp_path, ASKS)
    said = workplace.codex("validate", "bomb.yaml")
    assert said.code == 0
    assert (
        "only the options were checked, by static manifests, of:\n  logger 'bomb' (codex-bomb 1.0)"
        in said.out
    )
    assert "codex validate --preflight" in said.out
    listed = json.loads(workplace.codex("validate", "bomb.yaml", "--json").out)
    assert (listed["valid"], listed["preflight_not_asked"]) == (True, ["logger 'bomb' (codex-bomb 1.0)"])
    said = workplace.codex("validate", "bomb.yaml", "--preflight")
    assert said.code == 2
    assert "$.loggers[0]: the sink is not there" in said.err
    assert json.loads(workplace.codex("validate", "toy.yaml", "--json").out)["preflight_not_asked"] == []


def test_a_run_still_asks_everyone(tmp_path):
    """What `validate` leaves out is found before anything is built."""
    workplace = bombed(tmp_path, ASKS)
    said = workplace.codex("run", "bomb.yaml")
    assert said.code == 2
    assert "the sink is not there" in said.err


@pytest.mark.parametrize("content", ["{", {"schema_version": 2}, {"schema_version": 1, "plugins": "none"}])
def test_a_bad_file_is_a_warning_and_the_plugin_is_imported(tmp_path, content):
    """One line says what is wrong with it; what is checked is the same as without it."""
    workplace = bombed(tmp_path, ASKS.replace("the sink is not there", "asked"), content)
    for command in (("validate", "bomb.yaml"), ("schema",)):
        said = workplace.codex(*command)
        assert "the codex-plugin.json of codex-bomb 1.0 is not used: " in said.err
        assert "Traceback" not in said.err
    assert "asked" in workplace.codex("validate", "bomb.yaml").err


def test_options_of_another_form_are_a_warning_and_the_plugin_is_imported(tmp_path):
    """Nothing of them becomes code."""
    content = manifest_of("codex-bomb", [("logger", "bomb", "codex_bomb:Bomb", Bomb)])
    content["plugins"][0]["options"]["properties"] = {"every=print('caught')": {"type": "integer"}}
    said = bombed(tmp_path, ASKS, content).codex("validate", "bomb.yaml")
    assert "the codex-plugin.json of codex-bomb 1.0 is not used for 'bomb'" in said.err
    assert "the sink is not there" in said.err
    assert "Traceback" not in said.err


def test_a_bad_file_of_a_plugin_that_cannot_be_imported_is_an_error_of_the_plugin(tmp_path):
    """Exit code 7, and the plugin's name."""
    workplace = bombed(tmp_path, "raise RuntimeError('broken')\n", "{")
    said = workplace.codex("validate", "bomb.yaml")
    assert said.code == 7
    assert "logger 'bomb' (codex-bomb 1.0) cannot be imported: RuntimeError: broken" in said.err


def test_a_dataset_made_of_others_is_known_by_its_file(tmp_path):
    """Its sources are read as sections of their own, and a wrong option in one of them has its place."""
    workplace = toy_workplace(tmp_path)
    from codex_kernel.builtin.mixture import Mixture

    target = "codex_bomb:Mix"
    metadata = install(
        workplace.site, "codex-bomb", {"codex.datasets": {"mix": target}}, modules={"codex_bomb": KILLS}
    )
    put(metadata, manifest_of("codex-bomb", [("dataset", "mix", target, Mixture)]))
    dataset = "dataset: {type: mix, sources: {a: toy, b: {type: toy, nothing: 1}}, weights: {a: 1, b: 1}}"
    text = (tmp_path / "toy.yaml").read_text().replace("dataset: {type: toy}", dataset)
    workplace.write("mix.yaml", text)
    said = workplace.codex("validate", "mix.yaml")
    assert (said.code, "$.dataset.sources.b.nothing: unknown key 'nothing'" in said.err) == (2, True), (
        said.err
    )
    workplace.write("mix.yaml", text.replace(", nothing: 1", ""))
    listed = json.loads(workplace.codex("validate", "mix.yaml", "--json").out)
    assert listed["preflight_not_asked"] == [
        "dataset 'mix' (codex-bomb 1.0)",
        "dataset 'toy' (codex-toys 1.0)",
        "dataset 'toy' (codex-toys 1.0)",
    ]


def test_a_hook_of_a_static_manifest_that_this_kernel_does_not_have_is_the_error_of_registration(tmp_path):
    """With the place of its section, exit code 7, and the code is not imported."""
    content = manifest_of("codex-bomb", [("logger", "bomb", "codex_bomb:Bomb", Bomb)])
    content["plugins"][0]["hooks"] = ["codex_event", "codex_metrix"]
    said = bombed(tmp_path, content=content).codex("validate", "bomb.yaml")
    assert said.code == 7
    told = "logger 'bomb' (codex-bomb 1.0) does not fit the hooks of this kernel: unknown hook 'codex_metrix'"
    assert f"$.loggers[0]: {told} in its codex-plugin.json" in said.err
    assert "did you mean 'codex_metrics'?" in said.err or "did you mean 'codex_metric'?" in said.err
