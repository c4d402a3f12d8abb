"""`codex runs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.places import runs_option
from codex_kernel.cli.terminal import duration, json_option, print_json, print_table

if TYPE_CHECKING:
    from codex_kernel.runfolder import RunFolder

DAMAGED = "damaged"


@click.group()
def runs() -> None:
    """List runs and show how they went."""


@runs.command("list")
@runs_option
@json_option
def list_(runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """List the runs below the runs folder, oldest first."""
    from codex_kernel.runfolder import survey

    found, unreadable = survey(runs)
    rows = [_row_or_damage(folder) for folder in found]
    rows += [_damaged(one.path.parent.name, one.path.name, one.path, one.reason) for one in unreadable]
    rows.sort(key=lambda row: row["run_id"])
    for row in rows:
        if row["status"] == DAMAGED:
            click.echo(f"warning: {row['reason']}", err=True)
    if as_json:
        print_json({"schema_version": 1, "runs": rows})
        return
    if not rows:
        click.echo(f"no runs below {runs}; codex run manifest.yaml makes one", err=True)
        return
    cells = [
        (
            row["name"],
            row["run_id"],
            row["status"],
            "" if row["steps"] is None else f"{row['steps']:,}",
            "" if row["tokens"] is None else f"{row['tokens']:,}",
            "" if row["validation_loss"] is None else f"{row['validation_loss']:.4f}",
            "" if row["seconds"] is None else duration(row["seconds"]),
        )
        for row in rows
    ]
    columns = ("name", "run id", "status", "steps", "tokens", "validation loss", "time")
    print_table(columns, cells, right=("steps", "tokens", "validation loss", "time"))


@runs.command("show")
@click.argument("run")
@runs_option
@json_option
def show(run: str, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show one RUN (a run folder, or its id): how it went, its losses, data and plugins."""
    from codex_kernel import metrics
    from codex_kernel.cli.summary import measures, shown
    from codex_kernel.durable import read_json
    from codex_kernel.runfolder import find

    folder = find(runs, run)
    row = _row(folder)
    data, lock = read_json(folder.data) or {}, read_json(folder.plugins_lock) or {"plugins": []}
    evaluations = [record for record in metrics.read(folder.metrics) if record["split"] == "validation"]
    if as_json:
        environment = read_json(folder.environment)
        print_json(
            {
                "schema_version": 1,
                **row,
                "outcome": read_json(folder.outcome),
                "data": data,
                "plugins": lock["plugins"],
                "environment": environment,
                "evaluations": evaluations,
            }
        )
        return
    click.echo(
        f"{row['name']} {row['run_id']}: {row['status']}" + (f", {row['reason']}" if row["reason"] else "")
    )
    facts = [
        ("run folder", shown(folder.path)),
        ("steps", f"{row['steps']:,}"),
        ("tokens", f"{row['tokens']:,}"),
        *measures(folder),
        *((("checkpoint", shown(Path(row["checkpoint"]))),) if row["checkpoint"] else ()),
    ]
    for name, value in facts:
        click.echo(f"  {name:<16} {value}")
    if evaluations:
        names = [name for name in evaluations[-1] if name not in metrics.RESERVED]
        click.echo("\nevaluations")
        cells = [(str(e["step"]), *(_number(e.get(name)) for name in names)) for e in evaluations]
        print_table(("step", *names), cells, right=("step", *names))
    click.echo("\nplugins")
    print_table(
        ("kind", "name", "distribution"),
        [(p["kind"], p["name"], f"{p['distribution']} {p['version']}") for p in lock["plugins"]],
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _row_or_damage(folder: RunFolder) -> dict[str, Any]:
    """Return what a list says of a run: one that is damaged must not hide the others."""
    from codex_kernel.errors import InputError

    try:
        return _row(folder)
    except InputError as error:
        return _damaged(folder.name, folder.run_id, folder.path, error.message)


def _damaged(name: str, run_id: str, path: Path, reason: str) -> dict[str, Any]:
    """Return what a list says of a run that cannot be read."""
    unknown = dict.fromkeys(("steps", "tokens", "validation_loss", "seconds", "checkpoint"))
    about = {"name": name, "run_id": run_id, "path": str(path.absolute())}
    return {**about, "status": DAMAGED, "reason": reason, **unknown}


def _row(folder: RunFolder) -> dict[str, Any]:
    """Return what is known of a run; raise InputError where its files lack something or cannot be read."""
    from codex_kernel.errors import InputError

    try:
        return _read_row(folder)
    except KeyError as error:
        raise InputError(f"{folder.path}: its outcome, or a record of its metrics, has no {error}") from error
    except OSError as error:
        raise InputError(f"{folder.path} cannot be read: {error.strerror or error}") from error


def _read_row(folder: RunFolder) -> dict[str, Any]:
    """Return what is known of a run; a run without an outcome runs still, or was killed."""
    from codex_kernel import metrics
    from codex_kernel.durable import read_json

    running = folder.is_held()
    outcome = None if running else read_json(folder.outcome)
    status = "running" if running else outcome["status"] if outcome else "interrupted"
    records = list(metrics.read(folder.metrics))
    last = records[-1] if records else {"step": 0, "tokens": 0}
    validation = metrics.series(iter(records), "validation", "loss")
    return {
        "name": folder.name,
        "run_id": folder.run_id,
        "path": str(folder.path),
        "status": status,
        "reason": outcome["reason"] if outcome else None,
        "steps": outcome["steps"] if outcome else last["step"],
        "tokens": outcome["tokens"] if outcome else last["tokens"],
        "validation_loss": validation[-1][1] if validation else None,
        "seconds": outcome["seconds"] if outcome else None,
        "checkpoint": outcome["checkpoint"] if outcome else None,
    }
