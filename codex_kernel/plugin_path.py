"""Plugins of folders that are not installed: `CODEX_PLUGIN_PATH`, as the command line's `--plugin-path` sets it.

One rule: only the person at the command line can name such a folder, a manifest cannot. The plugins of a project in
work win over an installed copy of the same distribution; of a folder of installed things, only what is new counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

from codex_kernel.errors import InputError
from codex_kernel.metadata import Entry
from codex_kernel.plugin_project import entries_of, table_of


def folders() -> list[Path]:
    """Return the folders that the variable names; raise InputError for one that is not there."""
    found = []
    for text in os.environ.get("CODEX_PLUGIN_PATH", "").split(os.pathsep):
        if text:
            folder = Path(text).absolute()
            if not folder.is_dir():
                raise InputError(
                    f"CODEX_PLUGIN_PATH: there is no folder {folder}",
                    remedy="name a folder with a pyproject.toml, or one filled by pip install --target",
                )
            found.append(folder)
    return found


def projects() -> list[Entry]:
    """Put the folders on `sys.path`, and return the plugins of those that are projects.

    The metadata of a folder as `pip install --target` fills it is found on the path like any other.
    """
    entries = []
    for folder in folders():
        if (folder / "pyproject.toml").is_file():
            # Before what is installed, so that the code in work is what runs; after the standard library.
            _put(folder / "src" if (folder / "src").is_dir() else folder, _first_site())
            entries.extend(_read_project(folder))
        else:
            _put(folder, len(sys.path))  # it may hold copies of what is installed, codex-kernel among them
    return entries


def _put(folder: Path, index: int) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(index, str(folder))


def _first_site() -> int:
    """Return the index of the first folder of installed distributions on the path."""
    names = ("site-packages", "dist-packages")
    return next((i for i, folder in enumerate(sys.path) if folder.endswith(names)), len(sys.path))


def _read_project(folder: Path) -> list[Entry]:
    """Return the plugins that a project's pyproject.toml declares; raise InputError where it cannot be read."""
    table = table_of(folder, remedy="mend it, or unset CODEX_PLUGIN_PATH")
    return entries_of(folder, {**table, "version": table.get("version") or _dynamic_version(folder)})


_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def _dynamic_version(folder: Path) -> str:
    """Return the version in a module of the project, where the build backend finds it too; else `0`."""
    for file in sorted(
        [*folder.glob("*/_version.py"), *folder.glob("src/*/*.py"), *folder.glob("*/__init__.py")]
    ):
        with contextlib.suppress(OSError):
            if match := _VERSION.search(file.read_text(encoding="utf-8", errors="replace")):
                return match[1]
    return "0"
