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
from codex_kernel.errors import CodexError, PluginError, in_words
from codex_kernel.installers import way_out

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

_SHOWN_BYTES = 1000
HEAVY = (
    "accelerate",
    "datasets",
    "gguf",
    "huggingface_hub",
    "jax",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "peft",
    "psutil",
    "pyarrow",
    "pynvml",
    "safetensors",
    "scipy",
    "sentencepiece",
    "sklearn",
    "tensorflow",
    "tokenizers",
    "torch",
    "transformers",
)
"""Libraries that a plugin imports where it uses them, for `codex validate` may import its module at any time."""

CAPABILITIES = "codex_capabilities"
"""The one name of codex in a class that is no hook: what the plugin can do, for its static manifest."""


def load(entry: Entry) -> type:
    """Import the entry's class; raise PluginError where it cannot be imported or is no plugin of its kind.

    What it prints meanwhile goes to standard error, after its name: standard output belongs to codex.
    """
    plugin = import_target(entry)
    with blaming(entry):
        _check_class(entry, plugin)
    return plugin  # type: ignore[return-value] # checked to be a class just above


def load_command(entry: Entry) -> click.Command:
    """Import the entry's command; raise PluginError where it cannot be imported or is none."""
    import click

    command = import_target(entry)
    with blaming(entry):
        if isinstance(command, click.Command):
            return command
        raise PluginError(
            f"{entry}: {entry.target} is {type(command).__name__}, expected a click.Command",
            remedy="decorate the function with @click.command()",
        )


def check_hooks(entry: Entry, plugin: type) -> None:
    """Raise PluginError where the registration of a plugin would: a hook is misspelt, or takes what no hook has.

    Registered is an object that nobody has given its options; pluggy looks at no more.
    """
    from codex_kernel.hooks import Hooks

    plain = {"__repr__": lambda _: str(entry), "__eq__": object.__eq__, "__hash__": object.__hash__}
    with blaming(entry):
        Hooks().register(object.__new__(type(plugin.__name__, (plugin,), plain)), str(entry))


@contextlib.contextmanager
def blaming(entry: Entry, what: str = "cannot be looked at", remedy: str | None = None) -> Iterator[None]:
    """Turn what a plugin's class raises (its metaclass, a property) into a PluginError that names it.

    what: what could not be done with it. remedy: None: another version, or none of it.
    """
    try:
        yield
    except (CodexError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(
            f"{entry} {what}: {in_words(error)} @ {entry.target}",
            remedy=f"{remedy or way_out(entry.distribution, entry.metadata)}; --debug shows the traceback",
        ) from error


def import_target(entry: Entry) -> object:
    """Import what the entry point names, a class or a command; raise PluginError, with its name, where that fails.

    `os._exit` is caught like any other way to end the process. What kills it from below Python (a segmentation fault,
    an abort) cannot be: its stack is then shown, and names the plugin's file.
    """
    module_name, _, attribute = entry.target.partition(":")
    printed = io.StringIO()
    try:
        with _kept_descriptor(printed), contextlib.redirect_stdout(printed), _kept_alive():
            return getattr(import_module(module_name), attribute)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted while {entry} was imported: {entry.target}\n")
        raise
    except BaseException as error:
        raise PluginError(
            f"{entry} cannot be imported: {_first_cause(error)} @ {entry.target}",
            remedy=f"{way_out(entry.distribution, entry.metadata)}; --debug shows the traceback",
        ) from error
    finally:
        if printed.getvalue() and sys.stderr is not None:
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
        # standard error is not a real file, or not there
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            faulthandler.enable()
    os._exit = ended
    try:
        yield
    finally:
        over = True
        os._exit = real
        if not shows_already:
            faulthandler.disable()


@contextlib.contextmanager
def _kept_descriptor(printed: io.StringIO) -> Iterator[None]:
    """Keep an import from writing to descriptor 1, as C libraries and child processes do; add the text to `printed`.

    Where the system has no file in memory, what is written goes to standard error as it comes.
    """
    _flush()
    try:
        real = os.dup(1)
    except OSError:  # there is no standard output to be kept clean
        yield
        return
    written = None
    try:
        with contextlib.suppress(OSError):
            written = os.memfd_create("codex-import") if hasattr(os, "memfd_create") else None
        with contextlib.suppress(OSError):  # no standard error either
            os.dup2(2 if written is None else written, 1)
        yield
    finally:
        _flush()
        with contextlib.suppress(OSError):  # the plugin has closed all that it found open
            os.dup2(real, 1)
            os.close(real)
        if written is not None:
            with contextlib.suppress(OSError):
                printed.write(os.pread(written, _SHOWN_BYTES, 0).decode(errors="replace"))
                os.close(written)


def _flush() -> None:
    """Write what Python holds back for standard output, and the C library where a plugin may have called it."""
    if sys.__stdout__ is not None:
        with contextlib.suppress(OSError, ValueError):  # closed, or full: whoever writes next is told
            sys.__stdout__.flush()
    if (ctypes := sys.modules.get("ctypes")) is not None:
        with contextlib.suppress(OSError, AttributeError, TypeError):  # not on Windows
            ctypes.CDLL(None).fflush(None)


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
