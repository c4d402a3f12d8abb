"""The whole life of a third party's plugin, in an environment that has the kernel and nothing else of ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

from codex_kernel import metrics
from tests.command import Said
from tests.install.environments import ROOT, Environment, plain_variables, write_pins
from tests.toys import TOY_MANIFEST, install_toys

EXAMPLES = ROOT / "examples"
MANIFESTS = {
    "stdout": TOY_MANIFEST.replace("loggers: [toy]", "loggers: [{type: stdout, every: 2}]"),
    "reverse": TOY_MANIFEST.replace("tokenizer: bytes", "tokenizer: reverse"),
}


@frozen
class User:
    """Somebody with a fresh environment, a folder to work in, and toys for the parts that need torch."""

    environment: Environment
    folder: Path
    toys: Path
    pins: Path

    def codex(self, *arguments: str) -> Said:
        """Run `codex`."""
        toys = {"PYTHONPATH": str(self.toys)}
        return self.environment.run("codex", *arguments, cwd=self.folder, variables=toys)

    def pip(self, *arguments: str | Path) -> str:
        """Run the environment's own pip, which builds in isolation, and return its output."""
        pins = {"PIP_CONSTRAINT": str(self.pins), "PIP_BUILD_CONSTRAINT": str(self.pins)}
        said = self.environment.run("python", "-m", "pip", *arguments, cwd=self.folder, variables=pins)
        assert said.code == 0, said.err
        return said.out

    def plugins(self, distribution: str) -> list[tuple[str, str, str]]:
        """Return kind, name and version of what `codex plugins list` shows of a distribution."""
        listing = json.loads(self.codex("plugins", "list", "--json").out)["plugins"]
        return [(p["kind"], p["name"], p["version"]) for p in listing if p["distribution"] == distribution]


@pytest.fixture(scope="session")
def environment(tmp_path_factory, kernel_wheel) -> Environment:
    """Make an environment with pip, the kernel and what it depends on."""
    environment = Environment(tmp_path_factory.mktemp("third-party") / "venv")
    subprocess.run([sys.executable, "-m", "venv", environment.folder], env=plain_variables(), check=True)
    environment.install(kernel_wheel)
    return environment


@pytest.fixture
def user(environment, tmp_path) -> User:
    """Return a user with both manifests in the folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name, text in MANIFESTS.items():
        (folder / f"{name}.yaml").write_text(text)
    return User(environment, folder, install_toys(tmp_path / "toys"), write_pins(tmp_path / "pins.txt"))


def stdout_prints(user: User) -> None:
    """Check that every second record of the run was printed, with the values of metrics.ndjson."""
    said = user.codex("run", "stdout.yaml", "--run-dir", "run")
    assert said.code == 0, said.err
    records = [r for r in metrics.read(user.folder / "run" / "metrics.ndjson") if r["split"] == "train"]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    for record in records:
        line = f"{record['step']} {{'loss': {record['loss']}}}"
        assert (line in said.out.splitlines()) == (record["step"] % 2 == 0)


def reverse_encodes(user: User) -> None:
    """Check that a run was trained on the plugin's tokens, says so, and writes text."""
    said = user.codex("run", "reverse.yaml", "--run-dir", "run")
    assert said.code == 0, said.err
    lock = json.loads((user.folder / "run" / "plugins.lock.json").read_text())["plugins"]
    (tokenizer,) = [plugin for plugin in lock if plugin["kind"] == "tokenizer"]
    expected = {"name": "reverse", "distribution": "codex-plugin-reverse", "version": "0.1.0"}
    assert expected.items() <= tokenizer.items()
    assert json.loads((user.folder / "run" / "data.json").read_text())["vocab_size"] == 257
    written = user.codex("generate", "run", "--prompt", "fed", "--max-new-tokens", "3")
    assert written.code == 0, written.err
    assert written.out.startswith("fed")


@pytest.mark.parametrize(
    ("name", "kind", "is_used"),
    [("stdout", "logger", stdout_prints), ("reverse", "tokenizer", reverse_encodes)],
)
def test_a_plugin_is_installed_listed_used_uninstalled_and_unknown(user, name, kind, is_used):
    """Pip puts it beside the kernel, codex lists and uses it; without it the same manifest is refused with 7."""
    distribution = f"codex-plugin-{name}"
    installed = user.pip("install", EXAMPLES / distribution)
    assert re.search(rf"^Successfully installed {distribution}-0\.1\.0$", installed, re.MULTILINE)
    assert user.plugins(distribution) == [(kind, name, "0.1.0")]
    is_used(user)

    uninstalled = user.pip("uninstall", "--yes", distribution)
    assert f"Successfully uninstalled {distribution}-0.1.0" in uninstalled
    assert user.plugins(distribution) == []
    refused = user.codex("run", f"{name}.yaml", "--run-dir", "refused")
    assert refused.code == 7
    assert f"unknown {kind} '{name}'" in refused.err
    assert not (user.folder / "refused").exists()
