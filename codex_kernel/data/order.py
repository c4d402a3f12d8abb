"""The endless order of the training samples, as a pure function of the seed and the position.

One rule: no state. Epoch e is a pseudo-random permutation of 0 … n - 1, computed for just the positions asked for by
a Feistel network over the smallest rectangle of high × low ≥ n numbers; what falls outside of 0 … n - 1 is permuted
again until it falls inside (cycle walking). Any position costs the same, so resuming at step 1,000,000 is as quick as
at step 0.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

LARGEST = 1 << 32
"""The most samples that can be ordered: beyond it the halves no longer fit the 32-bit arithmetic."""

_ROUNDS = 4
_ROUNDS_SMALL = 12  # a half of a few values mixes little in each round, and few samples cost little
_SMALL = 1 << 12
_CHUNK = 1 << 14  # positions worked on at once: they stay in the processor's cache
_GOLDEN = 0x9E3779B97F4A7C15


def rank_slice(start: int, count: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """Return (start, count) of the positions that a rank takes of the global batch start … start + count - 1.

    The slices of all ranks, one after the other, are the global batch: its order is the same for any number of ranks.
    Where the batch does not divide evenly the slices differ by one, and with more ranks than samples some are empty.
    Raises ValueError where the rank is none of the world's, or start or count is negative.
    """
    if not 0 <= rank < world_size or start < 0 or count < 0:
        raise ValueError(
            f"expected 0 <= rank < world_size, start >= 0, count >= 0; got {rank=}, {world_size=}, {start=}, {count=}"
        )
    first, after = count * rank // world_size, count * (rank + 1) // world_size
    return start + first, after - first


def samples(start: int, count: int, *, n: int, seed: int) -> Any:
    """Return the sample ids (int64, one per position) of the positions start … start + count - 1.

    Position p is the (p mod n)-th sample of epoch p div n. Raises ValueError where n is not in 1 … LARGEST, or start
    or count is negative.
    """
    if not 1 <= n <= LARGEST or start < 0 or count < 0:
        raise ValueError(
            f"expected 1 <= n <= {LARGEST}, start >= 0, count >= 0; got {n=}, {start=}, {count=}"
        )
    ids = np.empty(count, np.int64)
    low = 0
    while low < count:
        high = min(low + _CHUNK, count)
        if n > _SMALL:  # one epoch at a time, so that the keys are single numbers
            high = min(high, low + n - (start + low) % n)
        ids[low:high] = _chunk(start + low, high - low, n, seed)
        low = high
    return ids


def at(positions: Any, *, n: int, seed: int | str) -> Any:
    """Return the sample ids of these positions (int64, at least one), which lie near one another in any order."""
    epochs, places = np.divmod(positions, n)
    first, last = int(epochs.min()), int(epochs.max())
    keys = _keys(seed, first, last - first + 1, _rounds(n))
    return _permute(places, n, keys if first == last else keys[:, epochs - first])


def _rounds(n: int) -> int:
    return _ROUNDS if n > _SMALL else _ROUNDS_SMALL


def _chunk(start: int, count: int, n: int, seed: int) -> Any:
    epoch, index = divmod(start, n)
    places = np.arange(index, index + count, dtype=np.int64)
    rounds = _rounds(n)
    if index + count <= n:
        return _permute(places, n, _keys(seed, epoch, 1, rounds))
    epochs, places = np.divmod(places, n)
    keys = _keys(seed, epoch, int(epochs[-1]) + 1, rounds)
    return _permute(places, n, keys[:, epochs])


def _keys(seed: int | str, first_epoch: int, epochs: int, rounds: int) -> Any:
    """Return round keys (uint32, rounds × epochs): splitmix64 over a counter that the seed starts."""
    base = int.from_bytes(hashlib.sha256(f"codex.order:{seed}".encode()).digest()[:8], "big")
    first = (base + first_epoch * _ROUNDS_SMALL * _GOLDEN) % 2**64
    counters = np.arange(epochs, dtype=np.uint64) * np.uint64(_ROUNDS_SMALL)
    z = (np.arange(rounds, dtype=np.uint64)[:, None] + counters) * np.uint64(_GOLDEN) + np.uint64(first)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def _permute(places: Any, n: int, keys: Any) -> Any:
    lows = math.isqrt(n - 1) + 1
    highs = -(-n // lows)
    values = _feistel(places, highs, lows, keys)
    outside = np.flatnonzero(values >= n)
    while outside.size:
        walked = _feistel(values[outside], highs, lows, keys if keys.shape[1] == 1 else keys[:, outside])
        values[outside] = walked
        outside = outside[walked >= n]
    return values


def _feistel(values: Any, highs: int, lows: int, keys: Any) -> Any:
    """Permute 0 … highs * lows - 1: to each half in turn a hash of the other half and the round's key is added."""
    quotient = values // lows
    high = quotient.astype(np.uint32)
    low = (values - quotient * lows).astype(np.uint32)
    for turn, key in enumerate(keys):
        if turn % 2:
            _add_hash(high, highs, low, key)
        else:
            _add_hash(low, lows, high, key)
    merged = high.astype(np.int64)
    merged *= lows
    merged += low
    return merged


def _add_hash(half: Any, size: int, other: Any, key: Any) -> None:
    """Add to `half`, modulo `size`, a hash of `other`: 16 bits of it, scaled to 0 … size - 1."""
    mixed = other ^ key
    mixed *= np.uint32(0x9E3779B1)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x85EBCA77)
    mixed >>= np.uint32(16)
    mixed *= np.uint32(min(size, 0xFFFF))
    mixed >>= np.uint32(16)
    half += mixed
    np.minimum(half, half - np.uint32(size), out=half)  # below `size` the difference wraps to a huge number
