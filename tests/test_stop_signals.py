"""Signals through the real command line: wherever they come, nothing is lost, and the message says how to go on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codex_kernel.stopping import SIGNALS
from tests.command import Workplace
from tests.resumable import (
    ALLOW_FAIL,
    GATED,
    MANY,
    auto,
    gated_workplace,
    losses,
    outcome,
    resolved,
    waiting,
)
from tests.toys import install


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins, some of them with gates."""
    return gated_workplace(tmp_path)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_save_lets_it_end_and_the_run_is_resumed(
    workplace: Workplace, number: signal.Signals
) -> None:
    """Exit 128+n with the command that goes on, and the same losses as without."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "whole").code == 0
    with waiting(workplace, "save", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(number)
        workplace.write("go-save", "")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "codex resume r" in out
    assert f"{number.name}: finishing the step and saving" in err
    assert outcome(workplace.folder / "r")["status"] == "stopped"
    assert workplace.codex("resume", "r").code == 0
    assert losses(workplace.folder / "r") == losses(workplace.folder / "whole")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_the_first_step_says_that_there_is_nothing_to_resume(
    workplace: Workplace, number: signal.Signals
) -> None:
    """Exit 128+n at once; `--resume auto` begins again."""
    with waiting(workplace, "build", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} before the first step" in err
    assert "nothing to resume" in err
    assert outcome(workplace.folder / "r")["exit_code"] == 128 + number
    workplace.write("go-build", "")
    assert auto(workplace, "--run-dir", "r", *GATED).code == 0


LEAVES_A_THREAD = """\
import os, signal, threading, time
from attrs import frozen
from codex_kernel import hookimpl

@frozen
class Waits:
    @hookimpl
    def codex_dataset(self):
        threading.Thread(target=threading.Event().wait).start()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
"""


def test_a_stopped_run_ends_although_a_thread_waits_for_ever(workplace: Workplace) -> None:
    """A signal that breaks into a library may leave a thread behind that nobody ends: the process ends all the same."""
    plugins = {"codex.datasets": {"waits": "codex_waits:Waits"}}
    install(workplace.site, "codex-waits", plugins, modules={"codex_waits": LEAVES_A_THREAD})
    said = workplace.codex("run", "toy.yaml", "--run-dir", "r", "--set", "dataset=waits")
    assert said.code == 143, said.err
    assert "stopped by SIGTERM before the first step" in said.err
    assert outcome(workplace.folder / "r")["status"] == "stopped"


def test_a_command_ends_although_a_plugin_left_a_thread(workplace: Workplace) -> None:
    """Its work is done and its exit code known: it waits a while for the thread, says so, and ends."""
    module = LEAVES_A_THREAD.replace("os.kill(os.getpid(), signal.SIGTERM)", "").replace("time.sleep(60)", "")
    module = f"{module}\nthreading.Thread(target=threading.Event().wait, name='stuck').start()\n"
    plugins = {"codex.datasets": {"waits": "codex_waits:Waits"}}
    install(workplace.site, "codex-waits", plugins, modules={"codex_waits": module})
    program = (
        "import sys; from codex_kernel import __main__ as m; m._PATIENCE_SECONDS = 0.5; "
        "sys.argv = ['codex', 'validate', 'toy.yaml', '--set', 'dataset=waits']; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "toy.yaml: ok" in done.stdout) == (0, True), done.stderr
    assert "warning: ended, although the thread 'stuck' of a plugin or a library went on" in done.stderr


def test_a_signal_while_a_resume_builds_its_parts_loses_nothing(workplace: Workplace) -> None:
    """The run stays as it was, and the message has the command that goes on."""
    folder = workplace.folder / "r"
    failing = ("--set", "trainer.fail_at=5")
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r", *GATED, *failing).code == 7
    before = outcome(folder)
    with waiting(workplace, "parts", "resume", "r", *ALLOW_FAIL) as process:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"nothing is lost: codex resume {folder}" in err
    assert (outcome(folder), resolved(folder)["trainer"]["fail_at"]) == (before, 5)


def test_a_second_signal_ends_the_process_at_once(workplace: Workplace) -> None:
    """Even where a save hangs."""
    with waiting(workplace, "save", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "once more stops at once" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert not (workplace.folder / "r" / "outcome.json").exists()


@pytest.mark.parametrize("number", SIGNALS)
def test_closed_streams_neither_stop_a_signal_nor_spoil_a_file(
    workplace: Workplace, number: signal.Signals
) -> None:
    """What is meant for the terminal goes nowhere, not into the file that was opened in its place."""
    command = [sys.executable, "-m", "codex_kernel", "run", "toy.yaml", "--run-dir", "r", *MANY]
    path = workplace.folder / "r" / "metrics.ndjson"
    process = subprocess.Popen(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *command],
        cwd=workplace.folder,
        env=workplace.environment(),
    )
    try:
        while process.poll() is None and (not path.exists() or path.stat().st_size < 2000):
            pass
        process.send_signal(number)
        assert process.wait(timeout=60) == 128 + number
    finally:
        process.kill()
    folder = workplace.folder / "r"
    assert outcome(folder)["status"] == "stopped"
    assert len(losses(folder)) == outcome(folder)["steps"]
    texts = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert not any(b"finishing the step" in text for text in texts)
    assert outcome(folder)["detached"] == []


def test_a_run_that_is_paused_and_continued_goes_on(workplace: Workplace) -> None:
    """SIGSTOP and SIGCONT leave no trace in the record."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "whole").code == 0
    with waiting(workplace, "save", "run", "toy.yaml", "--run-dir", "r", *GATED) as process:
        process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "T":
            pass
        workplace.write("go-save", "")
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert losses(workplace.folder / "r") == losses(workplace.folder / "whole")
