"""`codex plan`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict

from codex_kernel.cli.manifests import make_plan, manifest_arguments, skip_bad_option, with_skip_bad
from codex_kernel.cli.places import cache_folder
from codex_kernel.cli.terminal import counted, duration, json_option, print_json, size, unicode
from codex_kernel.errors import CodexError

if TYPE_CHECKING:
    from codex_kernel.foretell import Foretold
    from codex_kernel.interfaces import Probe

_VERDICTS = {True: "ok", False: "FAILED", None: "not applicable"}

_COUNTS = 8  # of a cleaning step, the greatest; data.json has all


@click.command()
@manifest_arguments
@skip_bad_option
@click.option("--no-measure", is_flag=True, help="Time no steps; without --probe, load no weights.")
@click.option("--probe", is_flag=True, help="Check the model and the data for faults that train in silence.")
@json_option
def plan(  # noqa: PLR0913 - the options of a command
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    skip_bad: int | None,
    no_measure: bool,  # noqa: FBT001
    probe: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Foretell what MANIFEST needs: parameters, memory by part, steps, tokens, disk and time.

    The tokenizer and the data are really built (and kept in the cache); a few steps are timed on a throw-away model.
    With --probe the trainer also checks that model and the first batches; exit code 1: a check failed.
    """
    made = make_plan(manifest, override_files, with_skip_bad(sets, skip_bad))

    from codex_kernel.cli.progress import ProgressReporter
    from codex_kernel.foretell import planned

    measure = not no_measure
    with planned(
        made, Path.cwd(), cache_folder(), ProgressReporter(), materialize=measure or probe
    ) as planned_run:
        if probe:
            planned_run.require_probes()  # before the estimate, which takes its time
        foretold = planned_run.foretell(measure=measure)
        if not as_json:
            _print(foretold)
        probes = _probed(planned_run.probe(), quiet=as_json) if probe else None
    if as_json:
        found = None if probes is None else [asdict(each) for each in probes]
        print_json({**foretold.as_json(), "probes": found})
    _require_passed(probes or [])


def _probed(found: Iterator[Probe], *, quiet: bool) -> list[Probe]:
    """Go through the checks, and print each as it is found."""
    probes = []
    if not quiet:
        click.echo("probes")
    for probe in found:
        probes.append(probe)
        if not quiet:
            _print_probe(probe)
    return probes


def _print_probe(probe: Probe) -> None:
    """Print one check; on a terminal its sentence is folded under itself."""
    lead = f"  {unicode(probe.name):<13} {_VERDICTS[probe.passed]:<15} "
    detail = unicode(probe.detail)
    if sys.stdout.isatty():
        width = max(40, get_terminal_size().columns - len(lead))
        detail = f"\n{' ' * len(lead)}".join(wrap(detail, width, break_on_hyphens=False))
    click.echo(f"{lead}{detail}")


def _require_passed(probes: Sequence[Probe]) -> None:
    """Raise CodexError where a check failed."""
    if failed := [probe.name for probe in probes if probe.passed is False]:
        raise CodexError(
            f"{len(failed)} of {len(probes)} probes failed: {', '.join(map(unicode, failed))}",
            remedy="the sentence of each probe says what decides it",
        )


def _print(foretold: Foretold) -> None:
    """Print the estimate for people."""
    estimate = foretold.estimate
    rows = [
        ("parameters", f"{estimate.parameters:,} ({estimate.trainable_parameters:,} trainable)"),
        ("vocabulary", f"{foretold.vocab_size:,}"),
        ("steps", _count(estimate.steps)),
        ("tokens", _count(estimate.tokens)),
        ("checkpoint disk", size(estimate.checkpoint_bytes)),
        ("time", _time(foretold)),
    ]
    _section("run", rows)
    total = sum(estimate.memory_bytes.values())
    _section(
        "memory",
        [*((part, size(count)) for part, count in estimate.memory_bytes.items()), ("in all", size(total))],
    )
    _section("data", list(_data_rows(foretold.data)))
    for note in estimate.notes:
        click.echo(f"note: {note}")


def _count(number: int | None) -> str:
    return "not known: time ends the run" if number is None else f"{number:,}"


def _time(foretold: Foretold) -> str:
    per_step = foretold.estimate.seconds_per_step
    if per_step is None:
        return "not measured"
    whole = "" if foretold.seconds is None else f"about {duration(foretold.seconds)} "
    return f"{whole}({per_step:.3f} s a step, without evaluation)"


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    click.echo(title)
    for name, value in rows:
        click.echo(f"  {name:<28} {value}")


def _data_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what becomes of the documents: how many, and what is cut, dropped or padded."""
    yield "documents", f"{data['documents']:,} ({data['duplicates_dropped']:,} duplicates dropped)"
    if data["documents_bad"]:
        yield "bad records", f"{data['documents_bad']:,} skipped"
    for step in data["cleaning"]:
        most = sorted(step["counts"].items(), key=lambda counted: -counted[1])
        counts = "".join(f", {unicode(what)} {count:,}" for what, count in most[:_COUNTS])
        more = f", and {len(most) - _COUNTS:,} other counts" if len(most) > _COUNTS else ""
        yield step["type"], f"{step['dropped']:,} dropped, {step['changed']:,} changed{counts}{more}"
    for name, split in data["splits"].items():
        documents, blocks = counted(split["documents"], "document"), counted(split["blocks"], "block")
        yield name, f"{documents}, {split['tokens']:,} tokens in {blocks}"
        cut, dropped = counted(split["documents_split"], "document"), split["documents_dropped"]
        yield "", f"{cut} split over blocks, {dropped:,} dropped, {split['padding_slots']:,} slots padded"
        for what in ("truncated", "without_target", "rearranged"):
            if count := split[f"documents_{what}"]:
                yield "", f"{counted(count, 'document')} {what.replace('_', ' ')}"
