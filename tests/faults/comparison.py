"""Is this run the one that nothing happened to? Its losses, metrics, weights, optimizer and generators, bit by bit.

One rule: only what a clock says may differ; every difference is a sentence that names the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.subjects import Subject

CLOCKS = frozenset(
    {"time", "run_id", "tokens_per_second", "step_seconds", "peak_memory_bytes", "seconds", "minutes"}
)
# Lengths of files whose records hold times, and digests over all that.
_DERIVED = frozenset({"metrics_bytes", "sha256", "digest", "size"})
_PASSING = (".tail-", ".bad-")  # what is kept for a person to look at


def strict_json(text: str | bytes) -> Any:
    """Read JSON; NaN and Infinity, which JSON does not have, are errors."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def records(path: Path) -> list[dict[str, Any]]:
    """Return the records of an NDJSON file; each line must be whole and valid."""
    text = path.read_text()
    assert text.endswith("\n") or not text, f"{path}: the last line is torn: {text[-80:]!r}"
    return [strict_json(line) for line in text.splitlines()]


def events(run: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of that name."""
    return [record for record in records(run / "events.ndjson") if record["event"] == name]


def checkpoints(run: Path) -> dict[int, Path]:
    """Return the folders that have a checkpoint's name, by step."""
    return {
        int(path.name.removeprefix("step-")): path for path in sorted((run / "checkpoints").glob("step-*"))
    }


def newest_step(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 where there is none."""
    return max(checkpoints(run), default=0)


def recorded_step(run: Path) -> int:
    """Return the last step in the metrics; a torn line at their end does not count."""
    path = run / "metrics.ndjson"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def check_same(subject: Subject, run: Path, what: object = "", *, stopped: bool = False) -> None:
    """Fail, naming every difference, where the finished run is not what the undisturbed one is.

    `stopped`: it was stopped on its way, and may have kept the checkpoint of then in place of another.
    """
    found = list(differences(subject, run, stopped=stopped))
    assert not found, f"{subject.name}, {what}: " + "\n".join(found[:12])


def check_checkpoints_whole(subject: Subject, run: Path, what: object = "") -> None:
    """Fail where a folder that has a checkpoint's name is not exactly the undisturbed run's checkpoint of that step."""
    whole = checkpoints(subject.complete)
    for step, path in checkpoints(run).items():
        assert step in whole, f"{subject.name}, {what}: there is no step {step}"
        found = list(_checkpoint_differences(whole[step], path))
        assert not found, f"{subject.name}, {what}: " + "\n".join(found[:12])


def differences(subject: Subject, run: Path, *, stopped: bool = False) -> Iterator[str]:
    """Yield a sentence for each difference between a finished run and the undisturbed one."""
    reference = subject.reference
    yield from _metrics_differences(reference / "metrics.ndjson", run / "metrics.ndjson")
    before, now = sorted(checkpoints(reference)), sorted(checkpoints(run))
    if stopped and (before[-1], len(before)) == (now[-1], len(now)):
        before = now
    if before != now:
        yield f"checkpoints/: expected steps {before}, found {now}"
    for step in sorted({*checkpoints(subject.complete)} & {*now}):
        yield from _checkpoint_differences(checkpoints(subject.complete)[step], checkpoints(run)[step])
    expected, there = names(reference), names(run)
    if expected != there:
        yield f"expected {sorted(expected - there)}, which is missing; left over is {sorted(there - expected)}"
    if hidden := [name for name in names(run / "checkpoints") if name.startswith(".")]:
        yield f"checkpoints/: left over is {hidden}"
    for name in ("outcome.json", "data.json"):
        yield from _json_differences(reference / name, run / name)


def names(folder: Path) -> set[str]:
    """Return the names in a folder, without what is set aside there."""
    return {path.name for path in folder.iterdir() if not any(mark in path.name for mark in _PASSING)}


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _metrics_differences(reference: Path, found: Path) -> Iterator[str]:
    expected, there = ([_timeless(record) for record in records(path)] for path in (reference, found))
    for number, (one, other) in enumerate(zip(expected, there, strict=False), start=1):
        if one != other:
            yield f"{found}:{number}: expected {one}, found {other}"
            return
    if len(expected) != len(there):
        yield f"{found}: expected {len(expected)} records, found {len(there)}"


def _checkpoint_differences(reference: Path, found: Path) -> Iterator[str]:
    before, now = ({str(p.relative_to(root)) for p in root.rglob("*")} for root in (reference, found))
    if before != now:
        yield f"{found}: files differ: {sorted(before ^ now)}"
    for name in sorted(before & now):
        if (reference / name).is_dir():
            continue
        if name.endswith(".json"):
            yield from _json_differences(reference / name, found / name)
        elif (reference / name).read_bytes() != (found / name).read_bytes():
            yield f"{found / name}: other bytes{_tensors_that_differ(reference / name, found / name)}"


def _tensors_that_differ(reference: Path, found: Path) -> str:
    if not reference.name.endswith(".safetensors"):
        return ""
    try:
        before, now = _tensors(reference), _tensors(found)
    except (ValueError, KeyError) as error:
        return f", and they are no safetensors file: {error}"
    return ": " + ", ".join(
        name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)
    )


def _tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: (entry["dtype"], data[8 + length :][slice(*entry["data_offsets"])])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _json_differences(reference: Path, found: Path) -> Iterator[str]:
    if not found.exists():
        yield f"{found}: missing"
        return
    try:
        before, now = (_timeless(strict_json(path.read_bytes())) for path in (reference, found))
    except ValueError as error:
        yield f"{found}: {error}"
        return
    if before != now:
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        yield f"{found}: " + "; ".join(
            f"{key}: expected {before.get(key)}, found {now.get(key)}" for key in keys
        )


def _timeless(value: Any) -> Any:
    """Leave out what a clock says, at any depth; a path to a checkpoint becomes its name."""
    if isinstance(value, dict):
        kept = {key: _timeless(one) for key, one in value.items() if key not in CLOCKS | _DERIVED}
        if isinstance(kept.get("checkpoint"), str):
            kept["checkpoint"] = Path(kept["checkpoint"]).name
        return kept
    return [_timeless(one) for one in value] if isinstance(value, list) else value
