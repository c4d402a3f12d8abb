"""`codex validate`."""

from __future__ import annotations

from pathlib import Path

import click

from codex_kernel.cli.manifests import make_plan, manifest_arguments
from codex_kernel.cli.terminal import cache_folder, json_option, print_json


@click.command()
@manifest_arguments
@json_option
def validate(manifest: Path, override_files: tuple[Path, ...], sets: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001
    """Check MANIFEST: its text, its plugins and their options, and that its data is there.

    Nothing is built and torch is not imported. Exit code 2: the manifest is wrong; 7: a plugin is missing or broken.
    """
    from codex_kernel.errors import ManifestError
    from codex_kernel.plan import preflight

    try:
        plan = make_plan(manifest, override_files, sets)
        preflight(plan, Path.cwd(), cache_folder())
    except ManifestError as error:
        if as_json:
            rows = [
                {"where": p.where, "path": p.path, "message": p.message, "hint": p.hint, "plugin": p.plugin}
                for p in error.problems
            ]
            print_json({"schema_version": 1, "valid": False, "problems": rows})
        raise
    plugins = [str(chosen.entry) for chosen in plan.everyone()]
    if as_json:
        print_json({"schema_version": 1, "valid": True, "name": plan.name, "plugins": plugins})
    else:
        click.echo(f"{manifest}: ok, {len(plugins)} plugins")
        for plugin in plugins:
            click.echo(f"  {plugin}")
