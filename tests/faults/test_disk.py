"""The disk: full, failing, read-only, small or slow. Earlier checkpoints stay whole; with room again all goes on."""

from __future__ import annotations

import errno
import shutil

import pytest

from tests.faults.commands import Workplace
from tests.faults.comparison import (
    check_checkpoints_whole,
    check_same,
    checkpoints,
    differences,
    events,
    newest_step,
    strict_json,
    tree,
)
from tests.faults.injection import CHECKPOINTS, Fault, numbered, save_of, step_of
from tests.faults.mounts import are_allowed, own_mounts
from tests.faults.subjects import SHORT_SAVES
from tests.faults.trials import SLOW, check_goes_on, some, stopped_after, sweep

STORAGE = 6
TAKING_ROOM = {"mkdir", "open", "write"}
RECORDS = "metrics.ndjson"
STOPPED_AFTER = 14


needs_mounts = pytest.mark.skipif(
    not are_allowed(),
    reason="this system allows no mounts of one's own; the shim makes the same faults everywhere",
)


def check_said(ended, workplace, what):
    """Fail where a command did not end with 6 and name the path, the bytes needed and those free."""
    assert ended.code == STORAGE, f"{what}: exit {ended.code}: {ended.said}"
    assert str(workplace.run) in ended.err, f"{what}: no path: {ended.err}"
    assert "needed" in ended.err, f"{what}: not how much is needed: {ended.err}"
    assert "free" in ended.err, f"{what}: not how much is free: {ended.err}"


def fill_and_go_on(server, subject, workplace, fault):
    """Let the disk fail, then continue the run on one that does not."""
    command = server.start(workplace, *subject.arguments(), fault=fault)
    ended = command.ended()
    met = next((one for one in command.operations() if one.number >= fault.at), None)
    what = f"{fault}: {met}"
    assert met is not None, f"{fault} never came"
    assert "Traceback" not in ended.said, f"{what}: {ended.said}"
    check_said(ended, workplace, what)
    check_goes_on(server, subject, workplace, what)
    shutil.rmtree(workplace.folder)


@pytest.mark.parametrize("every", [40, pytest.param(6, marks=SLOW)])
@pytest.mark.parametrize("save", ["middle", "last"])
def test_a_disk_that_is_full_from_some_operation_on_costs_no_checkpoint(server, short, tmp_path, save, every):
    """No room to the end of the run: the last save fails and it ends with 6; with room again it goes on."""
    operations = save_of(short.operations, SHORT_SAVES[save])
    sweep(
        some([op for op in operations if op.name in TAKING_ROOM], every),
        lambda operation: fill_and_go_on(
            server,
            short,
            short.workplace(tmp_path / str(operation.number)),
            Fault("fail", operation.number, value=errno.ENOSPC, containing=CHECKPOINTS),
        ),
    )


def fail_once(server, subject, workplace, fault):
    """Let one operation of a save fail: the run goes on without that save, says so, and is otherwise the same."""
    command = server.start(workplace, *subject.arguments(), fault=fault)
    ended = command.ended()
    what = f"{fault}: {next((one for one in command.operations() if one.number == fault.at), None)}"
    assert ended.code == 0, f"{what}: exit {ended.code}: {ended.said}"
    outcome = strict_json((workplace.run / "outcome.json").read_text())
    failed = events(workplace.run, "checkpoint_failed")
    assert outcome["failed_saves"] == len(failed), f"{what}: {outcome}, {failed}"
    if failed:
        assert [event["step"] for event in failed] == [SHORT_SAVES["middle"]], f"{what}: {failed}"
    else:  # it was in a deletion, which is tried again later, or said
        assert newest_step(workplace.run) == SHORT_SAVES["last"], what
    check_checkpoints_whole(subject, workplace.run, what)
    expected = ("failed_saves", CHECKPOINTS[1:])
    found = [
        line for line in differences(subject, workplace.run) if not any(word in line for word in expected)
    ]
    assert not found, f"{what}: {found}"
    shutil.rmtree(workplace.folder)


@pytest.mark.parametrize("every", [30, pytest.param(5, marks=SLOW)])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_save_that_fails_once_is_left_out_and_said(server, short_full, tmp_path, code, every):
    """One failing operation in the middle of a run: it completes, counts the failed save, and has the same bits."""
    points = save_of(short_full.operations, SHORT_SAVES["middle"])
    if code != errno.EIO:
        points = [op for op in points if op.name in TAKING_ROOM]
    sweep(
        some(points, every),
        lambda operation: fail_once(
            server,
            short_full,
            short_full.workplace(tmp_path / f"{code}-{operation.number}"),
            Fault("fail", operation.number, times=1, value=code, containing=CHECKPOINTS),
        ),
    )


