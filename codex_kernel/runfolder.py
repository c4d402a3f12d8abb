"""The folder of a run: the only module that knows its file names.

One rule: every file is written whole or not at all (temporary name, fsync, rename), and only by the process that holds
the folder's lock.

    runs/<name>/<run-id>/
        run.json            what this folder is: schema, run id, name, the folder that relative paths start from
        manifest.yaml       the manifest as it was given
        overrides.txt       what was set over it, one override a line, as on the command line
        resolved.yaml       the manifest as it runs: overrides applied, every default written out
        environment.json    hardware, packages, git commit, seeds
        plugins.lock.json   kind, name, distribution, version, hash of each plugin used
        data.json           content fingerprints, counts of documents, tokens, rows split and dropped
        metrics.ndjson      the metrics, one record a line
        events.ndjson       what else happened
        tokenizer/          the trained vocabulary
        checkpoints/        step-00000100/ …
        outcome.json        how the run ended (its newest end, if it was resumed)
        before-<run-id>/    what a run has left that was begun here before, and ended before it saved anything
        run.lock            held while a process works here
"""

from __future__ import annotations

import calendar
import contextlib
import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from codex_kernel.durable import make_folder, storage_errors, sync_folder, write_json
from codex_kernel.errors import InputError, LockedError
from codex_kernel.interfaces import Reporter, RunContext, StopRequest

SCHEMA = 1
LOCK = "run.lock"
BEFORE = "before-"
_NOT_OF_A_RUN = re.compile(rf"{re.escape(LOCK)}|{BEFORE}.*|\.tmp-run\.json-[0-9a-f]{{8}}", re.DOTALL)
_STAMP = "%Y%m%d-%H%M%S"
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


