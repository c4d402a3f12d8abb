"""Texts and ids from files and from standard input, for the commands that work on them.

One rule: bytes that are no text are an error with their place, and nothing of a text is changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from codex_kernel.errors import InputError

STDIN = "-"
_ID = re.compile("[0-9]{1,18}")
_STDIN_NAME = "standard input"


def texts(names: Sequence[str], *, lines: bool) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each file in turn, or of each line without the newline at its end; `-` is standard input.

    Raises InputError where a file cannot be read or is not UTF-8.
    """
    for name in names:
        shown = _STDIN_NAME if name == STDIN else name
        with _open(name, shown) as file:
            if not lines:
                yield shown, _decode(file.read(), shown, 0)
                continue
            start = 0
            for number, line in enumerate(file, 1):
                yield f"{shown}:{number}", _decode(line, shown, start).removesuffix("\n")
                start += len(line)


def sequences(name: str) -> Iterator[list[int]]:
    """Yield the ids of each line of a file, parted by spaces or commas; raise InputError where one is no id."""
    for where, line in texts([name], lines=True):
        words = line.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
        wrong = next((word for word in words if not _ID.fullmatch(word)), None)
        if wrong is not None:
            raise InputError(
                f"{where}: expected ids parted by spaces or commas, got {wrong[:40]!r}",
                remedy="a sequence a line, as `codex tokenizer encode` prints them",
            )
        yield [int(word) for word in words]


@contextmanager
def _open(name: str, shown: str) -> Iterator[BinaryIO]:
    try:
        if name == STDIN:
            yield sys.stdin.buffer
            return
        with Path(name).open("rb") as file:
            yield file
    except OSError as error:
        remedy = "name the files in it: FOLDER/**/*.py" if isinstance(error, IsADirectoryError) else None
        raise InputError(f"{shown}: cannot be read: {error.strerror or error}", remedy=remedy) from error


def _decode(data: bytes, shown: str, start: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{shown}: not UTF-8: byte {start + error.start + 1:,} is 0x{data[error.start]:02x}",
            remedy="convert it: iconv -f LATIN1 -t UTF-8; leave binary files out",
        ) from None


def write(parts: Iterable[str]) -> None:
    """Write text to standard output as it is, in UTF-8, whatever the terminal's encoding."""
    sys.stdout.flush()
    for part in parts:
        sys.stdout.buffer.write(part.encode())
    sys.stdout.buffer.flush()
