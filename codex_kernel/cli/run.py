"""`codex run`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from codex_kernel.cli.manifests import make_plan, manifest_arguments
from codex_kernel.cli.terminal import cache_folder, runs_option, unicode


@click.command(
    epilog="""
\b
Examples:
  codex run examples/quickstart.yaml
  codex run manifest.yaml --set trainer.max_steps=10 --set loggers.0.type=csv
  codex run manifest.yaml --override-file gpu.yaml --run-dir out/first
"""
)
@manifest_arguments
@runs_option
@click.option("--run-dir", type=click.Path(path_type=Path), help="Put the run exactly there; new or empty.")
def run(
    manifest: Path, override_files: tuple[Path, ...], sets: tuple[str, ...], runs: Path, run_dir: Path | None
) -> int:
    """Run MANIFEST from its first step."""
    from codex_kernel import runfolder
    from codex_kernel.plan import preflight

    if run_dir is not None:
        runfolder.check_new(run_dir)  # quickly said, where another process works there
    plan = make_plan(manifest, override_files, sets)
    # Before the folder is made: a run that cannot begin leaves nothing behind.
    hooks = preflight(plan, Path.cwd(), cache_folder())

    from codex_kernel import execute
    from codex_kernel.cli.summary import print_summary

    folder = runfolder.create(runs, plan.name, Path.cwd(), exactly=run_dir)
    overrides = [
        *(f"--override-file {unicode(file)}" for file in override_files),
        *(f"--set {text}" for text in sets),
    ]
    how = execute.Start(plan.manifest.text, overrides, sys.argv)
    outcome = execute.start(plan, hooks, folder, cache_folder(), how)
    print_summary(folder, outcome)
    return outcome.exit_code
