"""Finding near duplicates: MinHash signatures (datasketch) in an index of bands.

One rule: memory grows by a fixed number of bytes for each document that is kept, whatever its length (4 for each
permutation and 8 to 16 for each band; about 700 by default), and a document of any length is hashed in pieces.

Signatures after Broder (1997), "On the resemblance and containment of documents"; bands after Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3. The index is ours: datasketch's own keeps each band as Python objects.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from attrs import define, field
from datasketch import MinHash  # type: ignore[import-untyped]

from codex_clean.documents import whole_text
from codex_clean.shingles import Unit, hash_of, pieces, tokens_of
from codex_kernel import Cleaned, Document

_SEED = 1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing
_SCHEME = "affine32"
_BATCH = 4096  # shingles that are hashed at once: 2 MiB of hash values at 128 permutations
_RECALL = 0.95  # share of the pairs exactly at the threshold that fall into a common band
_CHUNK = 1 << 16  # documents whose signatures lie in one array; what is not used of it costs no memory
_CHAIN = 256  # entries of a bucket that are looked at, the newest first: so many documents alike do not stop the work

NEAR_DUPLICATE = "near duplicate"


def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return the number of bands and their rows: the most rows that still find enough pairs at the threshold."""
    rows = 1
    for more in range(2, permutations + 1):
        if 1 - (1 - threshold**more) ** (permutations // more) < _RECALL:
            break
        rows = more
    return permutations // rows, rows


@define(eq=False)
class BandIndex:
    """The signatures of the documents that were kept, found by any band that they share with another.

    A hash table with chains, in three arrays: `_heads` has the last entry of each bucket and `_next` the one before
    each entry, both plus one; entry e is band e % bands of document e // bands.
    """

    bands: int
    rows: int
    documents: int = field(init=False, default=0)
    _signatures: list[Any] = field(init=False, factory=list)  # chunks of [documents, permutations], uint32
    _bits: int = field(init=False, default=12)
    _heads: Any = field(init=False, factory=lambda: np.zeros(1 << 12, dtype=np.uint32))
    _next: Any = field(init=False, factory=lambda: np.zeros(1 << 12, dtype=np.uint32))
    _multipliers: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Give each row of a band a multiplier of its own."""
        powers = [pow(int(_MULTIPLIER), row + 1, 1 << 64) for row in range(self.rows)]
        self._multipliers = np.array(powers, dtype=np.uint64)

    def most_alike(self, signature: Any) -> float:
        """Return the greatest share of equal values among the documents that share a band; 0: no document does."""
        candidates = self._candidates(self._buckets(signature))
        most = 0
        for chunk in np.unique(candidates // _CHUNK):
            rows = self._signatures[chunk][candidates[candidates // _CHUNK == chunk] % _CHUNK]
            most = max(most, int((rows == signature).sum(axis=1).max()))
        return most / len(signature)

    def add(self, signature: Any) -> None:
        """Take in the signature of a document that is kept."""
        if self.documents % _CHUNK == 0:
            self._signatures.append(np.empty((_CHUNK, len(signature)), dtype=np.uint32))
        self._signatures[-1][self.documents % _CHUNK] = signature
        self.documents += 1
        if self.documents * self.bands > len(self._next):
            self._grow()
        else:
            self._link(self.documents - 1, self._buckets(signature))

    @property
    def bytes(self) -> int:
        """Bytes that are used of the arrays."""
        signatures = sum(chunk[:1].nbytes for chunk in self._signatures[:1]) * self.documents
        return int(signatures + self._heads.nbytes + self._next.nbytes)

    def _buckets(self, signature: Any) -> Any:
        """Return the bucket of each band of a signature."""
        values = signature[: self.bands * self.rows].reshape(self.bands, self.rows).astype(np.uint64)
        hashes = values @ self._multipliers + np.arange(self.bands, dtype=np.uint64)
        hashes ^= hashes >> np.uint64(32)
        return (hashes * _MULTIPLIER) >> np.uint64(64 - self._bits)

    def _candidates(self, buckets: Any) -> Any:
        """Follow the chains of all bands at once, and return the documents on them, each once."""
        found = []
        entries = self._heads[buckets]
        for _ in range(_CHAIN):
            entries = entries[entries > 0]
            if not len(entries):
                break
            found.append((entries - 1) // self.bands)
            entries = self._next[entries - 1]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint32)

    def _link(self, document: int, buckets: Any) -> None:
        first = document * self.bands
        for band, bucket in enumerate(buckets.tolist()):
            self._next[first + band] = self._heads[bucket]
            self._heads[bucket] = first + band + 1

    def _grow(self) -> None:
        """Double the table and link every document again."""
        self._bits += 1
        self._heads, self._next = (np.zeros(1 << self._bits, dtype=np.uint32) for _ in range(2))
        for document in range(self.documents):
            signature = self._signatures[document // _CHUNK][document % _CHUNK]
            self._link(document, self._buckets(signature))


@define(eq=False)
class NearDuplicateFilter:
    """A pass: the signatures of all documents that it kept."""

    threshold: float
    shingle: int
    unit: Unit
    permutations: int
    _index: BandIndex = field(init=False)
    _permuted: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the index, and the hash functions that all signatures share."""
        self._index = BandIndex(*bands(self.threshold, self.permutations))
        self._permuted = MinHash(num_perm=self.permutations, seed=_SEED, scheme=_SCHEME).permutations

    def clean(self, document: Document) -> Cleaned:
        """Drop the document where an earlier one is as similar as the threshold; without a token it stays."""
        signature = self.signature(whole_text(document))
        if signature is None:
            return Cleaned(document)
        if self._index.most_alike(signature) >= self.threshold:
            return Cleaned(None, {NEAR_DUPLICATE: 1})
        self._index.add(signature)
        return Cleaned(document)

    def fingerprint(self) -> str:
        """Name the version of the library that the signatures are made with."""
        return f"datasketch-{version('datasketch')}"

    def signature(self, text: str) -> Any:
        """Return the MinHash of a text's shingles (uint32, as many as permutations); None: it has no token."""
        minhash = MinHash(
            num_perm=self.permutations,
            seed=_SEED,
            scheme=_SCHEME,
            hashfunc=_itself,
            permutations=self._permuted,
        )
        for piece in pieces(text, self.unit, self.shingle - 1):
            hashes = np.unique(piece.hashes(self.shingle) >> np.uint64(32))
            for start in range(0, len(hashes), _BATCH):
                minhash.update_batch(hashes[start : start + _BATCH].tolist())
        if minhash.is_empty():
            tokens = tokens_of(text, self.unit)
            if not tokens:
                return None
            minhash.update(hash_of(tokens) >> 32)
        return minhash.hashvalues


def _itself(number: int) -> int:
    return number
