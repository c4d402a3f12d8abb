"""The record of a distribution's files, as its installer left it (RECORD), and what is found by it.

One rule: a file is believed only where it is the one that was installed. Paths are texts: pathlib would cost a listing
of plugins as much as its scan.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "codex-plugin.json"
"""Name of the static manifest in a package; that of a single module has the module's name and a dot before it."""
MAX_BYTES = 4 * 2**20
"""More than this of a static manifest is not read."""
_MAX_RECORD_BYTES = 64 * 2**20
_STATIC = re.compile(rf"(^|[/\\.]){re.escape(FILE_NAME)}$")


class UnfitError(Exception):
    """A file of a distribution cannot be believed; the text says why."""


class Recorded(NamedTuple):
    """A file as the record of its distribution lists it, its path from the folder that the metadata lies in.

    `digest` (`sha256=` and base64) and `size` are "" where the record does not have them.
    """

    path: str
    digest: str = ""
    size: str = ""


def record_of(metadata: str | Path) -> tuple[Recorded, ...] | None:
    """Return the files in a distribution's RECORD; None where it has none, or none that can be read.

    metadata: its folder. Whatever the file holds, nothing is raised.
    """
    text = _record(metadata)
    return None if text is None else _rows(text)


def direct_url_of(metadata: str | Path) -> dict[str, Any] | None:
    """Return the installer's note of where a distribution came from (PEP 610), which may hold a password.

    None where there is none, or none that says where: it came from an index.
    """
    import json

    try:
        found = json.loads(_content(os.path.join(metadata, "direct_url.json"), MAX_BYTES))  # noqa: PTH118
    except (UnfitError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("url"), str) else None


def is_editable(note: Mapping[str, Any] | None) -> bool:
    """Say whether code lies where its author works on it; note: as `direct_url_of` returns it."""
    folder = None if note is None else note.get("dir_info")
    return isinstance(folder, dict) and folder.get("editable") is True


def static_file_of(metadata: str | Path) -> Recorded | None:
    """Return where a distribution's record places its codex-plugin.json; None where it does not have one.

    Raises UnfitError where it has several.
    """
    text = _record(metadata)
    if text is None or FILE_NAME not in text:  # most have none, and need not be taken apart
        return None
    listed = [row for row in _rows(text) or () if _STATIC.search(row.path)]
    if len(listed) > 1:
        raise UnfitError(f"its record lists {len(listed)} of them")
    return listed[0] if listed else None


def bytes_of(folder: str | Path, recorded: Recorded, most: int = MAX_BYTES) -> bytes:
    """Return the content of a recorded file; raise UnfitError unless it is the one that was installed.

    folder: where the distribution is installed. most: more bytes than this are not read.
    """
    path, digest, size = recorded
    if os.path.isabs(path) or ".." in path.replace("\\", "/").split("/"):  # noqa: PTH117 - text of a record
        raise UnfitError(f"its record places it at {path}, outside of the installation")
    data = _content(os.path.join(folder, path), most)  # noqa: PTH118 - as fast as it gets
    if (size and size != str(len(data))) or (digest and digest != _digest(digest.partition("=")[0], data)):
        raise UnfitError("it is not the file that was installed")
    return data


def _record(metadata: str | Path) -> str | None:
    try:
        return _content(os.path.join(metadata, "RECORD"), _MAX_RECORD_BYTES).decode(errors="replace")  # noqa: PTH118
    except UnfitError:
        return None


def _rows(text: str) -> tuple[Recorded, ...] | None:
    """Return the lines of a RECORD, which is CSV: a name may be quoted, and hold a comma."""
    # Most are without both: importing csv would cost a listing more than the scan.
    if '"' not in text and "\r" not in text:
        return tuple(Recorded(*line.split(",")[:3]) for line in text.split("\n") if line)
    import csv

    try:
        return tuple(Recorded(*row[:3]) for row in csv.reader(io.StringIO(text, newline="")) if row)
    except csv.Error:
        return None


def _content(path: str, most: int) -> bytes:
    try:
        about = os.stat(path)  # noqa: PTH116 - as above
        if not stat.S_ISREG(about.st_mode):  # reading a pipe would wait for ever
            raise UnfitError("it is no plain file")
        if about.st_size > most:
            raise UnfitError(f"it is larger than {most // 2**20} MiB")
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            return file.read(about.st_size)
    except OSError as error:
        raise UnfitError(f"it cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise UnfitError(f"it cannot be read: {error}") from error


def _digest(algorithm: str, data: bytes) -> str:
    """Return a hash as RECORD writes it."""
    from binascii import b2a_base64

    text = b2a_base64(_hash(algorithm, data), newline=False).rstrip(b"=").decode()
    return f"{algorithm}={text.replace('+', '-').replace('/', '_')}"


def _hash(algorithm: str, data: bytes) -> bytes:
    if algorithm == "sha256" and "hashlib" not in sys.modules:
        # hashlib would load OpenSSL, which costs a listing more than all the rest.
        from importlib import import_module

        try:
            quick: bytes = (
                import_module("_sha2" if sys.version_info >= (3, 12) else "_sha256").sha256(data).digest()
            )
        except ImportError:  # not every Python has it
            pass
        else:
            return quick
    import hashlib

    try:
        return hashlib.new(algorithm, data).digest()
    except (ValueError, TypeError) as error:
        raise UnfitError(f"its record has a hash of the unknown kind {algorithm!r}") from error
