"""Stores the loss curve anew: `python tests/golden/renew.py`, and `--check` only says what would change.

Renew it in a commit of its own that says why the curve may be another one: a new version of torch, or arithmetic that
was changed on purpose. A curve that changes for no reason that can be named is a bug that was found.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.command import Workplace
from tests.golden.curve import STORED, differences, read, same_kind, train, write


def main(arguments: list[str]) -> int:
    """Train, say what changed, and store it; return 1 where `--check` found a difference."""
    with tempfile.TemporaryDirectory() as folder:
        found = train(Workplace(Path(folder)))
    lines: list[str] = []
    if STORED.exists():
        stored = read(STORED)
        lines = differences(stored, found)
        print(f"stored by {stored.made_by}\nfound by {found.made_by}")
        print("to be equal to the bit" if same_kind(stored, found) else "to be equal within the tolerance")
        print("\n".join(lines) or "no difference")
    if "--check" in arguments:
        return 1 if lines else 0
    write(found, STORED)
    print(f"written: {STORED.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
