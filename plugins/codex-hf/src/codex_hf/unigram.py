"""Tokenizer `hf-unigram`: a unigram language model over bytes, trained on the run's corpus or loaded from a file.

One rule: every byte is a token, so no text is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from codex_hf.byte_level import BYTE_OF, byte_level
from codex_hf.trained import TrainedOptions, learn
from codex_kernel import Reporter, RunContext, option

if TYPE_CHECKING:
    import tokenizers

LONGEST_WORD_BYTES = 64
_CANDIDATES_PER_TOKEN = 4


@frozen(kw_only=True)
class HFUnigramTokenizer(TrainedOptions):
    """Unigram of the `tokenizers` library on bytes: the likeliest tokens; any text round-trips.

    The library's own trainer goes through the words in another order each time, and its sums with it, so it does not
    give the same bytes twice. Here the library counts the words and proposes candidates, by its trainer of BPE, and
    `unigram_training` estimates and prunes them.
    """

    name: ClassVar[str] = "hf-unigram"
    model: ClassVar[str] = "Unigram"
    base_tokens: ClassVar[int] = 256

    vocab_size: int = option(
        8192, help="Tokens of the vocabulary, special tokens and the 256 bytes included.", ge=257
    )
    max_token_bytes: int = option(16, help="Bytes of the longest token.", ge=1, le=LONGEST_WORD_BYTES)

    def train(self, run: RunContext, texts: Iterator[list[str]]) -> tokenizers.Tokenizer:
        """Let the library count words and propose candidates, and prune them; the special tokens come last."""
        from tokenizers import models

        from codex_hf.unigram_training import prune  # brings numpy

        wanted = self.vocab_size - len(self.all_special_tokens)
        candidates, words = _candidates(
            texts, _CANDIDATES_PER_TOKEN * wanted, self.max_token_bytes, run.report
        )
        scored = prune(words, candidates, sorted(BYTE_OF), wanted, run.report)
        backend = byte_level(models.Unigram(vocab=scored))
        backend.add_special_tokens(self.added_tokens)
        return backend


def _candidates(
    texts: Iterator[list[str]], count: int, longest_bytes: int, report: Reporter
) -> tuple[list[str], dict[str, int]]:
    """Return at most `count` candidates, bytes included, and how often each piece of the texts occurs."""
    from tokenizers import models, pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=count,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=longest_bytes,
        show_progress=False,
    )
    backend = byte_level(models.BPE(), longest_piece_bytes=LONGEST_WORD_BYTES)
    learn(backend, texts, trainer, report)
    # The trainer keeps what it counted, and its state is JSON.
    state: dict[str, Any] = json.loads(trainer.__getstate__())
    return sorted(backend.get_vocab()), state["BpeTrainer"]["words"]
