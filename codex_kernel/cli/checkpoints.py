"""`codex checkpoints`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.places import cache_folder, runs_option
from codex_kernel.cli.terminal import agreed, json_option, print_json, print_table, size, unicode

if TYPE_CHECKING:
    from codex_kernel.archive import Opened, Pruning, Standing
    from codex_kernel.interfaces import Checkpoint, Damaged
    from codex_kernel.retention import KeepBest
    from codex_kernel.runfolder import RunFolder

SHOWN_METRICS = ("train/loss", "validation/loss")
LARGE_BYTES = 256 * 2**20
"""A checkpoint above it takes seconds to read, so it is said that it is being read."""


@click.group()
def checkpoints() -> None:
    """List, verify, prune and export the checkpoints of a run.

    RUN is a run folder, a run id or the start of one, or a run's name (its newest run).
    """


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@checkpoints.command("list", short_help="List the checkpoints, oldest first.")
@click.argument("run")
@runs_option
@json_option
def list_(run: str, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """List the checkpoints of RUN, oldest first; damaged ones come last, with the reason.

    What a checkpoint says of itself is read, not its tensors: `codex checkpoints verify` reads those too.
    """
    from codex_kernel.archive import standings

    with _opened(_find(runs, run)) as found:
        rows, damaged = standings(found)
    if as_json:
        _print_list(found.folder, rows, damaged)
        return
    if not rows and not damaged:
        click.echo(f"{unicode(found.folder.path)} has no checkpoints", err=True)
        return
    names = [name for name in SHOWN_METRICS if any(name in row.checkpoint.metrics for row in rows)]
    cells = [
        (
            f"{row.checkpoint.step:,}",
            *(_number(row.checkpoint.metrics.get(name)) for name in names),
            size(row.checkpoint.size_bytes),
            _notes(row, found.best_by.metric),
        )
        for row in rows
    ]
    if cells:
        print_table(("step", *names, "size", ""), cells, right=("step", *names, "size"))
    for one in damaged:
        click.echo(unicode(f"damaged: {one.path.name}: {one.reason}"))


def _notes(row: Standing, metric: str) -> str:
    """Say what a checkpoint is among the others."""
    said = [word for word, holds in (("newest", row.newest), (f"best by {metric}", row.best)) if holds]
    if not row.kept and not row.newest:
        said.append("kept by no rule")
    return ", ".join(said)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _print_list(folder: RunFolder, rows: Sequence[Standing], damaged: Sequence[Damaged]) -> None:
    listed = [
        {**_facts(row.checkpoint), "newest": row.newest, "best": row.best, "kept": row.kept} for row in rows
    ]
    print_json({"schema_version": 1, **_run(folder), "checkpoints": listed, "damaged": _damaged(damaged)})


def _run(folder: RunFolder) -> dict[str, str]:
    return {"run": str(folder.path), "run_id": folder.run_id, "name": folder.name}


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    from codex_kernel.archive import json_metrics

    return {
        "step": checkpoint.step,
        "path": str(checkpoint.path),
        "size_bytes": checkpoint.size_bytes,
        "metrics": json_metrics(checkpoint.metrics),
    }


def _damaged(damaged: Sequence[Damaged]) -> list[dict[str, str]]:
    return [{"path": str(one.path), "reason": one.reason} for one in damaged]


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@checkpoints.command("show", short_help="Show metrics and files of one checkpoint.")
@click.argument("run")
@click.argument("step", type=click.IntRange(0), required=False)
@runs_option
@json_option
def show(run: str, step: int | None, runs: Path, as_json: bool) -> None:  # noqa: FBT001
    """Show one checkpoint of RUN, that of STEP or the newest: its metrics and its files."""
    from codex_kernel.archive import at_step
    from codex_kernel.cli.summary import shown

    with _opened(_find(runs, run)) as found:
        checkpoint = at_step(found, step)
        files = found.archive.files(checkpoint)
    if as_json:
        print_json(
            {
                "schema_version": 1,
                **_run(found.folder),
                **_facts(checkpoint),
                "files": dict(sorted(files.items())),
            }
        )
        return
    click.echo(f"step {checkpoint.step:,} of {found.folder.name} {found.folder.run_id}")
    click.echo(unicode(f"  {'folder':<24} {shown(checkpoint.path)}"))
    click.echo(f"  {'size':<24} {size(checkpoint.size_bytes)}")
    for name, value in sorted(checkpoint.metrics.items()):
        click.echo(f"  {name:<24} {value:.6g}")
    click.echo("")
    print_table(
        ("file", "size"), [(name, size(count)) for name, count in sorted(files.items())], right=("size",)
    )


# ── verify ────────────────────────────────────────────────────────────────────────────────────────────────────────


@checkpoints.command("verify", short_help="Read every file and say which are damaged.")
@click.argument("run")
@click.argument("step", type=click.IntRange(0), required=False)
@runs_option
@json_option
def verify(run: str, step: int | None, runs: Path, as_json: bool) -> int:  # noqa: FBT001
    """Read every file of the checkpoints of RUN, or of that of STEP alone; changes nothing.

    Exit code 0 where all are whole; 1 where one is damaged and another can be used; 4 where none can be used.
    """
    from codex_kernel.archive import at_step, none_usable

    with _opened(_find(runs, run)) as found:
        known, damaged = found.archive.checkpoints() if step is None else ([at_step(found, step)], [])
        verdicts = []
        for number, checkpoint in enumerate(known, start=1):
            if checkpoint.size_bytes > LARGE_BYTES:
                of = f"({number} of {len(known)})"
                _talk(f"reading step {checkpoint.step:,}, {size(checkpoint.size_bytes)} {of}")
            faults = list(found.archive.verify(checkpoint))
            if faults and not checkpoint.path.exists():
                continue  # the process that trains has deleted it meanwhile
            verdicts.append((checkpoint, faults))
            if not as_json:
                _print_verdict(checkpoint, faults)
    if as_json:
        rows = [{**_facts(one), "whole": not faults, "faults": faults} for one, faults in verdicts]
        print_json(
            {"schema_version": 1, **_run(found.folder), "checkpoints": rows, "damaged": _damaged(damaged)}
        )
    else:
        for one in damaged:
            click.echo(unicode(f"{one.path.name}: damaged: {one.reason}"))
    if not verdicts and not damaged:
        raise none_usable(found)
    whole = [checkpoint for checkpoint, faults in verdicts if not faults]
    if len(whole) == len(verdicts) and not damaged:
        return 0
    return 1 if whole else 4


def _print_verdict(checkpoint: Checkpoint, faults: Sequence[str]) -> None:
    for verdict in [f"damaged: {fault}" for fault in faults] or ["ok"]:
        click.echo(unicode(f"{checkpoint.path.name}: {verdict}"))


# ── prune ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _best_rule(_ctx: click.Context, _param: click.Parameter, value: str | None) -> KeepBest | None:
    """Read METRIC[:min|max[:COUNT]]; raise click.BadParameter where it is not written like that."""
    from codex_kernel.retention import KeepBest

    if value is None:
        return None
    metric, mode, count, *more = [*value.split(":"), *("min", "1")[value.count(":") :]]
    if metric and not more and mode in {"min", "max"} and count.isdecimal() and int(count) > 0:
        return KeepBest(metric, "max" if mode == "max" else "min", int(count))
    raise click.BadParameter(
        f"expected METRIC[:min|max[:COUNT]], such as validation/loss:min:2, got {value!r}"
    )


@checkpoints.command(
    "prune",
    short_help="Delete the checkpoints that no rule keeps.",
    epilog="""
