"""Tokenizer `hf-bpe`: byte-level BPE, trained on the run's own corpus or loaded from a file.

One rule: the same corpus and options give the same bytes, and what goes in comes out, to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

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
from codex_kernel import CorpusText, PluginError, RunContext, hookimpl, option

if TYPE_CHECKING:
    import tokenizers

EOS_TOKEN = "<|endoftext|>"  # noqa: S105 - a token of a vocabulary, no password
_BYTES = 256
_GATE_TEXTS = 200
_TRAINING_ONLY = ("vocab_size", "min_frequency", "special_tokens")

# Words take the character before them (a space, an opening bracket); a line break takes the indentation that follows,
# but for the space before the word: code gets one token for "new line, same depth".
PIECES = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|[\r\n]+[ \t]*(?= )|[\r\n]+[ \t]*"
    r"|\s+(?!\S)|\s+"
)


@frozen
class HFBPETokenizer:
    """Byte-level BPE of the `tokenizers` library; any text round-trips, and no token is ever unknown."""

    vocab_size: int = option(
        8192, help="Tokens of the vocabulary, special tokens and the 256 bytes included.", ge=257
    )
    min_frequency: int = option(2, help="How often a pair of tokens must occur to be merged.", ge=1)
    special_tokens: list[str] = option(factory=list, help="Further special tokens, after eos_token.")
    eos_token: str = option(EOS_TOKEN, help="The token that ends each document.")
    path: Path | None = option(
        None, help="Load this tokenizer.json instead of training; relative to where the run was started."
    )

    def __attrs_post_init__(self) -> None:
        """Refuse options that no training could satisfy, and those that a loaded file leaves unread."""
        if self.path is not None:
            self._check_unread()
        specials = self.all_special_tokens
        if len(set(specials)) != len(specials):
            raise ValueError(
                "special_tokens: expected tokens that differ from one another and from eos_token"
            )
        if not all(specials):
            raise ValueError("special_tokens: expected tokens of at least one character")
        least = _BYTES + len(specials)
        if self.vocab_size < least:
            raise ValueError(f"vocab_size: expected at least {least} (256 bytes and the special tokens)")

    def _check_unread(self) -> None:
        defaults = type(self)()
        unread = [name for name in _TRAINING_ONLY if getattr(self, name) != getattr(defaults, name)]
        if unread:
            raise ValueError(
                f"expected no {', '.join(unread)} beside path: a loaded vocabulary is not trained"
            )

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens in the order of their ids, which start at 0."""
        return [self.eos_token, *self.special_tokens]

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Look that the file to load is there."""
        if self.path is None or (base / self.path).is_file():
            return []
        return [f"tokenizer.path: there is no file {base / self.path}"]

    @hookimpl
    def codex_tokenizer(
        self, run: RunContext, corpus: CorpusText | None, saved: Path | None
    ) -> FastTokenizer:
        """Load the run's tokenizer, else the given file, else train on the corpus."""
        files = {CONFIG_FILE: companion_config(self.eos_token)}
        if saved is not None:
            return load_fast_tokenizer(saved / TOKENIZER_FILE, self.eos_token, files)
        if self.path is not None:
            tokenizer = load_fast_tokenizer(run.base / self.path, self.eos_token, files)
        elif corpus is not None:
            tokenizer = FastTokenizer(_train(self, run, corpus), eos_id=0, files=files)
            self._report_size(run, tokenizer)
        else:
            raise PluginError(
                "tokenizer hf-bpe has nothing to train on: this run has no corpus and no tokenizer of an earlier run",
                remedy="give tokenizer.path, the path of a tokenizer.json",
            )
        _require_round_trip(tokenizer, corpus or ())
        return tokenizer

    def _report_size(self, run: RunContext, tokenizer: FastTokenizer) -> None:
        if tokenizer.vocab_size < self.vocab_size:
            run.report.warning(
                f"tokenizer hf-bpe: the corpus yields {tokenizer.vocab_size} tokens, fewer than vocab_size "
                f"{self.vocab_size} (min_frequency {self.min_frequency}); the vocabulary has {tokenizer.vocab_size}"
            )


def _train(options: HFBPETokenizer, run: RunContext, corpus: CorpusText) -> tokenizers.Tokenizer:
    """Train a vocabulary; raise PluginError where the corpus holds no text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=[
            tokenizers.AddedToken(token, special=True, normalized=False)
            for token in options.all_special_tokens
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = _counted(run, corpus)
    first = next(texts, None)
    if first is None:
        raise PluginError(
            "tokenizer hf-bpe: the corpus holds no text to train on", remedy="look at the dataset section"
        )
    backend.train_from_iterator(chain([first], texts), trainer=trainer)
    return backend


def _counted(run: RunContext, corpus: CorpusText) -> Iterator[str]:
    """Give the texts that are not empty, and report how many were read."""
    count = 0
    for text in corpus:
        if not text:
            continue
        if count % 100 == 0:
            run.report.activity("train tokenizer", count, None, "documents")
        count += 1
        yield text
    run.report.activity("train tokenizer", count, count, "documents")


def _require_round_trip(tokenizer: FastTokenizer, corpus: CorpusText) -> None:
    """Raise PluginError where a sample of the corpus does not come back as it was."""
    loss = first_loss(tokenizer, chain([PROBE], islice(corpus, _GATE_TEXTS)))
    if loss is not None:
        raise PluginError(
            f"the tokenizer loses text: {shown_loss(*loss)}",
            remedy="use a byte-level BPE without normaliser; leave tokenizer.path out to train one",
        )
