"""Importing the plugin classes that a manifest names, each with a verdict.

One rule: whatever a plugin does while it is imported (raise, exit, print), the user reads which distribution did it and
how to go on.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import attrs

from codex_kernel.catalog import Entry
from codex_kernel.errors import PluginError, in_words
from codex_kernel.installers import uninstall_line, upgrade_line

if TYPE_CHECKING:
    import click

HOOK_OF_KIND = {
    "dataset": "codex_dataset",
    "cleaner": "codex_cleaner",
    "tokenizer": "codex_tokenizer",
    "model": "codex_model",
    "adapter": "codex_model",
    "trainer": "codex_trainer",
    "checkpointer": "codex_checkpointer",
    "metric": "codex_metric",
}
"""The hook that a plugin of a kind must implement; a logger implements any of the observers."""

CAPABILITIES = "codex_capabilities"
"""The one name of codex in a class that is no hook: what the plugin can do, for its static manifest."""


def load(entry: Entry) -> type:
    """Import the entry's class; raise PluginError where it cannot be imported or is no plugin of its kind.

    What it prints meanwhile goes to standard error, after its name: standard output belongs to codex.
    """
    plugin = import_target(entry)
    _check_class(entry, plugin)
    return plugin  # type: ignore[return-value] # checked to be a class just above


def load_command(entry: Entry) -> click.Command:
    """Import the entry's command; raise PluginError where it cannot be imported or is none."""
    import click

    command = import_target(entry)
    if not isinstance(command, click.Command):
        raise PluginError(
            f"{entry}: {entry.target} is {type(command).__name__}, expected a click.Command",
            remedy="decorate the function with @click.command()",
        )
    return command


def import_target(entry: Entry) -> object:
    """Import what the entry point names, a class or a command; raise PluginError, with its name, where that fails.

    `os._exit` is caught like any other way to end the process. What kills it from below Python (a segmentation fault,
    an abort) cannot be: its stack is then shown, and names the plugin's file.
    """
    module_name, _, attribute = entry.target.partition(":")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), _kept_alive():
            return getattr(import_module(module_name), attribute)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted while {entry} was imported: {entry.target}\n")
        raise
    except BaseException as error:
        raise PluginError(
            f"{entry} cannot be imported: {_first_cause(error)} @ {entry.target}",
            remedy=f"{_way_out(entry)}; --debug shows the traceback",
        ) from error
    finally:
        if printed.getvalue():
            sys.stderr.write(
                f"warning: {entry} printed while it was imported: {printed.getvalue().strip()[:200]!r}\n"
            )


class _EndedProcessError(BaseException):
    """A plugin called `os._exit` while it was imported."""


@contextlib.contextmanager
def _kept_alive() -> Iterator[None]:
    """Keep an import from ending the process without a word."""
    import faulthandler

    real, over, process = os._exit, False, os.getpid()

    def ended(status: int) -> NoReturn:
        if (
            over or os.getpid() != process
        ):  # the plugin has kept the name for later, or ends a child of its own
            real(status)
        raise _EndedProcessError(f"os._exit({status})")

    shows_already = faulthandler.is_enabled()
    if not shows_already:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is not a real file
            faulthandler.enable()
    os._exit = ended
    try:
        yield
    finally:
        over = True
        os._exit = real
        if not shows_already:
            faulthandler.disable()


def _way_out(entry: Entry) -> str:
    """Say how to go on without the fault: another version, none, or other code."""
    project = entry.metadata / "pyproject.toml"
    if project.is_file():
        return f"mend the code of {project.parent}"
    return f"{upgrade_line(entry.distribution)}, or {uninstall_line(entry.distribution)}"


def _check_class(entry: Entry, plugin: object) -> None:
    """Raise PluginError unless `plugin` is an attrs class that implements the hook of its kind."""
    if not (isinstance(plugin, type) and attrs.has(plugin)):
        raise PluginError(
            f"{entry}: {entry.target} is {type(plugin).__name__}, expected an attrs class",
            remedy="decorate the class with @attrs.frozen, or with @attrs.define(eq=False) where it holds state",
        )
    marked = {name for name in dir(plugin) if hasattr(getattr(plugin, name, None), "codex_impl")}
    unmarked = {name for name in dir(plugin) if name.startswith("codex_")} - marked - {CAPABILITIES}
    if unmarked:
        raise PluginError(
            f"{entry}: {entry.target} has {', '.join(sorted(unmarked))} without @hookimpl",
            remedy="decorate it with @hookimpl, or give it a name that does not start with codex_",
        )
    needed = HOOK_OF_KIND.get(entry.kind)
    if (needed and needed not in marked) or not marked:
        raise PluginError(
            f"{entry}: {entry.target} does not implement {needed or 'any hook'}",
            remedy=f"write `@hookimpl def {needed or 'codex_metrics'}(self, …)` in the class",
        )


def _first_cause(error: BaseException) -> str:
    """Return the innermost cause of an exception, in one line."""
    seen = {id(error)}  # causes may go round in a circle
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    words = in_words(error)
    if isinstance(error, _EndedProcessError):
        return f"it ended the process ({words.partition(': ')[2]})"
    if isinstance(error, SystemExit):
        return f"it ended the process ({words.replace(': ', ' ', 1)})"
    return words