\b
Examples:
  codex checkpoints prune quickstart --dry-run
  codex checkpoints prune quickstart --keep-last 1 --keep-best validation/loss --yes
  codex checkpoints prune quickstart --damaged --yes
""",
)
@click.argument("run")
@click.option(
    "--keep-last", type=click.IntRange(1), metavar="N", help="Keep the newest N; 1 if another rule is given."
)
@click.option(
    "--keep-best",
    metavar="METRIC[:min|max[:COUNT]]",
    callback=_best_rule,
    help="Keep the best by a metric that checkpoints were saved with.",
)
@click.option("--keep-every", type=click.IntRange(1), metavar="N", help="Keep those at multiples of N steps.")
@click.option("--damaged", is_flag=True, help="Delete damaged ones too.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
@json_option
def prune(  # noqa: PLR0913 - click passes each option by name
    run: str,
    keep_last: int | None,
    keep_best: KeepBest | None,
    keep_every: int | None,
    damaged: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    runs: Path,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Delete the checkpoints of RUN that no rule keeps: those given here, or else the run's own.

    The newest checkpoint that is whole stays in any case, as does all of it where a process trains (exit code 3).
    """
    from codex_kernel.archive import Rules, pruning, size_on_disk
    from codex_kernel.durable import storage_errors

    folder = _find(runs, run)
    rules = Rules(keep_last, keep_best, keep_every)
    with nullcontext() if dry_run else folder.locked():
        with _opened(folder) as found:
            if any(one.size_bytes > LARGE_BYTES for one in found.known()):
                _talk("reading the newest checkpoint")
            plan = pruning(found, rules, damaged=damaged)
        sizes = {path: size_on_disk(path) for path in plan.paths}
        if not as_json:
            _show_pruning(plan, sizes, "would delete" if dry_run else "delete")
        if sizes and not dry_run:
            if not agreed(len(sizes), yes=yes):
                click.echo("nothing was deleted", err=True)
                return
            with _opened(folder, read_only=False) as found:
                for path in sizes:
                    with storage_errors(path):
                        found.archive.delete(path)
    if as_json:
        _print_pruning(folder, plan, sizes, deleted=not dry_run)
    elif sizes:
        done, freed = ("would delete", "would be free") if dry_run else ("deleted", "are free again")
        click.echo(f"{done} {len(sizes)}, {size(sum(sizes.values()))} {freed}")