@frozen
class RunFolder:
    """One run's folder; `base` is the folder that relative paths of its manifest start from."""

    path: Path
    run_id: str
    name: str
    base: Path

    @property
    def manifest(self) -> Path:
        """The manifest as given."""
        return self.path / "manifest.yaml"

    @property
    def overrides(self) -> Path:
        """The overrides as given."""
        return self.path / "overrides.txt"

    @property
    def resolved(self) -> Path:
        """The manifest with overrides and defaults."""
        return self.path / "resolved.yaml"

    @property
    def environment(self) -> Path:
        """Hardware, packages, git."""
        return self.path / "environment.json"

    @property
    def plugins_lock(self) -> Path:
        """The plugins used."""
        return self.path / "plugins.lock.json"

    @property
    def data(self) -> Path:
        """Fingerprints and counts of the data."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """The metrics, one record a line."""
        return self.path / "metrics.ndjson"

    @property
    def events(self) -> Path:
        """What else happened, one record a line."""
        return self.path / "events.ndjson"

    @property
    def tokenizer(self) -> Path:
        """The trained vocabulary."""
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def outcome(self) -> Path:
        """How the run ended."""
        return self.path / "outcome.json"

    def context(
        self, seed: int, cache: Path, report: Reporter, stop: StopRequest, allowed: frozenset[str]
    ) -> RunContext:
        """Return the run as its hooks are told of it."""
        return RunContext(
            run_id=self.run_id,
            name=self.name,
            seed=seed,
            folder=self.path,
            cache=cache,
            base=self.base,
            report=report,
            stop=stop,
            allowed_changes=allowed,
        )

    def begun(self) -> Path:
        """Return the resolved manifest; raise InputError where the run never got as far as writing it."""
        if not self.resolved.exists():
            if self.checkpoints.exists():
                raise InputError(
                    f"{self.path} has checkpoints, and its {self.resolved.name}, by which it goes on, is gone",
                    remedy="put the file back from a backup",
                )
            raise InputError(
                f"{self.path} has no {self.resolved.name}: the run never began", remedy="start it again"
            )
        return self.resolved

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; raise LockedError, naming the holder, where another process has it.

        The lock goes with the process, however it dies, so there are no stale locks to remove.
        """
        with storage_errors(self.path):
            file = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock(file):
                raise _locked(self.path, file)
            holder = {
                "pid": os.getpid(),
                "host": platform.node(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            # A courtesy to who comes next: a full disk must not keep away who wants to make room.
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(holder).encode(), 0)
            yield
        finally:
            os.close(file)

    def is_held(self) -> bool:
        """Say whether a process works in the folder; changes nothing, so that a run can be looked at by anyone."""
        try:
            file = os.open(self.path / LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False


@frozen
class DamagedRun:
    """A run whose run.json cannot be read, and why not."""

    path: Path
    reason: str


def _lock(file: int) -> bool:
    """Take the lock; a process that only looks (`is_held`) may have it for an instant, so try a few times."""
    for wait in (0.0, 0.02, 0.05, 0.1):
        time.sleep(wait)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _locked(path: Path, file: int) -> LockedError:
    """Name the process that holds the lock."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):  # the holder is about to write its name
        who = "another process"
    return LockedError(f"{path} is in use by {who}", remedy="wait for it, or stop it")


# ── finding and making ────────────────────────────────────────────────────────────────────────────────────────────


def check_new(path: Path) -> None:
    """Raise InputError where a folder holds files, LockedError where a run is under way in it."""
    with storage_errors(path):
        if not path.exists() or _is_unused(path):
            return
    if (path / LOCK).exists():
        with RunFolder(path, "", "", path).locked():  # who works here is said first
            pass
    raise _in_use(path)


def create(runs: Path, name: str, base: Path, *, exactly: Path | None = None) -> RunFolder:
    """Make a new run's folder: `runs/<name>/<run-id>`, or `exactly` there.

    Raises InputError where that holds files, LockedError where another process works there.
    """
    run_id = _new_id(runs / name)
    path = (exactly or runs / name / run_id).absolute()
    folder = RunFolder(path, run_id, name, base.absolute())
    with storage_errors(path):
        make_folder(path, exist_ok=exactly is not None)
    check_new(path)  # before there is a lock: nothing is put into a folder that holds other files
    with folder.locked():
        if not _is_unused(path):  # another process has been quicker
            raise _in_use(path)
        about = {"schema": SCHEMA, "run_id": run_id, "name": name, "base": str(folder.base)}
        write_json(path / "run.json", about)
    return folder


def _new_id(before: Path) -> str:
    """Return an id that sorts after those that there are, for the newest run is the one that a scheduler goes on with.

    The clock may have been set back since, or tell the same second as before.
    """
    stamp = time.strftime(_STAMP, time.gmtime())
    known = (
        [path.name for path in before.iterdir() if _RUN_ID.fullmatch(path.name)] if before.is_dir() else []
    )
    if known and (newest := max(known)[: len(stamp)]) >= stamp:
        with contextlib.suppress(ValueError):  # made by hand: no time is written like that
            stamp = time.strftime(_STAMP, time.gmtime(calendar.timegm(time.strptime(newest, _STAMP)) + 1))
    return f"{stamp}-{os.urandom(2).hex()}"


def check_still_there(folder: RunFolder) -> None:
    """Raise LockedError where another process has put a run of its own into the folder, before this one had the lock.

    Whoever calls it holds the lock.
    """
    try:
        found = open_run(folder.path).run_id
    except InputError:
        found = None
    if found != folder.run_id:
        raise LockedError(
            f"{folder.path} was taken over by another process",
            remedy="ask again, or choose another --run-dir",
        )


def set_aside(folder: RunFolder) -> Path:
    """Move all that a run has left into a folder of its own beside it, and return that: its place is free again.

    Whoever calls it holds the lock. Killed in between, it can be called again. Raises LockedError where the run in the
    folder is another one by now.
    """
    check_still_there(folder)
    beside = folder.path / f"{BEFORE}{folder.run_id}"
    with storage_errors(beside):
        beside.mkdir(exist_ok=True)
        # As long as run.json is there, the run is.
        for entry in sorted(_contents(folder.path), key=lambda entry: entry.name == "run.json"):
            entry.rename(beside / entry.name)
        sync_folder(beside)
        sync_folder(folder.path)
    return beside


def _is_unused(path: Path) -> bool:
    """Say whether a folder is empty; what was set aside does not count."""
    return not any(_contents(path))


def _contents(path: Path) -> Iterator[Path]:
    """Yield what a run has in its folder.

    Neither the lock and the half run.json, which a process that never came to make its run may have left, nor what was
    set aside.
    """
    return (entry for entry in path.iterdir() if not _NOT_OF_A_RUN.fullmatch(entry.name))


def _in_use(path: Path) -> InputError:
    """Say why a run cannot be put into a folder that holds something."""
    if not (path / "run.json").exists():
        return InputError(
            f"{path} is not empty and holds no run", remedy="choose a new or empty folder for --run-dir"
        )
    return InputError(
        f"{path} holds a run already", remedy=f"codex resume {path}, or choose another --run-dir"
    )


def open_run(path: Path) -> RunFolder:
    """Open a run's folder; raise InputError where it is none, or was written by a newer codex."""
    try:
        about = json.loads((path / "run.json").read_bytes())
        if about["schema"] > SCHEMA:
            raise InputError(
                f"{path} was written by a newer codex (schema {about['schema']}, this knows {SCHEMA})"
            )
        return RunFolder(path.absolute(), about["run_id"], about["name"], Path(about["base"]))
    except FileNotFoundError:
        raise InputError(
            f"{path} is not a run folder: it has no run.json", remedy="codex runs list"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / 'run.json'} cannot be read: expected a JSON object with schema, run_id, name and base, "
            f"got {type(error).__name__}: {error}",
            remedy="put it back as codex wrote it",
        ) from error


def find(runs: Path, run: str) -> RunFolder:
    """Return the run that a user means: a folder, a run id, the start of one, or a run's name (its newest run).

    A damaged run is passed over, unless nothing else is meant: then the InputError says what is wrong with it.
    """
    if not run:
        raise InputError("no run is named: the name is empty", remedy="codex runs list")
    if (Path(run) / "run.json").exists():
        return open_run(Path(run))
    known, damaged = survey(runs)
    matches = [r for r in known if r.run_id == run] or [r for r in known if r.run_id.startswith(run)]
    if not matches:
        matches = [r for r in known if r.name == run][-1:]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(
            f"{run!r} is the start of {len(matches)} run ids", remedy="write more of it: codex runs list"
        )
    if meant := [one for one in damaged if one.path.name.startswith(run) or one.path.parent.name == run]:
        raise InputError(meant[-1].reason)
    if Path(run).is_file():
        raise InputError(
            f"expected a run, got the file {run}", remedy=f"of a manifest: codex run {run} --resume auto"
        )
    raise InputError(f"no run {run!r}: neither a run folder nor a run below {runs}", remedy="codex runs list")


def newest(runs: Path, name: str) -> RunFolder | None:
    """Return the newest run of a name; None where there is none.

    Raises InputError where it is damaged: an older one, or none, is not what its user means.
    """
    known, damaged = survey(runs)
    mine = [folder for folder in known if folder.name == name]
    broken = [one for one in damaged if one.path.parent.name == name]
    if broken and (not mine or broken[-1].path.name > mine[-1].run_id):
        raise InputError(broken[-1].reason, remedy=f"mend it, or move {broken[-1].path} away")
    return mine[-1] if mine else None


def list_runs(runs: Path) -> list[RunFolder]:
    """Return all runs below a folder, oldest first; folders that are no runs, and damaged ones, are passed over."""
    return survey(runs)[0]


def survey(runs: Path) -> tuple[list[RunFolder], list[DamagedRun]]:
    """Return all runs below a folder, oldest first, and apart from them those whose run.json cannot be read."""
    found, damaged = [], []
    for about in sorted(runs.glob("*/*/run.json")):
        if about.parent.name.startswith(BEFORE):
            continue
        try:
            found.append(open_run(about.parent))
        except InputError as error:
            damaged.append(DamagedRun(about.parent, error.message))
    return sorted(found, key=lambda folder: folder.run_id), damaged
