"""The loss curve of one fixed run through the command line, and how two such curves are compared.

One rule: where the same software runs on the same kind of processor the losses are equal to the last bit; elsewhere
they are equal to one part in ten thousand. A curve says itself what it was made by.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import asdict, frozen

from codex_kernel import metrics
from tests.command import Workplace

FOLDER = Path(__file__).parent
STORED = FOLDER / "curve.json"
TOLERANCE = 1e-4
"""Relative. Kernels for other processors add in another order, and training lets the last bits grow: with torch's
kernels for AVX-512 and those for no vector unit at all the thirty steps drift apart by 3e-6 at most. A change of one
option by one per cent (the norm that gradients are clipped to) shows as 4e-3."""
_PACKAGES = ("torch", "transformers")
_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping")


@frozen
class Curve:
    """`made_by` decides the last bits; `losses` are (split, step, loss), in the order of the records."""

    made_by: Mapping[str, str]
    losses: Sequence[tuple[str, int, float]]


def train(workplace: Workplace, *changes: str) -> Curve:
    """Run the manifest of this folder in a workplace, and return its curve; AssertionError where it fails."""
    for name in ("llama.yaml", "texts.jsonl"):
        shutil.copy(FOLDER / name, workplace.folder)
    said = workplace.codex("run", "llama.yaml", "--run-dir", "golden", *changes)
    assert said.code == 0, said.err
    return _of_run(workplace.folder / "golden")


def _of_run(run: Path) -> Curve:
    records = metrics.read(run / "metrics.ndjson")
    losses = [(record["split"], record["step"], record["loss"]) for record in records]
    events = map(json.loads, (run / "events.ndjson").read_text(encoding="utf-8").splitlines())
    hardware = next(event for event in events if event["event"] == "hardware")
    packages = json.loads((run / "environment.json").read_text(encoding="utf-8"))["packages"]
    made_by = {name: str(packages[name]) for name in _PACKAGES}
    made_by |= {"kernels": hardware["model"], "threads": str(hardware["threads"]), "processor": _processor()}
    return Curve(made_by, losses)


def _processor() -> str:
    """Return the kind of the processor; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return ""
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " ".join(told.get(name, "?") for name in _PROCESSOR)


def differences(stored: Curve, found: Curve) -> list[str]:
    """Return a line for each record that is not as it was stored; none where the curves agree."""
    if [place[:2] for place in stored.losses] != [place[:2] for place in found.losses]:
        return [f"other records: {len(found.losses)} instead of {len(stored.losses)}, or of other steps"]
    tolerance = 0.0 if same_kind(stored, found) else TOLERANCE
    return [
        f"{split} step {step}: {now!r} instead of {before!r}, expected to {tolerance:g}"
        for (split, step, before), (_, _, now) in zip(stored.losses, found.losses, strict=True)
        if not math.isclose(before, now, rel_tol=tolerance, abs_tol=0.0)
    ]


def same_kind(stored: Curve, found: Curve) -> bool:
    """Say whether two curves must be equal to the last bit."""
    return dict(stored.made_by) == dict(found.made_by)


def read(path: Path) -> Curve:
    """Read a curve."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Curve(values["made_by"], [(split, step, loss) for split, step, loss in values["losses"]])


def write(curve: Curve, path: Path) -> None:
    """Write a curve, a record a line: every float with the digits that bring it back."""
    values = asdict(curve)
    records = ",\n".join(f"    {json.dumps(record)}" for record in values["losses"])
    path.write_text(
        f'{{\n  "made_by": {json.dumps(dict(values["made_by"]))},\n  "losses": [\n{records}\n  ]\n}}\n',
        encoding="utf-8",
    )
