"""Reading what distributions announce: their plugins, versions and wishes, from the files that installers leave.

One rule: nothing here imports a plugin, and nothing here judges; `catalog` does. Its values are named tuples and its
paths are texts: attrs would double the time of a listing, and pathlib costs as much as the scan.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from codex_kernel.api import Api
from codex_kernel.file_record import UnfitError, bytes_of, static_file_of

if TYPE_CHECKING:
    from pathlib import Path

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
NONE_ALLOWED = "--no-plugins or CODEX_PLUGINS="
"""The reason that leaves all plugins out begins so; nobody knows here which of the two it was."""
METADATA_NAMES = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}


class Entry(NamedTuple):
    """One plugin as its distribution announces it.

    `target` is `module:Class`. `folder` is that of the distribution's metadata, or of its project where it is not
    installed (`CODEX_PLUGIN_PATH`); `metadata` is the same as a path. `plugin_api` is the API that it says it was made
    for, None where it does not say. `status` is `ok`, or one of these, with `reason` in a sentence:

        older           works; made for an API that a later kernel will drop
        claimed twice   another distribution has the same name: `distribution/name` picks one; or its own distribution
                        has it twice, and nothing picks one
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
    folder: str
    distribution_summary: str
    status: str = "ok"
    plugin_api: Api | None = None
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.distribution} {self.version})"

    @property
    def metadata(self) -> Path:
        """Folder of the distribution's metadata, or of its project."""
        from pathlib import Path

        return Path(self.folder)

    @property
    def takes_part(self) -> bool:
        """Whether it has its name for itself: one that is shadowed, left out or stale leaves it to others."""
        return self.status not in {"shadowed", "not allowed", "stale"}

    @property
    def full_name(self) -> str:
        """The name that no other distribution can claim: `distribution/name`."""
        return f"{self.distribution}/{self.name}"

    @property
    def summary(self) -> str:
        """First docstring line of the class or function, read from its source text; else the distribution's summary."""
        return _docstring(self) or self.distribution_summary


def read(path: Sequence[str]) -> Iterator[Entry]:
    """Yield the plugins of every distribution in the folders, first folder first; only their statuses are open."""
    for folder in dict.fromkeys(path):
        for metadata, entry_points in _entry_point_files(folder):
            sections = parse_entry_points(entry_points)
            if sections:
                head = header_of(metadata)
                wanted = kernel_requirement(head.requires)
                api = None if normal(head.name) == KERNEL else _made_for(metadata)
                for kind, plugin, target in sections:
                    yield Entry(
                        kind,
                        plugin,
                        target,
                        head.name,
                        head.version,
                        wanted,
                        metadata,
                        head.summary,
                        plugin_api=api,
                    )


def twice(targets: Iterable[str]) -> str:
    """Say that a distribution names one plugin twice, and what it means by it."""
    return f"the distribution names it twice: {' and '.join(targets)}"


def normal(name: str) -> str:
    """Return a distribution's name as packaging normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _entry_point_files(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (metadata folder, text of entry_points.txt) of the distributions in a folder that mention codex.

    importlib.metadata would read and parse the metadata of every distribution; this costs a tenth of it. Only plain
    folders are read: codex does not look for plugins in zip files.
    """
    try:
        names = sorted(
            entry.name for entry in os.scandir(folder or ".") if entry.name.endswith(tuple(METADATA_NAMES))
        )
    except OSError:  # a path entry that does not exist, or is a file, holds no plugins
        return
    for name in names:
        location = os.path.join(folder or ".", name)  # noqa: PTH118 - as all paths here
        try:
            # Without a buffer and a decoder for each of them: most have no entry points of ours.
            with io.FileIO(os.path.join(location, "entry_points.txt")) as file:  # noqa: PTH118
                data = file.read()
        except OSError:  # most distributions have no entry points
            continue
        if b"[codex." in data:
            # A byte that is no text spoils its own line, not the plugins of the others.
            yield location, data.decode(errors="replace")


def parse_entry_points(text: str) -> list[tuple[str, str, str]]:
    """Return (kind, name, target) of the codex groups in an entry_points.txt."""
    found, kind = [], None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            kind = _KIND_OF.get(line.strip("[]").strip())
        elif kind and "=" in line and not line.startswith("#"):
            name, _, target = line.partition("=")
            found.append((kind, name.strip(), target.partition("[")[0].strip()))
    return list(dict.fromkeys(found))  # one line twice says nothing more


