"""The manifest's `data:` section.

One rule: these options, the documents, the tokenizer and the seed decide every batch of a run, and nothing else does.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from codex_kernel.options import option


@frozen
class DataOptions:
    """How documents become blocks of tokens."""

    seq_len: int = option(
        256, gt=0, help="Tokens of a block: the longest context that the model is trained on."
    )
    validation_fraction: float = option(
        0.05,
        ge=0,
        lt=1,
        help="Share of the groups of documents kept for validation; 0 means no validation split.",
    )
    duplicates: Literal["drop", "keep"] = option(
        "drop",
        help="What happens to documents whose prompt and text were seen before; dropped ones are counted.",
    )
    on_overflow: Literal["split", "drop", "error"] = option(
        "split",
        help="What happens to documents longer than seq_len tokens: split over blocks, drop, or end the run; counted.",
    )
