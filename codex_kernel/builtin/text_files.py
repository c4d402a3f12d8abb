"""The dataset `text-files`: one document a file, its language known by its name.

One rule: a document is the file's text to the last byte; newlines, white space and byte order marks are kept, unless
the section asks for `newlines: lf`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from attrs import frozen

from codex_kernel import BadRecord, Document, InputError, RunContext, hookimpl, option
from codex_kernel.builtin.compressed import ArchiveError, compression_problems, open_file, plain_name
from codex_kernel.builtin.files import (
    FileOptions,
    FoundFile,
    as_text,
    file_problems,
    files_of,
    find,
    relative_to,
)
from codex_kernel.builtin.languages import LANGUAGES, language_of


@frozen
class TextFiles(FileOptions):
    """Text files found by paths, folders and globs: one document a file, its text unchanged."""

    languages: list[str] = option(
        factory=list,
        help="Read files of these programming languages alone, such as python; empty: all files.",
    )
    suffixes: dict[str, str] = option(
        factory=dict,
        help="Languages of suffixes that are not known, or known for another language, such as {.m: matlab}.",
    )
    encoding: str = option(
        "utf-8", help="Encoding of the files; a file that is not valid in it is a bad record."
    )
    newlines: Literal["keep", "lf"] = option(
        "keep", help="Newlines as they are, or each CR LF and CR made LF, as Python reads its own files."
    )
    group_by: Literal["file", "folder", "repository"] = option(
        "file",
        help="What never crosses between training and validation: each file, the files of a folder, or of a "
        "repository (the nearest folder with .git, or else the first folder below that of the path's wildcards).",
    )
    max_file_bytes: int | None = option(
        None,
        gt=0,
        help="Leave out larger files, in bytes as they lie on disk, with a warning; null for no limit.",
    )
    max_uncompressed_bytes: int = option(
        1 << 30, gt=0, help="Most bytes that a .gz or .zst file may unpack to; it is held in memory."
    )

    def __attrs_post_init__(self) -> None:
        """Refuse languages that no file could have, and suffixes that are none."""
        for suffix, language in self.suffixes.items():
            if not suffix.startswith(".") or suffix != suffix.lower():
                raise ValueError(f"suffixes: expected a suffix in lower case, such as .m, got {suffix!r}")
            if language != language.lower():
                raise ValueError(f"suffixes: {suffix}: expected a language in lower case, got {language!r}")
        known = LANGUAGES | set(self.suffixes.values())
        for language in self.languages:
            if language not in known:
                raise ValueError(f"languages: no file has the language {language!r}{_near(language, known)}")

    @hookimpl
    def codex_preflight(self, base: Path) -> Iterable[str]:
        """Name an unknown encoding, patterns that match no file, and a library that is missing to unpack with."""
        problems = file_problems(self, base)
        if not _known_encoding(self.encoding):
            problems.append(f"encoding: {self.encoding!r} is not an encoding of text that Python knows")
        if not problems:
            files = find(self.paths, self.exclude, base)
            named = [file for file in files if not self.languages or self._language(file) in self.languages]
            if not named:
                problems.append(f"languages: no file is {' or '.join(self.languages)}, of {len(files)} files")
            problems += compression_problems(named)
        return problems

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document | BadRecord]:
        """Find the files now, and read them each time the documents are gone through."""
        if not _known_encoding(self.encoding):
            raise InputError(
                f"dataset.encoding: {self.encoding!r} is not an encoding of text that Python knows"
            )
        files = self._of_languages(files_of(self, run), run)
        small = [file for file in files if self._small_enough(file)]
        if len(small) < len(files):
            first = next(file for file in files if not self._small_enough(file))
            run.report.warning(
                f"text-files left out {len(files) - len(small)} files of more than {self.max_file_bytes:,} bytes, "
                f"first {first.name}"
            )
        if not small:
            raise InputError(
                f"dataset.max_file_bytes: each of the {len(files)} files is larger", remedy="raise it"
            )
        return _Texts(self, tuple(small), run.base)

    def _of_languages(self, files: Iterable[FoundFile], run: RunContext) -> list[FoundFile]:
        found = list(files)
        if not self.languages:
            return found
        named = [file for file in found if self._language(file) in self.languages]
        if not named:
            raise InputError(
                f"dataset.languages: no file is {' or '.join(self.languages)}, of {len(found)} files"
            )
        run.report.event("dataset_other_languages", files=len(found) - len(named), kept=len(named))
        return named

    def _language(self, file: FoundFile) -> str:
        return language_of(plain_name(file.name), self.suffixes)

    def _small_enough(self, file: FoundFile) -> bool:
        try:
            return self.max_file_bytes is None or file.path.stat().st_size <= self.max_file_bytes
        except OSError as error:
            raise InputError(f"{file.name}: cannot be looked at: {error.strerror}") from error


@frozen(eq=False)
class _Texts:
    section: TextFiles
    files: tuple[FoundFile, ...]
    base: Path

    def __iter__(self) -> Iterator[Document | BadRecord]:
        for file in self.files:
            text = _text(file, self.section)
            if isinstance(text, BadRecord):
                yield text
            else:
                group = _group(file, self.section.group_by, self.base)
                yield Document(file.name, group, text, language=self.section._language(file))  # noqa: SLF001 - one module


def _text(file: FoundFile, section: TextFiles) -> str | BadRecord:
    data = b""
    try:
        with open_file(file, section.max_uncompressed_bytes) as stream:
            data = stream.read()
        text = data.decode(section.encoding)
        if not text.isascii():
            text.encode()
    except ArchiveError as error:
        return BadRecord(file.name, error.problem, error.remedy)
    except UnicodeError as error:
        return _undecodable(file, section, data, error)
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read: {error.strerror}") from error
    return text if section.newlines == "keep" else text.replace("\r\n", "\n").replace("\r", "\n")


def _undecodable(file: FoundFile, section: TextFiles, data: bytes, error: UnicodeError) -> BadRecord:
    start, reason = getattr(error, "start", 0), getattr(error, "reason", error)
    remedy = "leave the file out with the option exclude, or set the option encoding"
    if isinstance(error, UnicodeEncodeError):
        return BadRecord(file.name, f"character {start}: not valid text ({reason})", remedy)
    line = data.count(b"\n", 0, start) + 1
    return BadRecord(
        f"{file.name}:{line}", f"byte {start}: not valid {section.encoding} text ({reason})", remedy
    )


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _group(file: FoundFile, by: str, base: Path) -> str:
    if by == "file":
        return file.name
    folder = PurePosixPath(relative_to(base, file.path)).parent.as_posix()
    return as_text(folder if by == "folder" else _repository(folder, file.top, base))


@lru_cache(maxsize=4096)
def _repository(folder: str, top: str, base: Path) -> str:
    """Return the nearest folder with .git from `folder` up to `top`, or else the first folder below `top`."""
    below = PurePosixPath(os.path.relpath(base / folder, base / top))
    inside = [os.path.relpath(base / top / place, base) for place in (below, *below.parents)]
    marked = next((place for place in inside if (base / place / ".git").exists()), None)
    return marked or inside[max(0, len(inside) - 2)]


def _near(language: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(language.lower(), known, n=1)
    return (
        f"; did you mean {close[0]!r}?" if close else "; a language is written as GitHub does, in lower case"
    )


def _known_encoding(name: str) -> bool:
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        return False
    return True
