"""The bundled index: the plugins that codex itself vouches for, installed or not.

One rule: a name outside of it is never turned into a line that installs something.
"""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """A plugin of the index: where it comes from, and what it is."""

    distribution: str
    summary: str


def known_plugins() -> dict[str, dict[str, Known]]:
    """Return kind → name → what is known of the plugins that codex itself vouches for."""
    import json
    from pathlib import Path

    text = (Path(__file__).parent / "known_plugins.json").read_text(encoding="utf-8")
    return {kind: {n: Known(**row) for n, row in rows.items()} for kind, rows in json.loads(text).items()}
