"""GGUF files, turned once into a folder in transformers' own format (20 s once, instead of at every start).

One rule: the folder is named by the sha256 of the file and appears whole or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_kernel import InputError, Reporter, StorageError


def sha256_of(file: Path) -> str:
    """Return the hex digest of a file; raise StorageError where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error}") from error


def converted(file: Path, sha256: str, cache: Path, report: Reporter) -> Path:
    """Return the folder with the file's weights (float32 safetensors), config and tokenizer, made on first use.

    Raises InputError where transformers cannot read the file or it has another digest, StorageError where the cache
    cannot be written.
    """
    target = cache / "hf" / sha256
    if target.is_dir():
        return target
    if sha256_of(file) != sha256:
        raise InputError(
            f"{file} was damaged in the cache: expected sha256 {sha256}", remedy=f"delete {file.parent}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
            made = Path(scratch) / sha256
            made.mkdir()
            _convert(file, made, report)
            _publish(made, target)
    except OSError as error:
        raise StorageError(f"cannot write the converted model to {target.parent}: {error}") from error
    return target


def _convert(file: Path, folder: Path, report: Reporter) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from codex_hf.loading import quiet

    options = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    # `codex plan` builds under torch.device("meta"), and this is real work.
    with quiet(), _without_gguf_bar(), torch.device("cpu"):
        report.activity("convert", 0, 2, f"parts of {file.name}")
        try:
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
            report.activity("convert", 1, 2, f"parts of {file.name}")
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        except Exception as error:  # the parsers raise whatever a damaged file leads them to
            raise InputError(f"transformers cannot read {file}: {error}") from error
        # They mark the model as quantised for ever, and save_pretrained then refuses it.
        del model.hf_quantizer
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        report.activity("convert", 2, 2, f"parts of {file.name}")


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Silence the one progress bar of transformers that does not listen to its own switch."""
    reading: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reading.tqdm
    reading.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        reading.tqdm = bar


def _publish(made: Path, target: Path) -> None:
    """Sync the files and give the folder its name; another process that was faster has made the same."""
    for path in [*made.iterdir(), made]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise
