"""What a distribution says of its plugins is read from its file, checked, and as good as their classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCALARS, classes_with_values, tree

from codex_kernel.errors import Problem
from codex_kernel.options import Secret, option
from codex_kernel.schema_types import class_of
from codex_kernel.section_schema import section_schema
from codex_kernel.structure import structure


def through_json(schema: Any) -> Any:
    """Return the schema as a file gives it back."""
    return json.loads(json.dumps(schema, allow_nan=False))


def problems_of(cls: type, value: Any) -> list[Problem]:
    """Return what is wrong with a section."""
    problems: list[Problem] = []
    structure(cls, tree(value), "$.trainer", problems)
    return problems


@frozen
class Inner:
    """A part of it."""

    folder: Path = option(help="Where it is kept.")
    depth: int = option(2, ge=1, help="Levels.")


@frozen
class Everything:
    """Every form that an option has."""

    steps: int = option(help="Optimizer steps.", ge=1, le=10)
    lr: float | None = option(1e-3, gt=0, lt=1, help="Learning rate.")
    betas: tuple[float, float] = option((0.9, 0.95), ge=0, lt=1, help="Decays.")
    sizes: list[int] | int = option(1, ge=1, help="One, or several.")
    mode: Literal["fast", "slow", 3] = "fast"
    path: Path | None = None
    text: Path | str = "a"
    token: Secret | None = None
    flag: bool = False
    inner: Inner = option(factory=lambda: Inner(folder=Path("x")), help="The part.")
    parts: dict[str, Inner] | list[Inner] = option(factory=dict, help="More of them.")
    names: dict[str, int] = attrs.field(factory=dict)
    anything: Any = None
    warmup: int = attrs.field(default=attrs.Factory(lambda self: self.steps, takes_self=True))


NAMES = st.sampled_from([field.name for field in attrs.fields(Everything)] + ["stesp", "depth", "x"])
PARTS = st.fixed_dictionaries({}, optional={"depth": SCALARS, "folder": SCALARS, "dept": SCALARS})
ANYTHING = st.recursive(
    SCALARS | PARTS | st.floats(0, 2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(NAMES, ANYTHING, max_size=6))
def test_a_class_made_of_a_schema_finds_what_the_class_itself_finds(value):
    """Problem for problem, with path, message and hint, after the way through a file."""
    made = class_of(through_json(section_schema(Everything)))
    assert problems_of(made, value) == problems_of(Everything, value)


@given(classes_with_values())
def test_any_class_of_options_is_had_again_from_its_schema(pair):
    """Over generated classes and sections: the same paths and messages, and the same schema once more."""
    cls, value = pair
    schema = section_schema(cls)
    made = class_of(through_json(schema))
    assert [problem[:3] for problem in problems_of(made, value)] == [
        problem[:3] for problem in problems_of(cls, value)
    ]
    assert section_schema(made) == through_json(schema)
