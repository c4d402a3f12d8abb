"""The dataset `jsonl`: one JSON object a line, with text, prompt and completion, or messages.

One rule: a record that is not what the section says is given as a BadRecord with its file and line; nothing is guessed,
and the records behind it are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from attrs import define, field, frozen

from codex_kernel import (
    BadRecord,
    Document,
    InputError,
    RecordFields,
    RunContext,
    document_of,
    hookimpl,
    option,
)
from codex_kernel.builtin.compressed import compression_problems, open_file, refuse_archive
from codex_kernel.builtin.files import FileOptions, FoundFile, file_problems, files_of, find

_CHUNK_BYTES = 1 << 20


@frozen
class JsonlDataset(RecordFields, FileOptions):
    """JSON lines with a text, a prompt and a completion, or messages in each record."""

    max_record_bytes: int = option(1 << 26, gt=0, lt=1 << 31, help="Longest line that is read, in bytes.")
    max_uncompressed_bytes: int = option(
        1 << 36, gt=0, help="Most bytes that a .gz or .zst file may unpack to."
    )

    @hookimpl
    def codex_preflight(self, base: Path) -> Iterable[str]:
        """Name patterns that match no file, archives, and a library that is missing to unpack with."""
        return file_problems(self, base) or compression_problems(find(self.paths, self.exclude, base))

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document | BadRecord]:
        """Find the files now, and read them line by line each time the documents are gone through."""
        files = files_of(self, run)
        for file in files:
            refuse_archive(file.name)
        return _Records(self, files, run)


@define(eq=False)
class _Records:
    section: JsonlDataset
    files: tuple[FoundFile, ...]
    run: RunContext
    _told: bool = field(init=False, default=False)

    def __iter__(self) -> Iterator[Document | BadRecord]:
        blank = 0
        for file in self.files:
            for where, line in _lines(file, self.section):
                if isinstance(line, BadRecord):
                    yield line
                elif line.strip():
                    yield _document(line, self.section, where)
                else:
                    blank += 1
        if blank and not self._told:
            self._told = True
            self.run.report.event("dataset_blank_lines", lines=blank, files=len(self.files))


def _lines(file: FoundFile, section: JsonlDataset) -> Iterator[tuple[str, bytes | BadRecord]]:
    """Give each line of a file with its place."""
    limit = section.max_record_bytes
    try:
        with open_file(file, section.max_uncompressed_bytes) as stream:
            number = 0
            while line := stream.readline(limit + 1):
                number += 1
                where = f"{file.name}:{number}"
                if len(line) > limit:
                    _skip_line(stream, line)
                    yield where, _too_long(where, limit)
                else:
                    yield where, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read: {error.strerror}") from error


def _skip_line(stream: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(_CHUNK_BYTES)


def _too_long(where: str, limit: int) -> BadRecord:
    return BadRecord(
        where,
        f"the line is longer than {limit:,} bytes",
        "one record stands on one line; raise the option max_record_bytes for longer ones",
    )


def _document(line: bytes, section: JsonlDataset, where: str) -> Document | BadRecord:
    try:
        record = json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        return BadRecord(
            where,
            f"not valid UTF-8 at byte {error.start} of the line",
            "JSON lines are UTF-8: convert the file",
        )
    except json.JSONDecodeError as error:
        return BadRecord(where, f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadRecord(where, f"not a usable record: {_reason(error)}")
    if not isinstance(record, dict):
        return BadRecord(where, f"expected a JSON object, got {_KINDS.get(type(record), 'a number')}")
    return document_of(record, section, where)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    # Python's own words speak of a setting of the interpreter, which is of no use here.
    return "an integer of thousands of digits" if "integer string conversion" in str(error) else str(error)


_KINDS = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} stands twice")
    return record
