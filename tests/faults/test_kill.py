"""Kill -9, at any instant: what is resumed ends as if nothing had happened, bit by bit."""

from __future__ import annotations

import random
import secrets
import shutil
import signal

import pytest

from tests.faults.comparison import check_checkpoints_whole, checkpoints, newest_step
from tests.faults.injection import CHECKPOINTS, OTHERS, Fault, numbered, save_of
from tests.faults.subjects import SAVED_EVERY, SHORT_SAVES
from tests.faults.trials import SLOW, check_goes_on, check_lost, kill_at, some, sweep


def killed_once(server, subject, workplace, delay, what):
    """Start or resume a run and kill it after a while; say whether it was still there."""
    if checkpoints(workplace.run):
        arguments = ["resume", "run"]
    else:
        shutil.rmtree(workplace.run, ignore_errors=True)
        arguments = subject.arguments()
    before = newest_step(workplace.run)
    command = server.start(workplace, *arguments)
    if command.wait(delay) is None:
        command.signal(signal.SIGKILL)
    ended = command.ended()
    if ended.code == 0:  # it was over, or about to be
        return False
    assert ended.code == -signal.SIGKILL, f"{what}: it ended by itself: {ended.said}"
    check_lost(workplace, SAVED_EVERY, what)
    check_checkpoints_whole(subject, workplace.run, what)
    assert newest_step(workplace.run) >= before, what
    return True


def kill_at_random(server, subject, folder, seed):
    """Kill a run, and what resumes it, one to three times in a row; then continue it and compare."""
    draw = random.Random(seed)
    workplace, killed = subject.workplace(folder), 0
    kills = draw.randint(1, 3)
    told = f"seed {seed}"
    while killed < kills:
        delay = draw.uniform(0, subject.seconds)
        told += f", after {delay:.3f} s"
        if killed_once(server, subject, workplace, delay, told):
            killed += 1
        elif killed:
            break
        else:  # it was quicker than expected, and has not been killed yet
            shutil.rmtree(workplace.run)
    check_goes_on(server, subject, workplace, told)
    shutil.rmtree(workplace.folder)


@pytest.mark.parametrize("trials", [6, pytest.param(40, marks=SLOW)])
def test_killed_at_random_times_every_run_is_resumed_to_the_same_bits(server, subject, tmp_path, trials):
    """Losses, metrics, weights, optimizer and generators are those of the run that was not killed, every time."""
    first = secrets.randbelow(10**6)
    sweep(
        range(first, first + trials),
        lambda seed: kill_at_random(server, subject, tmp_path / str(seed), seed),
    )


@pytest.mark.parametrize("every", [35, pytest.param(1, marks=SLOW)])
@pytest.mark.parametrize("save", SHORT_SAVES)
def test_killed_before_any_file_operation_of_a_save_it_is_resumed_to_the_same_bits(
    server, short, tmp_path, save, every
):
    """The first save of a run, one in the middle with what it deletes, and the last: no operation is a bad moment."""
    sweep(
        some(save_of(short.operations, SHORT_SAVES[save]), every),
        lambda operation: kill_at(
            server,
            short,
            short.workplace(tmp_path / str(operation.number)),
            Fault("kill", operation.number, containing=CHECKPOINTS),
        ),
    )


@pytest.mark.parametrize("every", [35, pytest.param(1, marks=SLOW)])
def test_a_write_of_a_save_torn_in_half_is_no_checkpoint(server, short, tmp_path, every):
    """Half of any write of a save, and then nothing more: the checkpoint before it is used, to the same bits."""
    operations = save_of(short.operations, SHORT_SAVES["middle"])
    sweep(
        some([op for op in operations if op.name == "write" and op.bytes > 1], every),
        lambda operation: kill_at(
            server,
            short,
            short.workplace(tmp_path / str(operation.number)),
            Fault("tear", operation.number, containing=CHECKPOINTS),
        ),
    )


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=SLOW)])
@pytest.mark.parametrize("mode", ["kill", "tear"])
def test_the_other_files_of_a_run_are_whole_after_any_operation_on_them(
    server, short_full, tmp_path, mode, every
):
    """Killed before, or in the middle of, an operation on any file but checkpoints: what is there is whole.

    Manifest, environment, data, metrics, events, outcome: no bad line, no step twice, none missing; and where the run
    had not yet begun, that is what is said.
    """
    points = numbered(short_full.operations, OTHERS)
    if mode == "tear":
        points = [op for op in points if op.name == "write" and op.bytes > 1]
    sweep(
        some(points, every),
        lambda operation: kill_at(
            server,
            short_full,
            short_full.workplace(tmp_path / str(operation.number)),
            Fault(mode, operation.number, containing=OTHERS),
        ),
    )
