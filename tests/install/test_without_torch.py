"""The kernel without torch, as a wheel, on every Python of this machine that it is for."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
from attrs import frozen

from codex_kernel import metrics
from codex_kernel._version import __version__
from tests.command import Said
from tests.install.environments import ROOT, Environment, find_pythons, make_environment
from tests.toys import TOY_MANIFEST, install_toys

PYTHONS = find_pythons()
HEAVY = [
    "torch",
    "transformers",
    "safetensors",
    "mlflow",
    "peft",
    "sentencepiece",
    "psutil",
    "datasketch",
    "pyarrow",
]
PLUGINS = ["codex_torch", "codex_hf", "codex_spm", "codex_mlflow", "codex_sysmon", "codex_clean"]


@frozen
class User:
    """Somebody with the kernel, the toy plugins on the path, and a folder to work in."""

    environment: Environment
    folder: Path
    toys: Path

    def codex(self, *arguments: str | Path) -> Said:
        """Run `codex`."""
        toys = {"PYTHONPATH": str(self.toys)}
        return self.environment.run("codex", *arguments, cwd=self.folder, variables=toys)


@pytest.fixture(scope="module", params=list(PYTHONS))
def environment(request, tmp_path_factory, kernel_wheel) -> Environment:
    """Make an environment of one Python with the kernel and what it depends on."""
    environment = make_environment(tmp_path_factory.mktemp("python") / "venv", PYTHONS[request.param])
    environment.install(kernel_wheel)
    return environment


@pytest.fixture
def user(environment, tmp_path) -> User:
    """Return a user with a manifest of toys."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "toy.yaml").write_text(TOY_MANIFEST)
    return User(environment, folder, install_toys(tmp_path / "toys"))


def test_the_running_python_is_among_those_tested():
    """Whatever else is found, the tests of this module are run with at least this one."""
    assert platform.python_version() in PYTHONS


def test_the_environment_has_no_training_library(environment):
    """Neither torch nor any plugin of this repository is there, so what works below works without them."""
    assert environment.holds("codex_kernel", *HEAVY, *PLUGINS) == [True] + [False] * len([*HEAVY, *PLUGINS])


@pytest.mark.parametrize("script", ["codex", "codex-kernel"])
def test_the_version_and_the_help_are_shown(user, script):
    """Both scripts answer."""
    said = user.environment.run(script, "--version", cwd=user.folder)
    assert (said.code, said.out, said.err) == (0, f"codex {__version__}\n", "")
    said = user.environment.run(script, "--help", cwd=user.folder)
    assert (said.code, said.err) == (0, "")
    assert "Usage: codex" in said.out


def test_the_built_in_plugins_are_listed(user):
    """`plugins list --json` has the kernel's own plugins, all in order."""
    said = user.environment.run("codex", "plugins", "list", "--json", cwd=user.folder)
    assert (said.code, said.err) == (0, "")
    listing = json.loads(said.out)
    names = {(plugin["kind"], plugin["name"]) for plugin in listing["plugins"]}
    assert {("dataset", "python-source"), ("tokenizer", "bytes"), ("logger", "console")} <= names
    assert {plugin["distribution"] for plugin in listing["plugins"]} == {"codex-kernel"}
    assert {plugin["status"] for plugin in listing["plugins"]} == {"ok"}


def test_the_schema_is_composed_from_what_is_there(user):
    """`schema` prints a JSON Schema without a warning."""
    said = user.codex("schema")
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_manifest_of_built_in_and_toy_plugins_is_valid(user):
    """`validate` takes it, with every logger and metric of the kernel."""
    sets = ["loggers=[console, csv, jsonl, toy]", "evaluate.metrics=[perplexity, bits-per-byte]"]
    said = user.codex("validate", "toy.yaml", *(word for value in sets for word in ("--set", value)))
    assert (said.code, said.err) == (0, "")
    assert "toy.yaml: ok, 11 plugins" in said.out


def test_a_run_is_trained_resumed_and_generated_from(user):
    """A run that failed goes on from its checkpoint to the losses of one that did not; then it writes text."""
    failed = user.codex("run", "toy.yaml", "--run-dir", "failed", "--set", "trainer.fail_at=3")
    assert failed.code == 7, failed.err
    resolved = user.folder / "failed" / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("fail_at: 3", "fail_at: null"))
    resumed = user.codex("resume", "failed")
    assert resumed.code == 0, resumed.err
    whole = user.codex("run", "toy.yaml", "--run-dir", "whole")
    assert whole.code == 0, whole.err
    losses = [
        metrics.series(metrics.read(user.folder / name / "metrics.ndjson"), "train", "loss")
        for name in ("failed", "whole")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    written = user.codex("generate", "whole", "--prompt", "def f", "--max-new-tokens", "3")
    assert written.code == 0, written.err
    assert written.out.startswith("def f")


def test_what_the_quick_start_needs_is_named_with_the_command_that_installs_it(user):
    """`validate` of the quick start exits 7 and says of each missing plugin how to get it, by the installer in use."""
    said = user.environment.run("codex", "validate", ROOT / "examples" / "quickstart.yaml", cwd=user.folder)
    assert (said.code, said.out) == (7, "")
    line = f"uv pip install --python {user.environment.folder}"
    assert f"unknown tokenizer 'hf-bpe' ({line} codex-hf)" in said.err
    assert f"unknown model 'hf-causal-lm' ({line} codex-hf)" in said.err
    assert f"unknown trainer 'torch' ({line} codex-torch)" in said.err
    assert f"unknown checkpointer 'safetensors' ({line} codex-torch)" in said.err
    assert "Traceback" not in said.err
