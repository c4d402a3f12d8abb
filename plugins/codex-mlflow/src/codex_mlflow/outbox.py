"""The file between a run and MLflow: the run appends to it, another process ships it.

One rule: a record is in the file before anyone speaks to MLflow, so an outage costs the run nothing and loses nothing.
A record is one line of JSON with a `kind`: `start` (the run starts or goes on), `metrics`, `finish`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

OUTBOX_FILE = "mlflow-outbox.ndjson"
STATE_FILE = "mlflow.json"
LOG_FILE = "mlflow.log"
STATE_SCHEMA = 1


def open_outbox(path: Path) -> BinaryIO:
    """Open the file to append to; half a line that a killed run left at its end goes."""
    file = path.open("ab+", buffering=0)
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    file.truncate(end)
    return file


def append(file: BinaryIO, record: Mapping[str, Any]) -> None:
    """Write one record, whole lines only; it survives the death of this process."""
    file.write(json.dumps(record, default=str).encode() + b"\n")


def read(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Give the whole records from `offset` on, each with the offset behind it."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield json.loads(line), offset


def count(path: Path, offset: int) -> int:
    """Return how many records stand behind `offset`."""
    return sum(1 for _ in read(path, offset)) if path.exists() else 0


def load_state(folder: Path) -> dict[str, Any]:
    """Return what was shipped of this run: MLflow's ids, the offset, the last steps; empty at first."""
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(state, dict) or state.get("schema") != STATE_SCHEMA:
        raise ValueError(
            f"{folder / STATE_FILE}: expected an object with schema {STATE_SCHEMA}; delete it to ship anew"
        )
    return state


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state, whole or not at all."""
    new = folder / f"{STATE_FILE}.new"
    new.write_text(json.dumps({"schema": STATE_SCHEMA, **state}, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / STATE_FILE)
