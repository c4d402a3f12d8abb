"""What is wrong with the entry points that a distribution announces: their names, and that they may be out of date.

One rule: it reads what is installed and the project that an editable installation came from; nothing is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from codex_kernel.catalog import Entry
from codex_kernel.errors import InputError
from codex_kernel.file_record import is_editable
from codex_kernel.installers import install_line
from codex_kernel.manifest import PLUGIN_NAME
from codex_kernel.metadata import parse_entry_points
from codex_kernel.plugin_lock import direct_url
from codex_kernel.plugin_project import entries_of, table_of

_SHOWN = 3


def unwritable(entry: Entry) -> str:
    """Say why nobody can use an entry by its name; "" where a manifest, or the command line, can name it."""
    name = entry.name
    if entry.kind == "command":
        good = bool(name) and name.isprintable() and name[0] != "-" and not any(map(str.isspace, name))
        return "" if good else f"its name {name!r} cannot be called: expected letters, digits, - and _"
    if PLUGIN_NAME.fullmatch(name):
        return ""
    return f"its name {name!r} cannot be written in a manifest: expected letters and digits, joined by - or _"


def outdated(metadata: Path) -> str:
    """Say how what is installed differs from the project of an editable installation; "" where it does not.

    Nobody can say where its pyproject.toml has no entry points, or leaves them to its build backend.
    """
    folder = project_folder(metadata)
    if folder is None:
        return ""
    try:
        table = table_of(folder)
        installed = _by_name((metadata / "entry_points.txt").read_text(encoding="utf-8", errors="replace"))
    except (InputError, OSError):  # its author is at work on it
        return ""
    if "entry-points" not in table or "entry-points" in _dynamic(table):
        return ""
    declared = {(e.kind, e.name.strip()): _plain(e.target) for e in entries_of(folder, table)}
    gone = [f"{kind} {name} is gone" for kind, name in installed if (kind, name) not in declared]
    new = [f"{kind} {name} is new" for kind, name in declared if (kind, name) not in installed]
    other = [
        f"{kind} {name} is {target} now"
        for (kind, name), target in declared.items()
        if installed.get((kind, name), target) != target
    ]
    changes = [*gone, *new, *other]
    if not changes:
        return ""
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return (
        f"{folder / 'pyproject.toml'} has other entry points than are installed: "
        f"{', '.join(changes[:_SHOWN])}{more}"
    )


def install_again(metadata: Path) -> str:
    """Return how to bring the entry points of an editable installation up to date."""
    return f"install it again: {install_line('-e', str(project_folder(metadata) or '.'))}"


def project_folder(metadata: Path) -> Path | None:
    """Return the folder of the project that an editable installation came from; None where it is none."""
    note = direct_url(metadata)
    if note is None or not is_editable(note):
        return None
    url = urlsplit(note["url"])
    return Path(unquote(url.path)) if url.scheme == "file" else None


def _dynamic(table: Mapping[str, Any]) -> list[object]:
    fields = table.get("dynamic")
    return fields if isinstance(fields, list) else []


def _by_name(entry_points: str) -> dict[tuple[str, str], str]:
    return {(kind, name): _plain(target) for kind, name, target in parse_entry_points(entry_points)}


def _plain(target: str) -> str:
    return "".join(target.split())
