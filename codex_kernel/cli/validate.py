"""`codex validate`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from codex_kernel.cli.manifests import make_plan, manifest_arguments
from codex_kernel.cli.places import cache_folder
from codex_kernel.cli.terminal import json_option, print_json

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry
    from codex_kernel.plan import Chosen, Plan


@click.command()
@manifest_arguments
@click.option(
    "--preflight",
    "ask_all",
    is_flag=True,
    help="Import the plugins that have a static manifest, too, and ask them what would go wrong in the run.",
)
@json_option
def validate(
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    ask_all: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Check MANIFEST: its text, its plugins and their options, and that its data is there.

    Nothing is built and torch is not imported. Of a plugin whose distribution brings a static manifest no code is
    imported: its options are checked by that; what it checks by code of its own waits for --preflight, or for the run.

    Exit code 2: the manifest is wrong; 7: a plugin is missing or broken.
    """
    from codex_kernel.errors import ManifestError
    from codex_kernel.loading import load
    from codex_kernel.plan import preflight

    try:
        plan = make_plan(manifest, override_files, sets, load if ask_all else _class_of)
        preflight(_asked(plan), Path.cwd(), cache_folder())
    except ManifestError as error:
        if as_json:
            rows = [
                {"where": p.where, "path": p.path, "message": p.message, "hint": p.hint, "plugin": p.plugin}
                for p in error.problems
            ]
            print_json({"schema_version": 1, "valid": False, "problems": rows})
        raise
    plugins = [str(chosen.entry) for chosen in plan.everyone()]
    asked = {id(chosen.plugin) for chosen in _asked(plan).everyone()}
    unasked = [str(chosen.entry) for chosen in plan.everyone() if id(chosen.plugin) not in asked]
    if as_json:
        said = {"schema_version": 1, "valid": True, "name": plan.name, "plugins": plugins}
        print_json({**said, "preflight_not_asked": unasked})
        return
    click.echo(f"{manifest}: ok, {len(plugins)} plugins")
    for plugin in plugins:
        click.echo(f"  {plugin}")
    if unasked:
        click.echo("only the options were checked, by static manifests, of:")
        for plugin in unasked:
            click.echo(f"  {plugin}")
        click.echo("codex validate --preflight imports these, too, and asks them what would go wrong")


def _asked(plan: Plan) -> Plan:
    """Return the plan with those plugins alone whose code is there to be asked."""
    from attrs import evolve

    chosen = [
        evolve(one, sources={name: source for name, source in one.sources.items() if _is_code(source)})
        for one in plan.chosen
        if _is_code(one)
    ]
    return evolve(plan, chosen=tuple(chosen))


def _is_code(chosen: Chosen) -> bool:
    from codex_kernel.schema_types import is_described

    return not is_described(type(chosen.plugin))


def _class_of(entry: Entry) -> type:
    """Return the class of a plugin, without its code where its static manifest can be believed; say where it cannot."""
    from codex_kernel.errors import PluginError
    from codex_kernel.loading import load
    from codex_kernel.static_file import fault
    from codex_kernel.static_manifest import class_without_code

    if wrong := fault(entry):
        _warn(wrong)
    try:
        described = class_without_code(entry)
    except PluginError as error:
        _warn(error.message)
        described = None
    return described or load(entry)


@functools.cache
def _warn(text: str) -> None:
    """Say it once, however many plugins of a distribution the manifest has."""
    click.echo(f"warning: {text}", err=True)