_WANTS_KERNEL = re.compile(r"codex[-_.]+kernel(?![-_.\w])[^(<>=!~;]*\(?([^;)]*)\)?", re.IGNORECASE)
_OF_AN_EXTRA = re.compile(r""";\s*extra\s*==\s*(["'])[^"']*\1\s*$""")


def kernel_requirement(requirements: Sequence[str]) -> str:
    """Return the wanted versions of codex-kernel among a distribution's requirements.

    Those of its extras are left out, and those that are for another Python or another system than this.
    """
    return ",".join(filter(None, map(_wanted, requirements)))


def _wanted(requirement: str) -> str:
    """Return the versions of codex-kernel that one line wants; "" where it wants none."""
    match = _WANTS_KERNEL.match(requirement)
    if match is None or _OF_AN_EXTRA.search(requirement):
        return ""
    versions = match[1].strip()
    if ";" not in requirement and "@" not in requirement:
        return versions  # as most are: packaging would cost a listing more than all the rest
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        read = Requirement(requirement)
        applies = read.marker is None or read.marker.evaluate({"extra": ""})
    except InvalidRequirement:
        return versions
    except (UndefinedComparison, UndefinedEnvironmentName):
        applies = True
    return str(read.specifier) if applies else ""


class Header(NamedTuple):
    """What the head of a distribution's METADATA, or PKG-INFO, says.

    Where it does not say them, `name` and `version` are those in the folder's name, and `damage` is what is wrong.
    """

    name: str
    version: str
    summary: str
    requires: tuple[str, ...]
    damage: str


def header_of(metadata: str) -> Header:
    """Return the head of a distribution's metadata; whatever is wrong with it, nothing is raised.

    metadata: its folder; an egg-info may be a file.
    """
    stem, suffix = os.path.splitext(os.path.basename(metadata))  # noqa: PTH119, PTH122
    name, _, version = stem.partition("-")
    version = version.partition("-py")[0]
    summary, requires, named, damage, text = "", [], False, "", ""
    file = metadata if os.path.isfile(metadata) else f"{metadata}/{METADATA_NAMES[suffix]}"  # noqa: PTH113
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123
            text = opened.read()
    except OSError as error:
        damage = f"{os.path.basename(file)} cannot be read: {error.strerror}"  # noqa: PTH119
    for line in text.splitlines():
        if not line:  # the description follows
            break
        key, _, value = line.partition(": ")
        if key == "Name":
            name, named = value.strip(), True
        elif key == "Version":
            version = value.strip()
        elif key == "Summary":
            summary = value
        elif key == "Requires-Dist":
            requires.append(value.strip())
    if not named and not damage:
        damage = f"{os.path.basename(file)} has no name"  # noqa: PTH119
    return Header(name, version, summary, tuple(requires), damage)


_MADE_FOR = re.compile(rb'"plugin_api"\s*:\s*\[\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\]')


def _made_for(metadata: str) -> Api | None:
    """Return the API in the distribution's codex-plugin.json; None where it has none that can be believed.

    One number of it: reading all of that file as JSON would cost a listing more than all the rest.
    """
    try:
        listed = static_file_of(metadata)
        found = listed and _MADE_FOR.search(bytes_of(os.path.dirname(metadata), listed))  # noqa: PTH120
    except UnfitError:
        return None
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


def is_there(module: str, beside: str, path: Sequence[str]) -> bool:
    """Say whether a module could be imported, without importing it or a package around it."""
    if module in sys.modules or source_file(module, [beside]):
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


_DOCUMENTED = re.compile(r'^(?:class|def) (\w+)\b(?:.*?|\([^)]*\).*?):\n\s+"""(.+?)(?:"""|\n)', re.MULTILINE)


def _docstring(entry: Entry) -> str:
    """Return the first docstring line of a class or function by reading its source text, or "" where that fails.

    Importing would run the plugin's code, and `ast` would cost more than the whole listing.
    """
    module, _, name = entry.target.partition(":")
    file = source_file(module, sys.path)
    if file is None:
        return ""
    with open(file, encoding="utf-8", errors="replace") as source:  # noqa: PTH123
        text = source.read()
    # One pattern for all classes: to compile one for each would cost more than to read their files.
    return next((match[2].strip() for match in _DOCUMENTED.finditer(text) if match[1] == name), "")
