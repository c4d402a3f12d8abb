"""SentencePiece models on disk: a file that someone else made, and what a run has saved.

One rule: no file is read before its size is known, and none is used that is not the one that was meant.
"""

from __future__ import annotations

import json
from pathlib import Path

from codex_kernel import InputError, StorageError
from codex_spm.vocabulary import MODEL_FILE, RECORD_FILE, RECORD_SCHEMA, Vocabulary, open_model, sha256

MODEL_BYTES_LIMIT = 256 * 2**20
"""The largest model that is read; one of 256,000 pieces has 4 MB."""


def load_file(
    path: Path, *, digest: str | None = None, eos_piece: str | None = None, pad_token: str | None = None
) -> Vocabulary:
    """Load a `.model` file.

    Raises InputError where it cannot be read, is too large for a model, has not the sha256 `digest`, or loses text.
    """
    try:
        model = _read(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the SentencePiece model: {error.strerror}") from error
    if digest is not None and sha256(model) != digest.lower():
        raise InputError(f"{path}: expected the digest sha256 {digest}, got {sha256(model)}")
    return open_model(model, origin=str(path), eos=eos_piece, pad=pad_token)


def load_saved(folder: Path) -> Vocabulary:
    """Load what `Vocabulary.save` wrote; raise StorageError where it is damaged."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        model = _read(folder / MODEL_FILE)
        schema, digest, eos_id = record["schema"], record["sha256"], record["eos_id"]
        pad_id, trained = record["pad_id"], record["trained"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder}: the saved tokenizer cannot be read: {error}",
            remedy="bring the folder back from a copy, or begin another run",
        ) from error
    if schema != RECORD_SCHEMA:
        raise StorageError(f"{folder / RECORD_FILE}: expected schema {RECORD_SCHEMA}, got {schema!r}")
    if sha256(model) != digest:
        raise StorageError(
            f"{folder / MODEL_FILE}: damaged: expected the digest sha256 {digest}, got {sha256(model)}",
            remedy="bring the file back from a copy of the run folder",
        )
    return open_model(model, origin=str(folder / MODEL_FILE), eos=eos_id, pad=pad_id, trained=trained)


def _read(path: Path) -> bytes:
    """Read a model; a file that is much too large for one, be it only for a hole in it, is not read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > MODEL_BYTES_LIMIT:
            raise InputError(
                f"{path}: expected a SentencePiece model of at most {MODEL_BYTES_LIMIT:,} bytes, got {size:,}"
            )
        file.seek(0)
        return file.read()
