"""The distributions as users get them: built, looked into, installed together, and used for the quick start."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.install.environments import ROOT, Environment, build_wheels, make_environment

pytestmark = pytest.mark.slow

PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PACKAGES = {"codex-kernel" if path == ROOT else path.name: path for path in PROJECTS}
each_distribution = pytest.mark.parametrize("name", PACKAGES)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Build every source distribution, and the wheel from it; return the wheels by distribution."""
    folder = tmp_path_factory.mktemp("dist")
    return {name: build_wheels(project, folder) for name, project in PACKAGES.items()}


@pytest.fixture(scope="session")
def environment(tmp_path_factory, wheels) -> Environment:
    """Make an environment with all of them, none of them editable."""
    environment = make_environment(tmp_path_factory.mktemp("wheels") / "venv")
    environment.install(*wheels.values())
    return environment


def metadata_of(wheel: Path) -> Message:
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


@each_distribution
def test_a_wheel_holds_its_package_its_types_and_its_licence(wheels, name):
    """One package with py.typed, the licence, and nothing of the tests."""
    package = name.replace("-", "_")
    with zipfile.ZipFile(wheels[name]) as archive:
        names = archive.namelist()
        (licence,) = [entry for entry in names if entry.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert f"{package}/py.typed" in names
    assert {entry.partition("/")[0] for entry in names} == {package, licence.partition("/")[0]}
    assert [entry for entry in names if "tests/" in entry or entry.endswith(".pyc")] == []


@each_distribution
def test_a_source_distribution_holds_what_its_wheel_is_made_of(wheels, name):
    """README, licence and every module; the wheel was built from it."""
    (sdist,) = wheels[name].parent.glob(f"{name.replace('-', '_')}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {entry.partition("/")[2] for entry in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= members
    sources = {member.removeprefix("src/") for member in members}
    with zipfile.ZipFile(wheels[name]) as archive:
        modules = {entry for entry in archive.namelist() if not re.search(r"\.dist-info/", entry)}
    assert modules <= sources


def test_the_kernel_brings_its_data_files(wheels):
    """The list of known plugins and the starter manifest are read at run time."""
    with zipfile.ZipFile(wheels["codex-kernel"]) as archive:
        names = archive.namelist()
    assert {"codex_kernel/known_plugins.json", "codex_kernel/starter.yaml"} <= set(names)


@each_distribution
def test_a_wheel_brings_the_static_manifest_of_its_plugins(wheels, name):
    """In its package, the one of the sources, and named in its record."""
    project, place = PACKAGES[name], f"{name.replace('-', '_')}/codex-plugin.json"
    with zipfile.ZipFile(wheels[name]) as archive:
        (record,) = [entry for entry in archive.namelist() if entry.endswith(".dist-info/RECORD")]
        assert f"{place}," in archive.read(record).decode()
        source = project / place if name == "codex-kernel" else project / "src" / place
        assert archive.read(place) == source.read_bytes()


@each_distribution
def test_the_metadata_is_that_of_a_published_package(wheels, name):
    """Name, licence, Python, a README; a plugin says which kernels it works with, the kernel needs no torch."""
    metadata = metadata_of(wheels[name])
    assert metadata["Name"] == name
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip()
    required = metadata.get_all("Requires-Dist") or []
    of_the_kernel = [
        line for line in required if re.match(r"codex-kernel\b", line) and "extra ==" not in line
    ]
    if name == "codex-kernel":
        assert [line for line in required if re.match(r"(codex|torch|transformers|mlflow)", line)] == []
    else:
        assert len(of_the_kernel) == 1
        assert ">=" in of_the_kernel[0]


def test_all_are_installed_and_listed(environment, tmp_path):
    """`plugins list` shows the plugins of all six, each in order."""
    said = environment.run("codex", "plugins", "list", "--json", cwd=tmp_path)
    assert (said.code, said.err) == (0, "")
    listing = json.loads(said.out)["plugins"]
    assert {plugin["distribution"] for plugin in listing} == PACKAGES.keys()
    assert {plugin["status"] for plugin in listing} == {"ok"}
    for manifest in sorted((ROOT / "examples").glob("*.yaml")):
        assert environment.run("codex", "validate", manifest, cwd=tmp_path).code == 0


def test_validate_and_schema_import_no_plugin(environment, tmp_path):
    """The options of the quick start are checked by the static manifests of its plugins, but for the kernel's own."""
    program = (
        "import sys; from codex_kernel.cli import main; code = main(sys.argv[1:]); "
        "print([name for name in sys.modules if name.startswith(('codex_torch', 'codex_hf', 'torch'))], code)"
    )
    manifest = ROOT / "examples" / "quickstart.yaml"
    said = environment.run("python", "-c", program, "validate", manifest, cwd=tmp_path)
    assert said.out.splitlines()[-1] == "[] 0", said.err
    assert "only the options were checked, by static manifests, of:" in said.out
    assert "  trainer 'torch' (codex-torch" in said.out.partition("only the options")[2]
    said = environment.run("python", "-c", program, "schema", "--output", "schema.json", cwd=tmp_path)
    assert said.out.splitlines()[-1] == "[] 0", said.err
    written = json.loads((ROOT / "examples" / "codex.schema.json").read_text())
    assert json.loads((tmp_path / "schema.json").read_text()) == written
    wrong = environment.run("codex", "validate", manifest, "--set", "trainer.max_steps=0", cwd=tmp_path)
    assert (wrong.code, "$.trainer.max_steps: expected a number" in wrong.err) == (2, True), wrong.err


def test_the_quick_start_runs_from_the_wheels(environment, tmp_path):
    """Three steps of the quick start, with the whole model, and a text from it."""
    said = environment.run(
        "codex", "run", ROOT / "examples" / "quickstart.yaml", "--run-dir", "run",
        "--set", "trainer.max_steps=3", "--set", "evaluate.max_blocks=4", cwd=tmp_path,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["steps"] == 3
    written = environment.run("codex", "generate", "run", "--prompt", "def ", cwd=tmp_path)
    assert written.code == 0, written.err
    assert written.out.startswith("def ")
