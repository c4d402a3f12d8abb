"""The real command line, some hundred times: a client of the fork server.

One rule: a test sees of a command what a user sees of it: its files, its exit code and what it printed.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

from tests.faults.injection import Fault, Operation, read_log

PATIENCE_SECONDS = 120.0


@frozen
class AtForward:
    """What happens at the `at`-th forward pass in training (or in evaluation): a signal by its name, or `nan`."""

    at: int
    act: str
    training: bool = True


@frozen
class Ended:
    """How a command ended: its exit code (minus the signal that killed it) and what it printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err


def _ends(pid: int, seconds: float) -> bool:
    """Wait until a process has ended; say whether it did in that time."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


@define(eq=False)
class Command:
    """A command under way."""

    server: Server
    pid: int
    place: Path
    code: int | None = field(init=False, default=None)

    def wait(self, seconds: float | None = None) -> Ended | None:
        """Wait until it has ended; None where that takes longer than `seconds`. Without them it must end."""
        if self.code is None and not _ends(self.pid, PATIENCE_SECONDS if seconds is None else seconds):
            if seconds is None:
                self.signal(signal.SIGKILL)
                pytest.fail(f"it takes longer than {PATIENCE_SECONDS} s: {self.place}")
            return None
        if self.code is None:
            self.code = self.server.ask(do="wait", pid=self.pid)["code"]
        return Ended(self.code, self._printed(".out"), self._printed(".err"))

    def ended(self) -> Ended:
        """Return how it ended, once it has."""
        ended = self.wait()
        assert ended is not None
        return ended

    def _printed(self, stream: str) -> str:
        # A process that was killed at once has not come to open it.
        file = self.place.with_suffix(stream)
        return file.read_text(errors="replace") if file.exists() else ""

    def said_so_far(self) -> str:
        """Return what it has printed on standard error, also while it goes on."""
        return self._printed(".err")

    def is_halted(self) -> bool:
        """Say whether it has been stopped by SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def operations(self) -> list[Operation]:
        """Return the file operations that the shim has seen."""
        return read_log(self.place.with_suffix(".log"))


@define(eq=False)
class Server:
    """The fork server's process, and its questions and answers; safe from any thread."""

    process: subprocess.Popen[bytes]
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _numbers: Iterator[int] = field(init=False, factory=itertools.count)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        assert line, f"the fork server has ended with {self.process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(
        self,
        workplace: Workplace,
        *arguments: str | Path,
        fault: Fault | None = None,
        at_forward: AtForward | None = None,
        namespace: int = 0,
        file_bytes: int | None = None,
    ) -> Command:
        """Start `codex` with these arguments.

        `namespace`: a process whose user and mount namespaces it runs in. `file_bytes`: the largest file it may write.
        """
        workplace.talk.mkdir(parents=True, exist_ok=True)
        place = workplace.talk / f"{next(self._numbers):04d}"
        answer = self.ask(
            do="spawn",
            arguments=[str(argument) for argument in arguments],
            folder=str(workplace.folder),
            environment=dict(workplace.environment()),
            out=str(place.with_suffix(".out")),
            err=str(place.with_suffix(".err")),
            fault=fault and fault.request(workplace.run, place.with_suffix(".log")),
            at_forward=at_forward
            and {"training": at_forward.training, "at": at_forward.at, "act": at_forward.act},
            namespace=namespace,
            file_bytes=file_bytes,
        )
        return Command(self, answer["pid"], place)

    def codex(self, workplace: Workplace, *arguments: str | Path, **how: Any) -> Ended:
        """Run `codex` with these arguments to its end."""
        return self.start(workplace, *arguments, **how).ended()


@frozen
class Workplace:
    """A folder in which one run is made, `run`; what commands print lies beside it."""

    folder: Path
    cache: Path
    variables: Mapping[str, str] = field(factory=dict)

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folder / "run"

    @property
    def talk(self) -> Path:
        """What the commands printed, and what the shim saw."""
        return self.folder.parent / f"{self.folder.name}-talk"

    def environment(self) -> dict[str, str]:
        """Return the environment of a command."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CODEX", "FORCE_COLOR", "PYTEST", "LD_PRELOAD"))
        }
        return {**kept, "CODEX_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", **self.variables}


@contextmanager
def serving(shim: Path) -> Iterator[Server]:
    """Start a fork server, with the shim preloaded, and end it."""
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("fork_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the fork server does not start"
        try:
            yield Server(process)
        finally:
            process.send_signal(signal.SIGKILL)
