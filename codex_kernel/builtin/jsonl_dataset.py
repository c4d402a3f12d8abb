"""The dataset `jsonl`: one JSON object a line, with text or with prompt and completion.

One rule: a record that is not what the section says ends the run with its file and line; nothing is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from attrs import define, field, frozen

from codex_kernel import Document, InputError, RunContext, hookimpl, option
from codex_kernel.builtin.files import FoundFile, find, unmatched


@frozen
class JsonlDataset:
    """JSON lines with a text, or a prompt and a completion, in each record."""

    paths: list[str] = option(
        help="Files, folders and globs (** for any depth), relative to where the run was started."
    )
    text: str = option("text", help="Field with the text to train on.")
    prompt: str = option(
        "prompt",
        help="Field with the text that stands before a completion and is only read; may be left out.",
    )
    completion: str = option("completion", help="Field with the text to train on after a prompt.")
    id: str | None = option(None, help="Field with a unique id, a string or an integer; null for file:line.")
    group: str | None = option(
        None,
        help="Field whose equal values never cross between training and validation; null: each record by itself.",
    )
    max_record_bytes: int = option(1 << 26, gt=0, help="Longest line that is read, in bytes.")

    @hookimpl
    def codex_preflight(self, base: Path) -> Iterable[str]:
        """Name patterns that match no file."""
        return unmatched(self.paths, base) or ([] if self.paths else ["paths: is empty"])

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document]:
        """Find the files now, and read them line by line each time the documents are gone through."""
        files = find(self.paths, [], run.base)
        if not files:
            raise InputError(
                f"dataset.paths: no file to read: {', '.join(self.paths) or 'empty'} (from {run.base})",
                remedy="paths are relative to the folder where the run was first started",
            )
        return _Records(self, tuple(files), run)


@define(eq=False)
class _Records:
    section: JsonlDataset
    files: tuple[FoundFile, ...]
    run: RunContext
    _told: bool = field(init=False, default=False)

    def __iter__(self) -> Iterator[Document]:
        blank = 0
        for file in self.files:
            for where, line in _lines(file, self.section.max_record_bytes):
                if line.strip():
                    yield _document(_record(line, where), self.section, where)
                else:
                    blank += 1
        if blank and not self._told:
            self._told = True
            self.run.report.event("dataset_blank_lines", lines=blank, files=len(self.files))


def _lines(file: FoundFile, limit: int) -> Iterator[tuple[str, bytes]]:
    try:
        with file.path.open("rb") as stream:
            number = 0
            while line := stream.readline(limit + 1):
                number += 1
                where = f"{file.name}:{number}"
                if len(line) > limit:
                    raise InputError(
                        f"{where}: the line is longer than {limit:,} bytes",
                        remedy="one record stands on one line; raise dataset.max_record_bytes for longer ones",
                    )
                yield where, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read: {error.strerror}") from error


def _record(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not valid UTF-8 at byte {error.start} of the line") from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{where}: not a usable record: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, got {_kind(value)}")
    return value


def _document(record: Mapping[str, Any], section: JsonlDataset, where: str) -> Document:
    _refuse_ambiguous(record, section, where)
    if section.completion in record:
        text = _string(record, section.completion, where)
        prompt = _string(record, section.prompt, where) if section.prompt in record else ""
    elif section.text in record:
        text, prompt = _string(record, section.text, where), ""
    else:
        raise InputError(
            f"{where}: no field {section.text!r} or {section.completion!r}, has {', '.join(record) or 'none'}",
            remedy="name the fields with dataset.text, or with dataset.prompt and dataset.completion",
        )
    identity = where if section.id is None else _name(record, section.id, where)
    group = identity if section.group is None else _name(record, section.group, where)
    return Document(id=identity, group=group, text=text, prompt=prompt)


def _refuse_ambiguous(record: Mapping[str, Any], section: JsonlDataset, where: str) -> None:
    """Raise InputError where a field that the section names would be dropped; two options may name one field."""
    if section.text not in record or section.text == section.completion:
        return
    if section.completion in record:
        raise InputError(
            f"{where}: has both {section.text!r} and {section.completion!r}, expected one of them"
        )
    if section.prompt in record and section.prompt != section.text:
        raise InputError(
            f"{where}: has both {section.prompt!r} and {section.text!r}, expected a prompt with a completion, or a "
            "text alone",
            remedy=f"dataset.completion={section.text} trains on the text after the prompt; another dataset.prompt "
            "leaves the prompt out",
        )


def _string(record: Mapping[str, Any], name: str, where: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r}: expected a string, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: field {name!r}: a lone surrogate at character {error.start} is not text"
        ) from error
    return value


def _name(record: Mapping[str, Any], name: str, where: str) -> str:
    if name not in record:
        raise InputError(f"{where}: no field {name!r}, has {', '.join(record) or 'none'}")
    value = record[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(record, name, where)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} stands twice")
    return record


def _kind(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
    }
    return names.get(type(value), "an object")
