"""The command that installs, upgrades or removes a distribution here: for pip, uv, uv tool or pipx, as codex came.

One rule: the line that is shown works as it stands. Nothing here runs it, and it names only what it was given.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Literal

Installer = Literal["pip", "uv", "uv tool", "pipx"]


def installer(prefix: Path | None = None) -> Installer:
    """Say which program made the environment at `prefix` (default: this one), by the files that it leaves there."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    if (prefix / "uv-receipt.toml").is_file():
        return "uv tool"
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx"
    try:
        settings = (prefix / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no virtual environment
        return "pip"
    return "uv" if any(line.partition("=")[0].strip() == "uv" for line in settings.splitlines()) else "pip"


def install_line(*distributions: str, prefix: Path | None = None) -> str:
    """Return the command that adds distributions, each a name or a requirement, to the environment of codex."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    names = _quoted(distributions)
    match installer(prefix):
        case "uv tool":
            return _uv_tool(prefix, added=distributions)
        case "pipx":
            return f"pipx inject {_quoted([prefix.name])} {names}"
        case "uv":
            return f"uv pip install{_python(prefix)} {names}"
        case "pip":
            return f"pip install {names}"


def upgrade_line(*distributions: str, prefix: Path | None = None) -> str:
    """Return the command that brings distributions to their newest versions."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    names = _quoted(distributions)
    match installer(prefix):
        case "uv tool":
            return f"uv tool upgrade {_quoted([prefix.name])}"
        case "pipx":
            return f"pipx runpip {_quoted([prefix.name])} install --upgrade {names}"
        case "uv":
            return f"uv pip install --upgrade{_python(prefix)} {names}"
        case "pip":
            return f"pip install --upgrade {names}"


def uninstall_line(*distributions: str, prefix: Path | None = None) -> str:
    """Return the command that removes distributions."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    names = _quoted(distributions)
    match installer(prefix):
        case "uv tool":
            return _uv_tool(prefix, removed=distributions)
        case "pipx":
            return f"pipx uninject {_quoted([prefix.name])} {names}"
        case "uv":
            return f"uv pip uninstall{_python(prefix)} {names}"
        case "pip":
            return f"pip uninstall {names}"


def _uv_tool(prefix: Path, added: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> str:
    """Return the `uv tool install` line: it installs anew, so it must name all that is there already."""
    gone = {_normal(name) for name in removed}
    there = [name for name in _received(prefix) if _normal(name) not in {*gone, _normal(prefix.name)}]
    new = [name for name in added if _normal(name) not in {_normal(old) for old in there}]
    return " ".join(
        ["uv tool install", _quoted([prefix.name]), *(f"--with {_quoted([name])}" for name in (*there, *new))]
    )


def _received(prefix: Path) -> list[str]:
    """Return what `uv tool install` was asked for, as its receipt says."""
    import tomllib

    try:
        receipt = tomllib.loads((prefix / "uv-receipt.toml").read_text(encoding="utf-8"))
        rows = receipt["tool"]["requirements"]
        return [f"{row['name']}{row.get('specifier', '')}" for row in rows]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return []  # a receipt of another form: the line names only what is new


def _python(prefix: Path) -> str:
    """Return the flag that uv needs where the environment of codex is not the active one."""
    active = os.environ.get("VIRTUAL_ENV")
    if active and Path(active).resolve() == prefix.resolve():
        return ""
    return f" --python {_quoted([str(prefix)])}"


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    return " ".join(map(shlex.quote, words))


def _normal(requirement: str) -> str:
    """Return the normalised name in a requirement."""
    import re

    match = re.match(r"[A-Za-z0-9._-]*", requirement)
    return re.sub(r"[-_.]+", "-", match[0] if match else "").lower()
