"""The dataset `csv`: a table with a header, one record a row, with text, or with prompt and completion.

One rule: a row is what RFC 4180 says, a quoted field over several lines included, and stands at the line where it
begins; a row that is not what the header says is given as a BadRecord, and the rows behind it are read. Where a quote
is wrong, nobody can say which of the lines up to the fault were rows of their own, so each is a bad record.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from attrs import define, field, frozen

from codex_kernel import (
    BadRecord,
    Document,
    InputError,
    RunContext,
    TextFields,
    columns_of,
    document_of,
    hookimpl,
    option,
)
from codex_kernel.builtin.compressed import compression_problems, open_file, refuse_archive
from codex_kernel.builtin.files import FileOptions, FoundFile, file_problems, files_of, find

_DELIMITERS = ",;\t|"


@frozen
class CsvDataset(TextFields, FileOptions):
    """Tables with a header and a text, or a prompt and a completion, in each row."""

    delimiter: str = option(
        ",", help='What stands between two fields: one character, such as "\\t" for a tab.'
    )
    encoding: str = option(
        "utf-8", help="Encoding of the files; a row that is not valid in it is a bad record."
    )
    max_record_bytes: int = option(1 << 26, gt=0, lt=1 << 31, help="Longest row that is read, in bytes.")
    max_uncompressed_bytes: int = option(
        1 << 36, gt=0, help="Most bytes that a .gz or .zst file may unpack to."
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a delimiter or an encoding that no table can be read with."""
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n\0':
            raise ValueError(f"delimiter: expected one character, got {self.delimiter!r}")
        if not _keeps_ascii(self.encoding):
            raise ValueError(
                f"encoding: {self.encoding!r} is not an encoding that Python knows and in which a newline is one byte"
            )

    @hookimpl
    def codex_preflight(self, base: Path) -> Iterable[str]:
        """Name patterns that match no file, archives, and a library that is missing to unpack with."""
        return file_problems(self, base) or compression_problems(find(self.paths, self.exclude, base))

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document | BadRecord]:
        """Find the files now, and read them row by row each time the documents are gone through."""
        files = files_of(self, run)
        for file in files:
            refuse_archive(file.name)
        return _Rows(self, files, run)


@define(eq=False)
class _Rows:
    section: CsvDataset
    files: tuple[FoundFile, ...]
    run: RunContext
    _told: bool = field(init=False, default=False)

    def __iter__(self) -> Iterator[Document | BadRecord]:
        # The library's own limit is one for the whole process, and 128 KiB: too small for a source file.
        csv.field_size_limit(max(csv.field_size_limit(), self.section.max_record_bytes))
        blank = 0
        for file in self.files:
            try:
                with open_file(file, self.section.max_uncompressed_bytes) as stream:
                    for found in _documents(_Lines(stream, file.name, self.section), self.section):
                        if found is None:
                            blank += 1
                        else:
                            yield found
            except OSError as error:
                raise InputError(f"{file.name}: cannot be read: {error.strerror}") from error
        if blank and not self._told:
            self._told = True
            self.run.report.event("dataset_blank_lines", lines=blank, files=len(self.files))


@define(eq=False)
class _Lines:
    """The lines of a table as text, and what is known of the row that they are read for."""

    stream: BinaryIO
    name: str
    section: CsvDataset
    number: int = field(init=False, default=0)
    first: int = field(init=False, default=1)
    """The line at which the row begins."""
    fault: str | None = field(init=False, default=None)
    """What is wrong with one of its lines, kept until the row is judged."""
    _bytes: int = field(init=False, default=0)

    def begin_row(self) -> None:
        self.first, self.fault, self._bytes = self.number + 1, None, 0

    @property
    def where(self) -> str:
        """The place of the row."""
        return f"{self.name}:{self.first}"

    def __iter__(self) -> Iterator[str]:
        limit, encoding = self.section.max_record_bytes, self.section.encoding
        readline = self.stream.readline
        while line := readline(limit + 1):
            self.number += 1
            self._bytes += len(line)
            if self._bytes > limit:
                # Whether a quote is open behind it cannot be known, so no row can be found again.
                raise InputError(
                    f"{self.where}: the row is longer than {limit:,} bytes",
                    remedy="look for quotes that are not closed, or raise the option max_record_bytes",
                )
            if self.number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                self._fault(f"not valid {encoding} at byte {error.start} of", error.reason)
                text = line.decode(encoding, errors="replace")
            if "\0" in text:
                self._fault(f"a NUL at character {text.index(chr(0))} of")
            yield text

    def _fault(self, what: str, reason: str = "") -> None:
        self.fault = self.fault or f"{what} line {self.number}" + (f" ({reason})" if reason else "")


def _documents(lines: _Lines, section: CsvDataset) -> Iterator[Document | BadRecord | None]:
    """Give the documents of one table, and None for each blank line."""
    reader = csv.reader(iter(lines), delimiter=section.delimiter, strict=True)
    header: list[str] | None = None
    while True:
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise InputError(f"{lines.where}: the header is not CSV: {error}") from error
            yield from _unreadable(lines, f"not CSV: {_in_words(error)}")
            continue
        if not row:
            yield None
        elif header is None:
            header = _checked_header(row, lines, section)
        else:
            yield _document(row, header, lines, section)


def _unreadable(lines: _Lines, problem: str) -> Iterator[BadRecord]:
    """Give a bad record for each line of a row that cannot be read."""
    first = lines.first
    through = f"; it goes on to line {lines.number:,}" if lines.number > first else ""
    yield BadRecord(lines.where, problem + through, _QUOTES)
    for number in range(first + 1, lines.number + 1):
        yield BadRecord(
            f"{lines.name}:{number}", f"lies in the row of line {first:,}, which is not CSV", _QUOTES
        )


def _document(row: list[str], header: list[str], lines: _Lines, section: CsvDataset) -> Document | BadRecord:
    if lines.fault is not None:
        return BadRecord(lines.where, lines.fault, "mend the row, or say in which encoding the file is")
    if len(row) != len(header):
        return BadRecord(
            lines.where,
            f"has {len(row)} field{'' if len(row) == 1 else 's'}, expected {len(header)}, as the header has",
            'a field with the delimiter, a quote or a newline in it stands in "…"',
        )
    return document_of(dict(zip(header, row, strict=True)), section, lines.where)


def _checked_header(row: list[str], lines: _Lines, section: CsvDataset) -> list[str]:
    """Return the names of the columns; raise InputError where the options name none of them, or one that is twice."""
    if lines.fault is not None:
        raise InputError(f"{lines.where}: the header: {lines.fault}")
    other = next((sign for sign in _DELIMITERS if len(row) == 1 and sign in row[0]), None)
    if other is not None and row[0] not in {section.text, section.completion}:
        raise InputError(
            f"{lines.where}: the header is one column, {row[0]!r}",
            remedy=f"set the option delimiter: {other!r}",
        )
    columns_of(row, section, lines.where)
    return row


def _in_words(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quoted field is not closed until the end of the file"
    if "new-line character" in str(error):
        return "a carriage return without a newline, outside of quotes"
    return str(error)


_QUOTES = 'a quote inside of a quoted field is written twice: ""'


def _keeps_ascii(encoding: str) -> bool:
    signs = '\n\r",;\t|'
    try:
        return signs.encode(encoding) == signs.encode("ascii")
    except (LookupError, ValueError):
        return False
