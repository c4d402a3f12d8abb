"""Signals: a run that is asked to stop finishes its step, saves, says how to go on, and goes on to the same bits."""

from __future__ import annotations

import random
import secrets
import shutil
import signal
import time

import pytest

from tests.faults.commands import AtForward
from tests.faults.comparison import (
    check_checkpoints_whole,
    check_same,
    newest_step,
    recorded_step,
    strict_json,
)
from tests.faults.injection import CHECKPOINTS, Fault, save_of
from tests.faults.subjects import EVALUATED_EVERY, SAVED_EVERY, STEPS, forward_of
from tests.faults.trials import SLOW, check_goes_on, sweep

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
_PATIENCE_SECONDS = 60


def check_stopped(ended, workplace, number, what):
    """Fail where a stopped command did not exit with 128 + n and say how to resume."""
    assert ended.code == 128 + number, f"{what}: exit {ended.code}: {ended.said}"
    assert "codex resume" in ended.said, f"{what}: {ended.said}"
    assert number.name in ended.said, f"{what}: {ended.said}"
    outcome = strict_json((workplace.run / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 128 + number), f"{what}: {outcome}"
    assert newest_step(workplace.run) == recorded_step(workplace.run), f"{what}: the last step is not saved"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_between_two_micro_batches_lets_the_step_end(server, full, tmp_path, number):
    """The step under way is finished and saved, and the resumed run has the same bits."""
    workplace = full.workplace(tmp_path / "work")
    act = AtForward(forward_of(10, 1), number.name)
    ended = server.codex(workplace, *full.arguments(), at_forward=act)
    check_stopped(ended, workplace, number, "between micro-batches")
    assert newest_step(workplace.run) == 10
    check_goes_on(server, full, workplace, number.name, stopped=True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_an_evaluation_lets_it_end(server, full, tmp_path, number):
    """The evaluation under way is finished, its step saved, and the resumed run has the same bits."""
    workplace = full.workplace(tmp_path / "work")
    # Each evaluation takes two passes over its four blocks: this is the first of the second one.
    act = AtForward(3, number.name, training=False)
    ended = server.codex(workplace, *full.arguments(), at_forward=act)
    check_stopped(ended, workplace, number, "in an evaluation")
    assert newest_step(workplace.run) == 2 * EVALUATED_EVERY
    check_goes_on(server, full, workplace, number.name, stopped=True)


@pytest.mark.parametrize(("number", "place"), list(zip(SIGNALS, [0.0, 0.4, 0.8, 1.0], strict=True)))
def test_a_signal_in_a_save_lets_it_end(server, subject, tmp_path, number, place):
    """From a save's first operation to its last: it is finished, what was done since is saved too, same bits."""
    during = save_of(subject.operations, 3 * SAVED_EVERY)
    operation = during[round(place * (len(during) - 1))]
    workplace = subject.workplace(tmp_path / "work")
    fault = Fault("signal", operation.number, value=number, containing=CHECKPOINTS)
    ended = server.codex(workplace, *subject.arguments(), fault=fault)
    check_stopped(ended, workplace, number, operation)
    assert newest_step(workplace.run) >= 3 * SAVED_EVERY
    check_goes_on(server, subject, workplace, f"{number.name} at {operation}", stopped=True)


def stop_at_random(server, subject, folder, seed):
    """Stop a run by a signal after a while, resume it to the end and compare."""
    draw = random.Random(seed)
    number, delay = draw.choice(SIGNALS), draw.uniform(0, subject.seconds)
    what = f"seed {seed}: {number.name} after {delay:.3f} s"
    workplace = subject.workplace(folder)
    command = server.start(workplace, *subject.arguments())
    if (ended := command.wait(delay)) is None:
        command.signal(number)
        ended = command.ended()
    # Before codex listens, the signal does what it does to any process; at the end it may meet the interpreter's exit.
    if newest_step(workplace.run) == STEPS and ended.code in {0, -number}:
        check_goes_on(server, subject, workplace, what)
    else:
        assert ended.code in {-number, 128 + number}, f"{what}: exit {ended.code}: {ended.said}"
        assert "Traceback" not in ended.said, f"{what}: {ended.said}"
        if ended.code > 0 and newest_step(workplace.run):
            check_stopped(ended, workplace, number, what)
        check_goes_on(server, subject, workplace, what, stopped=True)
    shutil.rmtree(folder)


@pytest.mark.parametrize("trials", [4, pytest.param(40, marks=SLOW)])
def test_a_signal_at_a_random_time_loses_nothing(server, subject, tmp_path, trials):
    """Whichever signal, whenever: the run says how it ended, and is resumed to the same bits."""
    first = secrets.randbelow(10**6)
    sweep(
        range(first, first + trials),
        lambda seed: stop_at_random(server, subject, tmp_path / str(seed), seed),
    )


def wait_until(condition, command):
    """Return once the condition holds; fail where the command ends before, or takes a minute."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        ended = command.wait(0.005)
        assert ended is None, f"it ended too early, with {ended.code}: {ended.said}"
        assert time.monotonic() < deadline, "it takes too long"


@pytest.mark.parametrize("number", SIGNALS[:2])
def test_a_second_signal_ends_the_process_at_once(server, full, tmp_path, number):
    """In the middle of a slow save: the process is gone before the save is, and the resumed run has the same bits."""
    workplace = full.workplace(tmp_path / "work")
    during = save_of(full.operations, 3 * SAVED_EVERY)
    slow = Fault("slow", during[5].number, value=100, containing=CHECKPOINTS)
    command = server.start(workplace, *full.arguments(), fault=slow)
    wait_until(lambda: any(op.number >= slow.at for op in command.operations()), command)
    command.signal(number)
    wait_until(lambda: "once more stops at once" in command.said_so_far(), command)
    command.signal(number)
    ended = command.ended()
    assert ended.code == 128 + number, ended.said
    assert newest_step(workplace.run) < 3 * SAVED_EVERY
    assert not (workplace.run / "outcome.json").exists()
    check_goes_on(server, full, workplace, number.name, stopped=True)


def test_a_run_that_is_halted_and_let_go_on_has_lost_nothing(server, full, tmp_path):
    """SIGSTOP, two seconds of nothing, SIGCONT: the same bits, without a resume."""
    workplace = full.workplace(tmp_path / "work")
    act = AtForward(forward_of(10, 2), "SIGSTOP")
    command = server.start(workplace, *full.arguments(), at_forward=act)
    wait_until(command.is_halted, command)
    assert command.wait(2.0) is None
    assert recorded_step(workplace.run) == 9
    check_checkpoints_whole(full, workplace.run)
    command.signal(signal.SIGCONT)
    assert command.ended().code == 0
    check_same(full, workplace.run)