def test_records_that_cannot_be_written_end_the_run_with_6(server, full, tmp_path):
    """Metrics are the truth of a run: without room for them it ends, and goes on to the same bits with room again."""
    writes = [op for op in numbered(full.operations, RECORDS) if op.name == "write"]
    workplace = full.workplace(tmp_path / "work")
    fault = Fault("fail", writes[len(writes) // 2].number, value=errno.ENOSPC, containing=RECORDS)
    ended = server.codex(workplace, *full.arguments(), fault=fault)
    check_said(ended, workplace, fault)
    check_goes_on(server, full, workplace, fault)


def test_writes_that_take_less_than_they_are_given_change_nothing(server, subject, tmp_path):
    """The system may write half of what it is asked for, every time: the rest is written too."""
    workplace = subject.workplace(tmp_path / "work")
    ended = server.codex(workplace, *subject.arguments(), fault=Fault("short"))
    assert ended.code == 0, ended.said
    check_same(subject, workplace.run)


@pytest.fixture
def stopped(server, subject, tmp_path) -> Workplace:
    """Return a workplace with a run that was stopped."""
    return stopped_after(server, subject, subject.workplace(tmp_path / "work"), STOPPED_AFTER)


def test_a_limit_on_the_size_of_files_costs_no_checkpoint(server, subject, stopped):
    """`ulimit -f` below the optimizer's file: no save succeeds, the run ends with 6, and goes on without the limit."""
    before = tree(stopped.run / "checkpoints")
    ended = server.codex(stopped, "resume", "run", file_bytes=12_000)
    check_said(ended, stopped, "a limit of 12 kB")
    assert before.items() <= tree(stopped.run / "checkpoints").items()
    check_goes_on(server, subject, stopped, "after the limit", stopped=True)


@needs_mounts
def test_a_file_system_that_is_too_small_costs_no_checkpoint(server, full, tmp_path):
    """A real one, with room for two checkpoints: exit 6; grown, the run goes on to the same bits."""
    workplace = full.workplace(tmp_path / "work")
    workplace.run.mkdir()
    with own_mounts() as mounts:
        mounts.mount("-t", "tmpfs", "-o", "size=360k", "tmpfs", workplace.run)
        ended = server.codex(workplace, *full.arguments(), namespace=mounts.pid)
        check_said(ended, workplace, "a small disk")
        run = mounts.seen(workplace.run)
        check_checkpoints_whole(full, run)
        assert checkpoints(run)
        mounts.mount("-o", "remount,size=20m", workplace.run)
        ended = server.codex(workplace, "resume", "run", namespace=mounts.pid)
        assert ended.code == 0, ended.said
        check_same(full, run, stopped=True)


@needs_mounts
def test_a_read_only_folder_ends_the_run_before_it_trains_and_stays_as_it_is(server, subject, stopped):
    """Exit 6 and not a byte changed, also where the folder of a new run cannot be made; writable again, it goes on."""
    before = tree(stopped.run)
    with own_mounts() as mounts:
        mounts.mount("--bind", stopped.folder, stopped.folder)
        mounts.mount("-o", "remount,ro,bind", stopped.folder)
        for arguments in (["resume", "run"], ["run", "manifest.yaml", "--run-dir", "new"]):
            ended = server.codex(stopped, *arguments, namespace=mounts.pid)
            assert ended.code == STORAGE, ended.said
            assert str(stopped.folder) in ended.err
            assert "Traceback" not in ended.said
    assert tree(stopped.run) == before
    check_goes_on(server, subject, stopped, "after read-only", stopped=True)


def test_training_goes_on_while_a_slow_disk_takes_a_save(server, full, tmp_path):
    """Steps are recorded while a save is under way, one save at a time, and the bits are the same."""
    workplace = full.workplace(tmp_path / "work")
    slow = Fault("slow", value=5, containing=CHECKPOINTS)
    command = server.start(workplace, *full.arguments(), fault=slow)
    ended = command.ended()
    assert ended.code == 0, ended.said
    operations = command.operations()
    written = [step_of(op) for op in operations if op.number and op.name in {"open", "write"}]
    assert written == sorted(written), "two saves were under way at once"
    during = save_of(operations, 8)
    began, over = during[0].milliseconds, during[-1].milliseconds
    records = [op for op in operations if RECORDS in op.path and op.name == "write"]
    assert [op for op in records if began < op.milliseconds < over], (
        "no step was recorded while the checkpoint was written"
    )
    check_same(full, workplace.run)
