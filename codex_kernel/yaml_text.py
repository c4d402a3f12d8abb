"""The bytes of a manifest to its text.

One rule: a manifest is at most 1 MiB of UTF-8 without control characters; whatever else a file holds is named with its
place, and never more of it is read than that.
"""

from __future__ import annotations

import re
from pathlib import Path

from codex_kernel.errors import ManifestError, Problem

MAX_BYTES = 1024 * 1024


def read_bytes(path: Path) -> bytes:
    """Return the first bytes of a file, one more than may be; raise ManifestError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise _fault(str(path), "expected a file, got a folder", "name the YAML file in it") from None
    except FileNotFoundError:
        raise _fault(str(path), "no such file", _close_file(path)) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _fault(str(path), f"cannot be read: {reason}") from error


_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_SAVE = "save the file as UTF-8"
# Control characters; and line separators, which YAML 1.1 takes for line ends and YAML 1.2 does not.
_FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def decode(data: bytes, source: str, *, located: bool = True) -> str:
    """Return the text; raise ManifestError with the position of what is not allowed in it.

    Not `located`: `source` is the position of the whole.
    """
    if len(data) > MAX_BYTES:
        raise _fault(
            source, "larger than 1 MiB", "a manifest names the files of a run, it does not hold them"
        )
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise _fault(source, f"expected UTF-8, got {encoding}", _SAVE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = _position(source, data[: error.start].decode("utf-8-sig")) if located else source
        raise _fault(where, f"expected UTF-8, got {_wrong_bytes(data[error.start :])}", _SAVE) from None
    if match := _FORBIDDEN.search(text):
        where = _position(source, text[: match.start()]) if located else source
        hint = _SAVE if match[0] == "\0" else "in double quotes it can be written as an escape"
        raise _fault(where, f"the character U+{ord(match[0]):04X} is not allowed", hint)
    return text


def _wrong_bytes(data: bytes) -> str:
    is_surrogate = data[0] == 0xED and data[1:2] >= b"\xa0"  # noqa: PLR2004 - UTF-8 would have less here
    return "half a surrogate pair" if is_surrogate else f"the byte 0x{data[0]:02x}"


def _position(source: str, before: str) -> str:
    """Return the position just after the text."""
    lines = re.split(r"\r\n|\r|\n", before)
    return f"{source}:{len(lines)}:{len(lines[-1]) + 1}"


def _fault(where: str, message: str, hint: str | None = None) -> ManifestError:
    return ManifestError([Problem(where, "", message, hint)])


def _close_file(path: Path) -> str | None:
    import difflib

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    return f"did you mean {str(path.parent / close[0])!r}?" if close else None
