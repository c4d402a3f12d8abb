"""The dataset `parquet`: a table in columns, one record a row, with text, prompt and completion, or messages.

One rule: only the columns that the section names are read, a batch of rows at a time; a row that is not what the
section says, a null above all, is given as a BadRecord with its number, counted from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
            number = 0
            for batch in _batches(file, self.section):
                for record in _records(batch):
                    number += 1
                    where = f"{file.name}:{number}"
                    if isinstance(record, UnicodeDecodeError):
                        yield BadRecord(where, f"a text is not valid UTF-8 at its byte {record.start}")
                    else:
                        yield document_of(record, self.section, where)


def _batches(file: FoundFile, section: ParquetDataset) -> Iterator[Any]:
    """Give the rows of a file in batches, with the columns that are read."""
    import pyarrow.parquet

    rows = 0
    try:
        with file.path.open("rb") as stream:
            # Without `pre_buffer` a column streams by; with it, a row group lies in memory whole.
            table = pyarrow.parquet.ParquetFile(
                stream, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
            )
            columns = columns_of(table.schema_arrow.names, section, file.name)
            for batch in table.iter_batches(section.batch_rows, columns=columns, use_threads=False):
                yield batch
                rows += batch.num_rows
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not that of a damaged page
            raise InputError(
                f"{file.name}: cannot be read: {error.strerror}",
                remedy="look at the file's permissions and its disk",
            ) from error
        raise InputError(
            f"{file.name}: cannot be read as Parquet behind row {rows}: {error}",
            remedy="fetch or write the file again, or leave it out: exclude",
        ) from error


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
