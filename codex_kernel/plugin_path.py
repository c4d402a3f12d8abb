"""Plugins of folders that are not installed: `CODEX_PLUGIN_PATH`, as the command line's `--plugin-path` sets it.

One rule: only the person at the command line can name such a folder, a manifest cannot. The plugins of a project in
work win over an installed copy of the same distribution; of a folder of installed things, only what is new counts.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from codex_kernel.errors import InputError
from codex_kernel.metadata import GROUPS, Entry, kernel_requirement

VARIABLE = "CODEX_PLUGIN_PATH"


def folders() -> list[Path]:
    """Return the folders that the variable names; raise InputError for one that is not there."""
    found = []
    for text in os.environ.get(VARIABLE, "").split(os.pathsep):
        if text:
            folder = Path(text).absolute()
            if not folder.is_dir():
                raise InputError(
                    f"{VARIABLE}: there is no folder {folder}",
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
        project = folder / "pyproject.toml"
        if project.is_file():
            # Before what is installed, so that the code in work is what runs; after the standard library.
            _put(folder / "src" if (folder / "src").is_dir() else folder, _first_site())
            entries.extend(_read_project(project))
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


def _read_project(file: Path) -> list[Entry]:
    """Return the plugins that a pyproject.toml declares; raise InputError where it cannot be read."""
    import tomllib

    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        return _entries(file.parent, project)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"{file}: {str(error).splitlines()[0]}", remedy=f"mend it, or unset {VARIABLE}"
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{file}: expected [project] with a name and tables of entry points",
            remedy=f"mend it, or unset {VARIABLE}",
        ) from None


def _entries(folder: Path, project: dict[str, Any]) -> list[Entry]:
    """Return the entries of a project's table."""
    declared = {kind: project.get("entry-points", {}).get(group, {}) for kind, group in GROUPS.items()}
    wanted = kernel_requirement([str(line) for line in project.get("dependencies", [])])
    name = str(project["name"])
    version = str(project.get("version") or _dynamic_version(folder))
    summary = str(project.get("description", ""))
    return [
        Entry(kind, plugin, str(target).strip(), name, version, wanted, folder, summary)
        for kind, plugins in declared.items()
        for plugin, target in plugins.items()
    ]


_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def _dynamic_version(folder: Path) -> str:
    """Return the version in a module of the project, where the build backend finds it too; else `0`."""
    for file in sorted(
        [*folder.glob("*/_version.py"), *folder.glob("src/*/*.py"), *folder.glob("*/__init__.py")]
    ):
        if match := _VERSION.search(file.read_text(encoding="utf-8", errors="replace")):
            return match[1]
    return "0"
