"""`codex verify-resume`."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.manifests import make_plan, manifest_arguments
from codex_kernel.cli.places import cache_folder
from codex_kernel.cli.terminal import json_option, print_json, print_table, size, unicode

if TYPE_CHECKING:
    from codex_kernel.rehearse import Rehearsal

SHOWN_DIFFERENCES = 4


@click.command(
    epilog="""
\b
Examples:
  codex verify-resume manifest.yaml
  codex verify-resume manifest.yaml --kills 20 --steps 40 --set trainer.device=cpu
  codex verify-resume manifest.yaml --seed 7 --keep
"""
)
@manifest_arguments
@click.option(
    "--kills",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="How often the run is killed; 0 compares two runs that are not.",
)
@click.option(
    "--steps", type=click.IntRange(2), default=20, show_default=True, help="Optimizer steps of the rehearsal."
)
@click.option(
    "--seed", type=click.IntRange(0), help="Decides the instants of the kills; drawn where it is not given."
)
@click.option("--keep", is_flag=True, help="Keep the folder of the rehearsal, and say where it is.")
@json_option
def verify_resume(  # noqa: PLR0913 - click passes each option by name
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    kills: int,
    steps: int,
    seed: int | None,
    keep: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> int:
    """Rehearse MANIFEST: a run that is killed and resumed must be, bit by bit, one that was never killed.

    It is made short and run twice: undisturbed, and killed (SIGKILL) at random instants and resumed. Losses, metrics
    and every file of the last checkpoint are compared. Loggers are left out. The folder for temporary files (TMPDIR)
    needs room for the checkpoints of both.

    Exit code 0 where all is the same, 1 where something differs, that of the run where one fails.
    """
    from codex_kernel.cli.quiet import TerminalReporter
    from codex_kernel.plan import preflight

    plan = make_plan(manifest, override_files, sets)
    hooks = preflight(plan, Path.cwd(), cache_folder())

    from codex_kernel.killing import signals_end_it
    from codex_kernel.rehearse import Places, Wish, rehearse

    wish = Wish(kills, steps, secrets.randbelow(2**32) if seed is None else seed)
    with signals_end_it(), _folder(keep=keep) as folder, _progress() as tell:
        places = Places(folder, Path.cwd(), cache_folder(), TerminalReporter())
        found = rehearse(plan, hooks, wish, places, tell)
    if as_json:
        print_json({"schema_version": 1, **_json(found), "folder": str(folder) if keep else None})
    else:
        _show(found)
    return 1 if found.differences else 0


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """Make the folder of the rehearsal, and remove it unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="codex-verify-resume-"))
    try:
        yield folder
    finally:
        if keep:
            click.echo(f"kept: {unicode(folder)}", err=True)
        else:
            shutil.rmtree(folder)


@contextmanager
def _progress() -> Iterator[Any]:
    """Tell what goes on: on a terminal in one line that changes, elsewhere each piece of work once."""
    live = sys.stderr.isatty()
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        work = text.partition(":")[0]
        if live:
            click.echo(f"\r\033[K{text} …", nl=False, err=True)
        elif work != last:
            click.echo(f"{work} …", err=True)
        last = work

    try:
        yield tell
    finally:
        if live:
            with contextlib.suppress(OSError):
                click.echo("\r\033[K", nl=False, err=True)


def _show(found: Rehearsal) -> None:
    """Show the kills and the verdict."""
    if found.hits:
        rows = [
            (
                str(number),
                str(hit.step),
                "in a save" if hit.in_save else "between saves",
                str(hit.resumed_from),
                str(hit.lost_steps),
            )
            for number, hit in enumerate(found.hits, start=1)
        ]
        columns = ("kill", "after step", "when", "resumed from", "steps lost")
        print_table(columns, rows, right=("kill", "after step", "resumed from", "steps lost"))
    compared = (
        f"{found.steps} steps, {found.records} records of metrics, "
        f"{found.files} files of the last checkpoint ({size(found.size_bytes)})"
    )
    again = f"--seed {found.wish.seed} --steps {found.wish.steps} --kills {found.wish.kills}"
    if not found.differences:
        click.echo(f"identical: {compared}; {len(found.hits)} kills ({again})")
        return
    files = list(dict.fromkeys(difference.file for difference in found.differences))
    for file in files:
        of_file = [difference for difference in found.differences if difference.file == file]
        for difference in of_file[:SHOWN_DIFFERENCES]:
            click.echo(unicode(difference))
        if len(of_file) > SHOWN_DIFFERENCES:
            click.echo(unicode(f"{file}: … and more"))
    click.echo(unicode(f"different: {', '.join(files)}; {compared}; {len(found.hits)} kills ({again})"))
    click.echo(
        "--kills 0 says whether the run repeats itself at all, --keep keeps both runs to look at", err=True
    )


def _json(found: Rehearsal) -> dict[str, Any]:
    from attrs import asdict

    return {
        "identical": not found.differences,
        "seed": found.wish.seed,
        "steps": found.steps,
        "kills": [{**asdict(hit), "lost_steps": hit.lost_steps} for hit in found.hits],
        "records": found.records,
        "files": found.files,
        "size_bytes": found.size_bytes,
        "differences": [asdict(difference) for difference in found.differences],
    }
