"""Text from a run's model: for `codex generate`.

One rule: the run is only read; another process may be training it at the same time.
"""

from __future__ import annotations

from pathlib import Path

from codex_kernel.build import check_same_tokenizer, load_tokenizer
from codex_kernel.durable import read_json
from codex_kernel.errors import NoCheckpointError
from codex_kernel.foretell import NeverStop
from codex_kernel.interfaces import GenerateRequest, Reporter, TextPieces
from codex_kernel.plan import Plan
from codex_kernel.runfolder import RunFolder


def generate(
    plan: Plan, folder: RunFolder, cache: Path, report: Reporter, request: GenerateRequest
) -> TextPieces:
    """Return the continuation of the prompt by the run's newest whole checkpoint, piece by piece."""
    hooks = plan.hooks()  # no preflight: the data is not needed, and may be gone
    run = folder.context(plan.seed, cache, report, NeverStop(), frozenset())
    checkpointer = hooks.checkpointer(run, folder.checkpoints, read_only=True)
    try:
        # The checkpoint first: it is quick to find out that there is none.
        checkpoint = checkpointer.newest()
        if checkpoint is None:
            raise NoCheckpointError(
                f"{folder.checkpoints} has no checkpoint that can be used",
                remedy=f"codex runs show {folder.path}",
            )
        tokenizer = load_tokenizer(hooks, run, folder.tokenizer)
        check_same_tokenizer(read_json(folder.data), plan, tokenizer)
        model = hooks.model(run, tokenizer, materialize=True)
        return hooks.generate(run, model, tokenizer, checkpointer.load(checkpoint), request)
    finally:
        checkpointer.close()
