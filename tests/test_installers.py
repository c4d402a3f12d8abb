"""The line that installs something fits the installer that codex came by."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.installers import install_line, installer, uninstall_line, upgrade_line

RECEIPT = """\
[tool]
requirements = [
    { name = "codex-kernel" },
    { name = "codex-torch", specifier = ">=0.1" },
    { name = "codex-hf" },
]
entrypoints = []
"""


def prefix(folder: Path, files: dict[str, str]) -> Path:
    """Make an environment with these files."""
    made = folder / "codex-kernel"
    made.mkdir(parents=True)
    for name, text in files.items():
        (made / name).write_text(text)
    return made


def activate(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the programs of an environment before all others, as its `activate` does."""
    (made / "bin").mkdir(exist_ok=True)
    for name in ("python", "pip"):
        (made / "bin" / name).touch(0o755)
    monkeypatch.setenv("VIRTUAL_ENV", str(made))
    monkeypatch.setenv("PATH", f"{made / 'bin'}{os.pathsep}{os.environ['PATH']}")


ENVIRONMENTS = {
    "pip": {"pyvenv.cfg": "home = /usr/bin\nversion = 3.11.7\n"},
    "uv": {"pyvenv.cfg": "home = /usr/bin\nuv = 0.8.1\nversion_info = 3.11.7\n"},
    "uv tool": {"pyvenv.cfg": "home = /usr/bin\nuv = 0.8.1\n", "uv-receipt.toml": RECEIPT},
    "pipx": {"pyvenv.cfg": "home = /usr/bin\n", "pipx_metadata.json": "{}"},
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_installer_is_known_by_the_files_that_it_leaves(tmp_path, name):
    """A receipt, a metadata file or a line of pyvenv.cfg says who made an environment; without any it is pip's."""
    assert installer(prefix(tmp_path, ENVIRONMENTS[name])) == name


def test_a_python_that_is_no_virtual_environment_is_served_by_pip(tmp_path):
    """Without pyvenv.cfg there is nothing to go by."""
    assert installer(tmp_path / "usr") == "pip"


@pytest.mark.parametrize(
    ("name", "install", "upgrade", "uninstall"),
    [
        ("pip", "pip install codex-x", "pip install --upgrade codex-x", "pip uninstall codex-x"),
        ("uv", "uv pip install codex-x", "uv pip install --upgrade codex-x", "uv pip uninstall codex-x"),
        (
            "uv tool",
            "uv tool install codex-kernel --with 'codex-torch>=0.1' --with codex-hf --with codex-x",
            "uv tool upgrade codex-kernel",
            "uv tool install codex-kernel --with 'codex-torch>=0.1' --with codex-hf",
        ),
        (
            "pipx",
            "pipx inject codex-kernel codex-x",
            "pipx runpip codex-kernel install --upgrade codex-x",
            "pipx uninject codex-kernel codex-x",
        ),
    ],
)
def test_each_installer_has_its_own_lines(tmp_path, monkeypatch, name, install, upgrade, uninstall):
    """A tool of uv is installed anew, so the line names what is there already: the other plugins are not lost."""
    made = prefix(tmp_path, ENVIRONMENTS[name])
    activate(made, monkeypatch)
    assert install_line("codex-x", prefix=made) == install
    assert upgrade_line("codex-x", prefix=made) == upgrade
    assert uninstall_line("codex-x", prefix=made) == uninstall


def test_uv_is_told_which_environment_where_it_is_not_the_active_one(tmp_path, monkeypatch):
    """Otherwise uv would install into whatever is active, or into the folder's own .venv."""
    made = prefix(tmp_path, ENVIRONMENTS["uv"])
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert install_line("codex-x", prefix=made) == f"uv pip install --python {made} codex-x"


def test_pip_is_called_by_the_python_of_the_environment_where_a_shell_would_find_another(
    tmp_path, monkeypatch
):
    """`pip` alone would install into the active environment, or into the system's."""
    made, other = (prefix(tmp_path / name, ENVIRONMENTS["pip"]) for name in ("made", "other"))
    activate(other, monkeypatch)
    assert install_line("codex-x", prefix=made) == f"{made}/bin/python -m pip install codex-x"
    activate(made, monkeypatch)
    assert install_line("codex-x", prefix=made) == "pip install codex-x"
    (made / "bin" / "pip").unlink()  # a shell finds that of the other environment
    assert install_line("codex-x", prefix=made) == f"{made}/bin/python -m pip install codex-x"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_line("codex-x", prefix=made) == f"{made}/bin/python -m pip install codex-x"


def test_uv_tool_removes_a_plugin_by_leaving_it_out(tmp_path):
    """There is no other way to take one out of a tool's environment."""
    made = prefix(tmp_path, ENVIRONMENTS["uv tool"])
    assert uninstall_line("codex_torch", prefix=made) == "uv tool install codex-kernel --with codex-hf"


SOURCES = """\
[tool]
requirements = [
    { name = "codex-kernel", extras = ["testing"], specifier = ">=0.1" },
    { name = "codex-mlflow" },
    { name = "my-git", extras = ["a", "b"], git = "https://me:secret@git.example/x?subdirectory=d&rev=v1" },
    { name = "my-folder", directory = "/src/my x", marker = "python_full_version >= '3.11'" },
    { name = "my-file", path = "/src/my.whl" },
    { name = "my-url", url = "https://a.example/my.whl" },
    { name = "my-editable", extras = ["c"], editable = "/src/mine" },
]
python = "3.11"

[tool.options]
index = [{ url = "https://index.example/simple", explicit = false, default = true }]
find-links = ["file:///dist"]
"""
THERE = [
    *("uv", "tool", "install", "codex-kernel[testing]>=0.1", "--python", "3.11"),
    *("--default-index", "https://index.example/simple", "--find-links", "file:///dist"),
    *("--with", "codex-mlflow", "--with", "my-git[a,b] @ git+https://git.example/x@v1#subdirectory=d"),
    *("--with", "my-folder @ file:///src/my%20x ; python_full_version >= '3.11'"),
    *("--with", "my-file @ file:///src/my.whl", "--with", "my-url @ https://a.example/my.whl"),
    *("--with-editable", "/src/mine[c]"),
]


def test_a_tool_of_uv_is_installed_anew_from_where_everything_came(tmp_path):
    """Sources, extras, versions, markers, Python and index stay: no private name is looked up elsewhere."""
    made = prefix(tmp_path, {"uv-receipt.toml": SOURCES})
    assert shlex.split(install_line("codex-x", prefix=made)) == [*THERE, "--with", "codex-x"]
    assert shlex.split(install_line("-e", "/a b", prefix=made)) == [*THERE, "--with-editable", "/a b"]


def test_an_added_requirement_takes_the_place_of_the_one_before(tmp_path):
    """But a bare name, or versions of what has a source, change nothing of where it comes from."""
    made = prefix(tmp_path, {"uv-receipt.toml": SOURCES})
    newer = [word.replace("codex-mlflow", "codex-mlflow>=0.2") for word in THERE]
    assert shlex.split(install_line("codex-mlflow>=0.2", prefix=made)) == newer
    assert shlex.split(install_line("codex-mlflow", "my_git>=2", "my-editable", prefix=made)) == THERE
    elsewhere = [word.replace("a.example", "b.example") for word in THERE]
    assert shlex.split(install_line("my-url @ https://b.example/my.whl", prefix=made)) == elsewhere
    tool = [word.replace("[testing]>=0.1", "==0.2") for word in THERE]
    assert shlex.split(install_line("codex-kernel==0.2", prefix=made)) == tool


def test_a_tool_of_uv_that_is_editable_stays_so(tmp_path):
    """Its own row may have a source as those of its plugins."""
    receipt = '[tool]\nrequirements = [{ name = "codex-kernel", editable = "/src/codex" }]\n'
    made = prefix(tmp_path, {"uv-receipt.toml": receipt})
    assert install_line("codex-x", prefix=made) == "uv tool install --editable /src/codex --with codex-x"


def test_pipx_keeps_sources_and_is_forced_where_a_plugin_is_there(tmp_path):
    """It leaves an injected package alone otherwise, and a bare name would be looked up in an index."""
    injected = {
        "codex-hf": {"package": "codex-hf", "package_or_url": "codex-hf", "pip_args": []},
        "my-git": {"package": "my-git", "package_or_url": "git+https://git.example/x", "pip_args": []},
        "mine": {"package": "mine", "package_or_url": "/src/mine", "pip_args": ["--editable"]},
    }
    main = {"package": "codex-kernel", "package_or_url": "codex-kernel", "pip_args": []}
    notes = json.dumps({"main_package": main, "injected_packages": injected})
    made = prefix(tmp_path, {"pipx_metadata.json": notes})
    assert install_line("codex-x", prefix=made) == "pipx inject codex-kernel codex-x"
    assert install_line("codex-hf>=2", prefix=made) == "pipx inject --force codex-kernel 'codex-hf>=2'"
    assert install_line("my_git", prefix=made) == "pipx inject --force codex-kernel git+https://git.example/x"
    upgrade = "pipx runpip codex-kernel install --upgrade codex-hf -e /src/mine"
    assert upgrade_line("codex-hf", "mine", prefix=made) == upgrade


@pytest.mark.parametrize("receipt", ["", "[tool]\n", "no toml", '[tool]\nrequirements = ["codex-kernel"]\n'])
def test_a_receipt_of_another_form_costs_only_the_other_names(tmp_path, receipt):
    """The line then has what was asked for."""
    made = prefix(tmp_path, {"uv-receipt.toml": receipt})
    assert install_line("codex-x", prefix=made) == "uv tool install codex-kernel --with codex-x"


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_a_line_is_safe_to_paste(tmp_path_factory, words):
    """A shell takes each name or requirement as one word, whatever stands in it."""
    line = install_line(*words, prefix=tmp_path_factory.getbasetemp() / "none")
    assert shlex.split(line)[-len(words) - 3 :] == ["-m", "pip", "install", *words]
