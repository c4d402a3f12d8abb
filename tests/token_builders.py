"""Builders of documents, tokenizers and token data, and a slow reference for batches."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from codex_kernel.data.build import build
from codex_kernel.data.corpus import Corpus
from codex_kernel.data.options import DataOptions
from codex_kernel.interfaces import IGNORE_INDEX, Document
from codex_kernel.testing import RecordingReporter

EOS = 256


@frozen
class ByteTokens:
    """A token a byte; `vocab_size` may be larger than needed."""

    vocab_size: int = 257
    eos_id: int = EOS

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(token for token in ids if token < EOS).decode(errors="replace")


class CountingTokens:
    """A token a byte, which counts the texts that it was asked to encode."""

    vocab_size = 257
    eos_id = EOS

    def __init__(self):
        self.texts = []

    def encode(self, text):
        self.texts.append(text)
        return list(text.encode())

    def decode(self, ids):
        return ByteTokens().decode(ids)


def documents(*texts, prompt=""):
    """Make documents, each in a group of its own."""
    return [Document(f"d{n}", f"g{n}", text, prompt) for n, text in enumerate(texts)]


def make_corpus(docs, cache: Path, *, seed=1, report=None, steps=(), **options):
    """Make the corpus of some documents: no validation split unless asked for, blocks of 8 tokens."""
    settings = {"seq_len": 8, "validation_fraction": 0.0, **options}
    return Corpus.of(
        docs,
        DataOptions(**settings),
        seed=seed,
        make_steps=lambda: [make() for make in steps],
        cache=cache,
        report=report or RecordingReporter(),
    )


def make_data(docs, cache: Path, *, tokenizer=None, fingerprint="bytes", **options):
    """Build token data with little; see `make_corpus`."""
    corpus = make_corpus(docs, cache, **options)
    return build(corpus, tokenizer or ByteTokens(), tokenizer_fingerprint=fingerprint)


def slow_blocks(docs, seq_len, eos=EOS):
    """Return (inputs, targets, positions, document numbers) of each block, one token after the other."""
    stream = []  # (token, document, is a target)
    for number, document in enumerate(docs):
        prompt, text = document.prompt.encode(), document.text.encode()
        tokens = [*prompt, *text, eos]
        stream += [(token, number, place >= len(prompt)) for place, token in enumerate(tokens)]
    blocks = []
    for start in range(0, max(1, len(stream) - 1), seq_len):
        rows = [], [], [], []
        seen = []
        for place in range(start, start + seq_len):
            if place >= len(stream):
                values = (eos, IGNORE_INDEX, 0, -1)
            else:
                token, number, _ = stream[place]
                following = stream[place + 1] if place + 1 < len(stream) else None
                trained = following is not None and following[1] == number and following[2]
                seen.append(number)
                values = (
                    token,
                    following[0] if trained else IGNORE_INDEX,
                    seen.count(number) - 1,
                    sorted(set(seen)).index(number),
                )
            for row, value in zip(rows, values, strict=True):
                row.append(value)
        blocks.append(rows)
    return blocks
