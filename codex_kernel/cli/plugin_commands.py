"""Commands that plugins bring: `codex NAME` of the entry-point group `codex.commands`.

One rule: help reads metadata alone; a plugin is imported when its own command is called, and no other is.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import click

from codex_kernel.catalog import Catalog, Entry
from codex_kernel.errors import CodexError, PluginError, in_words

KIND = "command"
CALLED = ("ok", "older", "claimed twice")
"""Statuses of commands that can be called, by their full name at least."""
_KEPT = (CodexError, click.ClickException, click.Abort, click.exceptions.Exit, KeyboardInterrupt, SystemExit)
"""What a command may raise and mean it: errors that explain themselves, exit codes, Ctrl-C."""


def help_lines(built_in: Collection[str]) -> list[tuple[str, str]]:
    """Return (name, what it does) of the commands of plugins; two of one name each with its distribution."""
    from codex_kernel import static_file

    lines = []
    listed = [e for e in against(built_in, Catalog.scan().entries) if e.kind == KIND and e.status in CALLED]
    of_name = Counter(entry.full_name for entry in listed)
    for entry in listed:
        if of_name[entry.full_name] == 1:  # what one distribution has twice cannot be called at all
            name = entry.full_name if entry.status == "claimed twice" else entry.name
            described = static_file.read(entry)
            lines.append((name, described.summary if described else entry.summary))
    return lines


def against(built_in: Collection[str], entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries, those of commands that have the name of a built-in one with a status that says so."""
    for entry in entries:
        if entry.kind == KIND and entry.name in built_in and entry.status in CALLED:
            reason = f"codex {entry.name} is a command of its own: call this one as codex {entry.full_name}"
            yield entry._replace(status="built in", reason=reason)
        else:
            yield entry


def names(built_in: Collection[str]) -> list[str]:
    """Return the names of plugin commands that can be called."""
    return [name for name in Catalog.scan().names(KIND) if name not in built_in]


def find(called: str) -> Entry | None:
    """Return the entry that `NAME` or `DISTRIBUTION/NAME` means; None where nobody has it.

    Raises PluginError where two distributions have it, or the one that has it may not be used.
    """
    distribution, _, name = called.rpartition("/")
    catalog = Catalog.scan()
    owned = catalog.named(KIND, name, distribution or None)
    return catalog.find(KIND, name, distribution or None) if owned else None


@functools.cache
def load(entry: Entry) -> click.Command:
    """Import a command; raise PluginError where that fails or it is none."""
    from codex_kernel.loading import load_command

    return load_command(entry)


@contextmanager
def blaming(entry: Entry) -> Iterator[None]:
    """Turn what a command raises and does not explain into a PluginError that names its plugin."""
    try:
        yield
    except _KEPT:
        raise
    except BaseException as error:
        raise PluginError(
            f"{entry} failed: {in_words(error)}", remedy="--debug shows the traceback"
        ) from error


def suggestion(called: str, built_in: Collection[str]) -> str:
    """Say which command may have been meant, or how to get it; "" where nothing is known."""
    import difflib

    from codex_kernel.installers import install_line
    from codex_kernel.known import known_plugins

    index = known_plugins().get(KIND, {})
    if home := index.get(called):
        return install_line(home.distribution)
    close = difflib.get_close_matches(called, [*built_in, *names(built_in)], n=1)
    return f"did you mean {close[0]!r}?" if close else ""
