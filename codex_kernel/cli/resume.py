"""`codex resume`, and what `codex run --resume` has in common with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.manifests import make_plan, override_options
from codex_kernel.cli.places import cache_folder, runs_option

if TYPE_CHECKING:
    from codex_kernel.plan import Plan
    from codex_kernel.runfolder import RunFolder

allow_change_option = click.option(
    "--allow-change",
    "allowed",
    multiple=True,
    metavar="KEY",
    help="Go on although KEY, such as trainer.lr, changes the curve of the run; repeatable.",
)


@click.command(
    epilog="""
\b
Examples:
  codex resume runs/quickstart/20260101-120000-ab12
  codex resume quickstart --set checkpointer.every_steps=50
  codex resume quickstart --set trainer.lr=1e-4 --allow-change trainer.lr
"""
)
@click.argument("run")
@override_options
@allow_change_option
@runs_option
def resume(
    run: str, override_files: tuple[Path, ...], sets: tuple[str, ...], allowed: tuple[str, ...], runs: Path
) -> int:
    """Go on with RUN from its newest whole checkpoint.

    RUN is a run folder, a run id or the start of one, or a run's name (its newest run).
    It goes on by its own manifest; what is set over that is from then on the run's own too.
    """
    from codex_kernel import runfolder

    folder = runfolder.find(runs, run)
    return go_on(folder, lambda: make_plan(folder.begun(), override_files, sets), allowed)


def go_on(folder: RunFolder, planned: Callable[[], Plan], allowed: tuple[str, ...]) -> int:
    """Go on with a run by the manifest that `planned` reads, and return the exit code; or say that it is complete."""
    with folder.locked():  # a run in progress is said to be so before anything is imported
        plan = planned()

        from codex_kernel import execute

        differences = execute.checked_changes(plan, folder, allowed)
        complete = None if differences else execute.completed(folder)

    from codex_kernel.cli.summary import print_summary

    if complete is not None:
        print_summary(
            folder, complete, f"nothing is left to do: this run completed before, {complete.reason}"
        )
        return 0

    from codex_kernel.build import settled
    from codex_kernel.plan import preflight

    done = settled(plan, folder.data, folder.tokenizer, cache_folder())
    hooks = preflight(plan, folder.base, cache_folder(), done)
    how = execute.Resumption(allowed, sys.argv)
    outcome = execute.resume(plan, hooks, folder, cache_folder(), how)
    print_summary(folder, outcome)
    return outcome.exit_code
