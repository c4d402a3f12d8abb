"""Token stores: the splits of a run as files of tokens, read by memory map.

One rule: a store is named by the corpus, the tokenizer, the seed and the options; what is in it is compared with what
was written each time it is opened.

    cache/tokens/<key>/    the files of `pack`, and meta.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, evolve, field, frozen

from codex_kernel.data import kept, order
from codex_kernel.data.blocks import MappedBlocks
from codex_kernel.data.kept import DamagedError, FileFacts
from codex_kernel.data.mixture import MixedOrder
from codex_kernel.data.pack import SplitFacts
from codex_kernel.interfaces import Mixing

FORMAT = 4
FOLDER = "tokens"

_AHEAD = 4096  # positions whose samples are found at once, and kept: a batch alone would cost nearly as much


@frozen(eq=False)
class TokenData:
    """The data of a run, read from a token store; it satisfies `interfaces.Data`.

    `report` is what `data.json` holds: a JSON object with counts and fingerprints, equal for equal data.
    """

    train: MappedBlocks
    validation: MappedBlocks | None
    fingerprint: str
    seed: int
    report: Mapping[str, Any] = field(repr=False)
    mixture: MixedOrder | None = None
    _ahead: dict[int, Any] = field(init=False, repr=False, factory=dict)

    def samples(self, start: int, count: int) -> Any:
        """Return `count` sample ids of the endless training order from position `start` on."""
        number, low = divmod(start, _AHEAD)
        if start < 0 or not 0 <= count <= _AHEAD - low:
            return self._samples(start, count)
        ids = self._ahead.get(number)
        if ids is None:
            ids = self._samples(number * _AHEAD, _AHEAD)
            self._ahead.clear()
            self._ahead[number] = ids
        return ids[low : low + count].copy()

    def _samples(self, start: int, count: int) -> Any:
        if self.mixture is not None:
            return self.mixture.samples(start, count)
        return order.samples(start, count, n=len(self.train), seed=self.seed)

    def mixture_of(self, mixing: Mixing) -> MixedOrder:
        """Return the order that mixes the sources of these blocks; raise InputError where one to train has no block."""
        sources = self.report["splits"]["train"]["sources"]
        spans = {name: (first, blocks) for name, (first, blocks) in sources.items()}
        return MixedOrder.of(mixing, spans, seq_len=self.train.seq_len, seed=self.seed)

    def mixed(self, mixture: MixedOrder) -> TokenData:
        """Return the same blocks in the order of a mixture, under a fingerprint that tells its shares."""
        fingerprint = kept.digest(tokens=self.fingerprint, mixture=mixture.as_report())
        report = {**self.report, "fingerprint": fingerprint, "mixture": mixture.as_report()}
        return evolve(self, fingerprint=fingerprint, mixture=mixture, report=report)


@frozen(eq=False)
class Meta:
    """What `meta.json` says of a token store beside its key and files."""

    fingerprint: str
    seed: int
    splits: Mapping[str, SplitFacts]
    report: Mapping[str, Any]


def folder_of(cache: Path, key: str) -> Path:
    """Return where the store of this key is, or would be."""
    return cache / FOLDER / key


def read(folder: Path, key: str) -> TokenData:
    """Open a token store; raise FileNotFoundError where there is none and DamagedError where it is not whole."""
    meta = kept.read_meta(folder, key, FORMAT)
    try:
        facts = {name: _split_facts(value) for name, value in meta["splits"].items()}
        splits = {name: MappedBlocks.open(folder, name, one) for name, one in facts.items()}
        return TokenData(
            splits["train"], splits.get("validation"), meta["fingerprint"], meta["seed"], meta["report"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error


def commit(temporary: Path, folder: Path, key: str, files: Mapping[str, FileFacts], meta: Meta) -> None:
    """Give a filled folder its final name, once all of it is on disk; may raise OSError."""
    kept.commit(temporary, folder, key, FORMAT, files, asdict(meta))


def _split_facts(value: dict[str, Any]) -> SplitFacts:
    sources = {name: (first, blocks) for name, (first, blocks) in value["sources"].items()}
    return SplitFacts(**{**value, "sources": sources})
