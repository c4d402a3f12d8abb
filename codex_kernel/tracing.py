"""Tracing: which plugin was called in which hook, when, for how long, and how the call ended.

One rule: off, nothing is wrapped and a call costs what it did; on, whatever happens to the trace never ends a run.

A record is one line of JSON: `time, hook, plugin, ms, outcome, error, depth, thread, rank`. `ms` is the plugin's own
time: what was called meanwhile has a line of its own, so the seconds of all plugins can be added up.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GeneratorType
from typing import Any

import pluggy
from attrs import define, field

from codex_kernel.durable import json_bytes
from codex_kernel.errors import CodexError, InputError, in_words
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import RunContext

FILE_NAME = "plugin-trace.ndjson"
TRACED = "__codex_traced__"
"""Marks a wrapped implementation, whose code is tracing's and not the plugin's."""
_ERROR_LENGTH = 200

_clock = time.perf_counter
_current: Trace | None = None


def start(path: Path | None) -> Trace:
    """Trace the hooks of all runs that are planned from now on; raise InputError where the file cannot be written.

    path: where to; None: into the folder of the run, or to standard error where there is none.
    """
    global _current  # noqa: PLW0603 - one command line, one trace
    _current = Trace()
    if path is not None:
        try:
            _current.open(path)
        except OSError as error:
            _current = None
            raise InputError(f"--trace-plugins: cannot write {path}: {error.strerror}") from error
    return _current


def stop() -> None:
    """End the trace, if there is one; what no run has taken goes to standard error."""
    global _current  # noqa: PLW0603 - as above
    if _current is not None:
        _current.close()
    _current = None


def current() -> Trace | None:
    """Return the trace; None: there is none."""
    return _current


@define(eq=False)
class Spent:
    """What the calls of one plugin came to."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0


@define(eq=False)
class Call:
    """A call on its way; `seconds` are its own, `depth` how many it is called within in its thread."""

    hook: str
    plugin: str
    depth: int
    time: float = field(factory=time.time)
    seconds: float = 0.0
    _began: float = 0.0
    _others: float = 0.0


class _Thread(threading.local):
    """The calls of a thread that are running, and how many have begun and are not over."""

    def __init__(self) -> None:
        self.running: list[Call] = []
        self.depth = 0


