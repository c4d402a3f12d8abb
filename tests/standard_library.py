"""The source files of Python's own library, as texts that a tokenizer must give back byte for byte."""

from __future__ import annotations

import io
import sysconfig
import tokenize
from pathlib import Path


def sources(every: int = 1) -> list[tuple[str, str]]:
    """Return (path, text) of each file, or of one in `every`, newlines and byte order marks as they are.

    Files that are in no encoding (the library tests its own parser with such) are left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)[::every]
    found = []
    for path in paths:
        data = path.read_bytes()
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            found.append((path.relative_to(root).as_posix(), data.decode(encoding.removesuffix("-sig"))))
        except (SyntaxError, UnicodeDecodeError):
            continue
    return found


def lost(tokenizer, texts: list[tuple[str, str]]) -> list[str]:
    """Return the paths of the texts that do not come back, alone and in batches."""
    ids = tokenizer.encode_batch([text for _, text in texts])
    back = tokenizer.decode_batch(ids)
    return [path for (path, text), again in zip(texts, back, strict=True) if again != text]
