"""The line that installs something fits the installer that codex came by."""

from __future__ import annotations

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
    made.mkdir()
    for name, text in files.items():
        (made / name).write_text(text)
    return made


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
    monkeypatch.setenv("VIRTUAL_ENV", str(made))
    assert install_line("codex-x", prefix=made) == install
    assert upgrade_line("codex-x", prefix=made) == upgrade
    assert uninstall_line("codex-x", prefix=made) == uninstall


def test_uv_is_told_which_environment_where_it_is_not_the_active_one(tmp_path, monkeypatch):
    """Otherwise uv would install into whatever is active, or into the folder's own .venv."""
    made = prefix(tmp_path, ENVIRONMENTS["uv"])
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert install_line("codex-x", prefix=made) == f"uv pip install --python {made} codex-x"


def test_uv_tool_removes_a_plugin_by_leaving_it_out(tmp_path):
    """There is no other way to take one out of a tool's environment."""
    made = prefix(tmp_path, ENVIRONMENTS["uv tool"])
    assert uninstall_line("codex_torch", prefix=made) == "uv tool install codex-kernel --with codex-hf"


@pytest.mark.parametrize("receipt", ["", "[tool]\n", "no toml", '[tool]\nrequirements = ["codex-kernel"]\n'])
def test_a_receipt_of_another_form_costs_only_the_other_names(tmp_path, receipt):
    """The line then has what was asked for."""
    made = prefix(tmp_path, {"uv-receipt.toml": receipt})
    assert install_line("codex-x", prefix=made) == "uv tool install codex-kernel --with codex-x"


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=4))
def test_a_line_is_safe_to_paste(tmp_path_factory, words):
    """A shell takes each name or requirement as one word, whatever stands in it."""
    line = install_line(*words, prefix=tmp_path_factory.getbasetemp() / "none")
    assert shlex.split(line) == ["pip", "install", *words]
