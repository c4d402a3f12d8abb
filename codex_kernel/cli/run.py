"""`codex run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.manifests import make_plan, manifest_arguments, skip_bad_option, with_skip_bad
from codex_kernel.cli.places import cache_folder, runs_option
from codex_kernel.cli.resume import allow_change_option, go_on
from codex_kernel.cli.terminal import unicode

if TYPE_CHECKING:
    from codex_kernel.plan import Plan
    from codex_kernel.runfolder import RunFolder


@click.command(
    epilog="""
\b
Examples:
  codex run examples/quickstart.yaml
  codex run manifest.yaml --set trainer.max_steps=10 --set loggers.0.type=csv
  codex run manifest.yaml --override-file gpu.yaml --run-dir out/first
  codex run manifest.yaml --resume auto     begin, or go on: for a scheduler that repeats it
  codex run manifest.yaml --locked plugins.lock.json     with exactly these plugins, or not at all
"""
)
@manifest_arguments
@skip_bad_option
@click.option(
    "--resume",
    "resumed",
    metavar="auto|RUN",
    help="Go on with RUN by this manifest; auto: with its newest run, or that of --run-dir, or begin one.",
)
@allow_change_option
@runs_option
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put the run exactly there; new or empty.",
)
@click.option(
    "--locked",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Refuse to run unless the plugins are exactly those of a plugins.lock.json, or of the run folder PATH.",
)
def run(  # noqa: PLR0913 - click passes each option by name
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    skip_bad: int | None,
    resumed: str | None,
    allowed: tuple[str, ...],
    runs: Path,
    run_dir: Path | None,
    locked: Path | None,
) -> int:
    """Run MANIFEST from its first step, or go on with a run of it."""
    from codex_kernel import runfolder

    sets = with_skip_bad(sets, skip_bad)

    def planned() -> Plan:
        plan = make_plan(manifest, override_files, sets)
        if locked is not None:
            _check_lock(plan, locked)
        return plan

    if allowed and resumed is None:
        raise click.UsageError("--allow-change is for a run that goes on: add --resume auto, or --resume RUN")
    if resumed not in {None, "auto"}:
        if run_dir is not None:
            raise click.UsageError("--run-dir says where a run is, and so does --resume RUN: leave one out")
        return go_on(runfolder.find(runs, resumed), planned, allowed)

    before = None
    if resumed is None and run_dir is not None:
        runfolder.check_new(run_dir)  # quickly said, where another process works there
    plan = planned()
    if resumed == "auto":
        before = _there(plan, runs, run_dir)
        if before is not None and _can_go_on(plan, before):
            return go_on(before, lambda: plan, allowed)
    return _begin(plan, override_files, sets, runs, run_dir, before)


def _check_lock(plan: Plan, locked: Path) -> None:
    """Refuse plugins that are not exactly those of a lock."""
    from codex_kernel import plugin_lock

    plugin_lock.check(locked, plan.lock()["plugins"])


def _begin(  # noqa: PLR0913 - what was asked for, and in place of what
    plan: Plan,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    runs: Path,
    run_dir: Path | None,
    before: RunFolder | None,
) -> int:
    """Run a plan in a new folder; `before` is the run without a checkpoint that it replaces, None: none."""
    from codex_kernel import runfolder
    from codex_kernel.plan import preflight

    # Before the folder is made: a run that cannot begin leaves nothing behind.
    hooks = preflight(plan, Path.cwd(), cache_folder())

    from codex_kernel import execute
    from codex_kernel.cli.summary import print_summary

    left = _clear(plan, before, run_dir) if before is not None else None
    folder = runfolder.create(runs, plan.name, Path.cwd(), exactly=run_dir)
    if before is not None:
        click.echo(
            f"warning: the run {before.run_id} ended before its first checkpoint, so it cannot be resumed; "
            f"what it left is in {unicode(left)}; begun again from step 0 in {unicode(folder.path)}",
            err=True,
        )
    overrides = [
        *(f"--override-file {unicode(file)}" for file in override_files),
        *(f"--set {text}" for text in sets),
    ]
    how = execute.Start(plan.manifest.text, overrides, sys.argv, instead_of=left)
    outcome = execute.start(plan, hooks, folder, cache_folder(), how)
    print_summary(folder, outcome)
    return outcome.exit_code


def _there(plan: Plan, runs: Path, run_dir: Path | None) -> RunFolder | None:
    """Return the run that `--resume auto` means; None where there is none yet."""
    from codex_kernel import runfolder

    if run_dir is None:
        return runfolder.newest(runs, plan.name)
    if (run_dir / "run.json").exists():
        return runfolder.open_run(run_dir)
    runfolder.check_new(run_dir)
    return None


def _can_go_on(plan: Plan, before: RunFolder) -> bool:
    """Say whether a run ever had a checkpoint; only one that never had any may be begun again."""
    with before.locked():
        return _has_saved(plan, before)


def _has_saved(plan: Plan, before: RunFolder) -> bool:
    from codex_kernel import execute
    from codex_kernel.cli.quiet import TerminalReporter

    return execute.has_saved(plan, before, cache_folder(), TerminalReporter())


def _clear(plan: Plan, before: RunFolder, run_dir: Path | None) -> Path:
    """Free the place of a run that is begun again in its own folder; return where it lies from now on."""
    from codex_kernel import runfolder
    from codex_kernel.errors import LockedError

    if run_dir is None:
        return before.path
    with before.locked():
        if _has_saved(plan, before):
            raise LockedError(
                f"{before.path}: another process has gone on with the run meanwhile", remedy="ask again"
            )
        return runfolder.set_aside(before)
