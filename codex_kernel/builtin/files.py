"""Finding the files that a dataset's section names.

One rule: the same patterns and files give the same list in the same order on every machine, and each file once. `**`
stands for any number of folders; symbolic links to folders are not followed; hidden files and folders are left out
unless the pattern itself has a part that begins with a dot. Wildcards count in the pattern alone, never in the base,
and a path that exists is taken literally.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath

from attrs import frozen

_MAGIC = re.compile(r"[*?\[]")


@frozen
class FoundFile:
    """A file of a dataset: `name` is its path relative to the manifest's base, with forward slashes."""

    name: str
    path: Path


def find(patterns: Iterable[str], exclude: Sequence[str], base: Path) -> list[FoundFile]:
    """Return the files, folders' files and matches of globs, each file once, sorted by name.

    A file reached by several paths is taken by its own one, where that is among them.
    """
    found: dict[str, FoundFile] = {}
    for pattern in patterns:
        for path in matches(pattern, base):
            name = PurePosixPath(os.path.relpath(path, base)).as_posix()
            real = os.path.realpath(path)
            if excluded(name, exclude) or (real in found and os.path.realpath(base) + "/" + name != real):
                continue
            found[real] = FoundFile(name, path)
    return sorted(found.values(), key=lambda file: file.name)


def matches(pattern: str, base: Path) -> Iterator[Path]:
    """Give the regular files that a pattern matches: a file itself, all below a folder, or a glob's."""
    root, rest = _literal(pattern, base)
    if not rest and root.is_file():
        yield root
        return
    rest = rest or ("**",)
    if rest[-1] == "**":
        rest = (*rest, "*")
    regex = _regex("/".join(rest))
    hidden = any(part.startswith(".") for part in rest)
    depth = None if "**" in rest else len(rest)
    for path, name in _walk(root, hidden=hidden, depth=depth):
        if regex.fullmatch(name):
            yield path


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
    """Return a sentence for each pattern that matches no file."""
    return [
        f"{pattern}: no file matches it, looked from {base}"
        for pattern in patterns
        if next(matches(pattern, base), None) is None
    ]


def _literal(pattern: str, base: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the path that a pattern begins with, and the parts that remain, the first of them with a wildcard."""
    root, parts = base, Path(pattern).parts
    for number, part in enumerate(parts):
        if _MAGIC.search(part) and not (root / part).exists():
            return root, parts[number:]
        root /= part
    return root, ()


def _walk(root: Path, *, hidden: bool, depth: int | None) -> Iterator[tuple[Path, str]]:
    """Give the regular files below a folder, and their paths relative to it; `depth` None: at any depth."""
    for folder, folders, files in os.walk(root):
        at = "" if Path(folder) == root else PurePosixPath(os.path.relpath(folder, root)).as_posix() + "/"
        if depth is not None and at.count("/") >= depth - 1:
            folders.clear()
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if (hidden or not name.startswith(".")) and path.is_file():
                yield path, at + name


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
