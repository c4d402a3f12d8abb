"""The cleaning step `secrets`: keys, tokens and passwords do not get into the training data.

One rule: nothing that was found is written anywhere, and nothing is sent anywhere.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from codex_clean.installed import missing
from codex_clean.scrub import ACTION_HELP, ALLOW_HELP, Scrubber, chosen, compiled_allow
from codex_kernel import RunContext, hookimpl, option


@frozen
class Secrets:
    """Find keys, tokens and passwords by detect-secrets' detectors and rules of our own, in texts, prompts and turns.

    The detectors that guess (`keyword`, `base64-high-entropy`, `hex-high-entropy`) are used only where `enable` names
    them: in source code most of what they find is no secret.
    """

    action: Literal["redact", "drop", "block"] = option("redact", help=ACTION_HELP)
    enable: list[str] = option(
        factory=list, help="Rules to use besides the default ones, such as keyword or base64-high-entropy."
    )
    disable: list[str] = option(factory=list, help="Rules not to use, such as json-web-token.")
    allow: list[str] = option(factory=list, help=ALLOW_HELP)

    def __attrs_post_init__(self) -> None:
        """Raise ValueError for a name that no rule has, and for an expression that is none."""
        from codex_clean.secret_rules import NAMES

        chosen(self.enable, NAMES, "enable")
        chosen(self.disable, NAMES, "disable")
        both = sorted({*self.enable} & {*self.disable})
        if both:
            raise ValueError(f"expected each rule in enable or in disable, got {', '.join(both)} in both")
        compiled_allow(self.allow)

    @hookimpl
    def codex_preflight(self) -> list[str]:
        """Say when detect-secrets is not installed."""
        return missing("detect-secrets")

    @hookimpl
    def codex_cleaner(self, run: RunContext) -> Scrubber:  # noqa: ARG002 - the hook's first argument
        """Begin a pass with the rules that are on."""
        from importlib.metadata import version

        from codex_clean.secret_rules import NAMES, OFF_BY_DEFAULT, rules

        names = {*NAMES} - {*OFF_BY_DEFAULT} | {*self.enable}
        return Scrubber(
            "secrets",
            rules(frozenset(names - {*self.disable})),
            self.action,
            compiled_allow(self.allow),
            f"detect-secrets-{version('detect-secrets')}",
        )
