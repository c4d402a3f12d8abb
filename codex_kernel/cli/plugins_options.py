"""The options of a plugin as a table: type, default, bounds and meaning, from the JSON Schema of its section.

One rule: what is told of an option here is what its section is checked by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import attrs

from codex_kernel.option_types import Option, in_words, members, options_of
from codex_kernel.options import Secret, Sources
from codex_kernel.schema_types import class_of

_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


class Row(NamedTuple):
    """An option in words; the name of one within another is `outer.inner`."""

    name: str
    type: str
    default: str
    bounds: str
    meaning: str


def rows(schema: Mapping[str, Any]) -> list[Row]:
    """Return the options that a section's schema has, each followed by those within it; raise PluginError."""
    return list(_rows(class_of(schema), "")) if schema else []


def _rows(cls: type, prefix: str) -> Iterator[Row]:
    for option in options_of(cls):
        yield Row(
            f"{prefix}{option.name}",
            _type(option),
            _default(option),
            ", ".join(f"{_BOUNDS[name]} {limit:.12g}" for name, limit in option.bounds.items()),
            option.help,
        )
        for member in members(option.type):
            if attrs.has(member) and member not in {Secret, Sources}:
                yield from _rows(member, f"{prefix}{option.name}.")


def _type(option: Option) -> str:
    if option.type is Sources:
        return "datasets by name"
    return in_words(option.type)


def _default(option: Option) -> str:
    """Return the default as a manifest writes it."""
    if option.required:
        return "required"
    default: Any = option.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type] # attrs types Factory as a function
        if default.takes_self:
            return "depends"
        default = default.factory()
    return json.dumps(default, ensure_ascii=False)
