"""Importing every plugin in a process of its own: which of them work, what they cost, why the others do not.

One rule: whatever a plugin does (raise, exit, abort, crash, hang, start processes), it does it to its own process, and
its verdict says so. What it started is killed with it: its session, and on Linux all that has a variable of ours in its
environment. A process that leaves the session and empties its environment gets away: this is no jail.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, define, field, frozen

from codex_kernel.catalog import Entry
from codex_kernel.plugin_verdict import BEGIN, END

AT_ONCE = 2
TIMEOUT_SECONDS = 60.0
NOT_IMPORTED = ("shadowed", "incompatible", "not allowed")
"""What codex would not import either."""
_MARK = "_CODEX_CHECK"
"""The variable whose value tells the processes of one plugin from all others."""
_POLL_SECONDS = 0.02
_HEAVIEST = 5
_PROGRAM = (
    "import json, sys; asked = json.loads(sys.argv[1]); sys.argv[1:] = []; sys.path[:] = asked['path'];"
    "from codex_kernel.plugin_verdict import main; main(asked)"
)

Verdict = Literal["ok", "warning", "broken", "not imported"]


@frozen
class Weight:
    """What a package cost the import of a plugin, by itself: without the packages that it imports."""

    package: str
    seconds: float
    modules: int


@frozen
class Checked:
    """What is known of a plugin. What could not be found out is None.

    `static` says whether the static manifest is `fresh`, `stale` or `absent`; `description` is what
    `static_file.PluginDescription` holds, read from the code.
    """

    entry: Entry
    verdict: Verdict
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remedy: str | None = None
    import_seconds: float | None = None
    peak_memory_bytes: int | None = None
    heaviest: tuple[Weight, ...] = ()
    static: str | None = None
    description: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "kind": self.entry.kind,
            "name": self.entry.name,
            "distribution": self.entry.distribution,
            "version": self.entry.version,
            "target": self.entry.target,
            "status": self.entry.status,
            "verdict": self.verdict,
            "faults": list(self.faults),
            "warnings": list(self.warnings),
            "remedy": self.remedy,
            "import_seconds": self.import_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "heaviest": [asdict(weight) for weight in self.heaviest],
            "hooks": list(self.description["hooks"]) if self.description else None,
            "static_manifest": self.static,
        }


def check(entries: Iterable[Entry], timeout_seconds: float = TIMEOUT_SECONDS) -> Generator[Checked]:
    """Yield the verdict of each plugin as soon as it is known, two processes at a time."""
    waiting = deque(entries)
    running: list[_Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                entry = waiting.popleft()
                if entry.status in NOT_IMPORTED:
                    yield Checked(entry, "not imported", warnings=(entry.reason or entry.status,))
                else:
                    running.append(_Child.start(entry, timeout_seconds))
            for child in [child for child in running if child.is_over()]:
                running.remove(child)
                yield child.verdict()
            time.sleep(_POLL_SECONDS if running else 0)
    finally:
        for child in running:
            child.end()


def check_one(entry: Entry, timeout_seconds: float = TIMEOUT_SECONDS) -> Checked:
    """Return the verdict of one plugin."""
    return next(check([entry], timeout_seconds))


# ── the process ───────────────────────────────────────────────────────────────────────────────────────────────────


@define(eq=False)
class _Child:
    """A process that judges one plugin; `folder` holds its report and what it wrote to standard error."""

    entry: Entry
    timeout_seconds: float
    folder: tempfile.TemporaryDirectory[str]
    process: subprocess.Popen[bytes]
    ends_seconds: float
    late: bool = field(init=False, default=False)

    @classmethod
    def start(cls, entry: Entry, timeout_seconds: float) -> _Child:
        """Start it. It leads a session, so that a process that the plugin starts goes with it."""
        folder = tempfile.TemporaryDirectory(prefix="codex-check-")
        request = {
            "path": [os.path.abspath(part) for part in sys.path],  # noqa: PTH100 - a part that is empty means here
            "entry": entry._asdict(),
            "report": os.path.join(folder.name, "report"),  # noqa: PTH118
        }
        with (Path(folder.name) / "stderr").open("wb") as stderr:
            process = subprocess.Popen(  # noqa: S603 - this Python, and a program of our own
                [sys.executable, "-P", "-X", "importtime", "-c", _PROGRAM, json.dumps(request)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, _MARK: folder.name},
            )
        return cls(entry, timeout_seconds, folder, process, time.monotonic() + timeout_seconds)

    def is_over(self) -> bool:
        """Say whether the process has ended, or had its time."""
        if _has_ended(self.process.pid):
            return True
        self.late = time.monotonic() >= self.ends_seconds
        return self.late

    def end(self) -> None:
        """Kill the process and all that it started; its folder goes, too."""
        self._kill()
        self.folder.cleanup()

    def _kill(self) -> int:
        """Kill the process, unless it has ended, and what it started; return its exit code."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        while _kill_marked(self.folder.name):  # until none has started another meanwhile
            time.sleep(_POLL_SECONDS)
        return code

    def verdict(self) -> Checked:
        """Return what it found, or how it ended without a finding."""
        code = self._kill()
        folder = Path(self.folder.name)
        told = list(_lines(folder / "report"))
        errors = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
        self.folder.cleanup()
        weights = tuple(heaviest(errors))
        if told and "done" in told[-1]:
            return _judged(self.entry, told[-1]["done"], weights, _said(errors))
        phase = told[-1]["phase"] if told else "before it was imported"
        how = f"it was not done within {self.timeout_seconds:g} s" if self.late else _how_it_ended(code)
        words = _last_words(errors)
        return Checked(
            self.entry,
            "broken",
            faults=(f"{how}, {phase}{f': {words}' if words else ''}",),
            remedy=_way_out(self.entry),
            heaviest=weights,
        )


