"""Files that loggers append records to, a line or a few at a time.

One rule: what the file holds is whole records; the piece that a killed run left at its end is cut off, with a warning.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

from codex_kernel import InputError, RunContext

_TAIL_BYTES = 1 << 16


def open_records(path: str, run: RunContext) -> TextIO:
    """Open a record file to append to; a relative path lies in the run's folder."""
    file = place(path, run.folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    cut = _cut_unfinished(file)
    if cut:
        run.report.warning(f"{file}: cut off {cut} bytes of a record that was not finished")
    return file.open("a", encoding="utf-8", newline="")


def place(path: str, folder: Path) -> Path:
    """Return where a record file lies; raise InputError where a relative path leads out of the run's folder."""
    problem = misplaced(path)
    if problem:
        raise InputError(problem, remedy="use a path inside the run's folder, or an absolute one")
    return folder / path


def misplaced(path: str) -> str | None:
    """Say what is wrong with the path of a record file; None: nothing."""
    inside = os.path.normpath(path)
    if not path or inside == ".":
        return f"path: expected the name of a file, got {path!r}"
    if not Path(path).is_absolute() and Path(inside).parts[0] == "..":
        return f"path: {path!r} leads out of the run's folder"
    return None


def _cut_unfinished(file: Path) -> int:
    """Cut off what stands after the last newline; return how many bytes that was."""
    if not file.exists():
        return 0
    with file.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        end = size
        while end:
            start = max(0, end - _TAIL_BYTES)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        stream.truncate(end)
        return size - end
