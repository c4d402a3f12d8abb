"""Numbers about a token store and the documents it was made of: lengths, languages, sources, how full the blocks are.

One rule: what the builder counted is taken from its report; only what it did not count is counted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from attrs import frozen

from codex_kernel.data.activity import Activity
from codex_kernel.data.blocks import MappedBlocks
from codex_kernel.data.corpus import StoredCorpus
from codex_kernel.data.store import TokenData
from codex_kernel.interfaces import Reporter

PERCENTILES = (5, 25, 50, 75, 95, 99)


def of_store(data: TokenData) -> dict[str, Any]:
    """Return the numbers of each split: slots filled, lengths of its pieces in tokens, and of each source."""
    splits = {"train": data.train, "validation": data.validation}
    return {name: _of_split(blocks) for name, blocks in splits.items() if blocks is not None}


def _of_split(blocks: MappedBlocks) -> dict[str, Any]:
    starts, lengths = blocks.pieces()
    slots = len(blocks) * blocks.seq_len
    sources = {}
    for name, (first, count) in blocks.sources.items():
        low, high = starts.searchsorted([first * blocks.seq_len, (first + count) * blocks.seq_len])
        tokens = int(lengths[low:high].sum())
        sources[name] = {"blocks": count, "pieces": int(high - low), "tokens": tokens}
    return {
        "blocks": len(blocks),
        "seq_len": blocks.seq_len,
        "filled": min(1.0, float(lengths.sum() / slots)),
        "piece_tokens": spread(lengths),
        "bytes_per_token": blocks.text_bytes(np.arange(len(blocks))) / blocks.target_tokens,
        "sources": sources,
    }


def spread(values_N: Any) -> dict[str, float]:
    """Return least, percentiles, greatest and mean; nothing of no values."""
    if not len(values_N):
        return {}
    percentiles = np.percentile(values_N, PERCENTILES, method="lower").tolist()
    return {
        "min": int(values_N.min()),
        **{f"p{number}": int(value) for number, value in zip(PERCENTILES, percentiles, strict=True)},
        "max": int(values_N.max()),
        "mean": round(float(values_N.mean()), 1),
    }


@frozen
class CorpusNumbers:
    """Documents and bytes by language and by source, and the lengths of documents in bytes."""

    languages: Mapping[str, tuple[int, int]]
    sources: Mapping[str, tuple[int, int]]
    document_bytes: Mapping[str, float]


def of_corpus(corpus: StoredCorpus, report: Reporter) -> CorpusNumbers:
    """Go through the documents of both splits once."""
    documents = {"language": Counter[str](), "source": Counter[str]()}
    size = {"language": Counter[str](), "source": Counter[str]()}
    lengths = []
    activity = Activity(report, "read", "documents", sum(split.documents for split in corpus.splits.values()))
    for split in corpus.splits:
        for document in corpus.documents(split):
            turns = sum(len(turn.content.encode()) for turn in document.messages)
            lengths.append(len(document.text.encode()) + len(document.prompt.encode()) + turns)
            for kind, counts in documents.items():
                name = getattr(document, kind)
                counts[name] += 1
                size[kind][name] += lengths[-1]
            activity.at(len(lengths))
    activity.end(len(lengths))
    both = {
        kind: {name: (count, size[kind][name]) for name, count in documents[kind].most_common()}
        for kind in documents
    }
    return CorpusNumbers(both["language"], both["source"], spread(np.array(lengths, np.int64)))
