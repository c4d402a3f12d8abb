"""What is installed: the plugins of every distribution on the path, each with a verdict.

One rule: all is decided by metadata, before anything is imported; nothing here imports a plugin.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from codex_kernel import metadata
from codex_kernel._version import __version__
from codex_kernel.api import OLDEST_API, PLUGIN_API, in_words, judge_api
from codex_kernel.errors import PluginError
from codex_kernel.installers import install_line, source_of, uninstall_line, upgrade_line
from codex_kernel.metadata import GROUPS, KERNEL, Entry, normal

__all__ = ["GROUPS", "Catalog", "Entry", "Known", "known_plugins"]

UNUSABLE = ("shadowed", "not allowed", "stale")
"""Statuses of entries that take no part: a name that one of them has is free."""


class Known(NamedTuple):
    """A plugin of the bundled index: where it comes from, and what it is."""

    distribution: str
    summary: str


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
        from codex_kernel import plugin_path

        local = plugin_path.projects() if os.environ.get(plugin_path.VARIABLE) else []
        found = cls.judged([*local, *metadata.read(sys.path)], sys.path)
        chosen = os.environ.get("CODEX_PLUGINS")
        if chosen is None:
            return found
        allowed = [name.strip() for name in chosen.split(",") if name.strip()]
        found.warn_of_unknown(allowed, "CODEX_PLUGINS")
        return found.allowing(allowed, f"CODEX_PLUGINS={chosen}" if allowed else f"{_NONE}{chosen}")

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
        if "_CODEX_COMPLETE" in os.environ:  # a shell asks; the user is typing
            return
        there = {normal(entry.distribution) for entry in self.entries}
        for name in distributions:
            if normal(name) not in {KERNEL, *there} and not _is_installed(name):
                near = self.close_distribution(name)
                _warn(f"{where} names {name}, which is not installed{near and f' (did you mean {near!r}?)'}")

    def close_distribution(self, name: str) -> str:
        """Return the distribution with plugins, installed or of the index, that a slip of the finger meant; or ""."""
        import difflib

        index = {row.distribution for rows in known_plugins().values() for row in rows.values()}
        names = sorted({*index, *(normal(entry.distribution) for entry in self.entries)} - {normal(name)})
        # All of them begin alike.
        return next(iter(difflib.get_close_matches(normal(name), names, 1, cutoff=0.85)), "")

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind that a manifest can use."""
        return sorted({e.name for e in self.entries if e.kind == kind and e.status not in UNUSABLE})

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
        """Return the one entry of that name that can be used; raise PluginError where there is none, or several."""
        named = self.named(kind, name, distribution)
        usable = [e for e in named if e.status not in UNUSABLE]
        if not named:
            full = f"{distribution}/{name}" if distribution else name
            remedy = (
                self._remedy(kind, name) if distribution is None else self._owned(kind, name, distribution)
            )
            raise PluginError(f"unknown {kind} {full!r}", remedy=remedy)
        if len(usable) > 1:
            raise _ambiguous(kind, name, usable)
        entry = (usable or named)[0]
        if entry.status in _REMEDIES:
            raise PluginError(f"{entry}: {entry.reason}", remedy=_REMEDIES[entry.status](entry))
        return entry

    def _owned(self, kind: str, name: str, distribution: str) -> str:
        """Say why a distribution does not have a plugin of that name, and who has it."""
        there = [e for e in self.entries if normal(e.distribution) == normal(distribution)]
        home = known_plugins().get(kind, {}).get(name)
        if home and normal(home.distribution) == normal(distribution) and not there:
            return install_line(home.distribution)
        why = f"{distribution} has no such plugin" if there else f"no plugin of {distribution} is installed"
        if owners := dict.fromkeys(e.full_name for e in self.named(kind, name) if e.status not in UNUSABLE):
            return f"{why}; write type: {' or '.join(owners)}"
        if home:
            return f"{why}; {home.distribution} has it: {install_line(home.distribution)}"
        near = "" if there else self.close_distribution(distribution)
        return f"{why}{near and f'; did you mean {near!r}?'}"

    def _remedy(self, kind: str, name: str) -> str:
        """Say how to get a plugin of that name: a close one that is installed, or a known distribution that has it."""
        import difflib

        index = known_plugins().get(kind, {})
        if home := index.get(name):
            return install_line(home.distribution)
        elsewhere = [e for e in self.entries if e.name == name and e.kind != kind]
        if elsewhere:
            return f"{name!r} is a {elsewhere[0].kind}, not a {kind}"
        names = self.names(kind)
        close = difflib.get_close_matches(name, dict.fromkeys([*names, *index]), n=1)
        if close and close[0] in names:
            return f"did you mean {close[0]!r}?"
        if close:
            return f"did you mean {close[0]!r}? {install_line(index[close[0]].distribution)}"
        return f"installed: {', '.join(names)}" if names else f"no {kind} plugin is installed"


