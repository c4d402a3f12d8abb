"""Finding the files that a dataset's section names.

One rule: the same patterns and files give the same list in the same order on every machine, and each file once. `**`
stands for any number of folders; symbolic links to folders are not followed, and told where what they lead to is not
read by another way; hidden files and folders are left out unless the pattern itself has a part that begins with a dot.
Wildcards count in the pattern alone, never in the base, and a path that exists is taken literally. What cannot be
looked at ends the run; it is not left out. Bytes of a name that are not UTF-8 are written in hexadecimal: an
id is text.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath

from attrs import frozen

from codex_kernel import InputError, RunContext, option

_MAGIC = re.compile(r"[*?\[]")


@frozen(slots=False)
class FileOptions:
    """The options that say which files are read; a base class for datasets."""

    paths: list[str] = option(
        help="Files, folders and globs (** for any depth), relative to where the run was started."
    )
    exclude: list[str] = option(
        factory=list,
        help="Globs to leave out: without a slash compared with each part of a path, else with the path.",
    )


@frozen
class FoundFile:
    """A file of a dataset: `name` is its path relative to the manifest's base, with forward slashes.

    `top` is the folder, relative to the base and as the system has it, in which the pattern that found it looks: the
    part before its first wildcard.
    """

    name: str
    path: Path
    top: str = "."


def files_of(options: FileOptions, run: RunContext) -> tuple[FoundFile, ...]:
    """Return the files that a dataset reads; raise InputError where there is none, or a folder cannot be read."""
    lost: list[str] = []
    files = find(options.paths, options.exclude, run.base, lost)
    if lost:
        more = f", and {len(lost) - 1:,} more such" if len(lost) > 1 else ""
        run.report.warning(f"the dataset leaves out {lost[0]}{more}")
    if not files:
        raise InputError(
            f"dataset.paths: no file to read: {', '.join(options.paths) or 'empty'} (from {run.base})",
            remedy="paths are relative to the folder where the run was first started",
        )
    return tuple(files)


def file_problems(options: FileOptions, base: Path) -> list[str]:
    """Return a sentence for each thing that is wrong with a dataset's paths, without reading a file."""
    if not options.paths:
        return ["paths: is empty, expected at least one file, folder or glob"]
    problems = unmatched(options.paths, base)
    if not problems and options.exclude and not find(options.paths, options.exclude, base):
        return [f"exclude: leaves out every file that paths names: {', '.join(options.exclude)}"]
    return problems


def find(
    patterns: Iterable[str], exclude: Sequence[str], base: Path, lost: list[str] | None = None
) -> list[FoundFile]:
    """Return the files, folders' files and matches of globs, each file once, sorted by name.

    A file reached by several paths is taken by its own one, where that is among them. `lost` gets a few words for
    each path that is left out since it is no file: links that lead nowhere or to folders, pipes, sockets, devices.
    """
    found: dict[str, FoundFile] = {}
    looked_through: set[str] = set()
    linked: dict[str, str] = {}
    for pattern in patterns:
        top = _top(pattern, base)
        for path, kind in _candidates(pattern, base, looked_through):
            relative = relative_to(base, path)
            name = as_text(relative)
            if excluded(name, exclude):
                continue
            real = os.path.realpath(path)
            if kind == _FILE and (real not in found or os.path.realpath(base) + "/" + relative == real):
                found[real] = FoundFile(name, path, top)
            elif kind == _FOLDER:
                linked[name] = real
            elif kind != _FILE and lost is not None:
                lost.append(f"{name}, {kind}")
    if lost is not None:
        lost += [f"{name}, {_LINKED}" for name, real in linked.items() if real not in looked_through]
    return sorted(found.values(), key=lambda file: file.name)


def _top(pattern: str, base: Path) -> str:
    root, rest = _literal(pattern, base)
    return relative_to(base, root if rest or root.is_dir() else root.parent)


def relative_to(base: Path, path: Path) -> str:
    """Return a path from the base on, with forward slashes, as the system has it."""
    return PurePosixPath(os.path.relpath(path, base)).as_posix()


