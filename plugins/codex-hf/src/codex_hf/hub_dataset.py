"""Dataset `hf-dataset`: what the `datasets` library has saved, or data files of a folder or of a pinned hub repository.

One rule: no code of a dataset is ever run and no description of it is obeyed: what is read are the files that the
manifest names, record by record, and a record that is not what the section says is given as a BadRecord.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import frozen

from codex_hf.hub_errors import silenced
from codex_hf.hub_files import hub_files
from codex_kernel import (
    BadRecord,
    Document,
    InputError,
    PluginError,
    RecordFields,
    RunContext,
    Secret,
    columns_of,
    document_of,
    hookimpl,
    option,
)

_REVISION = re.compile(r"[0-9a-f]{40}")
_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json")
_MISSING = "the dataset hf-dataset needs the package datasets, which is not installed"
_GET = "pip install 'codex-hf[datasets]'"
_SAVED = ("state.json", "dataset_dict.json")


@frozen
class HFDataset(RecordFields):
    """A dataset of the `datasets` library: a folder that it saved, or data files, local or of a pinned hub id."""

    path: Path | None = option(None, help="Local folder: one saved by save_to_disk, or one with files.")
    hub_id: str | None = option(
        None, help="Dataset repository on the hub, such as org/name; needs revision and files."
    )
    revision: str | None = option(
        None, help="Commit of hub_id, 40 hexadecimal digits: names move, commits do not."
    )
    token: Secret | None = option(None, help="Access token for hub_id, as ${env:NAME}.")
    files: list[str] = option(
        factory=list,
        help="Globs of .parquet, .arrow, .jsonl or .json files below path or in hub_id; empty: path was saved by "
        "save_to_disk.",
    )
    split: str | None = option(
        None, help="Part of a saved dataset that has several, such as train; null where it has one."
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a source that is missing, ambiguous or not pinned."""
        if (self.path is None) == (self.hub_id is None):
            raise ValueError("expected one of path and hub_id, to say where the dataset is")
        if self.hub_id is None:
            stray = [name for name in ("revision", "token") if getattr(self, name) is not None]
            if stray:
                raise ValueError(f"{stray[0]}: it belongs to hub_id, which is not given")
        elif self.revision is None or not _REVISION.fullmatch(self.revision):
            raise ValueError(
                f"revision: hub_id needs a commit of 40 hexadecimal digits, got {self.revision!r}"
            )
        elif not self.files:
            raise ValueError("files: hub_id needs the names of its data files, such as data/train-*.parquet")
        if self.files and self.split is not None:
            raise ValueError("split: it belongs to a folder saved by save_to_disk; files are named by files")
        for pattern in self.files:
            if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or not pattern:
                raise ValueError(f"files: expected a path or glob inside of the folder, got {pattern!r}")
            if PurePosixPath(pattern).suffix not in _SUFFIXES:
                raise ValueError(
                    f"files: expected names that end in {', '.join(_SUFFIXES)}, got {pattern!r}; csv, text and "
                    "compressed files are read by the datasets csv, text-files and jsonl"
                )

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Look that the library and the files are there."""
        problems = [] if find_spec("datasets") is not None else [f"{_MISSING}; {_GET}"]
        if self.path is not None:
            try:
                _local_files(self, base)
            except InputError as error:
                problems.append(f"{error.message} ({error.remedy})" if error.remedy else error.message)
        return problems

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document | BadRecord]:
        """Find the files now, fetch those of the hub, and read them each time the documents are gone through."""
        if find_spec("datasets") is None:
            raise PluginError(_MISSING, remedy=_GET)
        if self.path is None:
            hub_id, revision = str(self.hub_id), str(self.revision)
            fetched = hub_files(hub_id, revision, self.files, self.token, run)
            return _Records(self, tuple((f"{hub_id}/{name}", path) for name, path in fetched), run)
        return _Records(self, tuple(_local_files(self, run.base)), run)


@frozen(eq=False)
class _Records:
    """`sources` are names and where they lie: data files, or one saved folder."""

    section: HFDataset
    sources: tuple[tuple[str, Path], ...]
    run: RunContext

    def __iter__(self) -> Iterator[Document | BadRecord]:
        for name, path in self.sources:
            opened = _saved if path.is_dir() else _opened
            label, table = opened(name, path, self.section, self.run)
            for number, record in enumerate(_rows(label, table), 1):
                yield document_of(record, self.section, f"{label}:{number}")


def _local_files(section: HFDataset, base: Path) -> list[tuple[str, Path]]:
    """Return the data files of a local folder, or the folder itself where it was saved; raise InputError for none."""
    folder = base / str(section.path)
    name = PurePosixPath(str(section.path)).as_posix()
    if not folder.is_dir():
        raise InputError(
            f"path: there is no folder {folder}",
            remedy="it starts at the folder where the run was first started",
        )
    if not section.files:
        if not any((folder / mark).is_file() for mark in _SAVED):
            raise InputError(
                f"path: {folder} was not saved by save_to_disk: it has no {' or '.join(_SAVED)}",
                remedy="name its data files with the option files",
            )
        return [(name, folder)]
    found = {
        path.relative_to(folder).as_posix(): path
        for pattern in section.files
        for path in folder.glob(pattern)
        if path.is_file()
    }
    if not found:
        raise InputError(f"files: no file in {folder} matches {', '.join(section.files)}")
    for file in found:
        _check_name(file)
    return [((PurePosixPath(name) / file).as_posix(), found[file]) for file in sorted(found)]


def _check_name(file: str) -> None:
    """Raise InputError for a name that is not UTF-8: neither can it be an id, nor does Arrow open such a file."""
    try:
        file.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(file).decode(errors="backslashreplace")
        raise InputError(
            f"files: the name {shown} is not valid UTF-8", remedy="rename the file, or name others"
        ) from error


# ── the library ───────────────────────────────────────────────────────────────────────────────────────────────────


def _saved(name: str, path: Path, section: HFDataset, _run: RunContext) -> tuple[str, Any]:
    """Map a saved folder into memory; return what its records are called by, and its table."""
    import datasets

    try:
        with silenced("datasets"):
            loaded = datasets.load_from_disk(str(path), keep_in_memory=False)
    except _failures() as error:
        raise InputError(
            f"{name}: the saved dataset cannot be read: {error}", remedy="save it again with save_to_disk"
        ) from error
    if isinstance(loaded, datasets.Dataset):
        if section.split is not None:
            raise InputError(
                f"split: {name} is one table, which has no {section.split!r}", remedy="leave split out"
            )
        return name, _chosen(loaded.with_format(None), section, name)
    parts = sorted(loaded)
    split = section.split if section.split is not None or len(parts) != 1 else parts[0]
    if split not in loaded:
        got = "" if split is None else f", got {split!r}"
        raise InputError(f"split: expected one of {', '.join(parts)}, which {name} has{got}")
    return f"{name}/{split}", _chosen(loaded[split].with_format(None), section, name)


def _opened(name: str, path: Path, section: HFDataset, run: RunContext) -> tuple[str, Any]:
    """Open a data file: Arrow is mapped into memory, others stream.

    Not `load_dataset`, which tells a server what is loaded, nor a copy in the library's cache, which it would find
    again by the file's time and not by its content.
    """
    import datasets

    kind, place = PurePosixPath(name).suffix, str(path.absolute())
    readers = {".arrow": None, ".parquet": datasets.Dataset.from_parquet}
    reader = readers.get(kind, datasets.Dataset.from_json)
    try:
        if reader is None:
            return name, _chosen(datasets.Dataset.from_file(place), section, name)
        if kind != ".parquet" and not path.stat().st_size:
            return name, ()
        with silenced("datasets"):
            table = reader(glob.escape(place), streaming=True, cache_dir=str(run.cache / "datasets"))
    except _failures() as error:
        raise _unreadable(name, 0, error) from error
    return name, _chosen(table, section, name)


def _chosen(table: Any, section: HFDataset, name: str) -> Any:
    """Return the table with the columns that are read; a table without rows may have none."""
    try:
        with silenced("datasets"):
            names = table.column_names or list(next(iter(table), {}))
    except _failures() as error:
        raise _unreadable(name, 0, error) from error
    return table.select_columns(columns_of(names, section, name)) if names else table


def _rows(name: str, table: Any) -> Iterator[Mapping[str, Any]]:
    number = 0
    try:
        with silenced("datasets"):
            for record in table:
                yield record
                number += 1
    except _failures() as error:
        raise _unreadable(name, number, error) from error


def _unreadable(name: str, rows: int, error: Exception) -> InputError:
    return InputError(
        f"{name}: cannot be read behind row {rows}: {error}",
        remedy="mend or fetch the file again; the dataset jsonl can leave out single bad records",
    )


def _failures() -> tuple[type[Exception], ...]:
    """Return what the library raises where data are damaged: SystemError for texts of a negative length, too."""
    from datasets.exceptions import DatasetsError

    return (OSError, ValueError, TypeError, LookupError, RuntimeError, SystemError, DatasetsError)
