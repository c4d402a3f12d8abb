"""The packages of `examples/plugins/`: each is whole, uses public names alone, and works from its wheel."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

import codex_kernel
from tests.examples.packages import EXAMPLES, PACKAGES, workplace_of

ROOT = EXAMPLES.parents[1]
OURS = {path.name for path in ROOT.glob("plugins/*/src/*")}

each_package = pytest.mark.parametrize("name", PACKAGES)


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name) of each import in a file, wherever it stands; of a plain `import` the name is None."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ((str(node.module), alias.name) for alias in node.names)


def project_of(name: str) -> dict:
    """Return the table `project` of a package."""
    return tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_there_are_two():
    """The tests below are about a model with its trainer, and a logger."""
    assert PACKAGES == ["codex-plugin-ngram", "codex-plugin-tensorboard"]


@each_package
def test_the_static_manifest_is_that_of_the_code(name):
    """`codex plugins build-manifest` would write nothing else than what lies there."""
    command = [sys.executable, "-m", "codex_kernel", "plugins", "build-manifest", EXAMPLES / name, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each_package
def test_a_package_is_whole(name):
    """It has what a registry and its users want: README, licence, types, tests, and the range of the kernel's API."""
    folder, project = EXAMPLES / name, project_of(name)
    assert project["name"] == name
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "codex-kernel>=0.1,<0.2" in project["dependencies"]
    assert list((folder / "src").glob("*/py.typed"))
    assert list((folder / "tests").glob("test_*.py"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(part in readme for part in (f"# {name}\n", "## Changes", "```text"))


@each_package
def test_a_package_uses_public_names_alone(name):
    """Of the kernel it imports what `codex_kernel` and `codex_kernel.testing` offer, of the other plugins nothing."""
    files = [*(EXAMPLES / name).rglob("*.py")]
    assert files
    for path in files:
        for module, imported in imports(path):
            top = module.partition(".")[0]
            assert top not in OURS, f"{path}: {module}"
            if top != "codex_kernel":
                continue
            if module == "codex_kernel":
                assert imported in codex_kernel.__all__, f"{path}: {imported}"
            else:
                assert path.is_relative_to(EXAMPLES / name / "tests"), f"{path}: {module}"
                assert module.split(".")[1] == "testing", f"{path}: {module}"
                assert not any(part.startswith("_") for part in [*module.split("."), str(imported)])
                assert hasattr(importlib.import_module(module), str(imported))


@each_package
def test_a_package_needs_what_it_imports(name):
    """What its code imports beyond Python is itself, or in its list of requirements."""
    project, source = project_of(name), EXAMPLES / name / "src"
    needed = {word.partition(">")[0].replace("-", "_") for word in project["dependencies"]}
    own = {path.name for path in source.iterdir()}
    called = {"google": "protobuf"}
    for path in source.rglob("*.py"):
        for module, _ in imports(path):
            top = module.partition(".")[0]
            assert top in sys.stdlib_module_names | own or called.get(top, top) in needed, f"{path}: {module}"


def test_they_are_listed(tmp_path):
    """From their folders alone, neither installed nor imported, the command line knows them with their versions."""
    said = workplace_of(tmp_path).codex("plugins", "list")
    assert said.code == 0, said.err
    for name in PACKAGES:
        rows = [line.split() for line in said.out.splitlines() if name in line]
        assert len(rows) == sum(map(len, project_of(name)["entry-points"].values()))
        assert all(row[2:5] == [name, "0.1.0", "ok"] for row in rows)


def test_their_wheels_work(tmp_path):
    """Built and unpacked as an installer does it, they run a manifest, and bring nothing but themselves."""
    target = tmp_path / "installed"
    for name in PACKAGES:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
            cwd=EXAMPLES / name, check=True, capture_output=True,
        )  # fmt: skip
    for wheel in (tmp_path / "dist").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    assert {path.name.partition("-")[0] for path in target.iterdir()} == {
        "codex_ngram", "codex_tensorboard", "codex_plugin_ngram", "codex_plugin_tensorboard",
    }  # fmt: skip
    workplace = evolve(workplace_of(tmp_path / "work"), variables={"CODEX_PLUGIN_PATH": os.fspath(target)})
    said = workplace.codex("run", "small.yaml", "--run-dir", "r", "--set", "trainer.epochs=0.1")
    assert said.code == 0, said.err
    assert list((workplace.folder / "r" / "tensorboard").iterdir())
