"""Which plugins a run uses, to the byte: `plugins.lock.json`, and how two of them differ.

One rule: a plugin that is not the one of before is told, whether its version, its origin or only its files changed.

    files_sha256    the names and hashes of the distribution's own files, as its record has them: the same for one
                    wheel on every machine
    source_sha256   the source files themselves, where the record does not have them: an editable installation, or a
                    folder that is not installed
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_kernel.durable import read_json
from codex_kernel.errors import InputError, ManifestError, Problem
from codex_kernel.installers import install_line
from codex_kernel.metadata import Entry, source_file

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str], Row]


def rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return what the lock says of each plugin."""
    origins: dict[tuple[Path, str], dict[str, Any]] = {}
    found = []
    for entry in entries:
        package = entry.target.partition(":")[0].partition(".")[0]
        key = (entry.metadata, package)
        if key not in origins:
            origins[key] = _origin(entry.metadata, package)
        who = {"kind": entry.kind, "name": entry.name, "target": entry.target}
        found.append({**who, "distribution": entry.distribution, "version": entry.version, **origins[key]})
    return found


def changed(before: Iterable[Row], now: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each plugin of both that is not the same, and one for each distribution whose files are not.

    Which plugins are in one of them alone, the manifest says.
    """
    yield from (text for text, _ in _changes(_by_name(before), _by_name(now)))


def check(path: Path, now: Sequence[Row]) -> None:
    """Raise ManifestError, exit code 7, unless the plugins are exactly those of a lock, or of a run folder's.

    It has all differences. Raises InputError where there is no lock.
    """
    file, locked = _read(path)
    old, new = _by_name(locked), _by_name(now)
    faults: list[tuple[str, str | None]] = [
        (f"{_named(key)} is not used here", None) for key in old if key not in new
    ]
    faults += [(f"{_named(key)} is not in the lock", None) for key in new if key not in old]
    faults += _changes(old, new)
    if faults:
        raise ManifestError([Problem(str(file), "", text, hint, plugin=True) for text, hint in faults])


def _read(path: Path) -> tuple[Path, list[Row]]:
    """Return the file of a lock, and its rows."""
    file = path / "plugins.lock.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"there is no lock {file}", remedy="a run's folder holds one: --locked runs/NAME/RUN-ID"
        )
    try:
        found = (read_json(file) or {})["plugins"]
        _by_name(found)
        for row in found:
            _version(row)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{file} is no lock of plugins", remedy="name a plugins.lock.json") from None
    return file, found


# ── one plugin ────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_name(listed: Iterable[Row]) -> Rows:
    return {(row["kind"], row["name"]): row for row in listed}


def _version(row: Row) -> tuple[str, str]:
    return row["distribution"], row["version"]


def _named(key: tuple[str, str]) -> str:
    return f"{key[0]} {key[1]!r}"


def _changes(old: Rows, new: Rows) -> Iterator[tuple[str, str | None]]:
    """Yield (what differs, the line that mends it) between the plugins that both have."""
    files: dict[str, list[str]] = {}
    for key, row in new.items():
        was = old.get(key)
        if was is None:
            continue
        if _version(was) != _version(row):
            told = f"{_named(key)} was {' '.join(_version(was))}, is {' '.join(_version(row))}"
            yield told, install_line("==".join(_version(was)))
        elif was.get("target", row["target"]) != row["target"]:
            yield f"{_named(key)} ({' '.join(_version(row))}) was {was['target']}, is {row['target']}", None
        elif difference := _other_files(was, row):
            files.setdefault(f"{' '.join(_version(row))} {difference}", []).append(_named(key))
    for told, names in files.items():
        yield f"{told}: {', '.join(names)}", None


def _other_files(was: Row, row: Row) -> str:
    """Say how the files of a distribution differ; "" where they do not.

    An older lock says less, and is held to what it says.
    """
    # The record has the installer's own files too, so it is held only against a lock without the better hash.
    files = "files_sha256" if "files_sha256" in was else "record_sha256"
    if all(was.get(key, row[key]) == row[key] for key in (files, "source_sha256")):
        return ""
    if was.get("direct_url", row["direct_url"]) != row["direct_url"]:
        return f"was installed from {_from(was['direct_url'])}, is from {_from(row['direct_url'])}"
    return "has the same version, but its files were changed"


def _from(direct: Mapping[str, Any] | None) -> str:
    """Say in words where a distribution was installed from."""
    if not direct:
        return "an index"
    commit = (direct.get("vcs_info") or {}).get("commit_id", "")
    editable = " (editable)" if (direct.get("dir_info") or {}).get("editable") else ""
    return f"{direct.get('url')}{'@' if commit else ''}{commit}{editable}"


# ── where it comes from ───────────────────────────────────────────────────────────────────────────────────────────


def _origin(metadata: Path, package: str) -> dict[str, Any]:
    """Return what tells two installations of one version apart."""
    direct = _direct_url(metadata)
    record = metadata / "RECORD"
    files = record.read_bytes() if record.is_file() else b""
    lines = [line.strip() for line in files.decode(errors="replace").splitlines()]
    own = [line for line in lines if line.startswith((f"{package}/", f"{package}."))]
    return {
        "direct_url": direct,
        "record_sha256": hashlib.sha256(files).hexdigest() if files else None,
        "files_sha256": _files_sha256(lines, metadata.name) if own else None,
        "source_sha256": None if own else _source_sha256(package),
    }


def _direct_url(metadata: Path) -> dict[str, Any] | None:
    """Return the installer's note of a folder, an archive or a repository, without a password in it; None: an index."""
    if (project := metadata / "pyproject.toml").is_file():
        return {"url": project.parent.absolute().as_uri(), "dir_info": {"editable": True}}
    try:
        found = json.loads((metadata / "direct_url.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    return {**found, "url": re.sub(r"//[^/@]*@", "//", str(found.get("url", "")))}


def _files_sha256(record: Iterable[str], own: str) -> str:
    """Return a hash of the lines of a record that come from the wheel: no metadata, no scripts, no bytecode."""
    others = (f"{own}/", "../", "/")
    kept = sorted(line for line in record if line and not line.startswith(others) and ".pyc," not in line)
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _source_sha256(package: str) -> str | None:
    """Return a hash of the source files of a module or package; None where they are not plain files."""
    loaded = getattr(sys.modules.get(package), "__file__", None)
    file = loaded or source_file(package, sys.path)
    if file is None or not Path(file).is_file():
        return None
    root = Path(file).parent if Path(file).name == "__init__.py" else Path(file)
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for one in files:
        content = hashlib.sha256(one.read_bytes()).hexdigest()
        digest.update(f"{one.relative_to(root.parent).as_posix()} {content}\n".encode())
    return digest.hexdigest()