def as_text(path: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 become a backslash, an x and two digits."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode(errors="backslashreplace")
    return path


def matches(pattern: str, base: Path) -> Iterator[Path]:
    """Give the regular files that a pattern matches: a file itself, all below a folder, or a glob's.

    Raises InputError where a folder cannot be listed, or the pattern names something that is neither file nor folder.
    """
    return (path for path, kind in _candidates(pattern, base) if kind == _FILE)


def _candidates(
    pattern: str, base: Path, looked_through: set[str] | None = None
) -> Iterator[tuple[Path, str]]:
    """Give what a pattern matches, and what it is; folders are looked through, and only links to them given.

    looked_through: gets the real paths of these folders.
    """
    if not pattern:
        raise InputError("paths: an empty name, expected a file, folder or glob", remedy="'.' is this folder")
    root, rest = _literal(pattern, base)
    kind = _kind(root) if not rest else _FOLDER
    if kind == _FILE:
        yield root, kind
        return
    if kind not in {_FOLDER, "nothing"}:
        raise InputError(f"{pattern}: is {kind}, expected a file or a folder")
    rest = rest or ("**",)
    if rest[-1] == "**":
        rest = (*rest, "*")
    regex = _regex("/".join(rest))
    hidden = any(part.startswith(".") for part in rest)
    depth = None if "**" in rest else len(rest)
    for path, name in _walk(
        root, set() if looked_through is None else looked_through, hidden=hidden, depth=depth
    ):
        if name is None:
            yield path, _FOLDER
        elif regex.fullmatch(name):
            yield path, _kind(path)


def excluded(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a path with forward slashes is left out.

    A pattern without a slash is compared with each part of the path, one with a slash with the path and each of the
    folders it lies in.
    """
    parts = name.split("/")
    for pattern in patterns:
        regex = _regex(pattern.strip("/"))
        paths = accumulate(parts, "{}/{}".format) if "/" in pattern.strip("/") else parts
        if any(path == pattern.strip("/") or regex.fullmatch(path) for path in paths):
            return True
    return False


def unmatched(patterns: Iterable[str], base: Path) -> list[str]:
    """Return a sentence for each pattern that matches no file, or whose folders cannot be looked through."""
    problems = []
    for pattern in patterns:
        try:
            if next(matches(pattern, base), None) is None:
                problems.append(f"{pattern}: no file matches it, looked from {base}")
        except InputError as error:
            problems.append(error.message)
    return problems


_FILE, _FOLDER = "a file", "a folder"
_LOST = "a link that leads nowhere"
_LINKED = "a link to a folder: name the folder itself to read it"
_KINDS = {
    stat.S_IFREG: _FILE,
    stat.S_IFDIR: _FOLDER,
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _kind(path: Path) -> str:
    """Say what lies at a path, links followed; `nothing` where that is so."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "no file")
    except (FileNotFoundError, NotADirectoryError):
        return _LOST if path.is_symlink() else "nothing"
    except OSError as error:
        raise InputError(f"{as_text(str(path))}: cannot be looked at: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{str(path)!r}: is no path: {error}") from error


def _literal(pattern: str, base: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the path that a pattern begins with, and the parts that remain, the first of them with a wildcard."""
    root, parts = base, Path(pattern).parts
    for number, part in enumerate(parts):
        if _MAGIC.search(part) and _kind(root / part) == "nothing":
            return root, parts[number:]
        root /= part
    return root, ()


def _walk(
    root: Path, looked_through: set[str], *, hidden: bool, depth: int | None
) -> Iterator[tuple[Path, str | None]]:
    """Give what is no folder below a folder, with its path relative to it; `depth` None: at any depth.

    Links to folders, which are not followed, are given with None, where the folder would be looked through.
    """
    for folder, folders, files in os.walk(root, onerror=_refuse_folder):
        looked_through.add(os.path.realpath(folder))
        at = "" if Path(folder) == root else PurePosixPath(os.path.relpath(folder, root)).as_posix() + "/"
        if depth is not None and at.count("/") >= depth - 1:
            folders.clear()
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        for path in (Path(folder, name) for name in folders):
            if path.is_symlink():
                yield path, None
        for name in sorted(files):
            if hidden or not name.startswith("."):
                yield Path(folder, name), at + name


def _refuse_folder(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return  # where the walk begins there is nothing: no file matches
    raise InputError(
        f"{as_text(error.filename)}: the folder cannot be listed: {error.strerror}",
        remedy="give yourself the right to read it, or name the files beside it",
    ) from error


@lru_cache(maxsize=256)
def _regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob with `**`, `*`, `?` and `[…]`; no wildcard but `**` matches a slash."""
    parts = ("(?:[^/]+/)*" if part == "**" else _part_regex(part) + "/" for part in pattern.split("/"))
    return re.compile("".join(parts).removesuffix("/"), re.DOTALL)


def _part_regex(part: str) -> str:
    pieces = []
    for piece in re.split(r"(\*|\?|\[!?\]?[^\]/]*\])", part):
        if piece == "*":
            pieces.append("[^/]*")
        elif piece == "?":
            pieces.append("[^/]")
        elif len(piece) > 2 and piece.startswith("["):  # noqa: PLR2004 - "[" and "]" with something between
            inner = piece[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            pieces.append(f"[^/{inner[1:]}]" if inner.startswith("!") else f"(?!/)[{inner}]")
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)
