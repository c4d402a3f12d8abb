"""The metrics `perplexity` and `bits-per-byte`: other views of the loss of an evaluation.

One rule: each is computed from the sums over all of the validation tokens, never from means of batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import frozen

from codex_kernel import Evaluation, hookimpl


@frozen
class Perplexity:
    """Perplexity, the exponential of the loss per token: lower is better, comparable for one tokenizer only."""

    @hookimpl
    def codex_metric(self, evaluation: Evaluation) -> Mapping[str, float] | None:
        """Give `perplexity`; infinite where the loss is too large, nothing for an evaluation without tokens."""
        if not evaluation.tokens:
            return None
        try:
            return {"perplexity": math.exp(evaluation.loss_sum / evaluation.tokens)}
        except OverflowError:
            return {"perplexity": math.inf}


@frozen
class BitsPerByte:
    """Bits per byte of text, the loss independent of the tokenizer: lower is better.

    The bytes are those that the validation split has for a token in the mean. So the value is exact for the whole
    split; with `evaluate.max_blocks` it is an estimate, a few per cent off where the blocks read are not like the rest.
    """

    @hookimpl
    def codex_metric(self, evaluation: Evaluation) -> Mapping[str, float] | None:
        """Give `bits_per_byte`; nothing for an evaluation without text."""
        if not evaluation.bytes:
            return None
        return {"bits_per_byte": evaluation.loss_sum / math.log(2) / evaluation.bytes}
