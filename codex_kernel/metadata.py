"""Reading what distributions announce: their plugins, versions and wishes, from the files that installers leave.

One rule: nothing here imports a plugin, and nothing here judges; `catalog` does. Its values are named tuples, since
attrs would double the time of a listing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from codex_kernel.api import Api

GROUPS = {
    "dataset": "codex.datasets",
    "cleaner": "codex.cleaners",
    "tokenizer": "codex.tokenizers",
    "model": "codex.models",
    "adapter": "codex.adapters",
    "trainer": "codex.trainers",
    "checkpointer": "codex.checkpointers",
    "logger": "codex.loggers",
    "metric": "codex.metrics",
    "command": "codex.commands",
}
KERNEL = "codex-kernel"
_KIND_OF = {group: kind for kind, group in GROUPS.items()}
_METADATA_NAMES = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}


class Entry(NamedTuple):
    """One plugin as its distribution announces it.

    `target` is `module:Class`. `metadata` is the folder of the distribution's metadata, or that of its project where it
    is not installed (`CODEX_PLUGIN_PATH`). `plugin_api` is the API that it says it was made for, None where it does
    not say. `status` is `ok`, or one of these, with `reason` in a sentence:

        older           works; made for an API that a later kernel will drop
        claimed twice   another distribution has the same name: `distribution/name` picks one
        shadowed        the same distribution lies earlier on the path
        incompatible    made for another API, or it wants another version of codex-kernel (`kernel_requirement`)
        not allowed     CODEX_PLUGINS, or the manifest's plugins.allow, leaves its distribution out
        stale           its module is not there
    """

    kind: str
    name: str
    target: str
    distribution: str
    version: str
    kernel_requirement: str
    metadata: Path
    distribution_summary: str
    status: str = "ok"
    plugin_api: Api | None = None
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.distribution} {self.version})"

    @property
    def full_name(self) -> str:
        """The name that no other distribution can claim: `distribution/name`."""
        return f"{self.distribution}/{self.name}"

    @property
    def summary(self) -> str:
        """First line of the class's docstring, read from its source text; else the distribution's summary."""
        return _docstring(self) or self.distribution_summary


def read(path: Sequence[str]) -> Iterator[Entry]:
    """Yield the plugins of every distribution in the folders, first folder first; only their statuses are open."""
    for folder in dict.fromkeys(path):
        for metadata, entry_points in _entry_point_files(folder):
            sections = parse_entry_points(entry_points)
            if sections:
                name, version, summary, requirement = _read_header(metadata)
                api = None if normal(name) == KERNEL else _made_for(metadata)
                for kind, plugin, target in sections:
                    yield Entry(
                        kind, plugin, target, name, version, requirement, metadata, summary, plugin_api=api
                    )


def normal(name: str) -> str:
    """Return a distribution's name as packaging normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _entry_point_files(folder: str) -> Iterator[tuple[Path, str]]:
    """Yield (metadata folder, text of entry_points.txt) of the distributions in a folder that mention codex.

    importlib.metadata would read and parse the metadata of every distribution; this costs a tenth of it. Only plain
    folders are read: codex does not look for plugins in zip files.
    """
    try:
        names = sorted(
            entry.name for entry in os.scandir(folder or ".") if entry.name.endswith(tuple(_METADATA_NAMES))
        )
    except OSError:  # a path entry that does not exist, or is a file, holds no plugins
        return
    for name in names:
        location = os.path.join(folder or ".", name)  # noqa: PTH118 - Path objects cost as much as the scan
        try:
            # A byte that is no text spoils its own line, not the plugins of the others.
            with open(os.path.join(location, "entry_points.txt"), encoding="utf-8", errors="replace") as file:  # noqa: PTH118, PTH123
                text = file.read()
        except OSError:  # most distributions have no entry points
            continue
        if "[codex." in text:
            yield Path(location), text


