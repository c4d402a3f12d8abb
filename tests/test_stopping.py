"""A run that is asked to stop saves and ends with the signal's exit code, whoever still listens to what it says."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codex_kernel.errors import StoppedError
from codex_kernel.stopping import SIGNALS, SignalStop
from tests.command import Workplace, toy_workplace

MANY_STEPS = ("--set", "trainer.max_steps=40000", "--set", "checkpointer.every_steps=null")


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins."""
    return toy_workplace(tmp_path)


def start(workplace: Workplace, output: int) -> subprocess.Popen[bytes]:
    """Start a run of many steps that says everything to `output`, and return once it trains."""
    process = subprocess.Popen(
        [sys.executable, "-m", "codex_kernel", "run", "toy.yaml", "--run-dir", "here", *MANY_STEPS],
        cwd=workplace.folder,
        env=workplace.environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    os.close(output)
    metrics = workplace.folder / "here" / "metrics.ndjson"
    while process.poll() is None and (not metrics.exists() or metrics.stat().st_size < 2000):
        pass
    return process


def check_saved(workplace: Workplace, returncode: int, number: int) -> None:
    """Check that the run ended as one that was asked to stop, with a checkpoint."""
    outcome = json.loads((workplace.folder / "here" / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"], returncode) == ("stopped", 128 + number, 128 + number)
    assert Path(outcome["checkpoint"]).is_dir()


def test_a_run_whose_terminal_is_closed_saves_and_ends_with_the_signal(workplace: Workplace) -> None:
    """SIGHUP of a lost connection: writing to the terminal fails from then on, and nothing but the talk is lost."""
    ours, theirs = pty.openpty()
    with start(workplace, theirs) as process:
        os.close(ours)
        process.send_signal(signal.SIGHUP)
    check_saved(workplace, process.returncode, signal.SIGHUP)


def test_a_run_whose_reader_is_gone_saves_and_ends_with_the_signal(workplace: Workplace) -> None:
    """SIGTERM after `codex run … | tee` lost its tee."""
    reader, writer = os.pipe()
    with start(workplace, writer) as process:
        os.close(reader)
        process.send_signal(signal.SIGTERM)
    check_saved(workplace, process.returncode, signal.SIGTERM)


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """Nohup, or `&` in a script: who started the run has said that the signal is not meant for it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = SignalStop(deferring=True)
        with stop.listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal_number is None
            assert all(
                signal.getsignal(number) == stop._handle for number in SIGNALS if number != signal.SIGHUP
            )
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def misunderstood() -> None:
    """Get a signal in a library that takes what it raises for an error of its own."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except Exception as error:
        raise ValueError(f"this configuration is refused: {error}") from error


def failing() -> None:
    """Fail by itself."""
    raise ValueError("another")


def test_a_library_that_takes_the_stop_for_an_error_of_its_own_does_not_hide_it():
    """Before the first step a signal ends the run as such; later, and without one, an error is what it is."""
    stop = SignalStop()
    expected = pytest.raises(StoppedError, match="SIGTERM before the first step")
    with expected as caught, stop.listening(), stop.insisting():
        misunderstood()
    assert caught.value.exit_code == 128 + signal.SIGTERM
    for quiet in (SignalStop(), stop):
        quiet.deferring = quiet is stop
        with pytest.raises(ValueError, match="another"), quiet.insisting():
            failing()


def test_a_signal_waits_for_the_end_of_what_is_held():
    """Before the first step a signal in a held block ends the run where the block ends, and not within."""
    stop, reached = SignalStop(remedy="begin again"), []

    def held():
        with stop.holding():
            signal.raise_signal(signal.SIGTERM)
            reached.append("end")

    with stop.listening(), pytest.raises(StoppedError) as caught:
        held()
    assert reached == ["end"]
    assert (caught.value.exit_code, caught.value.remedy) == (128 + signal.SIGTERM, "begin again")


def test_what_is_held_ends_as_it_does_without_a_signal():
    """Without a signal nothing is raised, and the next one ends the run at once again."""
    stop = SignalStop()
    with stop.listening():
        with stop.holding():
            pass
        with pytest.raises(StoppedError):
            signal.raise_signal(signal.SIGTERM)
