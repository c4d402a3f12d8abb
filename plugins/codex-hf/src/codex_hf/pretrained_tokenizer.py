"""Tokenizer `hf`: the tokenizer of a pretrained model, as it is.

One rule: the vocabulary is never changed; no token is added, and truncation or padding stored with it is switched off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from codex_hf.chat_template import stored_template, template_problems
from codex_hf.fast_tokenizer import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    FastTokenizer,
    companion_config,
)
from codex_hf.source import Source, pretrained_folder
from codex_hf.tokenizer_file import fast_tokenizer, first_loss, read_backend
from codex_kernel import CorpusText, InputError, RunContext, hookimpl, option

if TYPE_CHECKING:
    import tokenizers

_VOCABULARIES = (TOKENIZER_FILE, CONFIG_FILE, "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
_COMPANIONS = ("special_tokens_map.json", "added_tokens.json")


@frozen
class HFTokenizer(Source):
    """The tokenizer of a local folder, a GGUF file, a pinned hub id or a pinned package."""

    eos_token: str | None = option(
        None, help="The token that ends each document, where the tokenizer names another."
    )
    pad_token: str | None = option(
        None, help="The token that fills rows of a batch, where the tokenizer names none or its end of text."
    )
    chat_template: Path | None = option(
        None, help="Jinja file that makes text of conversations, instead of the tokenizer's own template."
    )
    chat_template_name: str | None = option(
        None, help="Which of the tokenizer's chat templates, where it has several; null: default."
    )
    on_loss: Literal["error", "warn"] = option(
        "error",
        help="What happens where text does not come back from the tokenizer as it was: end the run, or warn.",
    )

    def __attrs_post_init__(self) -> None:
        """Ask for a source."""
        super().__attrs_post_init__()
        if not self.given:
            raise ValueError("expected one of path, hub_id and package, to say where the tokenizer is")
        if self.pad_token is not None and self.pad_token == self.eos_token:
            raise ValueError("pad_token: expected another token than eos_token, which is trained")
        if self.chat_template is not None and self.chat_template_name is not None:
            raise ValueError("chat_template_name: expected none beside chat_template, which takes its place")

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Look that the files are there."""
        problems = self.problems(base)
        if self.chat_template is not None:
            problems += template_problems(base / self.chat_template, None)
        return [f"tokenizer.{problem}" for problem in problems]

    @hookimpl
    def codex_tokenizer(
        self, run: RunContext, corpus: CorpusText | None, saved: Path | None
    ) -> FastTokenizer:
        """Load the run's own copy, else the source; raise InputError where it loses text, unless that is allowed."""
        if saved is not None:
            return self._load(saved, run, None)
        tokenizer = self._load(pretrained_folder(self, run), run, self.chat_template_name)
        loss = first_loss(tokenizer, corpus or ())
        if loss is not None and self.on_loss == "error":
            raise InputError(
                f"this tokenizer loses text: {loss}",
                remedy="set tokenizer.on_loss to warn if the model may be trained on what the tokenizer makes of the "
                "text, or take a byte-level tokenizer without normaliser",
            )
        if loss is not None:
            run.report.warning(f"this tokenizer loses text, and the model will never see it: {loss}")
        if self.chat_template is not None:
            tokenizer.use_template(run.base / self.chat_template)
        return tokenizer

    def _load(self, folder: Path, run: RunContext, template: str | None) -> FastTokenizer:
        config = _config(folder)
        eos = self.eos_token if self.eos_token is not None else _named_token(config.get("eos_token"))
        if eos is None and not any((folder / name).exists() for name in _VOCABULARIES):
            raise InputError(
                f"there is no tokenizer in {folder}", remedy=f"give the folder that holds {TOKENIZER_FILE}"
            )
        if eos is None:
            raise InputError(
                f"the tokenizer of {folder} names no end-of-text token, and documents could not be ended",
                remedy="name one of its tokens with tokenizer.eos_token",
            )
        named = _named_token(config.get("pad_token"))
        # Many name the end of text, for want of a better one; whoever masks padding would mask that.
        pad = self.pad_token or (None if named == eos else named)
        companions = {name: (folder / name).read_bytes() for name in _COMPANIONS if (folder / name).is_file()}
        files = {**companions, CONFIG_FILE: companion_config(eos, config, self.pad_token)}
        file = folder / TOKENIZER_FILE
        backend = read_backend(file) if file.is_file() else _converted_by_transformers(folder)
        return fast_tokenizer(
            backend,
            folder,
            eos,
            files,
            pad_token=pad,
            chat_template=stored_template(folder, config, template),
            report=run.report,
        )


def _config(folder: Path) -> dict[str, Any]:
    """Read `tokenizer_config.json`; empty where there is none."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(config, ensure_ascii=False).encode()  # JSON can spell half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected an object, got {type(config).__name__}")
    return config


def _named_token(value: object) -> str | None:
    """Return the text of a token, which a configuration writes plainly or as an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _converted_by_transformers(folder: Path) -> tokenizers.Tokenizer:
    """Have transformers build the fast tokenizer of a folder that has only a vocabulary (SentencePiece, merges)."""
    from transformers import AutoTokenizer

    from codex_hf.loading import quiet

    try:
        with quiet():
            slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its parsers, and those in Rust, raise whatever a damaged file leads them to
        first_line = str(error).partition("\n")[0].strip()
        raise InputError(
            f"there is no tokenizer in {folder} that transformers can read: {first_line}",
            remedy=f"give the folder that holds {TOKENIZER_FILE}",
        ) from error
    backend = getattr(slow, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"the tokenizer of {folder} ({type(slow).__name__}) has no fast form",
            remedy=f"convert it to a {TOKENIZER_FILE} with the tokenizers library",
        )
    converted: tokenizers.Tokenizer = backend
    return converted