def parse_entry_points(text: str) -> list[tuple[str, str, str]]:
    """Return (kind, name, target) of the codex groups in an entry_points.txt."""
    found, kind = [], None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            kind = _KIND_OF.get(line.strip("[]").strip())
        elif kind and "=" in line and not line.startswith("#"):
            name, _, target = line.partition("=")
            found.append((kind, name.strip(), target.partition("[")[0].strip()))
    return found


_WANTS_KERNEL = re.compile(r"codex[-_.]kernel(?![-_.\w])[^(<>=!~;]*\(?([^;)]*)\)?(.*)", re.IGNORECASE)


def kernel_requirement(requirements: Sequence[str]) -> str:
    """Return the wanted versions of codex-kernel among a distribution's requirements, without those of its extras."""
    matches = filter(None, map(_WANTS_KERNEL.match, requirements))
    return ",".join(match[1].strip() for match in matches if match[1].strip() and "extra" not in match[2])


def _read_header(metadata: Path) -> tuple[str, str, str, str]:
    """Return name, version, summary and the wanted versions of codex-kernel.

    Where the file is lost, name and version are those in the folder's name.
    """
    name, _, version = metadata.stem.partition("-")
    summary, requirements = "", []
    try:
        text = (metadata / _METADATA_NAMES[metadata.suffix]).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if not line:  # the description follows
            break
        key, _, value = line.partition(": ")
        if key == "Name":
            name = value
        elif key == "Version":
            version = value
        elif key == "Summary":
            summary = value
        elif key == "Requires-Dist":
            requirements.append(value)
    return name, version, summary, kernel_requirement(requirements)


_STATIC = re.compile(r"^(.*\bcodex-plugin\.json),", re.MULTILINE)
_MADE_FOR = re.compile(r'"plugin_api"\s*:\s*\[\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\]')


def _made_for(metadata: Path) -> Api | None:
    """Return the API in the distribution's codex-plugin.json, found by its file record; None where it has none.

    One number of it: reading all of that file as JSON would cost a listing more than all the rest.
    """
    try:
        record = (metadata / "RECORD").read_text(encoding="utf-8", errors="replace")
        static = _STATIC.search(record)
        if static is None:
            return None
        text = (metadata.parent / static[1]).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = _MADE_FOR.search(text)
    return (int(found[1]), int(found[2])) if found else None


# ── source files ──────────────────────────────────────────────────────────────────────────────────────────────────


def source_file(module: str, path: Sequence[str]) -> str | None:
    """Return the file of a module among the folders, found by its name alone; None where it is no plain file."""
    relative = module.replace(".", "/")
    for folder in path:
        for file in (f"{folder or '.'}/{relative}.py", f"{folder or '.'}/{relative}/__init__.py"):
            if os.path.isfile(file):  # noqa: PTH113 - Path objects cost as much as the scan
                return file
    return None


def is_there(module: str, beside: Path, path: Sequence[str]) -> bool:
    """Say whether a module could be imported, without importing it or a package around it."""
    if module in sys.modules or source_file(module, [str(beside)]):
        return True
    name, places = "", list(path)
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        try:
            specs = (finder.find_spec(name, places) for finder in sys.meta_path)
            spec = next((spec for spec in specs if spec is not None), None)
            if spec is None:
                return False
            places = list(spec.submodule_search_locations or ())
        except Exception:  # noqa: BLE001 - a finder of an editable installation may be of any kind
            return True  # nobody can say before the import
    return True


def _docstring(entry: Entry) -> str:
    """Return the first docstring line of the entry's class by reading its source text, or "" where that fails.

    Importing would run the plugin's code, and `ast` would cost more than the whole listing.
    """
    module, _, name = entry.target.partition(":")
    file = source_file(module, sys.path)
    if file is None:
        return ""
    with open(file, encoding="utf-8", errors="replace") as source:  # noqa: PTH123
        text = source.read()
    match = re.search(rf'^class {re.escape(name)}\b.*?:\n\s+"""(.+?)(?:"""|\n)', text, re.MULTILINE)
    return match.group(1).strip() if match else ""
