"""The logger `tensorboard`: what is in its event files, read back by a reader of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import event_reader
import pytest
from codex_tensorboard import event_files
from codex_tensorboard.event_files import EventFiles
from codex_tensorboard.frames import framed, frames, masked_crc
from codex_tensorboard.logger import TensorBoardLogger
from codex_tensorboard.messages import scalars
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import Checkpoint, InputError, Outcome, Progress
from codex_kernel.testing import LoggerContract, hooks_of, make_run

DONE = Outcome("completed", 0, "all 3 steps done", 3, 96, 12, 1.5, {}, None, ())
STOPPED = Outcome("stopped", 143, "SIGTERM", 3, 96, 12, 1.5, {}, None, ())


class TestContract(LoggerContract):
    def make(self, folder):
        return TensorBoardLogger()


class TestSharedFolder(LoggerContract):
    def make(self, folder):
        return TensorBoardLogger(folder=str(folder / "all-runs"), flush_seconds=0)


LEFT = []


@pytest.fixture(autouse=True)
def _close_what_was_killed():
    """Close the files of loggers that stand for a killed process: it leaves no last word, but the test goes on."""
    yield
    while LEFT:
        if (files := LEFT.pop()._files) is not None:
            files.close()


def started(run, **options):
    """Start a run with a logger and return its hooks."""
    LEFT.append(TensorBoardLogger(**options))
    hooks = hooks_of(LEFT[-1])
    hooks.codex_event(
        run=run, name="run_started", fields={"command": ["codex"]}
    )  # as the kernel does, before the hook
    hooks.codex_run_started(run=run, settings={"name": "toy", "trainer.lr": 1e-3, "trainer.resume": True})
    return hooks


def give(hooks, run, step, split="train", **metrics):
    """Report one record, as the kernel does: to the run's own file, then to the logger."""
    record = {
        "schema": 1, "run_id": run.run_id, "time": 5.0, "step": step, "epoch": 0.1, "tokens": 8, "split": split,
        **{name: value if math.isfinite(value) else None for name, value in metrics.items()},
    }  # fmt: skip
    with (run.folder / "metrics.ndjson").open("a") as file:
        file.write(json.dumps(record) + "\n")
    if hooks is not None:
        progress = Progress(step, 10, step / 10, step * 8, step)
        hooks.codex_metrics(run=run, step=step, metrics=metrics, split=split, progress=progress)


def rewind(hooks, run, step):
    """Cut the run's own metrics back to a step and tell the logger, as the kernel does."""
    path = run.folder / "metrics.ndjson"
    lines = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
    path.write_text("".join(lines))
    fields = {"step": step, "size_bytes": path.stat().st_size, "cut_bytes": 1}
    hooks.codex_event(run=run, name="metrics_rewound", fields=fields)


def read(run):
    """Return all values in the run's event files."""
    return event_reader.read(run.folder / "tensorboard")


def numbers(run, tag="train/loss"):
    """Return (step, value) of a tag, in the order of the files."""
    return [(value.step, value.value) for value in read(run) if value.tag == tag]


# ── what is written ───────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_stand_under_their_split(tmp_path):
    """Each metric of a record is a number at its step, tagged `split/name`."""
    run = make_run(tmp_path)
    hooks = started(run)
    give(hooks, run, 1, loss=2.5, lr=0.5)
    give(hooks, run, 1, "system", rss_bytes=1024.0)
    give(hooks, run, 1, "validation", loss=2.25)
    hooks.codex_run_finished(run=run, outcome=DONE)
    found = [(value.step, value.tag, value.value) for value in read(run) if isinstance(value.value, float)]
    assert found == [
        (1, "train/loss", 2.5),
        (1, "train/lr", 0.5),
        (1, "system/rss_bytes", 1024.0),
        (1, "validation/loss", 2.25),
    ]


def test_numbers_that_are_not_finite_stand_as_they_are(tmp_path):
    """NaN, infinities, numbers too large for 32 bits and zero reach the file."""
    run = make_run(tmp_path)
    hooks = started(run)
    for step, value in enumerate([math.nan, math.inf, -math.inf, 1e300, 0.0], start=1):
        give(hooks, run, step, loss=value)
    assert [str(value) for _, value in numbers(run)] == ["nan", "inf", "-inf", "inf", "0.0"]


