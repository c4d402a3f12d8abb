"""What counts as metrics: names and real numbers.

One rule: a number of any library (numpy, torch) becomes a float here, and anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def as_numbers(values: object, taken: Iterable[str] = ()) -> dict[str, float]:
    """Return metrics as name → float; raise TypeError or ValueError where they are none, or a name is taken."""
    if not isinstance(values, Mapping):
        raise TypeError(f"expected metrics by their names, got {type(values).__name__}")
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise TypeError(f"expected the name of a metric, got {name!r}")
        if name in taken:
            raise ValueError(f"a metric cannot be named {name}: that name is taken")
        if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
            raise TypeError(f"expected a number for the metric {name!r}, got {value!r}")
        numbers[name] = float(value)
    return numbers
