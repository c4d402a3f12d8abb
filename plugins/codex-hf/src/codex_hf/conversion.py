"""GGUF files, turned once into a folder in transformers' own format (20 s once, instead of at every start).

One rule: the folder is named by the sha256 of the file and the version of transformers, appears whole or not at all,
and is used only while its files are those that were written.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_kernel import InputError, Reporter, StorageError

DIGESTS_FILE = "codex_files.json"
"""In a converted folder: size in bytes and sha256 of each other file."""


def sha256_of(file: Path) -> str:
    """Return the hex digest of a file; raise StorageError where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error}") from error


def folder_name(sha256: str) -> str:
    """Return the name of a converted folder: another transformers may convert the same file differently."""
    from importlib.metadata import version  # what else is here is imported before every run

    return f"{sha256}-transformers-{version('transformers')}"


def converted(fetch: Callable[[], Path], sha256: str, cache: Path, report: Reporter) -> Path:
    """Return the folder with the file's weights (float32 safetensors), config and tokenizer, made on first use.

    The file is asked for only where it has to be converted: for the first time, or because the folder is damaged,
    which is a warning. Raises InputError where transformers cannot read the file or it has another digest,
    StorageError where the cache cannot be read or written.
    """
    target = cache / "hf" / folder_name(sha256)
    damage = _damage(target) if target.is_dir() else None
    if target.is_dir() and damage is None:
        return target
    if damage is not None:
        report.warning(f"the converted model {target} is damaged ({damage}); it is converted again")
    file = fetch()
    if sha256_of(file) != sha256:
        raise InputError(
            f"{file} was damaged in the cache: expected sha256 {sha256}", remedy=f"delete {file.parent}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
            made = Path(scratch) / target.name
            made.mkdir()
            _convert(file, made, report)
            _write_digests(made)
            if damage is not None:
                target.rename(Path(scratch) / "damaged")
            _publish(made, target)
    except OSError as error:
        raise StorageError(f"cannot write the converted model to {target.parent}: {error}") from error
    return target


def _write_digests(folder: Path) -> None:
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(folder.iterdir())
    }
    (folder / DIGESTS_FILE).write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")


def _damage(folder: Path) -> str | None:
    """Say which file of a converted folder is not what was written; None where all are."""
    try:
        files = json.loads((folder / DIGESTS_FILE).read_text(encoding="utf-8"))
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {DIGESTS_FILE}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{DIGESTS_FILE} is not what was written: {error!r}"
    except OSError as error:
        raise StorageError(f"cannot read {folder / DIGESTS_FILE}: {error}") from error
    for name, (size, sha256) in expected.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        status = file.stat()
        if status.st_size != size:
            return f"{name} has {status.st_size} bytes, expected {size}"
        if _known_digest(file, status.st_size, status.st_mtime_ns) != sha256:
            return f"{name} has another sha256"
    return None


@functools.cache
def _known_digest(file: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 - they tell when to read again
    """Return the digest of a file, read once while it does not change: tokenizer and model share a folder."""
    return sha256_of(file)


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
