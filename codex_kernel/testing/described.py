"""What the test kit says of itself: its contracts, their methods and checks, and its fixtures, as parts of a page.

    python -m codex_kernel.testing.described docs/reference/testing.md    rewrites the parts of the page

One rule: every sentence is a docstring of the kit.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codex_kernel.testing as kit

ORDER = (
    "PluginContract",
    "SpawnedContract",
    "DatasetContract",
    "RecordDatasetContract",
    "CleanerContract",
    "TokenizerContract",
    "ChatTokenizerContract",
    "ModelContract",
    "AdapterContract",
    "TrainerContract",
    "CheckpointerContract",
    "CheckpointArchiveContract",
    "LoggerContract",
    "MetricContract",
    "CommandContract",
    "PluginManifestContract",
)
"""The contracts in the order of a run."""


def checks_of(contract: type) -> list[str]:
    """Return the names of all checks of a contract, those of the contracts that it builds on among them."""
    return sorted(name for name in dir(contract) if name.startswith("test_"))


def contracts() -> str:
    """Return a section for each contract: what it is for, what a subclass gives, and each check in a sentence."""
    return "\n\n".join(_contract(getattr(kit, name)) for name in ORDER)


def fixtures() -> str:
    """Return an entry for each fixture of the pytest plugin."""
    from codex_kernel.testing import pytest_plugin

    return "\n\n".join(_fixture(name, value) for name, value in _defined(pytest_plugin))


def _defined(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fixtures of a module, in its order."""
    for name, value in vars(module).items():
        if type(value).__name__ == "FixtureFunctionDefinition":
            yield name, value


def _fixture(name: str, function: Any) -> str:
    return f"### {name}\n\n{inspect.getdoc(function)}"


def _contract(contract: type) -> str:
    own = [name for name in vars(contract) if name.startswith("test_")]
    bases = [base for base in contract.__mro__[1:] if base.__name__ in ORDER]
    beside = "".join(
        f", and the {len(checks_of(bases[0]))} of [{bases[0].__name__}](#{bases[0].__name__.lower()})"
        for _ in bases[:1]
    )
    parts = [
        f"### {contract.__name__}",
        _text(contract),
        _given(contract),
        f"{len(own)} check{'s' if len(own) > 1 else ''} of its own{beside}:",
        "\n".join(f"- `{name}`: {_text(getattr(contract, name))}" for name in own),
    ]
    return "\n\n".join(part for part in parts if part)


def _given(contract: type) -> str:
    """Return the list of what a subclass gives: methods that it must, then those that it may."""
    must: list[str] = []
    may: list[str] = []
    for name, value in vars(contract).items():
        if name.startswith(("_", "test_")) or not inspect.isfunction(value):
            continue
        line = f"- `{name}{_parameters(value)}`: {_text(value)}"
        (must if "raise NotImplementedError" in inspect.getsource(value) else may).append(line)
    parts = [f"{heading}\n\n{chr(10).join(lines)}" for heading, lines in _headed(must, may) if lines]
    return "\n\n".join(parts)


def _headed(must: list[str], may: list[str]) -> Iterator[tuple[str, list[str]]]:
    yield "To give:", must
    yield "To use, or to give anew where yours differs:", may


def _parameters(function: Any) -> str:
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name != "self":
            star = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
            if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
                names.append("*")
            names.append(f"{star}{parameter.name}")
    return f"({', '.join(names)})"


def _text(thing: Any) -> str:
    """Return a docstring as one paragraph."""
    return " ".join((inspect.getdoc(thing) or "").split())


_PART = re.compile(r"(<!-- described: (\w+) -->\n).*?(<!-- described: end -->)", re.DOTALL)


def renewed(page: str) -> str:
    """Return a page with its described parts as the kit gives them now."""
    parts = {"contracts": contracts, "fixtures": fixtures}
    return _PART.sub(lambda match: f"{match[1]}\n{parts[match[2]]()}\n\n{match[3]}", page)


if __name__ == "__main__":
    for place in map(Path, sys.argv[1:]):
        place.write_text(renewed(place.read_text(encoding="utf-8")), encoding="utf-8")