def known_plugins() -> dict[str, dict[str, Known]]:
    """Return kind → name → what is known of the plugins that codex itself vouches for."""
    import json

    text = (Path(__file__).parent / "known_plugins.json").read_text(encoding="utf-8")
    return {kind: {n: Known(**row) for n, row in rows.items()} for kind, rows in json.loads(text).items()}


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────

_NONE = "--no-plugins or CODEX_PLUGINS="
"""What leaves all plugins out; nobody knows here which of the two it was."""


def _not_allowed(entry: Entry) -> str:
    if entry.reason.startswith(_NONE):
        return "leave --no-plugins away, and CODEX_PLUGINS unset"
    return f"add {entry.distribution} to it"


def _incompatible(entry: Entry) -> str:
    source = source_of(entry.metadata)
    if source is None:
        return upgrade_line(entry.distribution, KERNEL)
    return f"mend {source.text} for this kernel, or {upgrade_line(KERNEL)}"


def _stale(entry: Entry) -> str:
    if _project(entry).is_file():
        return f"mend the entry point in {_project(entry)}"
    source, remove = source_of(entry.metadata), uninstall_line(entry.distribution)
    if source is None:
        return f"{remove}, or again: {install_line(entry.distribution)}"
    return f"mend the entry point in {source.text} and install it again from there, or {remove}"


_REMEDIES: dict[str, Callable[[Entry], str]] = {
    "incompatible": _incompatible,
    "not allowed": _not_allowed,
    "stale": _stale,
}


def _ambiguous(kind: str, name: str, usable: Sequence[Entry]) -> PluginError:
    """Return the error of a name that several entries have: of several distributions, or of one."""
    owners: dict[str, list[Entry]] = {}
    for entry in usable:
        owners.setdefault(entry.full_name, []).append(entry)
    clear = [full for full, entries in owners.items() if len(entries) == 1]
    first = usable[0]
    if len(owners) == 1:
        source = source_of(first.metadata)
        place = (
            f"{source.text}" if source else f"{first.metadata / 'entry_points.txt'}, whose authors made it"
        )
        return PluginError(
            f"{first}: {_twice(e.target for e in usable)}", remedy=f"leave one of them in {place}"
        )
    claimed = " and ".join(dict.fromkeys(f"{e.distribution} {e.version}" for e in usable))
    if kind == "command":
        remedy = f"call one of them: {', or '.join(f'codex {full}' for full in clear or owners)}"
    else:
        remedy = f"write type: {' or '.join(clear or owners)}"
    return PluginError(f"{kind} {name!r} is claimed by {claimed}", remedy=remedy)


def _twice(targets: Iterable[str]) -> str:
    return f"the distribution names it twice: {' and '.join(targets)}"


def _is_installed(distribution: str) -> bool:
    """Say whether a distribution is there, though it may have no plugins."""
    import importlib.metadata

    try:
        importlib.metadata.distribution(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


@functools.cache
def _warn(text: str) -> None:
    """Say it once, however often the path is scanned."""
    sys.stderr.write(f"warning: {text}\n")


def _project(entry: Entry) -> Path:
    """Return where the project's own file lies, if the entry is of one that is not installed."""
    return entry.metadata / "pyproject.toml"


def _order(entry: Entry) -> tuple[int, str, str]:
    return list(GROUPS).index(entry.kind), entry.name, entry.distribution


def _shadowing(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Mark what lies later on the path than a distribution of the same name: the first is the one that is imported."""
    first: dict[str, Entry] = {}
    for entry in entries:
        owner = first.setdefault(normal(entry.distribution), entry)
        if owner.metadata == entry.metadata:
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
    if entry.plugin_api is None:
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
    if metadata.is_there(module, entry.metadata.parent, path):
        return ""
    if _project(entry).is_file():
        return f"its module {module} is neither in {entry.metadata / 'src'} nor in {entry.metadata}"
    return f"its module {module} is not there, only {entry.metadata} is left"


def _together(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Mark the names that more than one distribution has, and those that one has twice."""
    entries = [e._replace(status="ok", reason="") if e.status == "claimed twice" else e for e in entries]
    owners: dict[tuple[str, str], dict[str, Entry]] = {}
    targets: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        if entry.status not in UNUSABLE:
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
            yield entry._replace(status="claimed twice", reason=_twice(own))
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
