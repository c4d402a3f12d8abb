"""Sets of words, written as a sentence is: for the tables of the steps.

One rule: their order means nothing.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())
