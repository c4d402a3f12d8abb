"""What is installed: the plugins of every distribution on the path, read from metadata alone.

One rule: nothing here imports a plugin. Its values are named tuples, since attrs would double the time of a listing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from codex_kernel._version import __version__
from codex_kernel.errors import PluginError

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
_KIND_OF = {group: kind for kind, group in GROUPS.items()}
_METADATA_NAMES = {".dist-info": "METADATA", ".egg-info": "PKG-INFO"}


class Entry(NamedTuple):
    """One plugin as its distribution announces it.

    `target` is `module:Class`. `status` is `ok`, or why the entry cannot be used as it stands: `claimed twice` (another
    distribution has the same name), `shadowed` (the same distribution lies earlier on the path) or `incompatible` (the
    distribution wants another version of codex-kernel: `kernel_requirement`).
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

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.distribution} {self.version})"

    @property
    def summary(self) -> str:
        """First line of the class's docstring, read from its source text; else the distribution's summary."""
        return _docstring(self) or self.distribution_summary


class Catalog(NamedTuple):
    """The installed plugins, in the order of kind and name."""

    entries: tuple[Entry, ...]

    @classmethod
    def scan(cls, path: Sequence[str] | None = None) -> Catalog:
        """Read the metadata of all distributions on `path` (default: `sys.path`)."""
        found = list(_scan(sys.path if path is None else path))
        return cls(
            tuple(sorted(_judge(found), key=lambda e: (list(GROUPS).index(e.kind), e.name, e.distribution)))
        )

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind that a manifest can use."""
        return sorted({e.name for e in self.entries if e.kind == kind and e.status != "shadowed"})

    def find(self, kind: str, name: str, distribution: str | None = None) -> Entry:
        """Return the one entry of that name; raise PluginError where there is none, more than one, or one too old."""
        named = [e for e in self.entries if e.kind == kind and e.name == name and e.status != "shadowed"]
        if distribution is not None:
            named = [e for e in named if _normal(e.distribution) == _normal(distribution)]
        if not named:
            full = f"{distribution}/{name}" if distribution else name
            raise PluginError(f"unknown {kind} {full!r}", remedy=self._remedy(kind, name))
        if len(named) > 1:
            owners = " and ".join(f"{e.distribution} {e.version}" for e in named)
            choices = " or ".join(f"{e.distribution}/{name}" for e in named)
            raise PluginError(f"{kind} {name!r} is claimed by {owners}", remedy=f"write type: {choices}")
        entry = named[0]
        if entry.status == "incompatible":
            raise PluginError(
                f"{entry} needs codex-kernel{entry.kernel_requirement}, this is {__version__}",
                remedy=f"pip install --upgrade {entry.distribution} codex-kernel",
            )
        return entry

    def _remedy(self, kind: str, name: str) -> str:
        """Say how to get a plugin of that name: a close one that is installed, or a known distribution that has it."""
        import difflib

        if home := known_plugins().get(kind, {}).get(name):
            return f"pip install {home}"
        elsewhere = [e for e in self.entries if e.name == name and e.kind != kind]
        if elsewhere:
            return f"{name!r} is a {elsewhere[0].kind}, not a {kind}"
        names = self.names(kind)
        known = {**dict.fromkeys(names, ""), **known_plugins().get(kind, {})}
        close = difflib.get_close_matches(name, known, n=1)
        if close and close[0] in names:
            return f"did you mean {close[0]!r}?"
        if close:
            return f"did you mean {close[0]!r}? pip install {known[close[0]]}"
        return f"installed: {', '.join(names)}" if names else f"no {kind} plugin is installed"


def known_plugins() -> dict[str, dict[str, str]]:
    """Return kind → name → distribution of the plugins that codex itself vouches for."""
    import json

    text = (Path(__file__).parent / "known_plugins.json").read_text(encoding="utf-8")
    known: dict[str, dict[str, str]] = json.loads(text)
    return known


# ── reading metadata ──────────────────────────────────────────────────────────────────────────────────────────────


def _scan(path: Sequence[str]) -> Iterator[Entry]:
    """Yield the entries of every distribution, first on the path first."""
    seen: set[str] = set()
    for folder in dict.fromkeys(path):
        for metadata, entry_points in _entry_point_files(folder):
            sections = _parse_entry_points(entry_points)
            if not sections:
                continue
            name, version, summary, requirement = _read_header(metadata)
            # As in importlib.metadata, the first distribution of a name on the path is the one that is imported.
            status = "shadowed" if _normal(name) in seen else "ok"
            seen.add(_normal(name))
            for kind, plugin, target in sections:
                yield Entry(kind, plugin, target, name, version, requirement, metadata, summary, status)


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
            with open(os.path.join(location, "entry_points.txt"), encoding="utf-8") as file:  # noqa: PTH118, PTH123
                text = file.read()
        except (OSError, UnicodeDecodeError):  # most distributions have no entry points
            continue
        if "[codex." in text:
            yield Path(location), text


def _parse_entry_points(text: str) -> list[tuple[str, str, str]]:
    """Return (kind, name, target) of the codex groups in an entry_points.txt."""
    found, kind = [], None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            kind = _KIND_OF.get(line.strip("[]").strip())
        elif kind and "=" in line and not line.startswith("#"):
            name, _, target = line.partition("=")
            found.append((kind, name.strip(), target.partition("[")[0].strip()))
    return found


_KERNEL = re.compile(r"codex[-_.]kernel(?![-_.\w])[^(<>=!~;]*\(?([^;)]*)", re.IGNORECASE)


def _read_header(metadata: Path) -> tuple[str, str, str, str]:
    """Return name, version, summary and the wanted versions of codex-kernel.

    Where the file is lost, name and version are those in the folder's name.
    """
    name, _, version = metadata.stem.partition("-")
    summary = requirement = ""
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
        elif key == "Requires-Dist" and (match := _KERNEL.match(value)):
            requirement = match.group(1).strip()
    return name, version, summary, requirement


def _judge(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Set the status of each entry by looking at all of them."""
    entries = list(entries)
    owners: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        if entry.status != "shadowed":
            owners.setdefault((entry.kind, entry.name), set()).add(_normal(entry.distribution))
    fits: dict[str, bool] = {}
    for entry in entries:
        requirement = entry.kernel_requirement
        if requirement not in fits:
            fits[requirement] = _fits(requirement)
        if entry.status == "shadowed":
            yield entry
        elif not fits[requirement]:
            yield entry._replace(status="incompatible")
        elif len(owners[entry.kind, entry.name]) > 1:
            yield entry._replace(status="claimed twice")
        else:
            yield entry


