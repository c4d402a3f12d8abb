"""Tokenizer `hf-wordpiece`: WordPiece over bytes, trained on the run's own corpus or loaded from a file.

One rule: every byte has a token for the beginning of a piece and one for its inside, so no piece is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from codex_hf.byte_level import BYTE_OF, byte_level
from codex_hf.trained import TrainedOptions, learn
from codex_kernel import RunContext, option

if TYPE_CHECKING:
    import tokenizers

CONTINUING = "\N{UNDERTIE}"
"""What tokens inside of a piece begin with; no byte is written so, unlike the usual ##."""
_LONGEST_PIECE_BYTES = 32  # the model tries every end for every beginning, and calls longer pieces unknown
_NO_TOKEN = "no unknown token"  # noqa: S105 - not in the vocabulary, so that the library raises instead of losing text


@frozen(kw_only=True)
class HFWordPieceTokenizer(TrainedOptions):
    """WordPiece of the `tokenizers` library on bytes: the longest token first; any text round-trips."""

    name: ClassVar[str] = "hf-wordpiece"
    model: ClassVar[str] = "WordPiece"
    base_tokens: ClassVar[int] = 512

    vocab_size: int = option(
        8192,
        help="Tokens of the vocabulary, special tokens and two for each of the 256 bytes included.",
        ge=513,
    )
    min_frequency: int = option(2, help="How often a pair of tokens must occur to be merged.", ge=1)

    def train(self, run: RunContext, texts: Iterator[list[str]]) -> tokenizers.Tokenizer:
        """Train with the library's trainer; the special tokens come last."""
        from tokenizers import decoders, pre_tokenizers, trainers

        alphabet = sorted(BYTE_OF)
        inside = [CONTINUING + byte for byte in alphabet]
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.vocab_size - len(self.all_special_tokens),
            min_frequency=self.min_frequency,
            # The trainer numbers the bytes inside of pieces as they come up, which is another order each time, and
            # ties between merges are decided by number: named as special tokens they have theirs from the start.
            special_tokens=inside,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            continuing_subword_prefix=CONTINUING,
            show_progress=False,
        )
        training = byte_level(_model({}), longest_piece_bytes=_LONGEST_PIECE_BYTES)
        learn(training, texts, trainer, run.report)
        learned = training.get_vocab(with_added_tokens=False)
        order = sorted(learned, key=lambda token: (token not in BYTE_OF, learned[token]))
        backend = byte_level(
            _model({token: number for number, token in enumerate(order)}),
            longest_piece_bytes=_LONGEST_PIECE_BYTES,
        )
        backend.decoder = decoders.Sequence([decoders.Replace(CONTINUING, ""), decoders.ByteLevel()])
        backend.add_special_tokens(self.added_tokens)
        return backend


def _model(vocabulary: dict[str, int]) -> Any:
    from tokenizers import models

    return models.WordPiece(
        vocab=vocabulary,
        unk_token=_NO_TOKEN,
        max_input_chars_per_word=_LONGEST_PIECE_BYTES,
        continuing_subword_prefix=CONTINUING,
    )
