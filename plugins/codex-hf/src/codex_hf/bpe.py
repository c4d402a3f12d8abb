"""Tokenizer `hf-bpe`: byte-level BPE, trained on the run's own corpus or loaded from a file.

One rule: a vocabulary is 256 bytes and merges of them, so no text has an unknown token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from codex_hf.byte_level import byte_level, pieces_up_to
from codex_hf.trained import TrainedOptions, learn
from codex_kernel import RunContext, option

if TYPE_CHECKING:
    import tokenizers

# The trainer's time grows with the square of a piece: one of a megabyte would take minutes.
_TRAINED_PIECES = pieces_up_to(1024)


@frozen(kw_only=True)
class HFBPETokenizer(TrainedOptions):
    """Byte-level BPE of the `tokenizers` library; any text round-trips, and no token is ever unknown."""

    name: ClassVar[str] = "hf-bpe"
    model: ClassVar[str] = "BPE"
    base_tokens: ClassVar[int] = 256

    vocab_size: int = option(
        8192, help="Tokens of the vocabulary, special tokens and the 256 bytes included.", ge=257
    )
    min_frequency: int = option(2, help="How often a pair of tokens must occur to be merged.", ge=1)

    def train(self, run: RunContext, texts: Iterator[list[str]]) -> tokenizers.Tokenizer:
        """Train with the library's trainer; the special tokens come first."""
        from tokenizers import models, pre_tokenizers, trainers

        backend = byte_level(models.BPE(), pieces=_TRAINED_PIECES)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=self.added_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learn(backend, texts, trainer, run.report)
        backend.pre_tokenizer = byte_level(models.BPE()).pre_tokenizer
        return backend
