"""Which plugins a run uses, to the byte: `plugins.lock.json`, and how two of them differ.

One rule: a plugin that is not the one of before is told, whether its version, its origin or only its files changed.

    files_sha256    the names and hashes of the distribution's own files that its record lists, as they are now: the
                    same for one wheel on every machine until somebody changes a file
    missing_files   how many of them are gone, and the first of them; only where some are
    source_sha256   the source files themselves, where the record does not have them: an editable installation, or a
                    folder that is not installed
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_kernel.durable import read_json
from codex_kernel.environment import without_credentials
from codex_kernel.errors import InputError, ManifestError, Problem
from codex_kernel.file_record import Recorded, direct_url_of, record_of
from codex_kernel.installers import install_line
from codex_kernel.metadata import Entry, source_file

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str], Row]

MAX_BYTES = 64 * 2**20
"""Of a larger file the size and the recorded hash must do: a plugin's code is smaller, and a run is not to wait."""


def rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return what the lock says of each plugin."""
    origins: dict[tuple[Path, str], dict[str, Any]] = {}
    sources: dict[Path | None, str | None] = {}
    found = []
    for entry in entries:
        module = entry.target.partition(":")[0]
        package = module.partition(".")[0]
        key = (entry.metadata, package)
        if key not in origins:
            origins[key] = _origin(entry.metadata, package)
        origin = origins[key]
        if origin["files_sha256"] is None:
            root = _source_of(module)
            if root not in sources:
                sources[root] = _source_sha256(root) if root else None
            origin = {**origin, "source_sha256": sources[root]}
        who = {"kind": entry.kind, "name": entry.name, "target": entry.target}
        found.append({**who, "distribution": entry.distribution, "version": entry.version, **origin})
    return found


def changed(before: Iterable[Row], now: Iterable[Row]) -> Iterator[str]:
    """Yield a line for each plugin of both that is not the same, and one for each distribution whose files are not.

    Which plugins are in one of them alone, the manifest says. Raises InputError where a row is none of a lock.
    """
    before = list(before)
    if fault := _fault(before):
        raise _no_lock("plugins.lock.json", fault)
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
    found = (read_json(file) or {}).get("plugins")
    if fault := _fault(found):
        raise _no_lock(str(file), fault)
    return file, list(found or ())


_TEXTS = ("kind", "name", "distribution", "version")
_MAY_BE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("target", "record_sha256", "files_sha256", "source_sha256"), (str, type(None))),
    "direct_url": (dict, type(None)),
}


def _fault(rows: object) -> str | None:
    """Say why these are not the rows of a lock; None: they are."""
    if not isinstance(rows, list):
        return "plugins: expected a list"
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            return f"plugins[{number}]: expected an object, got {row!r:.80}"
        for name in _TEXTS:
            if not isinstance(row.get(name), str):
                return f"plugins[{number}].{name}: expected text, got {row.get(name)!r:.80}"
        for name, types in _MAY_BE.items():
            if not isinstance(row.get(name), types):
                wanted = "an object" if dict in types else "text"
                return f"plugins[{number}].{name}: expected {wanted} or null, got {row[name]!r:.80}"
    return None


def _no_lock(file: str, fault: str) -> InputError:
    return InputError(
        f"{file} is no lock of plugins: {fault}", remedy="name a plugins.lock.json as codex wrote it"
    )


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
    if gone := row.get("missing_files"):
        return f"has the same version, but {gone['count']} of its files are gone, {gone['first']} among them"
    return "has the same version, but its files were changed"


def _from(direct: Mapping[str, Any] | None) -> str:
    """Say in words where a distribution was installed from."""
    if not direct:
        return "an index"
    folder, repository = direct.get("dir_info"), direct.get("vcs_info")
    commit = repository.get("commit_id", "") if isinstance(repository, dict) else ""
    editable = " (editable)" if isinstance(folder, dict) and folder.get("editable") else ""
    return f"{without_credentials(str(direct.get('url')))}{'@' if commit else ''}{commit}{editable}"


# ── where it comes from ───────────────────────────────────────────────────────────────────────────────────────────


def _origin(metadata: Path, package: str) -> dict[str, Any]:
    """Return what tells two installations of one version apart."""
    record = metadata / "RECORD"
    text = record.read_bytes() if record.is_file() else b""
    listed = record_of(metadata) or ()
    own = any(file.path.startswith((f"{package}/", f"{package}.")) for file in listed)
    return {
        "direct_url": _origin_url(metadata),
        "record_sha256": hashlib.sha256(text).hexdigest() if text else None,
        **(_of_files(metadata, listed) if own else {"files_sha256": None}),
        "source_sha256": None,
    }


def _origin_url(metadata: Path) -> dict[str, Any] | None:
    """Return where a distribution was installed from; None: an index."""
    if (project := metadata / "pyproject.toml").is_file():
        return {"url": project.parent.absolute().as_uri(), "dir_info": {"editable": True}}
    return direct_url(metadata)


def direct_url(metadata: Path) -> dict[str, Any] | None:
    """Return the installer's note of a folder, an archive or a repository, without a password in it.

    None where there is none, or none that says where.
    """
    found = direct_url_of(metadata)
    return None if found is None else {**found, "url": without_credentials(found["url"])}


def _of_files(metadata: Path, listed: Iterable[Recorded]) -> dict[str, Any]:
    """Return a hash of the files that come from the wheel: no metadata, no scripts, no bytecode."""
    lines, missing = [], []
    for file in listed:
        parts = file.path.split("/")
        if parts[0] in {metadata.name, ""} or ".." in parts or file.path.endswith(".pyc"):
            continue
        now = _as_it_is(metadata.parent, file)
        lines.append(f"{file.path},{','.join(now) if now else 'missing'}")
        if now is None:
            missing.append(file.path)
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    gone = {"missing_files": {"count": len(missing), "first": min(missing)}} if missing else {}
    return {"files_sha256": digest, **gone}


def _as_it_is(folder: Path, file: Recorded) -> tuple[str, str] | None:
    """Return hash and size of a recorded file as a record writes them; None where there is none that can be read."""
    from base64 import urlsafe_b64encode

    try:
        with open(folder / file.path, "rb", opener=_at_once) as content:
            about = os.fstat(content.fileno())
            if not stat.S_ISREG(about.st_mode):
                return None
            if about.st_size > MAX_BYTES:
                return file.digest, str(about.st_size)
            digest = hashlib.file_digest(content, "sha256").digest()
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return f"sha256={urlsafe_b64encode(digest).rstrip(b'=').decode()}", str(about.st_size)


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting for whoever may write to a pipe of that name."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ── source files ──────────────────────────────────────────────────────────────────────────────────────────────────


def _source_sha256(root: Path) -> str:
    """Return a hash of the source files of a package's folder, or of a module."""
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for one in files:
        content = hashlib.sha256(one.read_bytes()).hexdigest()
        digest.update(f"{one.relative_to(root.parent).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _source_of(module: str) -> Path | None:
    """Return the folder of the package that a module is in, the outermost that is no namespace, or the module's file.

    None where it is no plain file.
    """
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        file = getattr(sys.modules.get(name), "__file__", None) or source_file(name, sys.path)
        if file is not None:
            path = Path(file)
            return (path.parent if path.name == "__init__.py" else path) if path.is_file() else None
    return None