def _has_ended(pid: int) -> bool:
    """Say whether a child has ended, without taking its number from it: others may still be in its group."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_marked(value: str) -> int:
    """Kill the processes whose environment has our variable with this value; return how many there were."""
    mark, killed = f"{_MARK}={value}".encode(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            # The number may be another process's by now; the descriptor stays that of one.
            descriptor = os.pidfd_open(int(folder.name))
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    killed += 1
            finally:
                os.close(descriptor)
    return killed


def _judged(entry: Entry, found: dict[str, Any], weights: Sequence[Weight], said: str) -> Checked:
    """Return the verdict of a process that came to its end."""
    faults = tuple(found.get("faults", ()))
    printed = [f"prints while it is imported: {said[:200]}"] if said else []
    warnings = (*found.get("warnings", ()), *printed, *_announced(entry))
    return Checked(
        entry,
        "broken" if faults else "warning" if warnings else "ok",
        faults,
        warnings,
        (found.get("remedy") or _way_out(entry)) if faults else None,
        found.get("import_seconds"),
        found.get("peak_memory_bytes"),
        tuple(weights),
        found.get("static"),
        found.get("description"),
    )


def _announced(entry: Entry) -> Iterator[str]:
    """Yield what is wrong with how the plugin is announced: it may work, and yet not be found by its name."""
    from codex_kernel.doctor.announced import install_again, outdated, unwritable

    if reason := unwritable(entry):
        yield reason
    if reason := outdated(entry.metadata):
        yield f"{reason}; {install_again(entry.metadata)}"


def _way_out(entry: Entry) -> str:
    from codex_kernel.installers import way_out

    return way_out(entry.distribution, entry.metadata)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"it ended the process with exit code {code}"
    try:
        return f"it ended the process by {signal.Signals(-code).name}"
    except ValueError:
        return f"it ended the process by signal {-code}"


def _lines(report: Path) -> Iterator[dict[str, Any]]:
    """Yield what the process told, but for a line that it did not come to finish."""
    try:
        text = report.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and ("done" in told or "phase" in told):
                yield told


# ── standard error ────────────────────────────────────────────────────────────────────────────────────────────────

_IMPORTED = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \| *(\S+)$")
_NOT_THE_PLUGINS = re.compile(
    r"import time:|interrupted while |Fatal Python error: |(Current t|T)hread 0x|Stack \(|Extension modules: "
    r"|  (File |<|\.)"
)
"""How lines begin that codex writes, or Python when it crashes."""
_PRINTED = re.compile(r"^warning: .* printed while it was imported: (.*)$")


def heaviest(errors: str, count: int = _HEAVIEST) -> Iterator[Weight]:
    """Yield the packages that took most of a plugin's import, the heaviest first, from what `-X importtime` wrote."""
    sums: dict[str, tuple[int, int]] = {}
    for line in _between(errors):
        if match := _IMPORTED.match(line):
            package = match[2].partition(".")[0]
            microseconds, modules = sums.get(package, (0, 0))
            sums[package] = microseconds + int(match[1]), modules + 1
    ordered = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    for package, (microseconds, modules) in ordered[:count]:
        yield Weight(package, microseconds / 1e6, modules)


def _between(errors: str) -> Iterator[str]:
    """Yield the lines that were written while the plugin was imported."""
    inside = False
    for line in errors.splitlines():
        if line in {BEGIN, END}:
            inside = line == BEGIN
        elif inside:
            yield line


def _said(errors: str) -> str:
    """Return what the plugin printed while it was imported, on either stream."""
    lines = [line for line in _between(errors) if line.strip() and not _NOT_THE_PLUGINS.match(line)]
    printed = [match[1] if (match := _PRINTED.match(line)) else line for line in lines]
    return " / ".join(printed)


def _last_words(errors: str) -> str:
    """Return the last thing that the process said before it ended."""
    return _said(errors).rpartition(" / ")[2].strip()[:200]
