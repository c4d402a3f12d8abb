"""From `codex plugins new` to a run that uses the plugin: three commands, in an environment of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Said
from tests.install.environments import ROOT, Environment, build_wheels, plain_variables, write_pins

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory, kernel_wheel) -> Environment:
    """Make an environment with pip, the kernel, and the plugins of the scaffold's manifest."""
    folder = tmp_path_factory.mktemp("new-plugin")
    environment = Environment(folder / "venv")
    subprocess.run([sys.executable, "-m", "venv", environment.folder], env=plain_variables(), check=True)
    wheels = [build_wheels(ROOT / "plugins" / name, folder) for name in ("codex-torch", "codex-hf")]
    environment.install(kernel_wheel, *wheels)
    return environment


def test_three_commands_lead_to_a_run(environment, tmp_path):
    """The commands that are shown are typed as they stand: installed, tested and used, with no edit."""
    work = tmp_path / "work"
    work.mkdir()
    pins = str(write_pins(tmp_path / "pins.txt"))
    variables = {"PIP_CONSTRAINT": pins, "PIP_BUILD_CONSTRAINT": pins, "OMP_NUM_THREADS": "1"}

    def typed(line: str) -> Said:
        said = environment.run(*shlex.split(line), cwd=work, variables=variables)
        assert said.code == 0, f"{line}: {said.out[-4000:]}{said.err}"
        return said

    new = typed("codex plugins new logger mine")
    commands = [line[18:] for line in new.out.splitlines()[1:]]
    assert commands == [
        "pip install -e 'codex-plugin-mine[test]'",
        "pytest codex-plugin-mine",
        "codex run codex-plugin-mine/manifest.yaml",
    ]
    _installed, tested, _ran = [typed(line) for line in commands]
    assert " passed" in tested.out
    listing = json.loads(typed("codex plugins list --json --kind logger").out)["plugins"]
    (mine,) = [plugin for plugin in listing if plugin["name"] == "mine"]
    assert (mine["distribution"], mine["status"]) == ("codex-plugin-mine", "ok")
    (journal,) = Path(work, "runs", "codex-plugin-mine").glob("*/mine.log")
    assert journal.read_text().splitlines()[-1] == "completed after 20 steps: all 20 steps done"


def test_a_wheel_of_it_is_known_without_an_import(environment, tmp_path):
    """Built and installed as others get it, its static manifest comes along, and is believed."""
    work = tmp_path / "work"
    work.mkdir()
    new = environment.run("codex", "plugins", "new", "metric", "other", cwd=work)
    assert new.code == 0, new.err
    environment.install(build_wheels(work / "codex-plugin-other", tmp_path))
    program = (
        "from codex_kernel.catalog import Catalog; from codex_kernel.static_file import look_up; import sys;"
        "entry = Catalog.scan().find('metric', 'other'); print(look_up(entry)['metric', 'other'].hooks);"
        "print('codex_other' in sys.modules)"
    )
    said = environment.run("python", "-c", program, cwd=work)
    assert (said.code, said.out, said.err) == (0, "('codex_metric',)\nFalse\n", "")


def test_the_templates_are_in_the_wheel_of_the_kernel(kernel_wheel):
    """Those that a checkout has, each as it is there."""
    import zipfile

    templates = ROOT / "codex_kernel" / "scaffold" / "templates"
    here = {path.relative_to(ROOT).as_posix(): path for path in templates.rglob("*.tmpl")}
    with zipfile.ZipFile(kernel_wheel) as archive:
        assert set(here) == {name for name in archive.namelist() if name.endswith(".tmpl")}
        assert all(archive.read(name) == path.read_bytes() for name, path in here.items())
