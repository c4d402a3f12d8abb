"""Reading evaluation files: which files, and the texts of their items.

One rule: a record that cannot be read, or has nothing to look for, is an error with its file and line.
"""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from codex_kernel import InputError

_LIMIT_BYTES = 1 << 30  # of one file, unpacked
_RECORDS = frozenset({".jsonl", ".ndjson"})


@frozen
class Item:
    """An evaluation item: `name` for people, and its texts."""

    name: str
    texts: tuple[str, ...]


def find(pattern: str, base: Path) -> list[Path]:
    """Return the files that a path or a glob means, sorted; a path that exists is taken literally."""
    literal = base / pattern
    if literal.is_file():
        return [literal]
    found = glob.glob(str(Path(glob.escape(str(base))) / pattern), recursive=True)  # noqa: PTH207 - it may be absolute
    return sorted(path for path in map(Path, found) if path.is_file())


def unpacked(path: Path) -> bytes:
    """Return the content of a file, unpacked where its name ends in .gz; raise InputError where that fails."""
    try:
        if path.suffix != ".gz":
            data = path.read_bytes()
        else:
            with gzip.open(path) as file:
                data = file.read(_LIMIT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if len(data) > _LIMIT_BYTES:
        raise InputError(f"{path}: is larger than {_LIMIT_BYTES} bytes, which no evaluation file should be")
    return data


def items(path: Path, data: bytes, name: str, fields: Sequence[str], id_field: str | None) -> Iterator[Item]:
    """Give the items of a file: its records, or the whole text as one item."""
    plain = Path(path.stem) if path.suffix == ".gz" else path
    if plain.suffix not in _RECORDS:
        yield Item(name, (_decoded(data, name),))
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield _item(line, f"{name}:{number}", fields, id_field)


def _item(line: bytes, where: str, fields: Sequence[str], id_field: str | None) -> Item:
    try:
        record = json.loads(_decoded(line, where))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a JSON record: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
    chosen = [record[field] for field in fields if field in record] if fields else list(record.values())
    texts = tuple(text for value in chosen for text in _texts(value))
    if not texts:
        wanted = f"text in {', '.join(fields)}" if fields else "text in a field"
        raise InputError(
            f"{where}: expected {wanted}, got a record with {', '.join(sorted(record)) or 'no field'}",
            remedy="name the fields of the records with `fields`",
        )
    if id_field is None:
        return Item(where, texts)
    if not isinstance(record.get(id_field), str | int):
        raise InputError(f"{where}: expected a text or a number in {id_field!r}, by `id_field`")
    return Item(str(record[id_field]), texts)


def _texts(value: Any) -> Iterator[str]:
    """Give the texts in a value of a record, those in lists and objects too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: byte {error.start}: not valid UTF-8") from error
