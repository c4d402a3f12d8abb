"""What a plain scalar means by the core schema of YAML 1.2 (section 10.3.2 of its specification).

One rule: text that two readers could take for different numbers is refused, with both ways to write it.
"""

from __future__ import annotations

import math
import re

MAX_DIGITS = 40

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class ScalarError(ValueError):
    """A number that cannot be taken at its word; `hint` says how to write what is meant."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def resolve(text: str) -> bool | int | float | str | None:
    """Return the value of a scalar that stands without quotes; raise ScalarError where it is a number out of bounds."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _float(text)
    if match := _NOT_FINITE.fullmatch(text):
        return math.nan if match[3] else float(f"{match[1]}inf")
    return text


def written(value: object) -> str:
    """Return a scalar as YAML writes it, text in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    if len(digits) > MAX_DIGITS:
        raise ScalarError(
            f"an integer of {len(digits)} digits, at most {MAX_DIGITS} are read", "put text in quotes"
        )
    _refuse_leading_zero(text)
    return int(text, 0)


def _float(text: str) -> float:
    _refuse_leading_zero(text)
    value = float(text)
    mantissa = re.split("[eE]", text)[0]
    if math.isinf(value) or (value == 0 and mantissa.strip("+-.0")):
        size = "large" if value else "small"
        raise ScalarError(f"the number {_short(text)} is too {size} for a float", "put text in quotes")
    return value


def _refuse_leading_zero(text: str) -> None:
    """YAML 1.1 reads 012 as 10, YAML 1.2 as 12."""
    digits = text.lstrip("+-")
    if re.match("0[0-9]", digits):
        sign = "-" if text.startswith("-") else ""
        number = sign + (digits.lstrip("0") or "0")
        number = sign + "0" + number.removeprefix(sign) if number.removeprefix(sign)[0] in ".eE" else number
        raise ScalarError(f"{_short(text)} has a leading zero", f"write {_short(number)} or '{_short(text)}'")


def _short(text: str) -> str:
    return text if len(text) <= MAX_DIGITS else f"{text[: MAX_DIGITS - 1]}…"
