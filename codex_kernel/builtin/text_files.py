"""The dataset `text-files`: one document a file.

One rule: a document is the file's text to the last byte; newlines, white space and byte order marks are kept.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from attrs import frozen

from codex_kernel import Document, InputError, RunContext, hookimpl, option
from codex_kernel.builtin.files import FoundFile, find, unmatched


@frozen
class TextFiles:
    """Text files found by paths, folders and globs: one document a file, its text unchanged."""

    paths: list[str] = option(
        help="Files, folders and globs (** for any depth), relative to where the run was started."
    )
    exclude: list[str] = option(
        factory=list,
        help="Globs to leave out: without a slash compared with each part of a path, else with the path.",
    )
    encoding: str = option(
        "utf-8", help="Encoding of the files; a file that is not valid in it ends the run."
    )
    group_by: Literal["file", "folder"] = option(
        "file",
        help="What never crosses between training and validation: each file, or all files of a folder.",
    )
    max_file_bytes: int | None = option(
        None, gt=0, help="Leave out larger files, in bytes, with a warning; null for no limit."
    )

    @hookimpl
    def codex_preflight(self, base: Path) -> Iterable[str]:
        """Name an unknown encoding and patterns that match no file."""
        problems = unmatched(self.paths, base)
        if not self.paths:
            problems.append("paths: is empty, expected at least one file, folder or glob")
        if not _known_encoding(self.encoding):
            problems.append(f"encoding: {self.encoding!r} is not an encoding that Python knows")
        return problems

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document]:
        """Find the files now, and read them each time the documents are gone through."""
        if not _known_encoding(self.encoding):
            raise InputError(f"dataset.encoding: {self.encoding!r} is not an encoding that Python knows")
        found = find(self.paths, self.exclude, run.base)
        files = [file for file in found if self._small_enough(file)]
        if len(files) < len(found):
            left_out = len(found) - len(files)
            first = next(file for file in found if not self._small_enough(file))
            run.report.warning(
                f"text-files left out {left_out} files of more than {self.max_file_bytes:,} bytes, first {first.name}"
            )
        if not files:
            raise InputError(
                f"dataset.paths: no file to read: {', '.join(self.paths) or 'empty'} (from {run.base})",
                remedy="paths are relative to the folder where the run was first started",
            )
        return _Texts(tuple(files), self.encoding, self.group_by)

    def _small_enough(self, file: FoundFile) -> bool:
        return self.max_file_bytes is None or file.path.stat().st_size <= self.max_file_bytes


@frozen(eq=False)
class _Texts:
    files: tuple[FoundFile, ...]
    encoding: str
    group_by: str

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            group = file.name if self.group_by == "file" else PurePosixPath(file.name).parent.as_posix()
            yield Document(id=file.name, group=group, text=_text(file, self.encoding))


def _text(file: FoundFile, encoding: str) -> str:
    try:
        return file.path.read_bytes().decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise InputError(
            f"{file.name}: byte {start}: not valid {encoding} text ({getattr(error, 'reason', error)})",
            remedy="leave the file out with dataset.exclude, or set dataset.encoding",
        ) from error
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read: {error.strerror}") from error


def _known_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return True
