"""`codex resume`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from codex_kernel.cli.manifests import make_plan
from codex_kernel.cli.terminal import cache_folder, runs_option


@click.command()
@click.argument("run")
@runs_option
def resume(run: str, runs: Path) -> int:
    """Go on with RUN (a run folder, or its id) from its newest whole checkpoint."""
    from codex_kernel import runfolder
    from codex_kernel.plan import preflight

    folder = runfolder.find(runs, run)
    with folder.locked():  # a run in progress is said to be so before anything is imported
        plan = make_plan(folder.begun(), (), ())
    hooks = preflight(plan, folder.base, cache_folder())

    from codex_kernel import execute
    from codex_kernel.cli.summary import print_summary

    outcome = execute.resume(plan, hooks, folder, cache_folder(), sys.argv)
    print_summary(folder, outcome)
    return outcome.exit_code