_CLAUSE = re.compile(r"(>=|<=|<|>|==|!=)\s*(\d+(?:\.\d+)*)")


def _fits(requirement: str) -> bool:
    """Say whether this kernel's version satisfies a requirement such as `<0.2,>=0.1`."""
    clauses = [_CLAUSE.fullmatch(clause.strip()) for clause in requirement.split(",") if clause.strip()]
    numbers = _CLAUSE.fullmatch(f"=={__version__}")
    if numbers and all(clauses):
        return all(
            _compare(match[1], _release(__version__), _release(match[2])) for match in clauses if match
        )
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(requirement).contains(__version__, prereleases=True)
    except InvalidSpecifier:
        return False


def _release(version: str) -> list[int]:
    """Return the numbers of a release without trailing zeros: 1.0 and 1 are one release."""
    numbers = [int(number) for number in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def _compare(operator: str, ours: list[int], theirs: list[int]) -> bool:
    """Compare two releases."""
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        ">": ours > theirs,
        "<": ours < theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
    }[operator]


def _normal(name: str) -> str:
    """Return a distribution's name as packaging normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _docstring(entry: Entry) -> str:
    """Return the first docstring line of the entry's class by reading its source text, or "" where that fails.

    Importing would run the plugin's code, and `ast` would cost more than the whole listing.
    """
    module, _, name = entry.target.partition(":")
    relative = module.replace(".", "/")
    for folder in sys.path:
        for file in (f"{folder or '.'}/{relative}.py", f"{folder or '.'}/{relative}/__init__.py"):
            if os.path.isfile(file):  # noqa: PTH113 - Path objects cost as much as the scan
                with open(file, encoding="utf-8", errors="replace") as source:  # noqa: PTH123
                    text = source.read()
                match = re.search(
                    rf'^class {re.escape(name)}\b.*?:\n\s+"""(.+?)(?:"""|\n)', text, re.MULTILINE
                )
                return match.group(1).strip() if match else ""
    return ""
