"""One trial: something happens to a run, it is continued as a user would, and compared.

One rule: a sweep goes through all its points and then names every one that failed.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from tests.faults.commands import AtForward, Ended, Server, Workplace
from tests.faults.comparison import (
    check_checkpoints_whole,
    check_same,
    checkpoints,
    newest_step,
    recorded_step,
)
from tests.faults.injection import Fault, Operation
from tests.faults.subjects import Subject, forward_of

T = TypeVar("T")
SLOW = [pytest.mark.slow, pytest.mark.timeout(1500)]
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


def check_goes_on(
    server: Server, subject: Subject, workplace: Workplace, what: object, *, stopped: bool = False
) -> None:
    """Continue a run that something ended; fail where a checkpoint is not whole, or the run is another in the end."""
    check_checkpoints_whole(subject, workplace.run, what)
    ended = go_on(server, subject, workplace)
    assert ended.code == 0, f"{subject.name}, {what}: the resume ended with {ended.code}: {ended.said}"
    check_same(subject, workplace.run, what, stopped=stopped)


def stopped_after(server: Server, subject: Subject, workplace: Workplace, step: int) -> Workplace:
    """Start a run and let a signal stop it in a step, after which it saves; return the workplace."""
    act = AtForward(forward_of(step, 1), "SIGTERM")
    ended = server.codex(workplace, *subject.arguments(), at_forward=act)
    assert (ended.code, newest_step(workplace.run)) == (128 + signal.SIGTERM, step), ended.said
    return workplace


def check_lost(workplace: Workplace, interval: int, what: object) -> None:
    """Fail where a killed run lost more than the steps since its last save, and those of the one save under way."""
    done, saved = recorded_step(workplace.run), newest_step(workplace.run)
    assert done - saved <= 2 * interval, f"{what}: {done} steps were recorded, {saved} are saved"


def kill_at(server: Server, subject: Subject, workplace: Workplace, fault: Fault) -> None:
    """Let a run die at an operation, continue it and compare."""
    command = server.start(workplace, *subject.arguments(), fault=fault)
    ended, met = command.ended(), command.operations()
    what = f"{fault.mode} at {met[-1]}"
    if ended.code == 0 and not any(_is_met(fault, one) for one in met):
        return  # this run had fewer events to write, and has been over before
    assert ended.code == -signal.SIGKILL, f"{what}: it did not die, but ended with {ended.code}: {ended.said}"
    check_goes_on(server, subject, workplace, what)
    shutil.rmtree(workplace.folder)


def _is_met(fault: Fault, operation: Operation) -> bool:
    torn = operation.name == "write" and operation.bytes > 1
    return operation.number >= fault.at if fault.mode == "kill" else operation.number >= fault.at and torn


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


def some(operations: Sequence[Operation], every: int) -> list[Operation]:
    """Return every n-th operation, the last always among them."""
    return [operation for i, operation in enumerate(operations) if i % every == 0 or i == len(operations) - 1]
