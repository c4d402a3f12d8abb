"""From the JSON Schema of a section back to an attrs class: options are checked without the plugin that they are for.

One rule: `structure` says the same of the class that is made here as of the class that the schema was made of, but for
what that one checks by code of its own. A schema of any other form is refused: nothing of a file becomes code.
"""

from __future__ import annotations

import copy
import functools
import keyword
import operator
import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from codex_kernel.errors import PluginError, in_words
from codex_kernel.options import BOUNDS, HELP, ON_RESUME, check_bounds
from codex_kernel.section_schema import BOUND_WORDS, SCALARS

_BOUND_OF = {word: bound for bound, word in BOUND_WORDS.items()}
_MARK = "__codex_described__"
MAX_DEPTH = 100
"""So many mappings and lists within one another: what reads them calls itself for each, and Python ends that."""


def class_of(schema: Mapping[str, Any]) -> type:
    """Return an attrs class whose options are those of a section's schema; raise PluginError for any other schema."""
    try:
        if _is_deeper(schema, MAX_DEPTH):
            raise ValueError(f"they are nested more than {MAX_DEPTH} deep")  # noqa: TRY301 - one way out for all
        return _class(schema)
    except Exception as error:  # of what else may stand there attrs or typing may say anything
        raise PluginError(
            f"these options cannot be read from a schema: {in_words(error)}",
            remedy="codex plugins build-manifest makes it anew",
        ) from error


def is_described(cls: type) -> bool:
    """Say whether a class was made of a schema, so that it has the options of a plugin but none of its code."""
    return _MARK in vars(cls)


def _is_deeper(value: Any, limit: int) -> bool:
    """Say whether more mappings and lists than that lie within one another."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for one in level
            if isinstance(one, Mapping | list)
            for inner in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not level:
            return False
    return True


def _class(schema: Mapping[str, Any]) -> type:
    unknown = schema.keys() - {"type", "properties", "additionalProperties", "required", "description"}
    if unknown or schema["type"] != "object" or schema["additionalProperties"] is not False:
        raise ValueError(f"{sorted(unknown) or schema['type']} is not of a section")
    properties, required = schema["properties"], schema.get("required", [])
    if not set(required) <= set(properties):
        raise ValueError(f"{required} are required")
    fields = {name: _field(name, one, required=name in required) for name, one in properties.items()}
    body = {"__doc__": schema.get("description"), "__module__": __name__, _MARK: True}
    made: type = attrs.make_class("Section", fields, class_body=body, frozen=True, kw_only=True)
    return made


def _field(name: str, schema: Mapping[str, Any], *, required: bool) -> Any:
    """Return the field of one option."""
    # Python would take a name that is not normalised for another one.
    if (
        not name.isidentifier()
        or keyword.iskeyword(name)
        or name.startswith("_")
        or unicodedata.normalize("NFKC", name) != name
    ):
        raise ValueError(f"{name!r} cannot be the name of an option")
    rest = dict(schema)
    described = rest.pop("description", "")
    settings: dict[str, Any] = {} if required else {"default": _default(rest)}
    rest.pop("default", None)
    if "allOf" in rest:  # the bounds stand once more for the items
        rest = dict(rest["allOf"][0])
    bounds = {_BOUND_OF[word]: rest.pop(word) for word in list(rest) if word in _BOUND_OF}
    if any(type(limit) not in (int, float) for limit in bounds.values()):
        raise ValueError(f"{name!r} has the bounds {bounds}")
    return attrs.field(
        type=_type(rest),
        validator=check_bounds if bounds else None,
        metadata={HELP: described, BOUNDS: bounds, ON_RESUME: None},
        **settings,
    )


def _default(schema: Mapping[str, Any]) -> Any:
    """Return the default of an option that may be left out, as JSON; None stands for one that depends on others."""
    if "default" not in schema:
        return attrs.Factory(lambda _others: None, takes_self=True)
    value = schema["default"]
    if isinstance(value, dict | list):
        return attrs.Factory(functools.partial(copy.deepcopy, value))
    return value


def _type(schema: Mapping[str, Any]) -> Any:  # noqa: PLR0911 - one for each form
    """Return the type that the schema was made of, or one that is read as it is."""
    if not schema:
        return Any
    for scalar, known in SCALARS.items():
        if schema == known:
            return scalar
    match schema:
        case {"anyOf": [*choices], **rest} if choices and not rest:
            return functools.reduce(operator.or_, map(_type, choices))
        case {"enum": [*values], **rest} if values and not rest:
            return _literal(values)
        case {"type": "array", "prefixItems": [*items], "items": False, "minItems": int()}:
            return tuple[tuple(_type(item) for item in items)]  # type: ignore[misc] # of so many items
        case {"type": "array", "items": dict(items), **rest} if not rest:
            return list[_type(items)]  # type: ignore[misc] # known when it runs
        case {
            "type": "object",
            "propertyNames": dict(keys),
            "additionalProperties": dict(values),
            **rest,
        } if not rest:
            return dict[_type(keys), _type(values)]  # type: ignore[misc] # likewise
        case {"type": "object", "properties": dict()}:
            return _class(schema)
    raise ValueError(f"{dict(schema)!r:.80} is not of an option")


def _literal(values: list[Any]) -> Any:
    if any(type(value) not in (str, int, bool, type(None)) for value in values):
        raise ValueError(f"{values!r:.80} are not choices")
    return Literal[tuple(values)]
