"""The build hook puts the static manifest of a plugin into its wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.toys import install

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27", "codex-kernel"]
build-backend = "hatchling.build"

[project]
name = "codex-plugin-tiny"
version = "1.2"

[project.entry-points."codex.loggers"]
tiny = "{module}:Tiny"

[tool.hatch.build]
dev-mode-dirs = ["src"]

[tool.hatch.build.targets.wheel]
{wheel}

[tool.hatch.build.targets.wheel.hooks.codex-plugin]
"""
CODE = '''\
from attrs import frozen
from codex_kernel import hookimpl, option


@frozen
class Tiny:
    """Prints little."""

    every: int = option(10, ge=1, help="Steps between lines.")

    @hookimpl
    def codex_metrics(self, step, metrics):
        if step % self.every == 0:
            print(step)
'''


def project(
    folder: Path,
    *,
    module: str = "codex_tiny.logger",
    file: str = "src/codex_tiny/logger.py",
    code: str = CODE,
) -> Path:
    """Write a project with one logger and return its folder."""
    path = folder / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    package = path.parent
    if package.name != "project":
        (package / "__init__.py").write_text("")
        wheel = f'packages = ["{package.relative_to(folder)}"]'
    else:
        wheel = f'only-include = ["{path.name}"]'
    (folder / "pyproject.toml").write_text(PYPROJECT.format(module=module, wheel=wheel))
    return folder


def build(folder: Path, hook: str = "build_wheel") -> subprocess.CompletedProcess[str]:
    """Build the project's wheel into `dist` by hatchling, as a frontend without isolation does."""
    site = folder.parent / "site"
    # The kernel's own installation has the hook, too, but perhaps not yet in one that is editable.
    if not site.exists():
        install(site, "codex-hook", {"hatch": {"codex-plugin": "codex_kernel.hatch_hook"}})
    (folder / "dist").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", f"from hatchling.build import {hook} as b; print(b('dist'))"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of the wheel in `dist`."""
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert len(set(archive.namelist())) == len(archive.namelist())
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    ("module", "file", "place"),
    [
        ("codex_tiny.logger", "src/codex_tiny/logger.py", "codex_tiny/codex-plugin.json"),
        ("codex_tiny.logger", "codex_tiny/logger.py", "codex_tiny/codex-plugin.json"),
    ],
)
def test_a_wheel_holds_the_manifest_made_of_its_classes(tmp_path, module, file, place):
    """Beside the package's __init__.py, in the record, for a project with `src` and for a flat one."""
    folder = project(tmp_path / "project", module=module, file=file)
    done = build(folder)
    assert done.returncode == 0, done.stderr
    content = files(folder)
    made = json.loads(content[place])
    assert (made["distribution"], [one["name"] for one in made["plugins"]]) == ("codex-plugin-tiny", ["tiny"])
    assert made["plugins"][0]["options"]["properties"]["every"]["minimum"] == 1
    assert made["plugins"][0]["hooks"] == ["codex_metrics"]
    assert place in content["codex_plugin_tiny-1.2.dist-info/RECORD"].decode()
    assert not (folder / place).exists()


def test_a_distribution_of_one_module_has_the_manifest_beside_it(tmp_path):
    """Under the module's name, so that two such distributions do not take one another's place."""
    folder = project(tmp_path / "project", module="codex_tiny", file="codex_tiny.py")
    assert build(folder).returncode == 0
    assert json.loads(files(folder)["codex_tiny.codex-plugin.json"])["distribution"] == "codex-plugin-tiny"


def test_a_file_in_the_sources_gives_way_to_the_one_that_is_made(tmp_path):
    """The wheel holds the manifest once, and it is that of the code."""
    folder = project(tmp_path / "project")
    (folder / "src" / "codex_tiny" / "codex-plugin.json").write_text("{}")
    assert build(folder).returncode == 0
    assert json.loads(files(folder)["codex_tiny/codex-plugin.json"])["schema_version"] == 1


def test_an_editable_wheel_has_no_manifest(tmp_path):
    """Its code changes after it was built."""
    folder = project(tmp_path / "project")
    assert build(folder, "build_editable").returncode == 0
    assert [name for name in files(folder) if name.endswith("codex-plugin.json")] == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
        ("import os\nos._exit(3)\n", "it ended the process"),
        ("class Tiny: pass\n", "expected an attrs class"),
        (CODE.replace("int = option(10", "object = option(object()"), "cannot be written in a manifest"),
    ],
)
def test_a_class_that_cannot_be_described_ends_the_build(tmp_path, code, said):
    """With the plugin, the cause and what to do, and no traceback."""
    folder = project(tmp_path / "project", code=code)
    done = build(folder)
    assert done.returncode != 0
    assert "codex-plugin: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list((folder / "dist").iterdir()) == []
