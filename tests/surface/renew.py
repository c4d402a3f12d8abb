"""Stores anew the names that others rely on: `python tests/surface/renew.py`; `--check` only says what would change.

A name that is new is a promise; one that is gone or changed breaks somebody's plugin, manifest or script. So renew the
list in the commit that makes the change, and say it in CHANGELOG.md; docs/explanation/versions.md says what may change
with which version.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.surface.surface import STORED, differences, read, surface, write


def main(arguments: list[str]) -> int:
    """Say what changed, and store it; return 1 where `--check` found a difference."""
    found = surface()
    lines = differences(read(), found) if STORED.exists() else []
    print("\n".join(lines) or "no difference")
    if "--check" in arguments:
        return 1 if lines else 0
    write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
