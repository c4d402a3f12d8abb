"""The examination of an installation: what is looked at, in which order.

One rule: an examination that fails is a finding itself, and the others go on.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from codex_kernel._version import __version__
from codex_kernel.catalog import Catalog, Entry
from codex_kernel.doctor import announced, machine, packages, start_code, versions
from codex_kernel.doctor.findings import Finding, Level
from codex_kernel.errors import CodexError, in_words
from codex_kernel.metadata import KERNEL, normal

_LEVEL_OF_STATUS: dict[str, Level] = {"older": "note", "not allowed": "note"}


def examine(cache: Path, runs: Path) -> Iterator[Finding]:
    """Yield all findings. `cache` and `runs` are the folders that commands would write to."""
    yield from _safely("python", machine.python)
    catalog, found = _catalog()
    yield from found
    yield from _safely("plugins", lambda: plugins(catalog))
    yield from _safely("plugins", lambda: entry_points(catalog))
    yield from _safely("packages", lambda: _packages(catalog))
    yield from _safely("start code", lambda: start_code.start_code(start_code.folders()))
    yield from _safely("start code", start_code.modules)
    yield from _safely("cache", lambda: [machine.place("cache", cache)])
    yield from _safely("runs", lambda: [machine.place("runs", runs)])
    yield from _safely("temp", lambda: [_temp()])
    yield from _safely("memory", lambda: [machine.memory()])
    yield from _safely("threads", lambda: machine.threads(os.environ))
    yield from _safely("gpu", lambda: machine.gpu(_torch(), os.environ))
    yield from _safely("encoding", machine.encodings)
    yield from _safely("variables", lambda: machine.variables(os.environ))


def _safely(subject: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what an examination finds, and how it failed if it did not come to its end."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - what is examined may be broken in ways that nobody thought of
        message = f"this could not be looked at to its end: {in_words(error)}"
        yield Finding("warning", subject, message, "the other findings hold")


def _catalog() -> tuple[Catalog, list[Finding]]:
    """Return what is installed, and why that cannot be known."""
    try:
        return Catalog.scan(), []
    except CodexError as error:
        return Catalog(()), [Finding("problem", "plugins", error.message, error.remedy)]
    except Exception as error:  # noqa: BLE001 - as above
        message = f"what is installed cannot be listed: {in_words(error)}"
        return Catalog(()), [Finding("problem", "plugins", message, "the other findings hold")]


def plugins(catalog: Catalog) -> Iterator[Finding]:
    """Yield the distributions some of whose plugins cannot be used, or whose static manifest is not believed."""
    from codex_kernel import static_file

    bad: dict[tuple[str, str, str], list[Entry]] = {}
    faults: dict[str, str] = {}
    for entry in catalog.entries:
        if entry.status != "ok":
            key = (f"{entry.distribution} {entry.version}", entry.status, entry.reason)
            bad.setdefault(key, []).append(entry)
        elif fault := static_file.fault(entry):
            faults[entry.distribution] = fault
    for (owner, status, reason), entries in bad.items():
        names = ", ".join(f"{entry.kind} {entry.name}" for entry in entries[:3])
        more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""  # noqa: PLR2004 - enough to know which
        message = f"{owner}: {names}{more}: {status}{f': {reason}' if reason else ''}"
        yield Finding(_LEVEL_OF_STATUS.get(status, "warning"), "plugins", message, _remedy(entries[0]))
    for fault in faults.values():
        yield Finding("warning", "plugins", fault, "build and install the distribution again")
    usable = [entry for entry in catalog.entries if entry.status in {"ok", "older", "claimed twice"}]
    owners = {normal(entry.distribution) for entry in usable}
    message = f"{len(usable)} of {len(owners)} distributions can be used; codex plugins check imports them"
    yield Finding("ok", "plugins", message)


def entry_points(catalog: Catalog) -> Iterator[Finding]:
    """Yield the entries that nobody can name, and the distributions whose project has other entries by now."""
    for entry in catalog.entries:
        if reason := announced.unwritable(entry):
            owner = f"{entry.distribution} {entry.version}"
            message = f"{owner}: a {entry.kind} ({entry.target}): {reason}"
            yield Finding("warning", "plugins", message, "its authors give it another name")
    for metadata in dict.fromkeys(entry.metadata for entry in catalog.entries):
        if reason := announced.outdated(metadata):
            yield Finding("warning", "plugins", reason, announced.install_again(metadata))


def _remedy(entry: Entry) -> str:
    from codex_kernel.installers import upgrade_line, way_out

    if entry.reason.startswith("the distribution names it twice"):
        return way_out(entry.distribution, entry.metadata)
    name = entry.distribution
    return {
        "incompatible": upgrade_line(name, KERNEL),
        "older": upgrade_line(name),
        "claimed twice": f"a manifest that uses it says which: type: {entry.full_name}",
        "not allowed": f"name {name} in CODEX_PLUGINS, or unset it",
        "shadowed": f"remove {entry.metadata}, or take its folder off the path",
    }.get(entry.status, way_out(name, entry.metadata))


def _packages(catalog: Catalog) -> Iterator[Finding]:
    """Yield what is wrong with distributions: above all with codex, its plugins and what they need."""
    found = packages.installed(sys.path)
    known = packages.versions(found)
    owners = {KERNEL, *(normal(entry.distribution) for entry in catalog.entries)}
    yield packages.kernel(known, __version__)
    yield from versions.judge(known)
    unmet, needed = packages.unmet(found, owners)
    yield from unmet
    if not unmet:
        message = f"all that {len(owners)} distributions with plugins need is installed"
        yield Finding("ok", "requirements", message)
    yield from packages.damaged(sys.path, found)
    yield from packages.doubled(found, owners | needed)
    yield from packages.lost_files(found, owners)


def _temp() -> Finding:
    """Judge the folder for temporary files; Python itself looks for one that can be written to."""
    try:
        return machine.place("temp", Path(tempfile.gettempdir()))
    except FileNotFoundError as error:
        return Finding("problem", "temp", str(error), "set TMPDIR to a folder that can be written to")


def _torch() -> str | None:
    return packages.versions(packages.installed(sys.path)).get("torch")
