"""The version of the hooks: what plugins are made for, and which of them this kernel still carries.

One rule: within a major version the hooks only grow. A plugin made for (1, 0) runs on (1, 4) as it is; one made for
(1, 5) may ask for a hook or an argument that is not there, so it is not loaded.

    1.0   dataset, tokenizer, model, adapter, trainer, checkpointer, logger, metric; codex_preflight, codex_generate
    1.1   codex_cleaner, codex_mixing and `sources` of codex_dataset, codex_shorten, commands; `codex_capabilities`
"""

from __future__ import annotations

from typing import Literal

Api = tuple[int, int]

PLUGIN_API: Api = (1, 1)
"""What this kernel has. The second number grows with every addition, the first with every removal."""
OLDEST_API: Api = (1, 0)
"""The oldest that this kernel still carries."""
CURRENT_SINCE: Api = (1, 0)
"""From here on nothing that a plugin may use is on its way out; older ones work, and are told to renew themselves."""

Verdict = Literal["ok", "older", "incompatible"]


def judge_api(
    wanted: Api, *, newest: Api | None = None, oldest: Api | None = None, current_since: Api | None = None
) -> Verdict:
    """Say whether a plugin made for the API `wanted` works here: yes, yes but it is old, or no.

    The other arguments stand for this kernel's own constants.
    """
    if not (oldest or OLDEST_API) <= wanted <= (newest or PLUGIN_API):
        return "incompatible"
    return "ok" if wanted >= (current_since or CURRENT_SINCE) else "older"


def in_words(api: Api) -> str:
    """Return a version of the API as people write it: `1.1`."""
    return f"{api[0]}.{api[1]}"
