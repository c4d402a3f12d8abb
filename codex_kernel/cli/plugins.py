"""`codex plugins`: what there is, in the order of its table.

One rule: its help imports none of its commands; `codex_kernel.cli.plugins_<name>` has the command of that name.
"""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "list": "List the installed plugins.",
    "show": "Show one plugin: what it does and its options.",
    "check": "Import each plugin in a process of its own and judge it.",
    "tree": "Show the plugins by kind, or those of a manifest or run.",
    "search": "Search the known plugins, installed or not.",
    "doctor": "Look for what is wrong with the installation.",
    "new": "Write a plugin project that installs and passes its tests.",
    "build-manifest": "Write the static manifest of a plugin project.",
}


class PluginCommands(click.Group):
    """Knows its commands from the table above; a dash of the command is an underscore of the module."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f"codex_kernel.cli.plugins_{name}")
        command: click.Command = getattr(module, "list_" if name == "list" else name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the line names; where there is none, say which may have been meant."""
        if args[0] not in COMMANDS and args[0][:1].isalnum() and not ctx.resilient_parsing:
            from codex_kernel.option_types import did_you_mean

            hint = did_you_mean(args[0], COMMANDS)
            ctx.fail(f"No such command {args[0]!r}{f': {hint}' if hint else '.'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=PluginCommands)
def plugins() -> None:
    """See which plugins are installed, what they do, and whether they work."""
