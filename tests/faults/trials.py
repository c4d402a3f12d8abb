"""One trial: something happens to a run, it is continued as a user would, and compared.

One rule: a sweep goes through all its points and then names every one that failed.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tests.faults.commands import Ended, Server, Workplace
from tests.faults.comparison import check_checkpoints_whole, check_same, checkpoints, newest_step, recorded_step
from tests.faults.injection import CHECKPOINTS, Fault, Operation, save_of
from tests.faults.subjects import Subject

T = TypeVar("T")
_AT_ONCE = 2
NO_CHECKPOINT = (2, 4)  # the run never began, or has nothing to resume from


def go_on(server: Server, subject: Subject, workplace: Workplace, **how: Any) -> Ended:
    """Resume the run; where it had not come to its first checkpoint, do what the message says: start it again."""
    ended = server.codex(workplace, "resume", "run", **how)
    assert "Traceback" not in ended.said, ended.said
    if checkpoints(workplace.run) or ended.code not in NO_CHECKPOINT:
        return ended
    shutil.rmtree(workplace.run, ignore_errors=True)
    return server.codex(workplace, *subject.arguments(), **how)


def check_goes_on(server: Server, subject: Subject, workplace: Workplace, what: object) -> None:
    """Continue a run that something ended; fail where a checkpoint is not whole, or the run is not the undisturbed one."""
    check_checkpoints_whole(subject, workplace.run, what)
    ended = go_on(server, subject, workplace)
    assert ended.code == 0, f"{subject.name}, {what}: the resume ended with {ended.code}: {ended.said}"
    check_same(subject, workplace.run, what)


def check_lost(workplace: Workplace, interval: int, what: object) -> None:
    """Fail where a killed run lost more than the steps since its last save, and those of the one save under way."""
    done, saved = recorded_step(workplace.run), newest_step(workplace.run)
    assert done - saved <= 2 * interval, f"{what}: {done} steps were recorded, {saved} are saved"


def operations_of(server: Server, subject: Subject, workplace: Workplace) -> list[Operation]:
    """Run the subject and return its operations on checkpoints."""
    command = server.start(workplace, *subject.arguments(), fault=Fault(containing=CHECKPOINTS))
    ended = command.ended()
    assert ended.code == 0, ended.said
    return command.operations()


def kill_at(server: Server, subject: Subject, workplace: Workplace, fault: Fault, operation: Operation) -> None:
    """Let a run die at an operation, continue it and compare."""
    what = f"{fault.mode} at {operation}"
    command = server.start(workplace, *subject.arguments(), fault=fault)
    ended = command.ended()
    assert ended.code == -signal.SIGKILL, f"{what}: it did not die, but ended with {ended.code}: {ended.said}"
    met = command.operations()[-1]
    what = f"{fault.mode} at {met}"
    check_goes_on(server, subject, workplace, what)
    shutil.rmtree(workplace.folder)


def sweep(points: Iterable[T], trial: Callable[[T], object]) -> None:
    """Try all points, some at once; fail with the message of each that failed."""
    failed = []

    def guarded(point: T) -> str | None:
        try:
            trial(point)
        except AssertionError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        failed = [message for message in threads.map(guarded, points) if message is not None]
    assert not failed, f"{len(failed)} trials failed:\n" + "\n\n".join(failed[:10])


def of_save(operations: Sequence[Operation], step: int, every: int) -> list[Operation]:
    """Return every n-th operation of a save, its first and its last always among them."""
    those = save_of(operations, step)
    return [operation for i, operation in enumerate(those) if i % every == 0 or i == len(those) - 1]
