"""Two runs of one manifest, compared bit by bit: for `codex verify-resume`.

One rule: only what a clock or the machine's load decides may differ, and that is the list below, no more.

Left out are metrics of the machine (split `system`) and, in records and in JSON files of checkpoints, every field that
is named in CLOCK_READINGS or ends in one of CLOCK_ENDINGS.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from attrs import frozen

CLOCK_READINGS = ("time", "run_id", "metrics_bytes", "peak_memory_bytes")
"""`metrics_bytes`, a length of the metrics file, counts the digits of the clock's readings in it."""
CLOCK_ENDINGS = ("seconds", "_per_second")

_CHUNK_BYTES = 1 << 20
_SHOWN = 60


@frozen
class Difference:
    """Something that is not equal: the file, what in it, the step (None: of the whole run), and both values as text."""

    file: str
    what: str
    step: int | None
    undisturbed: str
    resumed: str

    def __str__(self) -> str:
        step = "" if self.step is None else f" at step {self.step}"
        return f"{self.file}: {self.what}{step}: undisturbed {self.undisturbed}, resumed {self.resumed}"


def is_clock_reading(name: str) -> bool:
    """Say whether a field of that name may differ between two runs that are otherwise equal."""
    return name in CLOCK_READINGS or name.endswith(CLOCK_ENDINGS)


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────


def compare_metrics(
    file: str, undisturbed: Iterable[Mapping[str, Any]], resumed: Iterable[Mapping[str, Any]]
) -> Iterator[Difference]:
    """Yield where the records differ: each step is there exactly once, in order, with the same values."""
    before, after = _records(undisturbed), _records(resumed)
    for (split, step), count in Counter(_key(record) for record in after).items():
        if count > 1:
            yield Difference(file, f"{split} records", step, "1", str(count))
    known = {_key(record): record for record in after}
    for record in before:
        split, step = _key(record)
        other = known.pop((split, step), None)
        if other is None:
            yield Difference(file, f"{split} record", step, "there", "missing")
            continue
        for place, one, two in differing(record, other):
            yield Difference(file, f"{split} {place}", step, _shown(one), _shown(two))
    for split, step in known:
        yield Difference(file, f"{split} record", step, "missing", "there")
    keys = [[_key(record) for record in side] for side in (before, after)]
    if keys[0] != keys[1] and Counter(keys[0]) == Counter(keys[1]):
        yield Difference(file, "order of the records", None, *map(_order, (before, after)))


def _records(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["split"] != "system"]


def _key(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["split"], record["step"]


def _order(records: Sequence[Mapping[str, Any]]) -> str:
    return _cut(", ".join(f"{split} {step}" for split, step in map(_key, records)))


# ── files of a checkpoint ─────────────────────────────────────────────────────────────────────────────────────────


def compare_file(
    name: str, step: int, undisturbed: Path | None, resumed: Path | None
) -> Iterator[Difference]:
    """Yield where a file of two checkpoints of a step differs; None: that checkpoint has no such file."""
    if undisturbed is None or resumed is None:
        one, two = ("missing" if side is None else "there" for side in (undisturbed, resumed))
        yield Difference(name, "the file", step, one, two)
    elif (at := _first_differing_byte(undisturbed, resumed)) is not None:
        yield from _explain(name, step, undisturbed, resumed, at)


def _explain(name: str, step: int, one: Path, two: Path, at: int) -> Iterator[Difference]:
    """Yield what differs in two files whose bytes do: values of JSON, tensors of safetensors, or the bytes."""
    if name.endswith(".json"):
        for place, value, other in differing(json.loads(one.read_bytes()), json.loads(two.read_bytes())):
            yield Difference(name, place, step, _shown(value), _shown(other))
    elif name.endswith(".safetensors"):
        yield from _compare_tensors(name, step, one, two)
    else:
        yield Difference(name, f"byte {at:,}", step, _byte(one, at), _byte(two, at))


def _first_differing_byte(one: Path, two: Path) -> int | None:
    """Return the place of the first byte that differs; None where the files are equal."""
    with one.open("rb") as file, two.open("rb") as other:
        return _differs_at(file, other, None)


def _differs_at(file: IO[bytes], other: IO[bytes], length: int | None) -> int | None:
    """Compare from where the files stand, `length` bytes or to their ends."""
    start = 0
    while length is None or start < length:
        wanted = _CHUNK_BYTES if length is None else min(_CHUNK_BYTES, length - start)
        a, b = file.read(wanted), other.read(wanted)
        if a != b:
            pairs = zip(a, b, strict=False)
            return start + next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
        if not a:
            return None
        start += len(a)
    return None


def _byte(path: Path, at: int) -> str:
    with path.open("rb") as file:
        file.seek(at)
        read = file.read(1)
    return f"0x{read[0]:02x}" if read else "the end"


# ── tensors ───────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class _Tensor:
    """Where a tensor lies in its file, by the header of the format safetensors."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def _header(path: Path) -> tuple[dict[str, _Tensor], Any]:
    """Return the tensors of a safetensors file, and its metadata; nothing of their values is read."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None)
    return {
        name: _Tensor(
            entry["dtype"],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }, metadata


def _compare_tensors(name: str, step: int, one: Path, two: Path) -> Iterator[Difference]:
    (before, about), (after, other_about) = _header(one), _header(two)
    for tensor in [*before, *(extra for extra in after if extra not in before)]:
        a, b = before.get(tensor), after.get(tensor)
        if a is None or b is None or (a.dtype, a.shape) != (b.dtype, b.shape):
            shown = ["missing" if side is None else str(side) for side in (a, b)]
            yield Difference(name, f"tensor {tensor}", step, *shown)
        elif (at := _tensor_differs_at(one, two, a, b)) is not None:
            count = math.prod(a.shape)
            element = at * count // a.size
            values = [_bytes_of(path, side, element, a.size // count) for path, side in ((one, a), (two, b))]
            yield Difference(name, f"tensor {tensor}, element {element:,} of {count:,}", step, *values)
    if about != other_about:
        yield Difference(name, "metadata", step, _shown(about), _shown(other_about))


def _tensor_differs_at(one: Path, two: Path, a: _Tensor, b: _Tensor) -> int | None:
    with one.open("rb") as file, two.open("rb") as other:
        file.seek(a.start)
        other.seek(b.start)
        return _differs_at(file, other, a.size)


def _bytes_of(path: Path, tensor: _Tensor, element: int, width: int) -> str:
    with path.open("rb") as file:
        file.seek(tensor.start + element * width)
        return f"0x{file.read(width)[::-1].hex()}"


# ── JSON values ───────────────────────────────────────────────────────────────────────────────────────────────────

_MISSING = object()


def differing(one: Any, two: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (place, value, value) wherever two JSON values differ, clock readings left out."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in [*one, *(key for key in two if key not in one)]:
            if not is_clock_reading(key):
                inner = f"{place}.{key}" if place else key
                yield from differing(one.get(key, _MISSING), two.get(key, _MISSING), inner)
    elif isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from differing(a, b, f"{place}[{i}]")
    elif (
        one is _MISSING or two is _MISSING or json.dumps(one) != json.dumps(two)
    ):  # the text: -0.0 is not 0.0
        yield place or "the value", one, two


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
