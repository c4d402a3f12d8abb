"""The command that installs, upgrades or removes a distribution here: for pip, uv, uv tool or pipx, as codex came.

One rule: the line that is shown works as it stands. Nothing here runs it, it names only what it was given, and what is
there already keeps its source: a name that came from a folder or a repository is never looked up in an index.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from codex_kernel.file_record import direct_url_of, is_editable
from codex_kernel.metadata import normal

Installer = Literal["pip", "uv", "uv tool", "pipx"]


def installer(prefix: Path | None = None) -> Installer:
    """Say which program made the environment at `prefix` (default: this one), by the files that it leaves there."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    if (prefix / "uv-receipt.toml").is_file():
        return "uv tool"
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx"
    try:
        settings = (prefix / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no virtual environment
        return "pip"
    return "uv" if any(line.partition("=")[0].strip() == "uv" for line in settings.splitlines()) else "pip"


def install_line(*distributions: str, prefix: Path | None = None) -> str:
    """Return the command that adds distributions, each a name or a requirement, to the environment of codex."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    match installer(prefix):
        case "uv tool":
            return _uv_tool(prefix, added=distributions)
        case "pipx":
            return _pipx_inject(prefix, distributions)
        case _:
            return _pip(prefix, "install", distributions)


def upgrade_line(*distributions: str, prefix: Path | None = None) -> str:
    """Return the command that brings distributions to their newest versions."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    match installer(prefix):
        case "uv tool":
            return f"uv tool upgrade {_quoted([prefix.name])}"
        case "pipx":
            words = _quoted(_with_sources(prefix, distributions))
            return f"pipx runpip {_quoted([prefix.name])} install --upgrade {words}"
        case _:
            return _pip(prefix, "install --upgrade", distributions)


def uninstall_line(*distributions: str, prefix: Path | None = None) -> str:
    """Return the command that removes distributions."""
    prefix = Path(sys.prefix) if prefix is None else prefix
    match installer(prefix):
        case "uv tool":
            return _uv_tool(prefix, removed=distributions)
        case "pipx":
            return f"pipx uninject {_quoted([prefix.name, *distributions])}"
        case _:
            return _pip(prefix, "uninstall", distributions)


def way_out(distribution: str, metadata: Path) -> str:
    """Say how to be rid of a fault of a distribution: mended code where it came from no index, else another version.

    metadata: the folder of its metadata, or that of its project where it is not installed.
    """
    if (metadata / "pyproject.toml").is_file():
        return f"mend the code of {metadata}"
    remove = uninstall_line(distribution)
    if source := source_of(metadata):
        again = "" if source.editable else " and install it again from there"
        return f"mend the code of {source.text}{again}, or {remove}"
    return f"{upgrade_line(distribution)}, or {remove}"


def source_of(metadata: Path) -> _Asked | None:
    """Return the folder, file or repository that a distribution was installed from; None: an index.

    metadata: as `way_out` takes it.
    """
    if (metadata / "pyproject.toml").is_file():
        return _Asked(str(metadata), editable=True)
    if (note := direct_url_of(metadata)) is None:
        return None
    try:
        parts = urlsplit(note["url"])
    except ValueError:  # it is no URL
        return None
    place = unquote(parts.path) if parts.scheme == "file" else _public(note["url"])
    return _Asked(place, editable=is_editable(note)) if place else None


# ── uv tool ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Asked(NamedTuple):
    """What an installer was asked for: a requirement, or an editable folder."""

    text: str
    editable: bool = False

    def words(self, flag: str, flag_editable: str) -> list[str]:
        """Return it as arguments; a flag may be ""."""
        return [*filter(None, [flag_editable if self.editable else flag]), self.text]

    @property
    def has_source(self) -> bool:
        """Whether it comes from a folder, a file or a repository."""
        return self.editable or "/" in self.text or " @ " in self.text


def _uv_tool(prefix: Path, added: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> str:
    """Return the `uv tool install` line: it installs anew, so it must name all that is there already."""
    flags, there = _received(prefix)
    asked = {**there, **{key: _kept(there.get(key), one) for key, one in _added(added)}}
    for name in removed:
        asked.pop(_normal(name), None)
    tool = asked.pop(_normal(prefix.name), _Asked(prefix.name))
    words = [*tool.words("", "--editable"), *flags]
    for one in asked.values():
        words += one.words("--with", "--with-editable")
    return f"uv tool install {_quoted(words)}"


def _added(words: Iterable[str]) -> Iterator[tuple[str, _Asked]]:
    """Yield (key, what is asked for) of a line's words; `-e` makes a folder of the next one."""
    rest = iter(words)
    for word in rest:
        if word == "-e" and (folder := next(rest, None)) is not None:
            yield folder, _Asked(folder, editable=True)
        else:
            yield _normal(word), _Asked(word)


def _kept(there: _Asked | None, new: _Asked) -> _Asked:
    """Return what is to be asked for: what is new, unless that would look up in an index what came from elsewhere."""
    if there is None:
        return new
    return there if _is_bare(new.text) or (there.has_source and not new.has_source) else new


def _received(prefix: Path) -> tuple[list[str], dict[str, _Asked]]:
    """Return what `uv tool install` was asked for, as its receipt says: flags, and requirements by normalised name."""
    import tomllib

    try:
        receipt = tomllib.loads((prefix / "uv-receipt.toml").read_text(encoding="utf-8"))["tool"]
        rows = {_normal(row["name"]): _of_receipt(row) for row in receipt["requirements"]}
        return list(_flags(receipt)), rows
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [], {}  # a receipt of another form: the line names only what is new


def _of_receipt(row: Mapping[str, Any]) -> _Asked:
    """Return a row of a receipt as it was asked for."""
    extras = f"[{','.join(row['extras'])}]" if row.get("extras") else ""
    if "editable" in row:
        return _Asked(f"{row['editable']}{extras}", editable=True)
    marker = f" ; {row['marker']}" if row.get("marker") else ""
    source = _source(row)
    asked = f" @ {source}" if source else row.get("specifier", "")
    return _Asked(f"{row['name']}{extras}{asked}{marker}")


def _source(row: Mapping[str, Any]) -> str:
    """Return the address of what came from no index; "" of what came from one."""
    if folder := row.get("directory") or row.get("path"):
        return Path(folder).absolute().as_uri()
    address, _, query = str(row.get("git") or row.get("url") or "").partition("#")[0].partition("?")
    said = dict(part.partition("=")[::2] for part in query.split("&"))
    revision = said.get("rev") or said.get("tag") or said.get("branch") if "git" in row else ""
    folder = said.get("subdirectory") or row.get("subdirectory")
    at, within = f"@{revision}" if revision else "", f"#subdirectory={folder}" if folder else ""
    return f"{'git+' if 'git' in row else ''}{_public(address)}{at}{within}" if address else ""


def _flags(receipt: Mapping[str, Any]) -> Iterator[str]:
    """Yield the flags that say with which Python, and where distributions are looked for."""
    if python := receipt.get("python"):
        yield from ("--python", python)
    options = receipt.get("options", {})
    for index in options.get("index", ()):
        if not index.get("explicit"):
            yield from (
                "--default-index" if index.get("default") else "--index",
                _public(index["url"]),
            )
    for place in options.get("find-links", ()):
        yield from ("--find-links", _public(place))


# ── pipx ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pipx_inject(prefix: Path, distributions: tuple[str, ...]) -> str:
    """Return the line that adds distributions; pipx leaves alone what is there already, unless it is forced."""
    there = _injected(prefix)
    force = ["--force"] if any(_normal(name) in there for name in distributions) else []
    return f"pipx inject {_quoted([*force, prefix.name, *_with_sources(prefix, distributions)])}"


def _with_sources(prefix: Path, distributions: Iterable[str]) -> list[str]:
    """Return distributions as words, each that came from no index with where it came from."""
    there, words = _injected(prefix), []
    for key, one in _added(distributions):
        known = there.get(key)
        words += (_kept(known, one) if known and known.has_source else one).words("", "-e")
    return words


def _injected(prefix: Path) -> dict[str, _Asked]:
    """Return what pipx was asked for, by normalised name, as its notes say."""
    try:
        notes = json.loads((prefix / "pipx_metadata.json").read_text(encoding="utf-8"))
        rows = [notes["main_package"], *notes["injected_packages"].values()]
        return {
            _normal(row["package"]): _Asked(
                _public(row["package_or_url"]),
                editable=bool({"-e", "--editable"} & set(row.get("pip_args", ()))),
            )
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pip(prefix: Path, verb: str, distributions: tuple[str, ...]) -> str:
    """Return the line of pip, or of uv in place of it."""
    names = _quoted(distributions)
    if installer(prefix) == "uv":
        return f"uv pip {verb}{_python(prefix)} {names}"
    return f"{called('pip', prefix)} {verb} {names}"


def called(program: str, prefix: Path | None = None, *, is_to_come: bool = False) -> str:
    """Return how a program of this environment is called: by its name alone only where a shell would find that one.

    Otherwise `pip` would install into another environment, the active one, or none. is_to_come: it is installed before
    it is called.
    """
    prefix = Path(sys.prefix) if prefix is None else prefix
    python = Path(sys.executable) if prefix == Path(sys.prefix) else prefix / "bin" / "python"
    found = {name: shutil.which(name) for name in ([python.name] if is_to_come else [python.name, program])}
    is_near = found[python.name] is not None and all(
        path is None or Path(path).parent.resolve() == python.parent.resolve() for path in found.values()
    )
    return program if is_near else f"{_quoted([str(python)])} -m {program}"


def _python(prefix: Path) -> str:
    """Return the flag that uv needs where the environment of codex is not the active one."""
    active = os.environ.get("VIRTUAL_ENV")
    if active and Path(active).resolve() == prefix.resolve():
        return ""
    return f" --python {_quoted([str(prefix)])}"


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    return " ".join(map(shlex.quote, words))


def _public(url: str) -> str:
    """Return a URL without what may be secret: the line is shown, and kept by shells."""
    from codex_kernel.environment import without_credentials  # late: it costs a listing too much

    return without_credentials(url)


def _is_bare(requirement: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._-]+", requirement) is not None


def _normal(requirement: str) -> str:
    """Return the normalised name in a requirement."""
    match = re.match(r"[A-Za-z0-9._-]*", requirement)
    return normal(match[0] if match else "")
