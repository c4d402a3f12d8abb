"""Hypothesis strategies and builders that several test modules share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
from hypothesis import strategies as st

from codex_kernel.options import Secret, option
from codex_kernel.yaml_reader import Node


def tree(value: Any, where: str = "test.yaml:1:1") -> Node:
    """Return the node of a plain value."""
    if isinstance(value, dict):
        return Node({key: tree(child, where) for key, child in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([tree(item, where) for item in value], where)
    return Node(value, where)


WORDS = st.sampled_from(["", "a", "no", "1", "1e-4", "fast", "true", "${env:A}", "${x}", "a b", "ü"])
NAMES = st.sampled_from(["lr", "steps", "path", "mode", "a", "b", "c"])
# JSON has one kind of number: 2.0 is left out where a schema is to tell it from 2.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
    | WORDS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)

# A type, with a strategy for values that it takes.
_LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (bool, st.booleans()),
    (int, st.integers(-(2**70), 2**70)),
    (
        float,
        st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not x.is_integer())
        | st.integers(-9, 9),
    ),
    (str, WORDS.filter(lambda word: "${" not in word)),
    (Path, st.sampled_from(["a", "a/b", "../c"])),
    (Secret, st.sampled_from(["${env:A}", "${env:HF_TOKEN}"])),
    (Literal["fast", "slow"], st.sampled_from(["fast", "slow"])),
    (Literal["a", 1] | None, st.sampled_from(["a", 1, None])),
    (Any, st.integers(-9, 9) | st.lists(st.booleans())),
]


@st.composite
def typed(draw: st.DrawFn, depth: int = 2) -> tuple[Any, st.SearchStrategy[Any]]:
    """Draw a type that an option may be declared with, and a strategy for its values."""
    shape = draw(st.sampled_from(["leaf", "leaf", "list", "tuple", "pair", "dict", "none", "union", "class"]))
    if depth == 0 or shape == "leaf":
        return draw(st.sampled_from(_LEAVES))
    inner, values = draw(typed(depth=depth - 1))
    other, other_values = draw(typed(depth=depth - 1))
    if shape == "class":
        cls, sections = draw(section_classes(depth=depth - 1))
        return cls, sections
    return {
        "list": (list[inner], st.lists(values, max_size=3)),
        "tuple": (tuple[inner, ...], st.lists(values, max_size=3)),
        "pair": (tuple[inner, other], st.tuples(values, other_values).map(list)),
        "dict": (dict[str, inner], st.dictionaries(NAMES, values, max_size=3)),
        "none": (inner | None, st.none() | values),
        "union": (inner, values) if Any in (inner, other) else (inner | other, values | other_values),
    }[shape]


@st.composite
def section_classes(draw: st.DrawFn, depth: int = 2) -> tuple[type, st.SearchStrategy[dict[str, Any]]]:
    """Draw an attrs class of options, and a strategy for sections that it takes."""
    annotations: dict[str, Any] = {}
    members: dict[str, Any] = {}
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        annotations[name], values = draw(typed(depth=depth))
        if draw(st.booleans()):
            members[name] = option(help="An option.")
            required[name] = values
        else:
            members[name] = option(None, help="An option.")
            annotations[name] = Any if annotations[name] is Any else annotations[name] | None
            optional[name] = values
    cls = attrs.frozen(kw_only=True)(type("Section", (), {"__annotations__": annotations, **members}))
    return cls, st.fixed_dictionaries(required, optional=optional)


@st.composite
def classes_with_values(draw: st.DrawFn) -> tuple[type, Any]:
    """Draw an attrs class, and a section that it takes, or one that is a little or wholly wrong."""
    cls, sections = draw(section_classes())
    value = draw(sections | st.dictionaries(NAMES, VALUES, max_size=3) | VALUES)
    if isinstance(value, dict) and draw(st.booleans()):
        value = {**value, draw(NAMES): draw(VALUES)}
    return cls, value
