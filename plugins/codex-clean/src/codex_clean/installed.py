"""Which of the libraries that the steps call are installed, said without importing them.

One rule: nothing is imported here.
"""

from __future__ import annotations

from importlib.util import find_spec


def missing(distribution: str) -> list[str]:
    """Return a sentence where a distribution is not installed; its module has its name, with underscores."""
    if find_spec(distribution.replace("-", "_")) is not None:
        return []
    return [f"the package {distribution} is not installed; pip install {distribution}"]
