"""`codex plugins`: what there is, in the order of its table.

One rule: its help imports none of its commands; `codex_kernel.cli.plugins_<name>` has the command of that name.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

COMMANDS = {
    "list": "List the installed plugins.",
    "show": "Show one plugin: what it does and its options.",
    "check": "Import each plugin in a process of its own and judge it.",
    "tree": "Show the plugins by kind, or those that a manifest or run uses.",
    "search": "Search the known plugins, installed or not.",
    "doctor": "Look for what is wrong with the installation.",
    "new": "Write a plugin project that installs and passes its tests.",
    "build-manifest": "Write the static manifest of a plugin project.",
}


class PluginCommands(click.Group):
    """Knows its commands from the table above; a dash of the command is an underscore of the module."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        folder = Path(__file__).parent
        return [name for name in COMMANDS if (folder / f"{_module(name)}.py").exists()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"codex_kernel.cli.{_module(cmd_name)}")
        name = "list_" if cmd_name == "list" else cmd_name.replace("-", "_")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=PluginCommands)
def plugins() -> None:
    """See which plugins are installed, what they do, and whether they work."""


def _module(command: str) -> str:
    return f"plugins_{command.replace('-', '_')}"