def _show_pruning(plan: Pruning, sizes: Mapping[Path, int], verb: str) -> None:
    for path, count in sizes.items():
        click.echo(unicode(f"{verb} {path.name}, {size(count)}"))
    if not sizes:
        click.echo("nothing to delete")
    click.echo(f"keep step {', '.join(f'{one.step:,}' for one in plan.kept)}")


def _print_pruning(folder: RunFolder, plan: Pruning, sizes: Mapping[Path, int], *, deleted: bool) -> None:
    print_json(
        {
            "schema_version": 1,
            **_run(folder),
            "deleted": deleted and bool(sizes),
            "kept_steps": [one.step for one in plan.kept],
            "steps": [one.step for one in plan.going],
            "damaged": _damaged(plan.damaged),
            "size_bytes": sum(sizes.values()),
        }
    )


# ── export ────────────────────────────────────────────────────────────────────────────────────────────────────────


@checkpoints.command(
    "export",
    short_help="Copy model and tokenizer of a checkpoint out of the run.",
    epilog="""
\b
Examples:
  codex checkpoints export quickstart --to model
  codex checkpoints export quickstart 500 --to model-500
""",
)
@click.argument("run")
@click.argument("step", type=click.IntRange(0), required=False)
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="A folder to be made.",
)
@runs_option
@json_option
def export(run: str, step: int | None, target: Path, runs: Path, as_json: bool) -> None:  # noqa: FBT001
    """Copy the model of a checkpoint of RUN, that of STEP or the newest whole one, and its tokenizer into a new folder.

    The folder opens with the model's own library. Every file is verified as it is copied and has its SHA-256
    in codex-export.json. Of a run with LoRA it is the adapter.
    """
    from codex_kernel import archive
    from codex_kernel.cli.summary import shown

    archive.check_target(target)
    with _opened(_find(runs, run)) as found:
        record = archive.export(found, archive.usable(found, step), target.absolute())
    if as_json:
        print_json({"schema_version": 1, "folder": str(target.absolute()), **record})
        return
    if not record["has_tokenizer"]:
        click.echo("note: the run's tokenizer has no files of its own, so none are in the folder", err=True)
    total = sum(about["size"] for about in record["files"].values())
    click.echo(
        unicode(
            f"step {record['step']:,} is in {shown(target.absolute())}: {len(record['files'])} files, {size(total)}"
        )
    )


# ── what they share ───────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _opened(folder: RunFolder, *, read_only: bool = True) -> Iterator[Opened]:
    """Open a run's checkpoints."""
    from codex_kernel.archive import opened
    from codex_kernel.cli.quiet import TerminalReporter

    with opened(folder, cache_folder(), TerminalReporter(), read_only=read_only) as found:
        yield found


def _find(runs: Path, run: str) -> RunFolder:
    """Return the run that is meant."""
    from codex_kernel.runfolder import find

    return find(runs, run)


def _talk(text: str) -> None:
    """Tell what takes its time."""
    click.echo(f"{text} …", err=True)
