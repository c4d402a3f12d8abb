"""File systems of a test's own: a small one, and one that is read-only, in a mount namespace that nobody else sees.

One rule: a holder keeps the namespace; commands join it by the holder's process id, and a test sees their files
through `/proc`.
"""

from __future__ import annotations

import functools
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen


@functools.cache
def are_allowed() -> bool:
    """Say whether this system lets a user make namespaces of their own; many containers do not."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@frozen
class Mounts:
    """A process that holds user and mount namespaces."""

    pid: int

    def mount(self, *arguments: str | Path) -> None:
        """Mount a file system in there, by the program of that name."""
        command = ["nsenter", "--target", str(self.pid), "--user", "--mount", "mount", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def seen(self, path: Path) -> Path:
        """Return the path from which this process sees that file of the namespace."""
        return Path(f"/proc/{self.pid}/root{path}")


@contextmanager
def own_mounts() -> Iterator[Mounts]:
    """Make the namespaces, in which this user is root; they are gone in the end."""
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        "echo ready; exec sleep infinity",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        try:
            assert holder.stdout.readline() == "ready\n", holder.stderr.read()
            yield Mounts(holder.pid)
        finally:
            holder.send_signal(signal.SIGKILL)
