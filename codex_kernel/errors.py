"""Every error that codex raises on purpose, and the exit code each one ends the command with.

    CodexError                  1   any other failure
    ├── InputError              2   a manifest, an option or a data file is wrong
    │   ├── ConversationError   2   one conversation of a batch cannot be made tokens
    │   └── ManifestError       2   the same, for many places at once
    ├── LockedError             3   another process holds the run folder
    ├── NoCheckpointError       4   nothing to resume from
    ├── NonFiniteError          5   a loss or a gradient is not finite
    ├── StorageError            6   the disk is full, read-only or failing
    ├── PluginError             7   a plugin is missing, broken, ambiguous or failed
    └── StoppedError        128+n   stopped by signal n, after saving

One rule: a message says what, where, what was expected and what was got; `remedy` says how to mend it. This module
imports nothing slow: the quickest commands need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class CodexError(Exception):
    """A failure that codex explains to the user in at most six lines, without a traceback."""

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class InputError(CodexError):
    """What the user gave (manifest, option, data file) is wrong."""

    exit_code = 2


class ConversationError(InputError):
    """A conversation cannot be made tokens; `index` says which of those that were given at once, from 0."""

    def __init__(self, message: str, *, index: int, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.index = index


def in_words(error: BaseException) -> str:
    """Return an exception in one line: its type, and the first line of its message.

    That message is made by code of the exception's own class, which may fail once more.
    """
    name = type(error).__name__
    try:
        text = str(error).strip().partition("\n")[0]
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever it is, there are no words for it
        return f"{name} (its message cannot be read)"
    return f"{name}: {text}" if text else name


class Problem(NamedTuple):
    """One fault in what the user wrote.

    `where` is `file:line:column` or the override it came from; `path` is the place in the manifest (`$.trainer.lr`),
    empty where the file as a whole is at fault; `hint` says how to mend it, None where the message does. `plugin` marks
    a fault that lies in what is installed, not in what is written; `cause` is the exception that told it.
    """

    where: str
    path: str
    message: str
    hint: str | None = None
    plugin: bool = False
    cause: BaseException | None = None

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        key = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}{key}{self.message}{hint}"


class ManifestError(InputError):
    """The manifest has faults; `problems` holds all of them, in the order of the file.

    Where all of them lie in the plugins, the exit code is that of a PluginError.
    """

    shown = 20

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[: self.shown]]
        if len(self.problems) > self.shown:
            lines.append(f"… and {len(self.problems) - self.shown} more")
        super().__init__("\n".join(lines))
        if all(problem.plugin for problem in self.problems):
            self.exit_code = PluginError.exit_code
        # A traceback shows how it came to the first of them that code has raised.
        self.__cause__ = next((problem.cause for problem in self.problems if problem.cause), None)


class LockedError(CodexError):
    """Another process works in the run folder."""

    exit_code = 3


class NoCheckpointError(CodexError):
    """No checkpoint of the run can be used."""

    exit_code = 4


class NonFiniteError(CodexError):
    """A loss or a gradient is NaN or infinite."""

    exit_code = 5


class StorageError(CodexError):
    """A file cannot be written or read back: disk full, read-only, failing."""

    exit_code = 6


class PluginError(CodexError):
    """A plugin is not installed, claimed twice, does not import, breaks its contract, or failed in a hook."""

    exit_code = 7


class StoppedError(CodexError):
    """The run stopped because of a signal, after it saved; the exit code is 128 plus the signal's number."""

    def __init__(self, message: str, *, signal_number: int, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = 128 + signal_number
