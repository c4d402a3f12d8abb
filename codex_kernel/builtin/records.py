"""Files that loggers append records to, a line or a few at a time.

One rule: what the file holds is whole records; the piece that a killed run left at its end is cut off, with a warning.
When the run goes back to a checkpoint, the file goes back with `metrics.ndjson`, which it mirrors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from attrs import frozen

from codex_kernel import InputError, RunContext

E = TypeVar("E")
_TAIL_BYTES = 1 << 16


@frozen
class Entry(Generic[E]):
    """What a mirror holds of one record: whose it is, where it belongs, and the line or row itself."""

    run_id: str
    step: int
    split: str
    content: E


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


def rewound(
    entries: Sequence[Entry[E]],
    kept: Iterable[Mapping[str, Any]],
    made: Callable[[Mapping[str, Any]], Iterable[E]],
) -> list[E]:
    """Return what a mirror holds of the records that a run has kept, in their order.

    made: gives the lines or rows of a record that the mirror has not; it lags behind, and the run may have been killed.
    """
    by_place: dict[tuple[int, str], list[E]] = {}
    for entry in entries:
        by_place.setdefault((entry.step, entry.split), []).append(entry.content)
    contents: list[E] = []
    for record in kept:
        contents.extend(by_place.pop((record["step"], record["split"]), []) or made(record))
    return contents


def kept_records(run: RunContext, size_bytes: int) -> list[dict[str, Any]]:
    """Return the records in the first bytes of the run's metrics; what follows is told to the loggers anew."""
    with (run.folder / "metrics.ndjson").open("rb") as file:
        return [json.loads(line) for line in file.read(size_bytes).splitlines()]


def is_shared(path: Path, entries: Sequence[Entry[E]], run: RunContext) -> bool:
    """Say, with a warning, whether a file holds other runs too: it stays as it is, for they may be writing to it."""
    if all(entry.run_id == run.run_id for entry in entries):
        return False
    run.report.warning(
        f"{path} holds other runs too, so it is not rewound: of this run it may have a step twice; "
        f"{run.folder / 'metrics.ndjson'} has each once"
    )
    return True
