"""Tokenizer `hf`: the tokenizer of a pretrained model, as it is.

One rule: the vocabulary is never changed; no token is added, and truncation or padding stored with it is switched off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import frozen

from codex_hf.fast_tokenizer import (
    CONFIG_FILE,
    PROBE,
    TOKENIZER_FILE,
    FastTokenizer,
    companion_config,
    first_loss,
    load_fast_tokenizer,
    shown_loss,
)
from codex_hf.source import Source, pretrained_folder
from codex_kernel import CorpusText, InputError, RunContext, hookimpl, option

_COMPANIONS = ("special_tokens_map.json", "chat_template.jinja", "added_tokens.json")
_SAMPLED_TEXTS = 50


@frozen
class HFTokenizer(Source):
    """The tokenizer of a local folder, a GGUF file, a pinned hub id or a pinned package."""

    eos_token: str | None = option(
        None, help="The token that ends each document, where the tokenizer names another."
    )

    def __attrs_post_init__(self) -> None:
        """Ask for a source."""
        super().__attrs_post_init__()
        if not self.given:
            raise ValueError("expected one of path, hub_id and package, to say where the tokenizer is")

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Look that the files are there."""
        return [f"tokenizer.{problem}" for problem in self.problems(base)]

    @hookimpl
    def codex_tokenizer(
        self, run: RunContext, corpus: CorpusText | None, saved: Path | None
    ) -> FastTokenizer:
        """Load the run's own copy, else the source."""
        if saved is not None:
            return _load(saved, self.eos_token)
        tokenizer = _load(pretrained_folder(self, run), self.eos_token)
        loss = first_loss(tokenizer, [PROBE, *islice(corpus or (), _SAMPLED_TEXTS)])
        if loss is not None:
            run.report.warning(
                f"this tokenizer loses text, and the model will never see it: {shown_loss(*loss)}"
            )
        return tokenizer


def _load(folder: Path, eos_token: str | None) -> FastTokenizer:
    config = _config(folder)
    eos = eos_token if eos_token is not None else _named_token(config.get("eos_token"))
    if eos is None:
        raise InputError(
            f"the tokenizer of {folder} names no end-of-text token, and documents could not be ended",
            remedy="name one of its tokens with tokenizer.eos_token",
        )
    companions = {name: (folder / name).read_bytes() for name in _COMPANIONS if (folder / name).is_file()}
    files = {**companions, CONFIG_FILE: companion_config(eos, config)}
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return _converted_by_transformers(folder, eos, files)
    return load_fast_tokenizer(file, eos, files)


def _config(folder: Path) -> dict[str, Any]:
    """Read `tokenizer_config.json`; empty where there is none."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected an object, got {type(config).__name__}")
    return config


def _named_token(value: object) -> str | None:
    """Return the text of a token, which a configuration writes plainly or as an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _converted_by_transformers(folder: Path, eos: str, files: Mapping[str, bytes]) -> FastTokenizer:
    """Have transformers build the fast tokenizer of a folder that has only a vocabulary (SentencePiece, merges)."""
    from transformers import AutoTokenizer

    from codex_hf.fast_tokenizer import eos_id_of
    from codex_hf.loading import quiet

    try:
        with quiet():
            slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InputError(f"there is no tokenizer in {folder} that transformers can read: {error}") from error
    backend = getattr(slow, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"the tokenizer of {folder} ({type(slow).__name__}) has no fast form",
            remedy=f"convert it to a {TOKENIZER_FILE} with the tokenizers library",
        )
    return FastTokenizer(backend, eos_id=eos_id_of(backend, eos, folder), files=files)
