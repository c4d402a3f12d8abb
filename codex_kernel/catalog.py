"""What is installed: the plugins of every distribution on the path, each with a verdict.

One rule: all is decided by metadata, before anything is imported; nothing here imports a plugin.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from codex_kernel import metadata
from codex_kernel._version import __version__
from codex_kernel.api import OLDEST_API, PLUGIN_API, in_words, judge_api
from codex_kernel.metadata import GROUPS, KERNEL, NONE_ALLOWED, Entry, normal, twice

__all__ = ["GROUPS", "Catalog", "Entry"]


class Catalog(NamedTuple):
    """The installed plugins, in the order of kind and name."""

    entries: tuple[Entry, ...]

    @classmethod
    def scan(cls, path: Sequence[str] | None = None) -> Catalog:
        """Read the metadata of all distributions on `path`.

        None: `sys.path`, as the variable CODEX_PLUGIN_PATH widens it, and narrowed to what CODEX_PLUGINS names.
        """
        if path is not None:
            return cls.judged(metadata.read(path), path)
        local: list[Entry] = []
        if os.environ.get("CODEX_PLUGIN_PATH"):
            from codex_kernel import plugin_path

            local = plugin_path.projects()
        found = cls.judged([*local, *metadata.read(sys.path)], sys.path)
        chosen = os.environ.get("CODEX_PLUGINS")
        if chosen is None:
            return found
        allowed = [name.strip() for name in chosen.split(",") if name.strip()]
        found.warn_of_unknown(allowed, "CODEX_PLUGINS")
        return found.allowing(allowed, f"CODEX_PLUGINS={chosen}" if allowed else f"{NONE_ALLOWED}{chosen}")

    @classmethod
    def judged(cls, entries: Iterable[Entry], path: Sequence[str]) -> Catalog:
        """Return the catalog of these entries, first on the path first, each with its status."""
        found = [_alone(entry, path) for entry in _shadowing(entries)]
        return cls(tuple(sorted(_together(found), key=_order)))

    def allowing(self, distributions: Collection[str], why: str) -> Catalog:
        """Return the catalog with the plugins of all other distributions not allowed; those of the kernel always are.

        why: what decided it, for the message.
        """
        allowed = {KERNEL, *map(normal, distributions)}
        entries = [
            entry
            if normal(entry.distribution) in allowed or entry.status in {"shadowed", "not allowed"}
            else entry._replace(status="not allowed", reason=f"{why} leaves {entry.distribution} out")
            for entry in self.entries
        ]
        return Catalog(tuple(_together(entries)))

    def warn_of_unknown(self, distributions: Iterable[str], where: str) -> None:
        """Say on standard error, once, which of these distributions are not installed: a slip leaves plugins out."""
        if _is_a_shell_asking():
            return
        there = {normal(entry.distribution) for entry in self.entries}
        for name in distributions:
            if normal(name) not in {KERNEL, *there} and not _is_installed(name):
                near = self.close_distribution(name)
                _warn(f"{where} names {name}, which is not installed{near and f' (did you mean {near!r}?)'}")

    def close_distribution(self, name: str) -> str:
        """Return the distribution with plugins, installed or of the index, that a slip of the finger meant; or ""."""
        import difflib

        from codex_kernel.known import known_plugins

        index = {row.distribution for rows in known_plugins().values() for row in rows.values()}
        names = sorted({*index, *(normal(entry.distribution) for entry in self.entries)} - {normal(name)})
        # All of them begin alike.
        return next(iter(difflib.get_close_matches(normal(name), names, 1, cutoff=0.85)), "")

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind that a manifest can use."""
        return sorted({e.name for e in self.entries if e.kind == kind and e.takes_part})

    def named(self, kind: str, name: str, distribution: str | None = None) -> list[Entry]:
        """Return the entries of that name, usable or not; those that are shadowed are none."""
        wanted = None if distribution is None else normal(distribution)
        return [
            e
            for e in self.entries
            if e.kind == kind
            and e.name == name
            and e.status != "shadowed"
            and wanted in {None, normal(e.distribution)}
        ]

    def find(self, kind: str, name: str, distribution: str | None = None) -> Entry:
        """Return the one entry of that name that can be used; raise PluginError where there is none, or several.

        One that others claim too, and that is picked by its full name, has the status it has by itself. One that a
        later kernel drops is said on standard error, once for its distribution.
        """
        named = self.named(kind, name, distribution)
        usable = [e for e in named if e.takes_part]
        if len(usable) == 1 and usable[0].status in {"ok", "older", "claimed twice"}:
            found = _by_itself(usable[0])
            if found.status == "older":
                _warn(f"{found.distribution} {found.version} is {found.reason}; ask its authors")
            return found
        from codex_kernel import remedies

        if not named:
            raise remedies.unknown(self, kind, name, distribution)
        if len(usable) > 1:
            raise remedies.ambiguous(kind, name, usable)
        raise remedies.unusable((usable or named)[0])


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_installed(distribution: str) -> bool:
    """Say whether a distribution is there, though it may have no plugins."""
    import importlib.metadata

    try:
        importlib.metadata.distribution(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _is_a_shell_asking() -> bool:
    """Say whether this is a completion: the user is typing, and wants no words in between."""
    return "_CODEX_COMPLETE" in os.environ


@functools.cache
def _warn(text: str) -> None:
    """Say it once, however often the path is scanned."""
    if not _is_a_shell_asking():
        sys.stderr.write(f"warning: {text}\n")


def _order(entry: Entry) -> tuple[int, str, str]:
    return list(GROUPS).index(entry.kind), entry.name, entry.distribution


def _shadowing(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Mark what lies later on the path than a distribution of the same name: the first is the one that is imported."""
    first: dict[str, Entry] = {}
    for entry in entries:
        owner = first.setdefault(normal(entry.distribution), entry)
        if owner.folder == entry.folder:
            yield entry
        else:
            where = f"{owner.distribution} {owner.version} in {owner.metadata.parent}"
            yield entry._replace(status="shadowed", reason=f"{where} comes earlier on the path")


def _alone(entry: Entry, path: Sequence[str]) -> Entry:
    """Judge an entry by itself."""
    if entry.status != "ok" or normal(entry.distribution) == KERNEL:
        return entry
    if reason := _missing(entry, path):
        return entry._replace(status="stale", reason=reason)
    if not _fits(entry.kernel_requirement):
        reason = f"needs codex-kernel{entry.kernel_requirement}, this is {__version__}"
        return entry._replace(status="incompatible", reason=reason)
    return _of_age(entry)


def _of_age(entry: Entry) -> Entry:
    """Judge an entry by the API that it was made for, where it says one."""
    if entry.plugin_api is None or normal(entry.distribution) == KERNEL:
        return entry
    verdict = judge_api(entry.plugin_api)
    made, ours = in_words(entry.plugin_api), in_words(PLUGIN_API)
    reason = {
        "ok": "",
        "older": f"made for plugin API {made}, which a later kernel drops; this one has {ours}",
        "incompatible": f"made for plugin API {made}, this kernel has {in_words(OLDEST_API)} to {ours}",
    }[verdict]
    return entry._replace(status=verdict, reason=reason)


def _missing(entry: Entry, path: Sequence[str]) -> str:
    """Say what is not there of the entry's module; "" where it is there."""
    module, colon, attribute = entry.target.partition(":")
    if not (colon and attribute and all(map(str.isidentifier, module.split(".")))):
        return f"its entry point {entry.target!r} is not module:Class"
    if metadata.is_there(module, os.path.dirname(entry.folder), path):  # noqa: PTH120 - pathlib costs as much as the scan
        return ""
    if (entry.metadata / "pyproject.toml").is_file():
        return f"its module {module} is neither in {entry.metadata / 'src'} nor in {entry.metadata}"
    return f"its module {module} is not there, only {entry.metadata} is left"


def _by_itself(entry: Entry) -> Entry:
    """Return an entry with the status that it has whoever else claims its name."""
    return _of_age(entry._replace(status="ok", reason="")) if entry.status == "claimed twice" else entry


def _together(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Mark the names that more than one distribution has, and those that one has twice."""
    entries = [_by_itself(entry) for entry in entries]
    owners: dict[tuple[str, str], dict[str, Entry]] = {}
    targets: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        if entry.takes_part:
            owners.setdefault((entry.kind, entry.name), {})[normal(entry.distribution)] = entry
            targets.setdefault((entry.kind, entry.name, normal(entry.distribution)), []).append(entry.target)
    for entry in entries:
        others = [
            other
            for other in owners.get((entry.kind, entry.name), {}).values()
            if normal(other.distribution) != normal(entry.distribution)
        ]
        own = targets.get((entry.kind, entry.name, normal(entry.distribution)), ())
        if len(own) > 1 and entry.status in {"ok", "older"}:
            yield entry._replace(status="claimed twice", reason=twice(own))
        elif others and entry.status in {"ok", "older"}:
            rivals = " and ".join(f"{other.distribution} {other.version}" for other in others)
            reason = f"also claimed by {rivals}: write {entry.full_name}"
            yield entry._replace(status="claimed twice", reason=reason)
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
