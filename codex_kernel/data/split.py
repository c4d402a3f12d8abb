"""Which documents are kept for validation.

One rule: the answer depends on the document's group and the seed alone, so adding, removing or reordering other
documents never moves one to the other side, and a group never lies on both.
"""

from __future__ import annotations

import hashlib

_DIGEST_BYTES = 8


def in_validation(group: str, *, fraction: float, seed: int) -> bool:
    """Say whether the documents of this group belong to the validation split.

    `fraction` is the expected share of the groups; a group that is in it stays in it when the fraction grows.
    """
    key = hashlib.sha256(f"codex.split:{seed}".encode()).digest()
    digest = hashlib.blake2b(
        group.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, key=key
    ).digest()
    return int.from_bytes(digest, "big") < int(fraction * (1 << 8 * _DIGEST_BYTES))
