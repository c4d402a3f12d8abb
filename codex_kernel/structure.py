"""From a tree of values to the attrs class of a manifest section, and back.

One rule: a value is taken only for exactly what the class declares, nothing is converted by guess, and every fault is
reported with its place, not only the first.

The declared types: `bool int float str None`, `Path`, `Secret`, `Literal`, unions, `list tuple Sequence`,
`dict Mapping`, attrs classes, `Sources`, and `Any`. cattrs finds the reader of a type; the readers are ours, because
those of cattrs turn 2.9 into 2 and "false" into True.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import attrs
from attrs import evolve, frozen

from codex_kernel.errors import InputError, PluginError, Problem
from codex_kernel.option_types import (
    LISTS,
    MAPPINGS,
    Option,
    bare,
    did_you_mean,
    form,
    in_words,
    members,
    options_of,
    takes,
)
from codex_kernel.options import SOURCE_NAME, Secret, Sources, check_bounds
from codex_kernel.yaml_reader import Node, child_path, shown

if typing.TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

FAILED: Any = object()  # what a reader returns in place of a value, after it has added a problem


@frozen
class Spot:
    """A value to be read, its path, and where its faults go."""

    node: Node
    path: str
    problems: list[Problem]

    def child(self, key: str | int, node: Node) -> Spot:
        """Return the spot of an item."""
        return Spot(node, child_path(self.path, key), self.problems)

    def fail(self, message: str, hint: str | None = None) -> Any:
        """Add a problem with the value."""
        self.problems.append(Problem(self.node.where, self.path, message, hint))
        return FAILED

    def expected(self, what: str, hint: str | None = None) -> Any:
        """Add the problem that the value is not what was expected."""
        return self.fail(f"expected {what}, got {shown(self.node)}", hint)


def structure(
    cls: type[T], node: Node, path: str, problems: list[Problem], *, known: Collection[str] = ()
) -> T | None:
    """Make an instance of an attrs class from a mapping; None after adding to `problems` all that is wrong with it.

    `known` are keys of the mapping that the caller reads itself. Raises PluginError where the class declares an option
    that no manifest could write.
    """
    made = _read_attrs(Spot(node, path, problems), cls, known)
    return None if made is FAILED else made


def unstructure(instance: Any) -> Any:
    """Return what a manifest would write for the instance: JSON values, secrets as references, state left out."""
    if attrs.has(instance.__class__) and not isinstance(instance, Secret):
        return {
            option.name: unstructure(getattr(instance, option.name))
            for option in options_of(instance.__class__)
        }
    if isinstance(instance, Mapping):
        return {unstructure(key): unstructure(value) for key, value in instance.items()}
    if isinstance(instance, list | tuple):
        return [unstructure(item) for item in instance]
    return str(instance) if isinstance(instance, Secret | Path) else instance


# ── attrs classes ─────────────────────────────────────────────────────────────────────────────────────────────────


def _read_attrs(spot: Spot, cls: Any, known: Collection[str] = ()) -> Any:
    """Read a mapping as an attrs class; add the problems of all its keys, or else those of the whole."""
    if not isinstance(spot.node.value, dict):
        return spot.expected("a mapping")
    options: dict[str, Option] = {option.name: option for option in options_of(cls)}
    before = len(spot.problems)
    values: dict[str, Any] = {}
    for key, node in spot.node.value.items():
        child = spot.child(key, node)
        if key in options:
            values[key] = _read_option(child, cls, options[key])
        elif key not in known:
            _refuse_key(child, key, [*options, *known], options.values())
    for name, option in options.items():
        if option.required and name not in spot.node.value:
            message = f"missing required option {name!r}: expected {in_words(option.type)}"
            spot.problems.append(
                Problem(spot.node.place, child_path(spot.path, name), message, option.help or None)
            )
    if len(spot.problems) == before:
        return _make(spot, cls, values)
    _refuse_values(spot, cls, {key: value for key, value in values.items() if value is not FAILED})
    return FAILED


def _read_option(spot: Spot, cls: Any, option: Option) -> Any:
    """Read one option and check its bounds at once, so that a fault in another does not hide this one."""
    value = _read(spot, option.type)
    if value is not FAILED and option.bounds:
        try:
            check_bounds(None, attrs.fields_dict(cls)[option.name], value)
        except ValueError as error:
            return spot.fail(str(error))
    return value


def _refuse_key(spot: Spot, key: str, names: Sequence[str], options: Iterable[Option]) -> None:
    homes = [
        option.name
        for option in options
        for member in members(option.type)
        if attrs.has(member) and key in {nested.name for nested in options_of(member)}
    ]
    hint = f"it belongs under {homes[0]!r}" if homes else did_you_mean(key, names)
    if hint is None:
        hint = f"known here: {', '.join(sorted(names))}" if names else "there are no options here"
    spot.problems.append(Problem(spot.node.place, spot.path, f"unknown key {key!r}", hint))


def _make(spot: Spot, cls: Any, values: dict[str, Any]) -> Any:
    """Call the class; what its own validators refuse is a problem of the option they stand at."""
    try:
        return cls(**values)
    except InputError as error:
        return spot.fail(error.message, error.remedy)
    except (ValueError, TypeError) as error:
        if _refuse_values(spot, cls, values):
            return FAILED
        if isinstance(error, TypeError):
            raise  # the class itself is at fault, not the manifest
        return spot.fail(_text(error))


def _refuse_values(spot: Spot, cls: Any, values: Mapping[str, Any]) -> bool:
    """Add a problem for each value that its validator refuses: attrs stops at the first. Say whether there was one."""
    nodes: Any = spot.node.value
    instance = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    before = len(spot.problems)
    for attribute in attrs.fields(cls):
        if attribute.validator is None or attribute.converter is not None or attribute.name not in values:
            continue
        try:
            attribute.validator(instance, attribute, values[attribute.name])
        except AttributeError:
            continue  # it looks at an option that has no value here
        except (ValueError, TypeError) as error:
            spot.child(attribute.name, nodes[attribute.name]).fail(_text(error))
    return len(spot.problems) > before


def _text(error: Exception) -> str:
    """Return an exception's words: attrs' own validators give more arguments than the text."""
    return str(error.args[0]) if error.args else type(error).__name__


# ── readers of values ─────────────────────────────────────────────────────────────────────────────────────────────


def _read(spot: Spot, declared: Any) -> Any:
    declared = bare(declared)
    return _converter().get_structure_hook(declared)(spot, declared)


@functools.cache
def _converter() -> Converter:
    """Make the converter whose structure hooks take a Spot; of the predicates the last that holds decides."""
    from cattrs import Converter

    converter = Converter()
    readers: list[tuple[Callable[[Any], bool], Callable[[Spot, Any], Any]]] = [
        (lambda _: True, _unsupported),
        (attrs.has, _read_attrs),
        (lambda declared: declared in (Any, object), _read_any),
        (lambda declared: form(declared) in LISTS, _read_list),
        (lambda declared: form(declared) in MAPPINGS, _read_mapping),
        (lambda declared: form(declared) is Literal, _read_literal),
        (lambda declared: form(declared) is Union, _read_union),
    ]
    for predicate, reader in readers:
        converter.register_structure_hook_func(predicate, reader)
    for scalar in _SCALARS:  # for a class, this comes before any predicate
        converter.register_structure_hook(scalar, _read_scalar)
    converter.register_structure_hook(Sources, _read_sources)
    return converter


def _unsupported(spot: Spot, declared: Any) -> Any:
    raise PluginError(
        f"{spot.path}: an option cannot be declared as {declared!r}",
        remedy="declare it as bool, int, float, str, Path, Secret, Literal, list, dict, or an attrs class",
    )


def _read_scalar(spot: Spot, declared: Any) -> Any:
    return _SCALARS.get(declared, _unsupported)(
        spot, declared
    )  # a subclass, such as an IntEnum, is not its parent


def _read_bool(spot: Spot, _declared: Any) -> Any:
    if isinstance(spot.node.value, bool):
        return spot.node.value
    meant = _BOOL_WORDS.get(str(spot.node.value).lower())
    return spot.expected("true or false", f"write {meant}, without quotes" if meant else None)


_BOOL_WORDS = {
    **dict.fromkeys(("true", "yes", "on"), "true"),
    **dict.fromkeys(("false", "no", "off"), "false"),
}


def _read_int(spot: Spot, _declared: Any) -> Any:
    value = spot.node.value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return spot.expected("an integer", f"write {int(value)}")
    return spot.expected("an integer", _unquoted(value, int))


def _read_float(spot: Spot, _declared: Any) -> Any:
    value = spot.node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return spot.expected("a float", _unquoted(value, float))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else spot.expected("a finite float")


def _unquoted(value: object, number: type) -> str | None:
    """Return the hint for text that would be a number if it stood without quotes or underscores."""
    try:
        text = str(number(value)) if isinstance(value, str) else "nan"
    except ValueError:
        return None
    return None if text.strip("-") in {"nan", "inf"} else f"write {text}, without quotes"


def _read_str(spot: Spot, _declared: Any) -> Any:
    value = spot.node.value
    if not isinstance(value, str):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return spot.expected("a string", f"put it in quotes: '{value}'" if is_number else None)
    if "${" in value:
        return spot.fail(
            f"nothing is filled in for ${{…}}, got {shown(spot.node)}",
            "only an option that holds a secret may name an environment variable, as ${env:NAME}",
        )
    return value


def _read_path(spot: Spot, _declared: Any) -> Any:
    if not isinstance(spot.node.value, str):
        return spot.expected("a path")
    text = _read_str(spot, str)
    return text if text is FAILED else Path(text)


def _read_secret(spot: Spot, _declared: Any) -> Any:
    try:
        return Secret.parse(spot.node.value if isinstance(spot.node.value, str) else "")
    except ValueError as error:
        return spot.fail(str(error))  # without the value: it may be the secret itself


def _read_none(spot: Spot, _declared: Any) -> Any:
    return None if spot.node.value is None else spot.expected("null")


_SCALARS: dict[Any, Callable[[Spot, Any], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    Path: _read_path,
    Secret: _read_secret,
    type(None): _read_none,
}


def _read_any(spot: Spot, declared: Any) -> Any:
    """Read data of any form; only references, and numbers that JSON does not have, are refused."""
    match spot.node.value:
        case dict():
            return _read_mapping(spot, dict[str, Any])
        case list():
            return _read_list(spot, list[Any])
        case str():
            return _read_str(spot, declared)
        case float():
            return _read_float(spot, declared)
        case value:
            return value


def _read_list(spot: Spot, declared: Any) -> Any:
    nodes = spot.node.value
    if not isinstance(nodes, list):
        return spot.expected("a list")
    arguments = typing.get_args(declared) or (Any, ...)
    if form(declared) is not tuple or arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(nodes)
    if len(arguments) != len(nodes):
        return spot.fail(f"expected a list of {len(arguments)} items, got {len(nodes)}")
    items = [_read(spot.child(i, node), arguments[i]) for i, node in enumerate(nodes)]
    if any(item is FAILED for item in items):
        return FAILED
    return items if form(declared) is list else tuple(items)


def _read_mapping(spot: Spot, declared: Any) -> Any:
    if not isinstance(spot.node.value, dict):
        return spot.expected("a mapping")
    key_type, value_type = typing.get_args(declared) or (str, Any)
    pairs = [
        (_read(spot.child(key, Node(key, node.place)), key_type), _read(spot.child(key, node), value_type))
        for key, node in spot.node.value.items()
    ]
    return FAILED if any(part is FAILED for pair in pairs for part in pair) else dict(pairs)


def _read_sources(spot: Spot, _declared: Any) -> Any:
    """Read the names of the sections; what is in these is read with their plugins."""
    if not isinstance(spot.node.value, dict):
        return spot.expected("a mapping of names to sections of datasets")
    if not spot.node.value:
        return spot.fail("expected at least one source, got none")
    wanted = "a letter, then up to 39 letters, digits, dashes and underscores"
    for name, node in spot.node.value.items():
        if not SOURCE_NAME.fullmatch(name):
            Spot(Node(name, node.place), spot.path, spot.problems).expected(f"the name of a source: {wanted}")
    return Sources(tuple(spot.node.value))


def _read_literal(spot: Spot, declared: Any) -> Any:
    choices, value = typing.get_args(declared), spot.node.value
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    if isinstance(value, str):
        hint = did_you_mean(value, [choice for choice in choices if isinstance(choice, str)])
    else:
        hint = f"put it in quotes: '{value}'" if str(value) in choices else None
    return spot.expected(in_words(declared), hint)


def _read_union(spot: Spot, declared: Any) -> Any:
    """Read the first member of a union that takes the value, an exact type before others.

    Where none does: tell what is wrong with it for the member of its form, or that no member has its form.
    """
    attempts: list[tuple[bool, Spot]] = []
    for member in sorted(members(declared), key=lambda member: member is not type(spot.node.value)):
        attempt = evolve(spot, problems=[])
        value = _read(attempt, member)
        if value is not FAILED:
            return value
        attempts.append((takes(member, spot.node.value), attempt))
    near = [attempt for fits, attempt in attempts if fits]
    if near:
        spot.problems.extend(min(near, key=lambda attempt: len(attempt.problems)).problems)
        return FAILED
    hints = (problem.hint for _, attempt in attempts for problem in attempt.problems if problem.hint)
    return spot.expected(in_words(declared), next(hints, None))
