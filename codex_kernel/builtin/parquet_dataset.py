"""The dataset `parquet`: a table in columns, one record a row, with text, prompt and completion, or messages.

One rule: only the columns that the section names are read, a batch of rows at a time; a row that is not what the
section says, a null above all, is given as a BadRecord with its number, counted from 1, and so is each row of a row
group behind a page that is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import frozen

from codex_kernel import (
    BadRecord,
    Document,
    InputError,
    PluginError,
    RecordFields,
    RunContext,
    columns_of,
    document_of,
    hookimpl,
    option,
)
from codex_kernel.builtin.compressed import compression_problems, plain_name, refuse_archive
from codex_kernel.builtin.files import FileOptions, FoundFile, file_problems, files_of, find

_BUFFER_BYTES = 1 << 16
_MISSING = "the dataset parquet needs the package pyarrow, which is not installed"
_GET = "pip install 'codex-kernel[parquet]'"


@frozen
class ParquetDataset(RecordFields, FileOptions):
    """Parquet files with a text, a prompt and a completion, or messages in each row."""

    batch_rows: int = option(256, gt=0, le=65536, help="Rows that are in memory at a time.")

    @hookimpl
    def codex_preflight(self, base: Path) -> Iterable[str]:
        """Name patterns that match no file, files packed once more, and pyarrow where it is not installed."""
        problems = file_problems(self, base)
        if find_spec("pyarrow") is None:
            problems.append(f"{_MISSING}; {_GET}")
        files = [] if problems else find(self.paths, self.exclude, base)
        return (
            problems or compression_problems(files) or [_PACKED.format(f.name) for f in files if _packed(f)]
        )

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document | BadRecord]:
        """Find the files now, and read them batch by batch each time the documents are gone through."""
        try:
            import pyarrow.parquet  # noqa: F401 - is it there?
        except ImportError as error:
            raise PluginError(_MISSING, remedy=_GET) from error
        files = files_of(self, run)
        for file in files:
            refuse_archive(file.name)
            if _packed(file):
                raise InputError(_PACKED.format(file.name))
        return _Tables(self, files)


_PACKED = "{}: Parquet files are compressed inside; unpack this one"


def _packed(file: FoundFile) -> bool:
    return plain_name(file.name) != file.name


@frozen(eq=False)
class _Tables:
    section: ParquetDataset
    files: tuple[FoundFile, ...]

    def __iter__(self) -> Iterator[Document | BadRecord]:
        for file in self.files:
            for number, record in enumerate(_rows(file, self.section), 1):
                where = f"{file.name}:{number}"
                if isinstance(record, UnicodeDecodeError):
                    yield BadRecord(where, f"a text is not valid UTF-8 at its byte {record.start}")
                elif isinstance(record, _Lost):
                    yield BadRecord(where, record.why, _AGAIN)
                else:
                    yield document_of(record, self.section, where)


_AGAIN = "fetch or write the file again, or leave it out: exclude"


@frozen
class _Lost:
    """A row that lies behind damage in its row group."""

    why: str


def _rows(
    file: FoundFile, section: ParquetDataset
) -> Iterator[Mapping[str, Any] | UnicodeDecodeError | _Lost]:
    """Give what is known of each row of a file; raise InputError where it is no table, or the disk fails."""
    import pyarrow.parquet

    with _reading(file.name), file.path.open("rb") as stream:
        # Without `pre_buffer` a column streams by; with it, a row group lies in memory whole.
        table = pyarrow.parquet.ParquetFile(
            stream, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
        columns = columns_of(table.schema_arrow.names, section, file.name)
        for group in range(table.num_row_groups):
            yield from _group(table, group, columns, section.batch_rows)


def _group(
    table: Any, group: int, columns: Sequence[str], batch_rows: int
) -> Iterator[Mapping[str, Any] | UnicodeDecodeError | _Lost]:
    """Give the rows of a row group; those behind damage are lost, for where the next page begins is not known."""
    import pyarrow as pa

    count, error, given = table.metadata.row_group(group).num_rows, "it has fewer rows than it says", 0
    try:
        for batch in table.iter_batches(batch_rows, row_groups=[group], columns=columns, use_threads=False):
            for record in _records(batch):
                yield record
                given += 1
    except (pa.ArrowException, UnicodeDecodeError, OSError) as caught:
        if _is_of_system(caught) or given >= count:
            raise
        error = " ".join(str(caught).split())
    name = f"row group {group + 1:,} of {table.num_row_groups:,}"
    if (lost := count - given) > 0:
        yield _Lost(f"{name} is damaged, its last {lost:,} of {count:,} rows cannot be read: {error}")
    for _ in range(lost - 1):
        yield _Lost(f"lies behind damage in {name}")


def _is_of_system(error: Exception) -> bool:
    """Say whether it is the system that cannot read; of a damaged page the library raises an OSError, too."""
    return isinstance(error, OSError) and error.errno is not None


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what the library or the system raises into an InputError with the file's name."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and _is_of_system(error):
            raise InputError(
                f"{name}: cannot be read: {error.strerror}",
                remedy="look at the file's permissions and its disk",
            ) from error
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: cannot be read as Parquet: {reason}", remedy=_AGAIN) from error


def _records(batch: Any) -> Iterator[Mapping[str, Any] | UnicodeDecodeError]:
    """Give the rows of a batch; in the place of one that is not text, what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                [record] = batch.slice(row, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield error
            else:
                yield record
