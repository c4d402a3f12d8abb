"""Source files that every machine has: those of Python's own standard library, as texts for tokenizers.

One rule: a file is compared byte for byte, whatever it is written in.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

from codex_kernel.interfaces import Tokenizer
from codex_kernel.tokens import decode_batch, encode_batch


def standard_library(every: int = 1) -> list[Path]:
    """Return the `.py` files of the standard library, sorted; of each so many consecutive ones only the first."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    return sorted(path for path in files if path.is_file())[::every]


def read_source(file: Path) -> str:
    """Return a file as text from which its bytes can be had again: UTF-8, else each byte a character."""
    content = file.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def files_changed(tokenizer: Tokenizer, files: Sequence[Path]) -> list[Path]:
    """Return the files that do not come back from their ids, byte for byte."""
    texts = [read_source(file) for file in files]
    decoded = decode_batch(tokenizer, encode_batch(tokenizer, texts))
    return [
        file for file, text, back in zip(files, texts, decoded, strict=True) if _changed(file, text, back)
    ]


def _changed(file: Path, text: str, back: str) -> bool:
    encoding = "utf-8" if text.encode() == file.read_bytes() else "latin-1"
    return back.encode(encoding, errors="replace") != file.read_bytes()
