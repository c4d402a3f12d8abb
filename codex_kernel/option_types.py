"""The options of a plugin class and the types they are declared with.

One rule: what a manifest may write (structure) and what an editor is told (schema) are read from the same declaration.
"""

from __future__ import annotations

import functools
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Union

import attrs
from attrs import NOTHING, frozen

from codex_kernel.errors import PluginError
from codex_kernel.options import BOUNDS, HELP, ON_RESUME, OnResume, Secret, Sources
from codex_kernel.yaml_scalars import written


@frozen
class Option:
    """One option of an attrs class, its type resolved.

    `default` is NOTHING where the option is required; `on_resume` None: what holds for the kind of plugin.
    """

    name: str
    type: Any
    default: Any
    help: str
    bounds: Mapping[str, float]
    on_resume: OnResume | None

    @property
    def required(self) -> bool:
        """Whether a section must have it."""
        return self.default is NOTHING


@functools.cache
def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options of a class: its fields, but those of state (`init=False`, or with a leading underscore).

    Raises PluginError where a type is missing or cannot be resolved.
    """
    return tuple(
        Option(
            name=attribute.name,
            type=_resolve_type(cls, attribute),
            default=attribute.default,
            help=attribute.metadata.get(HELP, ""),
            bounds=attribute.metadata.get(BOUNDS, {}),
            on_resume=attribute.metadata.get(ON_RESUME),
        )
        for attribute in attrs.fields(cls)
        if attribute.init and not attribute.name.startswith("_")
    )


def is_made_of_sources(cls: type) -> bool:
    """Say whether a dataset's class is made of others; raise PluginError where it declares so under another name."""
    names = [option.name for option in options_of(cls) if bare(option.type) is Sources]
    if names not in ([], ["sources"]):
        raise PluginError(
            f"{cls.__name__} declares {', '.join(names)} as Sources",
            remedy="call the one such option 'sources'",
        )
    return bool(names)


def _resolve_type(cls: type, attribute: Any) -> Any:
    """Evaluate the annotation of one field.

    One by one, because fields of state may be annotated with what is imported for type checkers only.
    """
    name = f"{cls.__name__}.{attribute.name}"
    if attribute.type is None:
        raise PluginError(f"{name} has no type", remedy="annotate the option")
    owner = next(c for c in cls.__mro__ if attrs.has(c) and _declares(c, attribute.name))

    def holder() -> None:
        """Carry the annotation to the function that evaluates annotations."""

    holder.__annotations__ = {"option": attribute.type}
    names = vars(sys.modules[owner.__module__])
    try:
        return typing.get_type_hints(holder, names, dict(vars(owner)), include_extras=True)["option"]
    except NameError as error:
        raise PluginError(
            f"{name}: its type {attribute.type!r} cannot be resolved: {error}",
            remedy="import the type where the module is imported, not under TYPE_CHECKING",
        ) from error


def _declares(cls: type, name: str) -> bool:
    attribute: Any = attrs.fields_dict(cls).get(name)  # attrs' types lack `inherited`
    return bool(attribute is not None and not attribute.inherited)


def bare(declared: Any) -> Any:
    """Return the type behind `Annotated`, `NewType` and `type` aliases."""
    while True:
        if typing.get_origin(declared) is Annotated or isinstance(declared, NewType):
            declared = declared.__origin__ if not isinstance(declared, NewType) else declared.__supertype__
        elif type(declared).__name__ == "TypeAliasType":  # Python 3.12 and newer
            declared = declared.__value__
        else:
            return declared


def form(declared: Any) -> Any:
    """Return what decides how a bare type is read: `list` for `list[int]`, Union for `int | None`, else the type."""
    origin = typing.get_origin(declared)
    return Union if origin is types.UnionType else origin or declared


def members(declared: Any) -> list[Any]:
    """Return the bare members of a union, one by one; of any other type, the type itself."""
    declared = bare(declared)
    if form(declared) is not Union:
        return [declared]
    return [part for argument in typing.get_args(declared) for part in members(argument)]


LISTS = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


def takes(declared: Any, value: object) -> bool:
    """Say whether a value has the form that a bare type wants, so that a fault in it is worth telling."""
    kind = form(declared)
    if isinstance(value, dict):
        return kind in MAPPINGS or attrs.has(declared) or declared in (Any, object)
    if isinstance(value, list):
        return kind in LISTS or declared in (Any, object)
    if declared is float:
        return type(value) in (int, float)
    if declared is Secret:
        return value is not None  # even a number: it may be a secret, which no other message must show
    return declared is type(value) or (declared is Path and isinstance(value, str))


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a float",
    str: "a string",
    Path: "a path",
    Secret: "a reference ${env:NAME}",
    type(None): "null",
    Any: "a value",
    object: "a value",
}


def in_words(declared: Any) -> str:
    """Return what a type expects, in plain English."""
    words = [_in_words(member) for member in members(declared)]
    return " or ".join(dict.fromkeys(words))


def _in_words(member: Any) -> str:
    if form(member) is Literal:
        choices = [written(choice) for choice in typing.get_args(member)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return _WORDS.get(member) or ("a list" if form(member) in LISTS else "a mapping")


def did_you_mean(word: str, names: Iterable[str]) -> str | None:
    """Return the question for the nearest of the names; None where none is near."""
    import difflib

    by_form = {_squeezed(name): name for name in names}
    close = difflib.get_close_matches(_squeezed(word), by_form, n=1)
    return f"did you mean {by_form[close[0]]!r}?" if close else None


def _squeezed(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
