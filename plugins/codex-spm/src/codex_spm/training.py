"""Training of a SentencePiece vocabulary on source code, the same bytes for the same corpus and options.

One rule: no text is left out without being counted. SentencePiece skips sentences that are too long or that hold
characters it keeps for itself, so the corpus is cut there first; the pieces between the cuts are all trained.

The options that keep code intact were measured on Python source: with whitespace-only pieces, whole lines as
sentences and no dummy prefix, BPE carries 3.7 bytes a token where SentencePiece's defaults carry 2.1.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sized
from itertools import chain
from typing import TYPE_CHECKING, Any

from attrs import define

from codex_kernel import CorpusText, InputError, PluginError, Reporter, interruptible
from codex_spm.vocabulary import PROBES, Vocabulary, check_round_trip, check_unicode, open_model

if TYPE_CHECKING:
    from codex_spm.tokenizer import SentencePieceTokenizer

_PAD_ID = 2
_TOLD_DOCUMENTS = 1000
_THREADS = (
    4  # part of the result: unigram sums its floats per thread, so the number must not follow the machine
)
_CUTS = re.compile(
    "[\n\t\0\u2581\u2585]+"
)  # newline and tab are pieces of their own; the others are SentencePiece's
_TOO_HIGH = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")
_TOO_LOW = re.compile(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)")

FIXED_OPTIONS = {
    "normalization_rule_name": "identity",
    "byte_fallback": True,
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_by_whitespace": False,
    "unk_id": 0,
    "eos_id": 1,
    "bos_id": -1,
    "pad_id": -1,
    "unk_surface": "\ufffd",
    "num_threads": _THREADS,
    "minloglevel": 2,  # its log goes to stderr, past the run's own reporting
}


@define
class Counts:
    """What went into a training: documents, sentences of them, bytes, and lines that were cut because of length."""

    documents: int = 0
    sentences: int = 0
    bytes: int = 0
    cut_lines: int = 0


def train(options: SentencePieceTokenizer, corpus: CorpusText, report: Reporter) -> Vocabulary:
    """Train a vocabulary on the corpus.

    Raises InputError where the corpus is empty or `vocab_size` does not suit it.
    """
    counts = Counts()

    def run_trainer(texts: Iterator[str]) -> bytes:
        return _run_trainer(options, sentences(texts, options.max_line_bytes, counts))

    def waiting(seconds: float) -> None:
        report.activity("learn vocabulary", int(seconds), None, "s")

    model = interruptible(run_trainer, _told(corpus, report), waiting)
    report.activity("learn vocabulary", 1, 1)
    vocabulary = open_model(
        model,
        origin="trained tokenizer",
        trained=True,
    )
    check_round_trip(vocabulary, PROBES, origin="trained tokenizer", error=PluginError)
    check_symbols(vocabulary, options.user_defined_symbols)
    check_specials(vocabulary, options)
    report.event(
        "tokenizer_trained",
        plugin="spm",
        vocab_size=vocabulary.vocab_size,
        documents=counts.documents,
        sentences=counts.sentences,
        bytes=counts.bytes,
        cut_lines=counts.cut_lines,
    )
    if counts.cut_lines:
        report.warning(
            f"tokenizer spm: {counts.cut_lines} lines of the corpus are longer than {options.max_line_bytes} bytes "
            "and were cut for training (max_line_bytes); no text was left out"
        )
    return vocabulary


def check_symbols(vocabulary: Vocabulary, symbols: Iterable[str]) -> None:
    """Raise PluginError for the first symbol that is not one token."""
    for symbol in symbols:
        if (tokens := len(vocabulary.encode(symbol))) != 1:
            raise PluginError(
                f"tokenizer.user_defined_symbols: expected {symbol!r} to be one token, got {tokens}",
                remedy="leave that symbol out, or write it another way",
            )


def check_specials(vocabulary: Vocabulary, options: SentencePieceTokenizer) -> None:
    """Raise PluginError for the first special token that became none."""
    for name in filter(None, [*options.special_tokens, options.pad_token]):
        if name not in vocabulary.special_tokens:
            raise PluginError(
                f"tokenizer.special_tokens: expected {name!r} to become a control piece, and it did not",
                remedy="leave that token out, or write it another way",
            )


def sentences(corpus: Iterable[str], limit: int, counts: Counts) -> Iterator[str]:
    """Cut texts into what the trainer is fed: parts of lines of at most `limit` bytes, never an empty one."""
    for text in corpus:
        counts.documents += 1
        check_unicode(text, f"document {counts.documents} of the training split")
        for line in _CUTS.split(text):
            data_bytes = len(line) if line.isascii() else len(line.encode())
            parts = [line] if data_bytes <= limit else list(_slices(line, limit))
            counts.cut_lines += len(parts) > 1
            counts.bytes += data_bytes
            for part in filter(None, parts):
                counts.sentences += 1
                yield part


def _slices(line: str, limit: int) -> Iterator[str]:
    """Cut a line into parts of at most `limit` bytes, between characters."""
    characters = limit if line.isascii() else limit // 4  # a character has at most 4 bytes
    for start in range(0, len(line), characters):
        yield line[start : start + characters]


def _told(corpus: CorpusText, report: Reporter) -> Iterator[str]:
    """Say now and then how many documents have been read."""
    total = len(corpus) if isinstance(corpus, Sized) else None
    report.activity("train tokenizer", 0, total, "documents")
    count = 0
    for count, text in enumerate(corpus, 1):
        if count % _TOLD_DOCUMENTS == 0:
            report.activity("train tokenizer", count, total, "documents")
        yield text
    report.activity("train tokenizer", count, count, "documents")


def _run_trainer(options: SentencePieceTokenizer, lines: Iterator[str]) -> bytes:
    import sentencepiece

    first = next(lines, None)
    if first is None:
        raise InputError(
            "tokenizer spm: the training split has no text to train a vocabulary on",
            remedy="look at the dataset's options, or load a vocabulary with tokenizer.path",
        )
    writer = io.BytesIO()
    failures: list[BaseException] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_watched(chain([first], lines), failures),
            model_writer=writer,
            **_trainer_options(options),
        )
    except RuntimeError as error:
        raise failures[0] if failures else _explain(str(error), options.vocab_size) from error
    return writer.getvalue()


def _watched(lines: Iterable[str], failures: list[BaseException]) -> Iterator[str]:
    """Keep what the corpus raises: on its way through C++ it would become a RuntimeError."""
    try:
        yield from lines
    except BaseException as error:
        failures.append(error)
        raise


def _trainer_options(options: SentencePieceTokenizer) -> dict[str, Any]:
    return {
        **FIXED_OPTIONS,
        "vocab_size": options.vocab_size,
        "model_type": options.model_type,
        "character_coverage": options.character_coverage,
        "max_sentencepiece_length": options.max_piece_length,
        "max_sentence_length": options.max_line_bytes,
        "user_defined_symbols": ["\n", "\t", *options.user_defined_symbols],
        "control_symbols": [name for name in options.special_tokens if name != options.pad_token],
        **({} if options.pad_token is None else {"pad_id": _PAD_ID, "pad_piece": options.pad_token}),
    }


def _explain(message: str, vocab_size: int) -> InputError | PluginError:
    """Say what SentencePiece's exception means for the manifest."""
    if match := _TOO_HIGH.search(message):
        highest = match.group(1)
        return InputError(
            f"tokenizer.vocab_size: the corpus gives at most {highest} pieces, got {vocab_size}",
            remedy=f"set tokenizer.vocab_size to {highest} or less, or train on more text",
        )
    if match := _TOO_LOW.search(message):
        lowest = match.group(1)
        return InputError(
            f"tokenizer.vocab_size: the bytes and characters of the corpus alone are {lowest} pieces, got {vocab_size}",
            remedy=f"set tokenizer.vocab_size to more than {lowest}, or lower tokenizer.character_coverage",
        )
    return PluginError(f"tokenizer spm: SentencePiece failed to train: {message}")
