"""How a plugin class declares an option of its manifest section, and the types that options alone have.

One rule: everything that a person or an editor needs to know of an option (its help, bounds, unit) is in the class.
"""

from __future__ import annotations

import os
import re
from typing import Any, Literal

import attrs
from attrs import NOTHING, frozen

HELP = "codex.help"
BOUNDS = "codex.bounds"
ON_RESUME = "codex.on_resume"

SOURCE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
"""What a source of a dataset may be called: it is part of the ids of its documents and of keys with dots."""

OnResume = Literal["harmless", "curve", "refused"]
"""What a change of an option means to a run that is resumed: nothing to its curve, another curve, another run."""

REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def option(  # noqa: PLR0913 - the bounds are JSON Schema's own words, each a keyword
    default: Any = NOTHING,
    *,
    help: str,  # noqa: A002 - the field's word, as in click
    factory: Any = None,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    on_resume: OnResume | None = None,
) -> Any:
    """Declare an option: a field of a plugin's attrs class.

    Without `default` and `factory` the option is required. `gt`, `ge`, `lt`, `le` bound a number, or each number of a
    list; `help` is one sentence with the unit. Both reach the error messages and `codex schema`. `on_resume` says what
    a change of the option means to a run that is resumed: `harmless` changes neither losses nor weights, `curve` needs
    the user's `--allow-change`, `refused` makes it another run; None: what holds for the kind of plugin (`curve` for
    models, adapters and trainers, `harmless` for all others: data and tokenizer are compared by what they give).
    """
    bounds = {
        name: value for name, value in (("gt", gt), ("ge", ge), ("lt", lt), ("le", le)) if value is not None
    }
    settings: dict[str, Any] = {"metadata": {HELP: help, BOUNDS: bounds, ON_RESUME: on_resume}}
    if factory is not None:
        settings["factory"] = factory
    elif default is not NOTHING:
        settings["default"] = default
    return attrs.field(validator=check_bounds if bounds else None, **settings)


_WORDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def check_bounds(_instance: object, attribute: Any, value: Any) -> None:
    """Raise ValueError where a number is out of the option's bounds; None is within any bounds."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(number, int | float):
            continue
        bounds = attribute.metadata[BOUNDS]
        inside = (
            ("gt" not in bounds or number > bounds["gt"])
            and ("ge" not in bounds or number >= bounds["ge"])
            and ("lt" not in bounds or number < bounds["lt"])
            and ("le" not in bounds or number <= bounds["le"])
        )
        if not inside:
            wanted = " and ".join(f"{_WORDS[name]} {limit}" for name, limit in bounds.items())
            raise ValueError(f"expected a number {wanted}, got {number}")


@frozen
class Secret:
    """A value that the manifest names as `${env:NAME}` and that is read only when it is used.

    Its text and repr are the reference, so it can be logged, compared and written to the run folder.
    """

    variable: str

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Read `${env:NAME}`; raise ValueError for anything else, a secret in plain text above all."""
        match = REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(
                "expected a reference to an environment variable, ${env:NAME}, never the secret itself"
            )
        return cls(match.group(1))

    def reveal(self) -> str:
        """Return the secret; raise KeyError where the environment does not have it."""
        return os.environ[self.variable]

    def __str__(self) -> str:
        return f"${{env:{self.variable}}}"


@frozen
class Sources:
    """The type of the option `sources` of a dataset that is made of others: their sections, by name.

    The kernel reads each section like any other, and gives the plugin the documents as `sources` of its hook
    `codex_dataset`. The option itself holds the names alone, in the order of the manifest.
    """

    names: tuple[str, ...]
