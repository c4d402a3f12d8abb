"""What can happen to the files of a checkpoint, done on purpose.

One rule: a damage changes one file, in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def files_in(path: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint, which is a folder or a file; the largest first."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    yield from sorted(files, key=lambda file: (-file.stat().st_size, file))


def flip_a_bit(file: Path) -> None:
    """Change the lowest bit of the byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def halve(file: Path) -> None:
    """Cut off the second half."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def empty(file: Path) -> None:
    """Leave the file without a byte."""
    file.write_bytes(b"")


def delete(file: Path) -> None:
    """Remove the file."""
    file.unlink()