@define(eq=False)
class Trace:
    """The trace of a command. It may be called from any thread."""

    spent: dict[str, Spent] = field(init=False, factory=dict)
    _named: bool = field(init=False, default=False)
    _in_run: bool = field(init=False, default=False)
    _descriptor: int | None = field(init=False, default=None)
    _waiting: list[bytes] | None = field(init=False, factory=list)
    _rank: str | None = field(init=False, factory=lambda: os.environ.get("RANK"))
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _thread: _Thread = field(init=False, factory=_Thread)

    # ── following plugins ─────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, manager: pluggy.PluginManager, plugin: object, label: str) -> None:
        """Put a traced function in the place of each hook implementation of a registered plugin."""
        for caller in manager.get_hookcallers(plugin) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin:
                    wraps = impl.wrapper or impl.hookwrapper
                    traced = self.traced(impl.function, caller.name, label, wraps=wraps)
                    impl.function = traced  # type: ignore[misc] # the one place where pluggy looks

    def traced(
        self, function: Callable[..., Any], hook: str, plugin: str, *, wraps: bool
    ) -> Callable[..., Any]:
        """Return a function that does what `function` does, and records it; `wraps`: it stands around others."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            this = Call(hook, plugin, self._thread.depth)
            self._enter(this)
            try:
                answer = function(*args, **kwargs)
            except BaseException as error:
                self._leave(this)
                self._record(this, "error", error)
                raise
            self._leave(this)
            # A generator does its work while it is gone through, so its call is over when it is.
            if isinstance(answer, GeneratorType):
                return _Traced(answer, self, this, stays=wraps)
            self._record(this, "none" if answer is None else "ok")
            return answer

        setattr(call, TRACED, True)
        return call

    def _enter(self, call: Call) -> None:
        call._began, call._others = _clock(), 0.0  # noqa: SLF001 - a value of this module
        self._thread.running.append(call)
        self._thread.depth += 1

    def _leave(self, call: Call) -> None:
        took = _clock() - call._began  # noqa: SLF001
        call.seconds += took - call._others  # noqa: SLF001
        running = self._thread.running
        running.pop()
        self._thread.depth -= 1
        if running:
            running[-1]._others += took  # noqa: SLF001

    def _stay(self, by: int) -> None:
        """Count a call that is suspended among those that others are called within, or no longer."""
        self._thread.depth += by

    def _record(self, call: Call, outcome: str, error: BaseException | None = None) -> None:
        record: dict[str, Any] = {
            "time": round(call.time, 6),
            "hook": call.hook,
            "plugin": call.plugin,
            "ms": round(call.seconds * 1000, 3),
            "outcome": outcome,
        }
        if error is not None:
            record["error"] = in_words(error)[:_ERROR_LENGTH]
        record |= {"depth": call.depth, "thread": threading.current_thread().name}
        if self._rank is not None:
            record["rank"] = int(self._rank) if self._rank.isdigit() else self._rank
        line = json_bytes(record) + b"\n"
        with self._lock:
            spent = self.spent.setdefault(call.plugin, Spent())
            spent.calls += 1
            spent.errors += error is not None
            spent.seconds += call.seconds
            self._write(line)

    # ── where it goes ─────────────────────────────────────────────────────────────────────────────────────────────

    def open(self, path: Path) -> None:
        """Write to this file and no other, whatever runs begin; raises OSError where it cannot be written."""
        with self._lock:
            self._named = True
            self._turn_to(path)

    def begin(self, folder: Path) -> None:
        """Count for this run from now on, and write into its folder unless a file was asked for.

        What was called since the run before ended is of this one: it was for it that it was called.
        """
        with self._lock:
            if self._in_run:
                self.spent.clear()
            self._in_run = True
            if self._named:
                return
            try:
                self._turn_to(folder / FILE_NAME)
            except OSError as error:
                self._waiting = None
                _warn(f"the plugins are not traced: cannot write {folder / FILE_NAME}: {error.strerror}")

    def end(self) -> None:
        """End the run: what is called from now on waits for the next one."""
        with self._lock:
            self._in_run = False
            self.spent.clear()
            if self._descriptor is not None and not self._named:
                self._waiting = []

    def close(self) -> None:
        """Close the file; without one, write what there is to standard error."""
        with self._lock:
            lines, self._waiting = self._waiting or [], None
            if self._descriptor is None:
                _say(b"".join(lines).decode())
            for line in lines:  # no other run has begun
                self._write(line)
            self._shut()

    def _turn_to(self, path: Path) -> None:
        """Write to another file, first what has waited for it."""
        self._shut()
        # Records are appended: each rank of a run, and each resume, adds its own.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        lines, self._waiting = self._waiting or [], None
        for line in lines:
            self._write(line)

    def _shut(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            _close(descriptor)

    def _write(self, line: bytes) -> None:
        """Write one line, in one piece; a file that cannot be written is given up, with one warning."""
        if self._waiting is not None:
            self._waiting.append(line)
            return
        if self._descriptor is None:
            return
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self._shut()
            _warn(f"the trace of the plugins ends here: {error.strerror or error}")

    def totals(self) -> list[dict[str, Any]]:
        """Return plugin, calls, errors and seconds of each plugin, the slowest first."""
        with self._lock:
            spent = sorted(self.spent.items(), key=lambda item: -item[1].seconds)
            return [
                {"plugin": name, "calls": one.calls, "errors": one.errors, "seconds": round(one.seconds, 6)}
                for name, one in spent
            ]


class _Traced(Iterator[Any]):
    """A generator whose steps are timed; to whoever goes through it, it is the generator itself.

    stays: it stands around other calls (a wrapper), which are deeper by one while it waits.
    """

    def __init__(
        self, generator: GeneratorType[Any, Any, Any], trace: Trace, call: Call, *, stays: bool
    ) -> None:
        self._generator, self._trace, self._call = generator, trace, call
        self._stays, self._over = stays, False
        self.gi_code = generator.gi_code
        if stays:
            trace._stay(1)  # noqa: SLF001 - one class in two

    def __next__(self) -> Any:
        return self._step(self._generator.__next__)

    def send(self, value: Any) -> Any:
        return self._step(self._generator.send, value)

    def throw(self, error: BaseException) -> Any:
        return self._step(self._generator.throw, error, thrown=error)

    def close(self) -> None:
        self._generator.close()
        self._end("none" if self._stays else "ok")

    def _step(self, go: Callable[..., Any], *args: Any, thrown: BaseException | None = None) -> Any:
        trace, call = self._trace, self._call
        if self._stays and not self._over:
            trace._stay(-1)  # noqa: SLF001 - while it runs it counts by itself
        trace._enter(call)  # noqa: SLF001
        try:
            answer = go(*args)
        except StopIteration as end:
            trace._leave(call)  # noqa: SLF001
            self._over_with("none" if end.value is None and self._stays else "ok")
            raise
        except BaseException as error:
            trace._leave(call)  # noqa: SLF001
            if error is thrown:  # another's, that only passes through
                self._over_with("none")
            else:
                self._over_with("error", error)
            raise
        trace._leave(call)  # noqa: SLF001
        if self._stays:
            trace._stay(1)  # noqa: SLF001
        return answer

    def _end(self, outcome: str) -> None:
        """End a generator that was not gone through to its end."""
        if not self._over and self._stays:
            self._trace._stay(-1)  # noqa: SLF001
        self._over_with(outcome)

    def _over_with(self, outcome: str, error: BaseException | None = None) -> None:
        if not self._over:
            self._over = True
            self._trace._record(self._call, outcome, error)  # noqa: SLF001


@define(eq=False)
class RunTrace:
    """The observer that gives a trace the folder of its run and, at the end, the run what each plugin took."""

    trace: Trace

    @hookimpl(tryfirst=True)
    def codex_run_started(self, run: RunContext) -> None:
        """Write into the run's folder."""
        self.trace.begin(run.folder)

    @hookimpl(trylast=True)
    def codex_run_finished(self, run: RunContext) -> None:
        """Record the seconds, when all others have ended."""
        try:
            run.report.event("plugin_seconds", plugins=self.trace.totals())
        except (CodexError, OSError) as error:
            _warn(f"the seconds per plugin are not in the record: {error}")
        finally:
            self.trace.end()


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # somebody closed it before
        os.close(descriptor)


def _warn(message: str) -> None:
    _say(f"warning: {message}\n")


def _say(text: str) -> None:
    """Write to standard error; where nobody listens it is lost."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
