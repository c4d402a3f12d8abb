"""The rules of this repository, held as behaviour."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PLUGINS = [path.name for path in PROJECTS[1:]]
MODULES = [
    path
    for pattern in (
        "*.py",
        "codex_kernel/**/*.py",
        "plugins/*/src/**/*.py",
        "examples/**/*.py",
        "benchmarks/**/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
]
HEAVY = {"gguf", "mlflow", "peft", "psutil", "pynvml", "sentencepiece", "torch", "transformers"}


def pins() -> dict[str, str]:
    """Return what the lock says of each `name==version marker`: its block of hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())
    return {block.partition(" \\\n")[0]: block for block in blocks if not block.startswith("#")}


def test_no_module_is_longer_than_400_lines():
    """A module that grows beyond 400 lines holds more than one idea."""
    long = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES
    }
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_the_plugins_are_the_six_of_this_repository():
    """The rules below see every plugin distribution."""
    assert PLUGINS == ["codex-clean", "codex-hf", "codex-mlflow", "codex-spm", "codex-sysmon", "codex-torch"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_says_which_kernel_it_works_with(plugin):
    """The kernel reads the range of its API from the plugin's own requirement, so there must be one."""
    assert [line for line in requires(plugin) or [] if re.match(r"codex-kernel[<>=~]", line)]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_every_distribution_ships_the_licence(project):
    """Each distribution's folder holds the licence, which the build puts into wheel and sdist."""
    declared = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["license"]
    assert declared == "Apache-2.0"
    assert (project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_entry_points_load_without_a_heavy_library():
    """`codex validate` imports the classes that a manifest names: none of them may import torch or its like."""
    program = f"""
import sys
from importlib.metadata import distribution
for name in ["codex-kernel", *{PLUGINS}]:
    for entry_point in distribution(name).entry_points:
        entry_point.load()
print(*sorted(set(sys.modules) & {HEAVY}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_every_locked_package_has_hashes():
    """Each line of the lock is one version with at least one sha256."""
    for pin, block in pins().items():
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", pin), pin
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), pin


def test_the_lock_knows_no_machine():
    """No path, no address, no index and no editable project stands in the lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(
        r"://|^-|^\.|find-links|index-url| @ |/", text.replace("`python3 dev.py lock`", ""), re.MULTILINE
    )


def test_the_lock_holds_no_accelerator_package():
    """Which build of torch is installed is the user's choice; its CUDA packages are not forced on anybody."""
    names = {pin.partition("==")[0] for pin in pins()}
    foreign = {name for name in names if name.startswith(("nvidia-", "cuda-", "triton", "torch"))}
    assert foreign == {"nvidia-ml-py"}  # pure Python: it reads the driver's counters


def test_the_lock_holds_what_every_distribution_asks_for():
    """All requirements, test and lint groups and the build tool are pinned, or the lock is stale."""
    names = {pin.partition("==")[0] for pin in pins()}
    wanted = {"hatchling", "uv", "networkx"}
    for project in PROJECTS:
        document = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
        groups = document.get("dependency-groups", {}).values()
        lines = [*document["project"]["dependencies"], *(line for group in groups for line in group)]
        wanted |= {canonicalize_name(re.match(r"[A-Za-z0-9_.-]+", line)[0]) for line in lines}
    assert wanted - names - {"codex-kernel", "torch"} == set()


def test_the_quick_start_trains_on_the_same_bytes_everywhere():
    """networkx, whose source text is the quick start's data, has one version on every Python."""
    assert [pin for pin in pins() if pin.startswith("networkx")] == ["networkx==3.6.1"]


def test_dev_py_needs_nothing_but_python():
    """dev.py imports the standard library alone."""
    tree = ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_dev_py_explains_itself():
    """Without a job, or with one that it does not know, dev.py prints its commands and fails."""
    for arguments in ([], ["no-such-job"]):
        result = subprocess.run(
            [sys.executable, ROOT / "dev.py", *arguments], capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert "python3 dev.py test" in result.stderr
