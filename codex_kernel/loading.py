"""Importing the plugin classes that a manifest names, each with a verdict.

One rule: whatever a plugin does while it is imported (raise, exit, print), the user reads which distribution did it and
how to go on.
"""

from __future__ import annotations

import contextlib
import io
import sys
from importlib import import_module

import attrs

from codex_kernel.catalog import Entry
from codex_kernel.errors import PluginError

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


def load(entry: Entry) -> type:
    """Import the entry's class; raise PluginError where it cannot be imported or is no plugin of its kind.

    What it prints meanwhile goes to standard error, after its name: standard output belongs to codex.
    """
    module_name, _, attribute = entry.target.partition(":")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            plugin = getattr(import_module(module_name), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"{entry} cannot be imported: {_first_cause(error)} @ {entry.target}",
            remedy=f"pip install --upgrade {entry.distribution}, or pip uninstall it; --debug shows the traceback",
        ) from error
    finally:
        if printed.getvalue():
            sys.stderr.write(
                f"warning: {entry} printed while it was imported: {printed.getvalue().strip()[:200]!r}\n"
            )
    _check_class(entry, plugin)
    return plugin  # type: ignore[no-any-return] # checked to be a class just above


def _check_class(entry: Entry, plugin: object) -> None:
    """Raise PluginError unless `plugin` is an attrs class that implements the hook of its kind."""
    if not (isinstance(plugin, type) and attrs.has(plugin)):
        raise PluginError(
            f"{entry}: {entry.target} is {type(plugin).__name__}, expected an attrs class",
            remedy="decorate the class with @attrs.frozen, or with @attrs.define(eq=False) where it holds state",
        )
    marked = {name for name in dir(plugin) if hasattr(getattr(plugin, name, None), "codex_impl")}
    unmarked = {name for name in dir(plugin) if name.startswith("codex_") and name not in marked}
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
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().split("\n", maxsplit=1)[0]
    if isinstance(error, SystemExit):
        return f"it ended the process (SystemExit {text})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