def test_settings_are_a_table_and_hyperparameters(tmp_path):
    """The settings are a text at step 0, and the tab HPARAMS has them by their types."""
    run = make_run(tmp_path)
    started(run).codex_run_finished(run=run, outcome=DONE)
    values = {value.tag: value.value for value in read(run)}
    assert [value.step for value in read(run) if value.tag == "settings"] == [0]
    assert "| trainer.lr | 0.001 |" in values["settings"]
    session = event_reader.fields(values["_hparams_/session_start_info"])[3][0]
    entries = [event_reader.fields(entry) for entry in event_reader.fields(session)[1]]
    kinds = {entry[1][0].decode(): event_reader.fields(entry[2][0]) for entry in entries}
    assert kinds["name"] == {3: [b"toy"]}
    assert kinds["trainer.resume"] == {4: [1]}
    assert list(kinds["trainer.lr"]) == [2]
    assert "_hparams_/session_end_info" in values


def test_events_are_texts_at_their_step(tmp_path):
    """Warnings and checkpoints are shown where the run was; several of one step are one text."""
    run = make_run(tmp_path)
    hooks = started(run)
    give(hooks, run, 2, loss=1.0)
    hooks.codex_event(run=run, name="warning", fields={"message": "disk nearly full"})
    hooks.codex_event(run=run, name="warning", fields={"message": "and now it is"})
    hooks.codex_event(run=run, name="checkpoint_failed", fields={"step": 2, "reason": "no room"})
    hooks.codex_checkpoint_saved(run=run, checkpoint=Checkpoint(2, run.folder / "step-2", {}, 1000))
    hooks.codex_run_finished(run=run, outcome=DONE)
    texts = {value.tag: (value.step, value.value) for value in read(run)}
    assert texts["events/warning"] == (2, "disk nearly full\n\nand now it is")
    assert texts["events/checkpoint_failed"] == (2, '`{"step": 2, "reason": "no room"}`')
    assert texts["events/checkpoint_saved"][1].endswith("step-2`, 1,000 bytes")
    assert texts["events/outcome"] == (3, "completed: all 3 steps done")


def test_events_may_be_left_out(tmp_path):
    """With `events: false` there are metrics and settings alone."""
    run = make_run(tmp_path)
    hooks = started(run, events=False)
    hooks.codex_event(run=run, name="warning", fields={"message": "x"})
    hooks.codex_run_finished(run=run, outcome=DONE)
    assert not [value for value in read(run) if value.tag.startswith("events/")]


# ── going back ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_after_the_checkpoint_are_in_no_file(tmp_path):
    """A run that goes on in a new process from step 2 has each step once, and the new file purges from step 3 on."""
    run = make_run(tmp_path)
    first = started(run)
    for step in (1, 2, 3, 4):
        give(first, run, step, loss=float(step))
    first.codex_event(run=run, name="warning", fields={"message": "after the checkpoint"})
    second = started(run)  # the first was killed: it said no last word
    second.codex_event(run=run, name="run_resumed", fields={})
    rewind(second, run, 2)
    give(second, run, 3, loss=30.0)
    second.codex_run_finished(run=run, outcome=DONE)
    assert numbers(run) == [(1, 1.0), (2, 2.0), (3, 30.0)]
    found = read(run)
    assert [(value.step, value.value) for value in found if value.tag == "START"] == [(3, True)]
    assert [value.step for value in found if value.tag == "settings"] == [0, 2]
    assert [value.step for value in found if value.tag == "events/run_resumed"] == [2]
    assert not [value for value in found if value.value == "after the checkpoint"]


def test_a_run_may_go_back_without_a_new_process(tmp_path):
    """A trainer that goes back twice leaves each step once, the last time it was done."""
    run = make_run(tmp_path)
    hooks = started(run)
    for again in (0, 10, 20):
        for step in (2, 3, 4):
            give(hooks, run, step, loss=float(again + step))
        if again < 20:
            rewind(hooks, run, 1)
    assert numbers(run) == [(2, 22.0), (3, 23.0), (4, 24.0)]


def test_what_had_not_been_written_comes_from_the_run(tmp_path):
    """Records that reached the run's own file alone are filled in, in the order of steps; null is NaN."""
    run = make_run(tmp_path)
    first = started(run)
    give(first, run, 1, loss=1.0)
    give(None, run, 2, loss=math.nan)
    give(first, run, 3, loss=3.0)
    second = started(run)
    rewind(second, run, 3)
    assert [(step, str(value)) for step, value in numbers(run)] == [(1, "1.0"), (2, "nan"), (3, "3.0")]


