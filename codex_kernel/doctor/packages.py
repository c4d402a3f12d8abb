"""What is wrong with what is installed: damaged or doubled metadata, unmet requirements, files that are gone.

One rule: files are read, nothing is imported and nothing is changed; a broken distribution is a finding, never an end.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from codex_kernel.doctor.findings import Finding
from codex_kernel.file_record import record_of
from codex_kernel.installers import install_line, uninstall_line
from codex_kernel.metadata import KERNEL, METADATA_NAMES, header_of, normal

if TYPE_CHECKING:
    from packaging.requirements import Requirement


@frozen
class Distribution:
    """An installed distribution as its metadata folder tells; `damage` says what cannot be read of it, "" if all can.

    `name` is normalised.
    """

    name: str
    version: str
    metadata: Path
    requires: tuple[str, ...]
    damage: str = ""


def installed(path: Sequence[str]) -> list[Distribution]:
    """Return all distributions in the folders of a path, first folder first."""
    folders = dict.fromkeys(Path(folder or ".").absolute() for folder in path)
    return [
        _read(metadata)
        for folder in folders
        for metadata in entries(folder)
        if metadata.suffix in METADATA_NAMES and not metadata.name.startswith("~")
    ]


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:  # not there, or a zip file
        return []


def _read(metadata: Path) -> Distribution:
    head = header_of(str(metadata))
    return Distribution(normal(head.name), head.version, metadata, head.requires, head.damage)


def versions(distributions: Sequence[Distribution]) -> dict[str, str]:
    """Return name → version of those that are imported: the first of each name."""
    found: dict[str, str] = {}
    for one in distributions:
        found.setdefault(one.name, one.version)
    return found


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────


def damaged(path: Sequence[str], distributions: Sequence[Distribution]) -> Iterator[Finding]:
    """Yield distributions whose metadata cannot be read, and what a broken installation left behind."""
    for one in distributions:
        if one.damage:
            message = f"its metadata is damaged: {one.metadata}: {one.damage}"
            remedy = f"remove that folder, and again: {install_line(one.name)}"
            yield Finding("warning", one.name, message, remedy)
    for folder in dict.fromkeys(path):
        left = [entry for entry in entries(Path(folder or ".").absolute()) if entry.name.startswith("~")]
        for entry in left:
            message = f"{entry} is left of an installation that did not come to its end"
            yield Finding("warning", "remains", message, f"remove it: rm -r {shlex.quote(str(entry))}")


def doubled(distributions: Sequence[Distribution], relevant: Collection[str]) -> Iterator[Finding]:
    """Yield distributions that are there more than once; those that no plugin needs are only counted."""
    copies: dict[str, list[Distribution]] = {}
    for one in distributions:
        copies.setdefault(one.name, []).append(one)
    others = 0
    for name, found in copies.items():
        if len(found) == 1:
            continue
        if name not in relevant:
            others += 1
            continue
        places = " and ".join(f"{one.version} in {one.metadata.parent}" for one in found)
        differ = len({one.version for one in found}) > 1
        message = f"it is installed {len(found)} times: {places}; the first one is used"
        yield Finding("problem" if differ else "warning", name, message, _keep_one(found))
    if others:
        message = f"{others} distributions that no plugin needs are installed more than once"
        yield Finding(
            "note", "copies", message, "an environment of its own for codex has none: python -m venv"
        )


def _keep_one(found: Sequence[Distribution]) -> str:
    if len({one.metadata.parent for one in found}) == 1:  # an upgrade broke off
        name = found[0].name
        return f"{uninstall_line(name)}, as often as it is there, then {install_line(name)}"
    return f"remove the others, such as {found[1].metadata.parent}, or take them off PYTHONPATH"


def lost_files(distributions: Sequence[Distribution], plugins: Collection[str]) -> Iterator[Finding]:
    """Yield distributions with plugins whose own record lists files that are not there."""
    for one in distributions:
        if one.name not in plugins:
            continue
        # Not every installer writes a record, and a line of it may be damaged.
        names = [file.path for file in record_of(one.metadata) or () if "\ufffd" not in file.path]
        lost = [
            name for name in names if not name.endswith(".pyc") and not (one.metadata.parent / name).exists()
        ]
        if lost:
            message = f"{len(lost)} of its {len(names)} files are gone, {lost[0]} among them"
            yield Finding(
                "problem",
                one.name,
                message,
                f"{uninstall_line(one.name)}, then {install_line(f'{one.name}=={one.version}')}",
            )


# ── requirements ──────────────────────────────────────────────────────────────────────────────────────────────────


def unmet(distributions: Sequence[Distribution], plugins: Collection[str]) -> tuple[list[Finding], set[str]]:
    """Return the unmet requirements of distributions with plugins, and the names of all that they need.

    Requirements of requirements count, too: a plugin that imports them needs them.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    by_name: dict[str, Distribution] = {}
    for one in distributions:
        by_name.setdefault(one.name, one)
    findings: list[Finding] = []
    open_ = [(name, "") for name in sorted(plugins) if name in by_name]
    seen = set(open_)
    while open_:
        name, extra = open_.pop(0)
        owner = by_name[name]
        for text in owner.requires:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                if not extra:
                    message = f"its requirement {text!r} cannot be read"
                    findings.append(Finding("warning", name, message, "tell its authors"))
                continue
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            if finding := _unmet(owner, wanted, by_name):
                findings.append(finding)
                continue
            new = [(normal(wanted.name), part) for part in ("", *sorted(wanted.extras))]
            open_ += [one for one in new if one not in seen]
            seen.update(new)
    return list(dict.fromkeys(findings)), {name for name, _ in seen}


def _unmet(owner: Distribution, wanted: Requirement, by_name: Mapping[str, Distribution]) -> Finding | None:
    """Return what is wrong where a requirement is not met; the catalog judges which kernel a plugin wants."""
    there = by_name.get(normal(wanted.name))
    requirement = f"{wanted.name}{wanted.specifier}"
    if there is None:
        message = f"needs {requirement}, which is not installed"
    elif there.name != KERNEL and there.version and not _contains(wanted, there.version):
        message = f"needs {requirement}, and {there.version} is installed"
    else:
        return None
    return Finding("problem", owner.name, message, install_line(requirement))


def _contains(wanted: Requirement, version: str) -> bool:
    from packaging.version import InvalidVersion

    try:
        return wanted.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return True  # nobody can say


def kernel(found: Mapping[str, str], version: str) -> Finding:
    """Compare the code of codex-kernel with what is installed under its name."""
    if KERNEL not in found:
        message = f"no metadata of {KERNEL} is on the path, so that its own plugins are not found"
        return Finding("problem", KERNEL, message, install_line(KERNEL))
    if found[KERNEL] != version:
        message = f"the code is version {version}, its metadata say {found[KERNEL]}"
        return Finding("warning", KERNEL, message, "install it again; an editable one: pip install -e .")
    return Finding("ok", KERNEL, version)
