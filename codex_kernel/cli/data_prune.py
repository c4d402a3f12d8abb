"""`codex data prune`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.places import cache_folder
from codex_kernel.cli.terminal import agreed, json_option, print_json, print_table, size, unicode

if TYPE_CHECKING:
    from codex_kernel.data.cached import Kept

SECONDS_OF_A_DAY = 86_400


@click.command(
    "prune",
    short_help="Show what lies in the cache, and delete what no run needs.",
    epilog="""
\b
Examples:
  codex data prune --dry-run
  codex data prune --older-than 30 --yes
  codex data prune --keep-runs runs --keep-runs ../other/runs
""",
)
@click.option(
    "--older-than", type=click.FloatRange(0), metavar="DAYS", help="Only what was not used for so many days."
)
@click.option(
    "--keep-runs",
    "kept_runs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep what the runs below this folder were trained on; repeatable.  [default: runs]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def prune(
    older_than: float | None,
    kept_runs: tuple[Path, ...],
    dry_run: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Show what lies in the cache, and delete what no run needs.

    Kept are the data that a run of --keep-runs was trained on, and whatever a process is building. All that is deleted
    can be built again, as long as the dataset is still there.
    """
    from codex_kernel.data import cached

    found = cached.entries(cache_folder())
    since = None if older_than is None else time.time() - older_than * SECONDS_OF_A_DAY
    found = cached.with_reasons(found, _needed(kept_runs), unused_since=since)
    going = [one for one in found if one.needed_by is None]
    if not as_json:
        _print_kept(found)
    deleted: list[Kept] = []
    if going and not dry_run:
        if not agreed(len(going), yes=yes):
            click.echo("nothing was deleted", err=True)
            return
        deleted = [one for one in going if cached.delete(one)]
    if as_json:
        _print_kept_json(found, deleted)
    elif going:
        done = going if dry_run else deleted
        what, freed = ("would delete", "would be free") if dry_run else ("deleted", "are free again")
        click.echo(f"{what} {len(done)}, {size(sum(one.size_bytes for one in done))} {freed}")


def _needed(folders: Sequence[Path]) -> dict[str, str]:
    """Return the keys that runs name, each with the run that does; raise InputError where one cannot be read."""
    from codex_kernel.durable import read_json
    from codex_kernel.errors import InputError
    from codex_kernel.runfolder import open_run, survey

    needed: dict[str, str] = {}
    for folder in folders or [Path("runs")]:
        if folders and not folder.is_dir():
            raise InputError(
                f"there is no folder {folder}", remedy="--keep-runs names a folder that holds runs"
            )
        runs, damaged = ([open_run(folder)], []) if (folder / "run.json").exists() else survey(folder)
        if damaged:
            raise InputError(
                f"nothing was deleted: {damaged[0].reason}",
                remedy="mend the run, or move it out of the folder",
            )
        for run in runs:
            about = read_json(run.data) or {}
            for key in (about.get("key"), about.get("corpus")):
                if isinstance(key, str):
                    needed.setdefault(key, f"{run.name} {run.run_id}")
    return needed


def _print_kept(found: Sequence[Kept]) -> None:
    if not found:
        click.echo(unicode(f"nothing of ours is in {cache_folder()}"), err=True)
        return
    rows = [
        (
            one.kind,
            one.key[:12],
            one.holds or "damaged",
            size(one.size_bytes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.last_used)),
            one.needed_by or "",
        )
        for one in found
    ]
    print_table(("kind", "key", "holds", "size", "last used", "kept for"), rows, right=("size",))


def _print_kept_json(found: Sequence[Kept], deleted: Sequence[Kept]) -> None:
    gone = {one.path for one in deleted}
    rows = [
        {
            "kind": one.kind,
            "key": one.key,
            "path": str(one.path),
            "size_bytes": one.size_bytes,
            "last_used": one.last_used,
            "leftover": one.leftover,
            "holds": one.holds,
            "kept_for": one.needed_by,
            "deleted": one.path in gone,
        }
        for one in found
    ]
    print_json({"schema_version": 1, "cache": str(cache_folder()), "entries": rows})
