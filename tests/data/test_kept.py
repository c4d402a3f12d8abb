"""The locks of the cache's folders."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest
from token_builders import documents, make_data

from codex_kernel.data import kept
from codex_kernel.errors import StorageError
from codex_kernel.testing import RecordingReporter


def lock_at_once(folder: Path) -> None:
    """Take and give back the lock of a folder; raise BlockingIOError where somebody holds it."""
    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_a_lock_ends_with_its_block_whoever_was_forked_meanwhile(tmp_path):
    """A process that a plugin has forked while it built, and that lives on, holds nobody up."""
    folder = tmp_path / "folder"
    ends, end = os.pipe()
    with kept.locked(folder, RecordingReporter()):
        child = os.fork()
        if child == 0:
            os.read(ends, 1)
            os._exit(0)
        with pytest.raises(BlockingIOError):
            lock_at_once(folder)
    try:
        lock_at_once(folder)
    finally:
        os.write(end, b".")
        os.waitpid(child, 0)
        os.close(ends)
        os.close(end)


def test_who_waits_for_a_lock_says_so(tmp_path):
    """That another process builds the same is told before the wait, and its end after it; else nothing is said."""
    waits = threading.Event()

    class Telling(RecordingReporter):
        def activity(self, name, done, total, unit=""):
            super().activity(name, done, total, unit)
            waits.set()

    def wait() -> None:
        with kept.locked(tmp_path / "folder", second):
            pass

    first, second = RecordingReporter(), Telling()
    with kept.locked(tmp_path / "folder", first):
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(60)
        assert thread.is_alive()
    thread.join(60)
    assert (first.events, first.activities) == ([], [])
    assert second.events == [("data_awaited", {"folder": str(tmp_path / "folder")})]
    assert [(done, total) for _, done, total in second.activities] == [(0, 1), (1, 1)]


@pytest.fixture
def read_only(monkeypatch):
    """Let no lock be opened, as where the cache is on a disk that cannot be written."""
    opened = Path.open

    def refuse(path, mode="r", *arguments, **options):
        if path.suffix == ".lock":
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, mode, *arguments, **options)

    def forbid():
        monkeypatch.setattr(Path, "open", refuse)

    return forbid


def test_data_on_a_read_only_disk_can_be_used(tmp_path, read_only):
    """What is whole needs no lock to be read; what is not there cannot be made, and the error says why."""
    built = make_data(documents("one", "two"), tmp_path)
    read_only()
    report = RecordingReporter()
    assert make_data(documents("one", "two"), tmp_path, report=report).fingerprint == built.fingerprint
    assert [name for name, _ in report.events] == ["data_reused"]
    with pytest.raises(StorageError, match="Read-only file system"):
        make_data(documents("one", "two"), tmp_path, seq_len=9)


def test_damage_on_a_read_only_disk_is_an_error(tmp_path, read_only, monkeypatch):
    """Nothing can be built anew there: the damage is told, and the run ends."""
    built = make_data(documents("one", "two"), tmp_path)
    (tmp_path / "tokens" / built.report["key"] / "train.tokens").write_bytes(b"")
    read_only()

    def refuse(_path, _target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    report = RecordingReporter()
    with pytest.raises(StorageError, match="Read-only file system"):
        make_data(documents("one", "two"), tmp_path, report=report)
    assert "are damaged" in report.warnings[0]
