"""The tokenizer plugin `spm`: where a run's SentencePiece vocabulary comes from.

One rule: no vocabulary leaves this module before it has given back every probe text unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import fields, frozen

from codex_kernel import InputError, RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_spm.vocabulary import Vocabulary

_SYMBOL_LIMIT = 512  # no token that a person wants is longer, and SentencePiece does not say why it fails
_RESERVED = re.compile("<unk>|</s>|<0x[0-9A-F]{2}>")  # the names of the fixed pieces
_TRAINING_ONLY = (
    "vocab_size",
    "model_type",
    "character_coverage",
    "max_piece_length",
    "max_line_bytes",
    "user_defined_symbols",
    "special_tokens",
)


@frozen
class SentencePieceTokenizer:
    """A SentencePiece vocabulary, trained on the run's own training split, or loaded from a file.

    Whatever the options, `decode(encode(text)) == text` holds for every text that is valid Unicode.
    """

    vocab_size: int = option(
        8192, gt=0, help="Number of pieces, the 258 fixed ones (bytes, end of text) included."
    )
    model_type: Literal["bpe", "unigram"] = option(
        "bpe",
        help="How pieces are chosen: bpe merges frequent pairs, unigram keeps the likeliest pieces (slower).",
    )
    character_coverage: float = option(
        0.9995,
        gt=0.0,
        le=1.0,
        help="Share of the corpus's characters that get a piece; the others are spelt as bytes.",
    )
    max_piece_length: int = option(16, gt=0, help="Longest piece, in characters.")
    max_line_bytes: int = option(
        4192,
        ge=16,
        help="Lines longer than this are cut for training, counted and reported, in bytes of UTF-8.",
    )
    user_defined_symbols: tuple[str, ...] = option(
        (),
        help="Texts that are always one token wherever they stand in a document, such as a name that is frequent.",
    )
    special_tokens: tuple[str, ...] = option(
        (),
        help="Tokens that no text ever has, not even one that spells them, such as <|fim_prefix|>.",
    )
    pad_token: str | None = option(
        None,
        help="Special token that fills up padded batches: made in training, or a control piece of a loaded model.",
    )
    path: str | None = option(None, help="A SentencePiece .model file to load; nothing is trained then.")
    sha256: str | None = option(None, help="Hex digest that the file at `path` must have.")
    eos_piece: str | None = option(
        None, help="Piece of a loaded model that ends a text, where the model itself names none."
    )

    @user_defined_symbols.validator
    @special_tokens.validator
    def _check_symbols(self, attribute: Any, symbols: Any) -> None:
        """Raise ValueError for a symbol that SentencePiece could not keep as one piece beside its own."""
        for symbol in symbols:
            _check_symbol(attribute.name, symbol)
        if len(set(symbols)) != len(symbols):
            raise ValueError(f"expected each of {attribute.name} once")

    @pad_token.validator
    def _check_pad(self, attribute: Any, name: str | None) -> None:
        """Raise ValueError for a padding token that could not be one piece."""
        if name is not None and self.path is None:
            _check_symbol(attribute.name, name)

    def __attrs_post_init__(self) -> None:
        """Raise ValueError where one option makes another meaningless, so that none is left unread."""
        if self.path is None:
            self._check_training_options()
            return
        defaults = {field.name: field.default for field in fields(type(self))}
        unread = [name for name in _TRAINING_ONLY if getattr(self, name) != defaults[name]]
        if unread:
            raise ValueError(f"expected no {', '.join(unread)} beside path: a loaded model is not trained")

    def _check_training_options(self) -> None:
        for name in ("sha256", "eos_piece"):
            if getattr(self, name) is not None:
                raise ValueError(f"expected path beside {name}: it speaks of a loaded model")
        if both := {*self.special_tokens, self.pad_token} & set(self.user_defined_symbols):
            raise ValueError(
                f"expected {both.pop()!r} as a user-defined symbol or as a special token, not both"
            )

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Say when the file to load is not there."""
        if self.path is None or (base / self.path).is_file():
            return []
        return [f"tokenizer.path: {base / self.path} is not a file; expected a SentencePiece .model file"]

    @hookimpl
    def codex_tokenizer(self, run: RunContext, corpus: object, saved: Path | None) -> Vocabulary:
        """Load what this run saved, else the file at `path`, else train on the corpus."""
        from codex_spm import files, training

        if saved is not None:
            return files.load_saved(saved)
        if self.path is not None:
            return self._load(run.base / self.path)
        if corpus is None:
            raise InputError(
                "tokenizer spm: no text to train on, and the run has no saved tokenizer",
                remedy="name a model file with tokenizer.path, or start from a run that trained its tokenizer",
            )
        return training.train(self, corpus, run.report)  # type: ignore[arg-type]

    def _load(self, path: Path) -> Vocabulary:
        from codex_spm import files

        return files.load_file(path, digest=self.sha256, eos_piece=self.eos_piece, pad_token=self.pad_token)


def _check_symbol(option_name: str, symbol: str) -> None:
    """Raise ValueError for a symbol that is not one piece, or has a meaning already."""
    if not symbol or len(symbol) > _SYMBOL_LIMIT or not all(map(_may_stand_in_a_symbol, symbol)):
        raise ValueError(
            f"expected {option_name} of 1 to {_SYMBOL_LIMIT} characters, without white space, NUL, "
            f"U+2581, U+2585, surrogates and private-use characters, got {symbol!r}"
        )
    if _RESERVED.fullmatch(symbol):
        raise ValueError(
            f"expected {option_name} other than <unk>, </s> and the bytes <0x00> to <0xFF>, got {symbol!r}"
        )


def _may_stand_in_a_symbol(character: str) -> bool:
    """Say whether a character is none that parts pieces, or that a vocabulary needs for itself (see `vocabulary`)."""
    return not (
        character.isspace()
        or character in "\0\u2581\u2585"
        or unicodedata.category(character) in ("Co", "Cs")  # private use, surrogate
    )
