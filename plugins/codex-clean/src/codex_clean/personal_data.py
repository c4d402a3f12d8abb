"""The cleaning step `personal-data`: addresses, numbers and accounts of people do not get into the training data.

One rule: nothing that was found is written anywhere.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from codex_clean.scrub import ACTION_HELP, ALLOW_HELP, Scrubber, chosen, compiled_allow
from codex_kernel import RunContext, hookimpl, option


@frozen
class PersonalData:
    """Find e-mail addresses, phone, social security and card numbers, IBANs and public IP addresses.

    What cannot be a person's is left alone: reserved domains, private and documentation networks, version numbers,
    digits with a wrong checksum. Names and postal addresses are not looked for.
    """

    action: Literal["redact", "drop", "block"] = option("redact", help=ACTION_HELP)
    disable: list[str] = option(factory=list, help="Rules not to use, such as ipv4.")
    allow: list[str] = option(factory=list, help=ALLOW_HELP)

    def __attrs_post_init__(self) -> None:
        """Raise ValueError for a name that no rule has, and for an expression that is none."""
        from codex_clean.personal_rules import NAMES

        chosen(self.disable, NAMES, "disable")
        compiled_allow(self.allow)

    @hookimpl
    def codex_cleaner(self, run: RunContext) -> Scrubber:  # noqa: ARG002 - the hook's first argument
        """Begin a pass with the rules that are on."""
        from importlib.metadata import version

        from codex_clean.personal_rules import RULES

        rules = [rule for rule in RULES if rule.name not in self.disable]
        return Scrubber(
            "personal-data",
            rules,
            self.action,
            compiled_allow(self.allow),
            f"codex-clean-{version('codex-clean')}",
        )
