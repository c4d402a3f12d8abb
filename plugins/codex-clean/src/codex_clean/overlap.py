"""Finding runs of tokens that documents share with an evaluation set.

One rule: hashes only suggest; a document is dropped where the tokens themselves are those of the item.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from attrs import define, field, frozen

from codex_clean.documents import whole_text
from codex_clean.evaluation_files import Item, items, unpacked
from codex_clean.shingles import Unit, pieces, tokens_of
from codex_kernel import Cleaned, Document, InputError, Reporter

CONTAMINATED = "contaminated"
OTHER_ITEMS = "overlaps with further items"
_NAMED_ITEMS = 100  # as many items are counted by name in a pass
_NAME_CHARS = 60


@define(eq=False)
class EvaluationSet:
    """Some evaluation files, read when they are first needed."""

    paths: list[Path]
    base: Path
    fields: tuple[str, ...]
    id_field: str | None
    _digest: str | None = field(init=False, default=None)

    def items(self) -> list[Item]:
        """Read the items of all files; raise InputError where there are none, or a file changed meanwhile."""
        digest = hashlib.sha256()
        found: list[Item] = []
        for path in self.paths:
            data, name = unpacked(path), self._name(path)
            _add(digest, name, data)
            found += items(path, data, name, self.fields, self.id_field)
        if self._digest not in (None, digest.hexdigest()):
            raise InputError("decontaminate: the evaluation files changed while the run was prepared")
        if not found:
            raise InputError(f"{', '.join(map(str, self.paths))}: no evaluation item in it")
        return found

    def fingerprint(self) -> str:
        """Return the hex digest of the files' names and contents."""
        if self._digest is None:
            digest = hashlib.sha256()
            for path in self.paths:
                _add(digest, self._name(path), unpacked(path))
            self._digest = digest.hexdigest()
        return self._digest

    def _name(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix() if path.is_relative_to(self.base) else path.name


@frozen(eq=False)
class Grams:
    """The runs of one length of an evaluation set: sorted hashes, and for each the number of its item."""

    length: int
    hashes: Any
    items: Any


@define(eq=False)
class OverlapFilter:
    """A pass over documents; the evaluation set is read at the first of them."""

    evaluation: EvaluationSet
    ngram: int
    unit: Unit
    shortest: int
    report: Reporter
    _items: list[Item] = field(init=False, factory=list)
    _grams: list[Grams] | None = field(init=False, default=None)
    _named: set[str] = field(init=False, factory=set)

    def fingerprint(self) -> str:
        """Return the digest of the evaluation files."""
        return self.evaluation.fingerprint()

    def clean(self, document: Document) -> Cleaned:
        """Drop the document where it holds a run of an item, and count each item that it overlaps with."""
        hits = self._hits(whole_text(document))
        if not hits:
            return Cleaned(document)
        counts = {CONTAMINATED: 1}
        for name in dict.fromkeys(self._items[number].name for number in hits):
            key = self._key(name)
            counts[key] = counts.get(key, 0) + 1
        return Cleaned(None, counts)

    def _key(self, name: str) -> str:
        if name not in self._named:
            if len(self._named) >= _NAMED_ITEMS:
                return OTHER_ITEMS
            self._named.add(name)
        short = name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…"
        return "overlaps with " + "".join(sign if sign.isprintable() else "?" for sign in short)

    def _hits(self, text: str) -> list[int]:
        """Return the numbers of the items that a text overlaps with, in their order."""
        if self._grams is None:
            self._items = self.evaluation.items()
            self._grams = self._index()
        found: set[int] = set()
        for piece in pieces(text, self.unit, self._grams[-1].length - 1):
            for grams in self._grams:
                hashes = piece.hashes(grams.length)
                at = np.searchsorted(grams.hashes, hashes)
                at[at == len(grams.hashes)] = 0
                for place in np.flatnonzero(grams.hashes[at] == hashes).tolist():
                    number = int(grams.items[at[place]])
                    if number not in found and self._holds(
                        number, piece.tokens[place : place + grams.length]
                    ):
                        found.add(number)
        return sorted(found)

    def _holds(self, number: int, tokens: list[str]) -> bool:
        """Say whether an item has these tokens in a row."""
        return any(
            tokens == own[start : start + len(tokens)]
            for text in self._items[number].texts
            for own in [tokens_of(text, self.unit)]
            for start in range(len(own) - len(tokens) + 1)
        )

    def _index(self) -> list[Grams]:
        """Hash the runs of all items; texts shorter than a run are looked for as a whole, by their own length."""
        hashes: dict[int, list[Any]] = {}
        numbers: dict[int, list[Any]] = {}
        short = 0
        for number, item in enumerate(self._items):
            for text in item.texts:
                tokens = tokens_of(text, self.unit)
                length = min(self.ngram, len(tokens))
                if length < min(self.shortest, self.ngram):
                    short += 1
                    continue
                for piece in pieces(text, self.unit, length - 1):
                    runs = piece.hashes(length)
                    hashes.setdefault(length, []).append(runs)
                    numbers.setdefault(length, []).append(np.full(len(runs), number, dtype=np.uint32))
        if not hashes:
            raise InputError(
                f"decontaminate: none of the {short} evaluation texts has {min(self.shortest, self.ngram)} tokens",
                remedy="lower `shortest`, or set unit: code",
            )
        if short:
            self.report.warning(
                f"decontaminate: {short} evaluation texts of fewer than {min(self.shortest, self.ngram)} tokens are "
                "not looked for"
            )
        return [_sorted(length, hashes[length], numbers[length]) for length in sorted(hashes)]


def _sorted(length: int, hashes: list[Any], numbers: list[Any]) -> Grams:
    unique, first = np.unique(np.concatenate(hashes), return_index=True)
    return Grams(length, unique, np.concatenate(numbers)[first])


def _add(digest: Any, name: str, data: bytes) -> None:
    digest.update(f"{len(name.encode())} {name} {len(data)} ".encode() + data)