@pytest.mark.parametrize("cut", [1, 4, 11, 15, 40])
def test_half_a_record_is_left_out(tmp_path, cut):
    """A file that was cut anywhere in its last record goes on as one that never had it."""
    run = make_run(tmp_path)
    first = started(run)
    give(first, run, 1, loss=1.0)
    give(first, run, 2, loss=2.0)
    (path,) = (run.folder / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    second = started(run)
    rewind(second, run, 2)
    assert numbers(run) == [(1, 1.0), (2, 2.0)]


def test_a_rewind_that_was_killed_is_done_again(tmp_path, monkeypatch):
    """Killed with the first file rewritten and the others still there, the next rewind leaves each step once."""
    run = make_run(tmp_path)
    first = started(run)
    give(first, run, 1, loss=1.0)
    second = started(run)
    rewind(second, run, 1)
    give(second, run, 2, loss=2.0)

    def killed(*arguments):
        event_files_write(*arguments)
        raise KeyboardInterrupt

    event_files_write = event_files.write_whole
    monkeypatch.setattr(event_files, "write_whole", killed)
    third = started(run)
    with pytest.raises(KeyboardInterrupt):
        rewind(third, run, 2)
    monkeypatch.undo()
    fourth = started(run)
    rewind(fourth, run, 2)
    assert numbers(run) == [(1, 1.0), (2, 2.0)]


def test_files_sort_as_they_were_begun(tmp_path, monkeypatch):
    """Begun in one second, or with a clock that was set back, a later file has the later name and replaces none."""
    times = iter([2000.0, 2000.0, 1000.0, 1000.0])
    monkeypatch.setattr(event_files.time, "time", lambda: next(times, 1000.0))
    for number in range(3):
        files = EventFiles(tmp_path, 0)
        files.add(number, scalars({"train/loss": 1.0}))
        files.close()
    assert [value.step for value in event_reader.read(tmp_path)] == [0, 1, 2]


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_process_loses_nothing(tmp_path):
    """Killed right after a record, with a long time between flushes, the record is in the file."""
    script = (
        "import os, sys, signal\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from codex_tensorboard.event_files import EventFiles\n"
        "from codex_tensorboard.messages import scalars\n"
        f"files = EventFiles(Path({str(tmp_path)!r}), 1000.0)\n"
        "for step in range(50):\n"
        "    files.add(step, scalars({'train/loss': float(step)}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [value.step for value in event_reader.read(tmp_path)] == list(range(50))


def test_a_full_disk_leaves_whole_records(tmp_path, monkeypatch):
    """A write that fails half way leaves nothing of the record, and the next one can be read."""
    files = EventFiles(tmp_path, 0)
    files.add(1, scalars({"train/loss": 1.0}))

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(bytes(data)[:7])
            raise OSError(28, "No space left on device")

    file, files._file = files._file, Full(files._file)
    with pytest.raises(OSError, match="No space"):
        files.add(2, scalars({"train/loss": 2.0}))
    files._file = file
    files.add(3, scalars({"train/loss": 3.0}))
    files.close()
    assert [value.step for value in event_reader.read(tmp_path)] == [1, 3]


def test_a_folder_outside_the_run_is_refused():
    """A relative folder that leads out of the run's is named before the run starts; an absolute one is not."""
    problems = list(TensorBoardLogger(folder="../all").codex_preflight())
    assert problems == ["folder: '../all' leads out of the run's folder"]
    assert list(TensorBoardLogger(folder="/tmp/all").codex_preflight()) == []  # noqa: S108 - never made


def test_a_folder_outside_the_run_is_not_written(tmp_path):
    """A logger that is started all the same raises, and makes nothing."""
    with pytest.raises(InputError, match="leads out"):
        started(make_run(tmp_path), folder="../all")
    assert not (tmp_path / "all").exists()


# ── the format ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_checksum_is_the_standards():
    """CRC-32C of the nine digits is e3069283, by RFC 3720's check value; masked as TFRecord has it."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@given(st.lists(st.binary(max_size=60)), st.data())
def test_records_come_back(tmp_path_factory, blobs, data):
    """Any bytes come back; a file that ends early gives the whole records before its end."""
    path = tmp_path_factory.mktemp("records") / "file"
    content = b"".join(map(framed, blobs))
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = [blob for at, blob in enumerate(blobs) if sum(len(b) + 16 for b in blobs[: at + 1]) <= cut]
    assert [blob for _, blob in frames(path)] == whole
    assert event_reader.records(content) == blobs
