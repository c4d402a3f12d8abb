"""What a user reads at the end of a run.

One rule: every number comes from the run folder or the outcome, so that `codex runs show` says the same later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from codex_kernel import metrics
from codex_kernel.cli import lost_where_nobody_listens
from codex_kernel.cli.terminal import duration, plain
from codex_kernel.interfaces import Outcome
from codex_kernel.runfolder import RunFolder


def print_summary(folder: RunFolder, outcome: Outcome, first_line: str | None = None) -> None:
    """Print how the run ended, what it reached, and the commands to go on with; the run folder has it all anyway.

    first_line: in place of the one that says how the run ended; None: that one.
    """
    ended = f"{outcome.status} in {duration(outcome.seconds)}: {outcome.reason}"
    lines = "\n".join([f"\n{first_line or ended}", *_summary(folder, outcome)])
    with lost_where_nobody_listens():
        click.echo(plain(lines))


def _summary(folder: RunFolder, outcome: Outcome) -> Iterator[str]:
    place = shown(folder.path)
    rows = [
        ("steps", f"{outcome.steps:,}"),
        ("tokens", f"{outcome.tokens:,}"),
        *measures(folder),
        ("run folder", place),
    ]
    if outcome.detached:
        rows.append(("detached", ", ".join(outcome.detached)))
    if outcome.failed_saves:
        one = outcome.failed_saves == 1
        saves = (
            f"{outcome.failed_saves} checkpoint{'' if one else 's'} could not be written: see events.ndjson"
        )
        rows.append(("failed saves", saves))
    if count := warnings(folder):
        rows.append(("warnings", f"{count}: see events.ndjson"))
    for name, value in rows:
        yield f"  {name:<16} {value}"
    yield from _plugin_seconds(folder)
    yield ""
    commands = [
        ("look at it", f"codex runs show {place}"),
        ("resume it", f"codex resume {place}"),
        ("generate", f'codex generate {place} --prompt "def "'),
    ]
    if outcome.status == "completed":
        del commands[1]  # nothing is left to do
    for what, command in commands:
        yield f"  {what:<16} {command}"


def _plugin_seconds(folder: RunFolder) -> Iterator[str]:
    """Yield a table of the time in each plugin's hooks, where they were traced."""
    totals = [event for event in _newest(folder) if event["event"] == "plugin_seconds"]
    for row in totals[-1]["plugins"] if totals else ():
        if row is totals[-1]["plugins"][0]:
            yield ""
            yield f"  {'seconds':>9} {'calls':>7} {'errors':>7}  in the hooks of"
        yield f"  {row['seconds']:>9.3f} {row['calls']:>7,} {row['errors']:>7,}  {row['plugin']}"


def warnings(folder: RunFolder) -> int:
    """Return how many warnings there were since the run began or was last resumed: not every logger shows them."""
    return sum(event["event"] == "warning" for event in _newest(folder))


def _newest(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the events since the run began or was last resumed."""
    events: list[dict[str, Any]] = []
    for event in metrics.read(folder.events):
        if event["event"] in {"run_started", "run_resumed"}:
            events = []
        events.append(event)
    return events


def measures(folder: RunFolder) -> list[tuple[str, str]]:
    """Return the losses and the validation metrics, each with where it began."""
    rows = []
    for label, split, metric in (
        ("train loss", "train", "loss"),
        ("validation loss", "validation", "loss"),
        ("perplexity", "validation", "perplexity"),
        ("bits per byte", "validation", "bits_per_byte"),
    ):
        points = metrics.series(metrics.read(folder.metrics), split, metric)
        if not points:
            continue
        (first_step, first), (last_step, last) = points[0], points[-1]
        began = f"  (step {first_step}: {first:.4f})" if first_step != last_step else ""
        rows.append((label, f"{last:.4f}{began}"))
    return rows


def shown(path: Path) -> str:
    """Return the path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
