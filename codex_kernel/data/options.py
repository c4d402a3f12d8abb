"""The manifest's `data:` section.

One rule: these options, the documents, the tokenizer and the seed decide every batch of a run, and nothing else does.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from codex_kernel.options import option


@frozen
class FillInTheMiddle:
    """Documents of code, cut in three and rearranged, so that the model learns to fill a gap (arXiv:2207.14255)."""

    rate: float = option(0.5, ge=0, le=1, help="Share of the documents without prompt that are rearranged.")
    suffix_first: float = option(
        0.5,
        ge=0,
        le=1,
        help="Of those, share that give suffix, prefix, middle instead of prefix, suffix, middle.",
    )
    prefix_token: str = option("<|fim_prefix|>", help="Special token before the prefix.")
    suffix_token: str = option("<|fim_suffix|>", help="Special token before the suffix.")
    middle_token: str = option("<|fim_middle|>", help="Special token before the middle.")


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
        help="What happens to documents whose content was seen before; dropped ones are counted.",
    )
    skip_bad: int = option(0, ge=0, help="Records that cannot be read and may be skipped; each is counted.")
    loss_on: Literal["targets", "all"] = option(
        "targets",
        help="What is trained: texts, completions and the assistant's turns, or prompts and all turns as well.",
    )
    on_no_target: Literal["error", "drop"] = option(
        "error", help="What happens to documents in which nothing is trained: end the run, or drop; counted."
    )
    fim: FillInTheMiddle | None = option(None, help="Fill-in-the-middle; null: documents stay as they are.")
    on_overflow: Literal["split", "truncate_left", "truncate_right", "drop", "error"] = option(
        "split",
        help="What happens to documents longer than seq_len tokens: split over blocks, lose their beginning or end, "
        "drop, or end the run; counted and listed.",
    )
    packing: Literal["stream", "whole", "none"] = option(
        "stream",
        help="How documents fill blocks: one after the other, cut where a block ends; whole, as many as fit; or one "
        "to a block.",
    )

    def __attrs_post_init__(self) -> None:
        """Refuse blocks in which a piece of a document could have no target."""
        if self.packing != "stream" and self.seq_len == 1:
            raise ValueError(f"seq_len: expected at least 2 with packing {self.packing}")
