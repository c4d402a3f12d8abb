"""Calling a plugin's hooks in a contract class as the kernel does: by pluggy, with any subset of the arguments.

One rule: a hook that is no hook of codex, or takes an argument that its hook does not give, fails here already.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pluggy

from codex_kernel.hookspecs import SPECS


def hooks_of(*plugins: object) -> Any:
    """Register a plugin by itself, or a model and its adapters in order, and return the hook caller."""
    manager = pluggy.PluginManager("codex")
    for specs in SPECS:
        manager.add_hookspecs(specs)
    for plugin in plugins:
        manager.register(plugin, name=type(plugin).__name__)
    manager.check_pending()
    return manager.hook


def implements(plugin: object, hook: str) -> bool:
    """Say whether a plugin implements a hook."""
    return bool(getattr(hooks_of(plugin), hook).get_hookimpls())


def listing(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with what is in them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_same(found: Sequence[object], expected: Sequence[object]) -> None:
    """Fail unless two sequences or texts are equal, saying where they first differ and how.

    In place of `assert found == expected`, which pytest explains in CI with a full diff: over texts as long as those
    of the contracts that takes hours.
    """
    if found == expected:
        return
    at, one, other = _first_difference(found, expected)
    inside, _, _ = _first_difference(repr(one), repr(other))
    part = slice(max(0, inside - 60), inside + 120)
    message = f"number {at} differs: expected …{repr(other)[part]}…, got …{repr(one)[part]}…"
    raise AssertionError(message)


def _first_difference(one: Sequence[object], other: Sequence[object]) -> tuple[int, object, object]:
    pairs = enumerate(zip_longest(one, other, fillvalue="nothing"))
    return next(((at, *pair) for at, pair in pairs if pair[0] != pair[1]), (len(one), one, other))
