import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from fault_points import state

from codex_kernel import CheckpointState, CodexError, KeepBest, StorageError
from codex_kernel.testing import make_run
from codex_torch import commit, staging
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer


def checkpointer(folder: Path, *, clock=lambda: 0.0, **options) -> FolderCheckpointer:
    """A checkpointer over a run in this folder, and a clock that stands still."""
    run = make_run(folder)
    return FolderCheckpointer(
        run, run.folder / "checkpoints", SafetensorsCheckpointer(**options), clock=clock
    )


def events(mine: FolderCheckpointer, name: str) -> list[dict]:
    """What its run has to say of one kind of event."""
    return [fields for event, fields in mine.run.report.events if event == name]


def steps_in(mine: FolderCheckpointer) -> list[int]:
    """The steps of the checkpoints on disk."""
    return [step for step, _ in commit.find(mine.folder)]


@contextmanager
def a_disk_that_hangs(monkeypatch):
    """Until the event that this gives is set, nothing is safe on disk."""
    moves, fsync = threading.Event(), os.fsync

    def wait(descriptor):
        assert moves.wait(60)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    try:
        yield moves
    finally:
        moves.set()


# ── the step waits for the copy alone ─────────────────────────────────────────────────────────────────────────────


def test_training_goes_on_while_the_disk_hangs(tmp_path, monkeypatch):
    """`save` returns before anything is safe; what changes then is not saved, and `newest` waits for the disk."""
    mine = checkpointer(tmp_path)
    weight, values = torch.ones(5), {"step": 1}
    with a_disk_that_hangs(monkeypatch) as moves:
        mine.save(1, CheckpointState({"w.safetensors": {"w": weight}}, {"v.json": values}), {})
        weight.fill_(2)
        values["step"] = 2
        assert mine.run.report.checkpoints == []
        assert steps_in(mine) == []
        moves.set()
        newest = mine.newest()
    assert [checkpoint.step for checkpoint in mine.run.report.checkpoints] == [1]
    saved = mine.load(newest)
    assert saved.tensors["w.safetensors"]["w"].tolist() == [1] * 5
    assert saved.values["v.json"] == {"step": 1}
    assert events(mine, "checkpoint_waited") == [], "nothing was due meanwhile"


def test_a_save_waits_for_the_one_before_it(tmp_path, monkeypatch):
    """One save is under way at a time; each wait is an event, and half a second of waiting in all is one warning."""
    mine = checkpointer(tmp_path, keep_last=5)
    with a_disk_that_hangs(monkeypatch) as moves:
        looks = itertools.count()

        def clock():
            # A save looks when its wait begins, when that ends, and before the next thread starts.
            look = next(looks)
            (moves.set, lambda: None, moves.clear)[look % 3]()
            return look * 0.3

        mine.save(1, state(1), {})
        mine.clock = clock
        for step in (2, 3, 4):
            mine.save(step, state(step), {})
        moves.set()
        mine.close()
    assert steps_in(mine) == [1, 2, 3, 4]
    assert [event["step"] for event in events(mine, "checkpoint_waited")] == [2, 3, 4]
    assert all(event["seconds"] == 0.3 for event in events(mine, "checkpoint_waited"))
    (warning,) = mine.run.report.warnings
    assert warning.startswith("saves take longer than the interval between them")
    assert "up to step 3 for 0.6 s" in warning


def test_the_copy_is_kept(tmp_path):
    """The second save fills the buffers of the first; of those that no longer fit only the others are new."""
    kept = staging.Staging()
    first = {"a": torch.ones(3, 4).T, "b": torch.ones(2, requires_grad=True), "c": torch.tensor(1.5)}
    before = kept.copy({"f": first})["f"]
    places = {name: tensor.data_ptr() for name, tensor in before.items()}
    second = {"a": torch.full((4, 3), 2.0), "b": torch.ones(2, dtype=torch.float64), "d": torch.ones(1)}
    after = kept.copy({"f": second})["f"]
    assert after["a"].data_ptr() == places["a"]
    assert set(after) == {"a", "b", "d"}
    for name, tensor in second.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor)
        assert after[name].data_ptr() != tensor.data_ptr()
        assert after[name].is_contiguous()
        assert not after[name].requires_grad


def test_no_memory_for_the_copy_is_said(tmp_path, monkeypatch):
    """The error says how much was needed and what to do without it."""
    mine = checkpointer(tmp_path)

    def empty(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(CodexError, match=r"2,[45]\d\d bytes") as caught:
        mine.save(1, state(1), {})
    assert "asynchronous: false" in caught.value.remedy


# ── a save that fails ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_fails_costs_that_checkpoint_and_not_the_run(tmp_path, monkeypatch, code, asynchronous):
    """At whatever write it fails: it is said, nothing of it is left, the earlier ones stay, and the next is saved."""
    mine = checkpointer(tmp_path, asynchronous=asynchronous, keep_last=50)
    mine.save(1, state(1), {})
    mine.close()
    write, fsync = os.write, os.fsync
    for step in range(2, 12):
        left = iter(range(step - 2, -1, -1))

        def fail(call, *args, left=left):
            if next(left, -1) == 0:
                raise OSError(code, os.strerror(code))
            return call(*args)

        monkeypatch.setattr(os, "write", lambda *args, fail=fail: fail(write, *args))
        monkeypatch.setattr(os, "fsync", lambda *args, fail=fail: fail(fsync, *args))
        mine.save(step, state(step), {})
        mine.close()
        monkeypatch.undo()
        failed = events(mine, "checkpoint_failed")[-1]
        assert failed["step"] == step
        assert f"{mine.folder / f'step-{step:08d}'}: {os.strerror(code)}; 2," in failed["reason"]
        assert mine.run.report.warnings[-1] == f"{failed['reason']}; the run goes on without it"
        assert [path.name for path in mine.folder.iterdir()] == ["step-00000001"]
    mine.save(12, state(12), {})
    mine.close()
    assert steps_in(mine) == [1, 12]
    assert len(mine.run.report.warnings) == 10


def test_a_failed_step_is_tried_again_by_the_save_at_the_end(tmp_path, monkeypatch):
    """A save that waits writes what the one in the background had no room for."""
    mine = checkpointer(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        mine.save(5, state(5), {})
        mine.close()
    (failed,) = events(mine, "checkpoint_failed")
    assert "the disk is too full; 2,6" in failed["reason"]
    assert "1,000 free" in failed["reason"]
    mine.save(5, state(5), {}, wait=True)
    assert steps_in(mine) == [5]


def test_what_is_no_fault_of_the_disk_is_not_lost(tmp_path, monkeypatch):
    """Any other error in the background is raised by the next call, whichever that is, and by no other."""
    mine = checkpointer(tmp_path, keep_last=9)
    calls = (lambda: mine.save(9, state(9), {}), mine.newest, mine.close, mine.checkpoints)
    for step, call in enumerate(calls, start=1):
        with monkeypatch.context() as patch:
            patch.setattr(commit, "write", lambda *_: 1 / 0)
            mine.save(step, state(step), {})
            mine._thread.join()
        with pytest.raises(ZeroDivisionError):
            call()
        call()
    mine.close()
    assert steps_in(mine) == [9]


def test_an_older_checkpoint_that_cannot_be_deleted_is_a_warning(tmp_path, monkeypatch):
    """The new one is safe all the same, with `wait` too."""
    mine = checkpointer(tmp_path, keep_last=1)
    mine.save(1, state(1), {}, wait=True)

    def refuse(path):
        raise OSError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(commit, "discard", refuse)
    mine.save(2, state(2), {}, wait=True)
    assert [checkpoint.step for checkpoint in mine.run.report.checkpoints] == [1, 2]
    (warning,) = mine.run.report.warnings
    assert "an older checkpoint cannot be deleted" in warning
    assert "step-00000001" in warning


# ── how the process ends ──────────────────────────────────────────────────────────────────────────────────────────

SAVE_AND_END = """
import os, sys, threading
from pathlib import Path
sys.path.insert(0, {tests!r})
from fault_points import checkpointer, state
began, moves, fsync = threading.Event(), threading.Event(), os.fsync
def wait(descriptor):
    began.set()
    {hang}
    fsync(descriptor)
os.fsync = wait
checkpointer(Path({folder!r})).save(1, state(1), {{}})
began.wait()
{end}
"""


def end_process(folder: Path, hang: str, end: str) -> int:
    """Save in a process of its own that ends in some way while the disk works."""
    script = SAVE_AND_END.format(tests=str(Path(__file__).parent), folder=str(folder), hang=hang, end=end)
    return subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode


def test_an_interpreter_that_ends_finishes_the_save(tmp_path):
    """Even where nobody closes the checkpointer, an orderly end does not tear the save apart."""
    assert end_process(tmp_path, "threading.main_thread().join()", "") == 0
    assert steps_in(checkpointer(tmp_path)) == [1]


def test_a_second_signal_does_not_wait_for_the_disk(tmp_path):
    """`os._exit`, which a second signal calls, ends the process though the disk hangs for ever."""
    assert end_process(tmp_path, "moves.wait()", "os._exit(130)") == 130
    mine = checkpointer(tmp_path)
    assert mine.newest() is None
    mine.save(1, state(1), {}, wait=True)
    assert [path.name for path in mine.folder.iterdir()] == ["step-00000001"]


# ── when, and what the user is told ───────────────────────────────────────────────────────────────────────────────


def test_saves_are_due_by_the_clock(tmp_path):
    """The first step after `every_minutes` since the start or the last save is due; asking changes nothing."""
    now = [1000.0]
    mine = checkpointer(tmp_path, clock=lambda: now[0], every_minutes=0.5)
    due = []
    for step in range(1, 10):
        now[0] += 11
        assert mine.due(step) == mine.due(step)
        if mine.due(step):
            due.append(step)
            mine.save(step, state(step), {})
    mine.close()
    assert due == [3, 6, 9]
    both = checkpointer(tmp_path / "both", clock=lambda: now[0], every_minutes=1, every_steps=4)
    assert [step for step in range(1, 9) if both.due(step)] == [4, 8]


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, monkeypatch):
    """The time of day is never asked: with one that jumps an hour either way the right checkpoints stay."""
    mine = checkpointer(tmp_path, keep_last=2)
    for step, jump in enumerate((0, -3600, 3600, -7200, 10**9), start=1):
        monkeypatch.setattr("time.time", lambda jump=jump: 1_700_000_000.0 + jump)
        mine.save(step, state(step), {})
        mine.close()
        for path in mine.folder.rglob("*"):
            os.utime(path, (10**9 + jump, 10**9 + jump))
    assert steps_in(mine) == [4, 5]
    assert mine.newest().step == 5


def test_a_metric_that_is_not_there_at_the_end_is_no_mistake(tmp_path):
    """A save that waits, at the end of a run or at Ctrl-C, need not have the metric of `keep_best`."""
    mine = checkpointer(tmp_path, keep_best=KeepBest("validation/loss"))
    mine.save(1, state(1), {"train/loss": 1.0}, wait=True)
    assert mine.run.report.warnings == []
    mine.save(2, state(2), {"train/loss": 1.0})
    mine.save(3, state(3), {"train/loss": 1.0})
    mine.close()
    (warning,) = mine.run.report.warnings
    assert "without 'validation/loss', it has train/loss" in warning


def test_what_this_process_wrote_is_not_read_again(tmp_path, monkeypatch):
    """A step that is saved twice by one process is known to be there; another process looks."""
    mine = checkpointer(tmp_path)
    mine.save(7, state(7), {})
    monkeypatch.setattr(commit, "verify", lambda _: 1 / 0)
    mine.save(7, state(7), {}, wait=True)
    assert [checkpoint.step for checkpoint in mine.run.report.checkpoints] == [7]
    with pytest.raises(ZeroDivisionError):
        checkpointer(tmp_path).save(7, state(7), {})


def test_a_rehearsal_saves_several_times(tmp_path):
    """Five saves in a rehearsal of any length, at steps that do not depend on a clock."""
    options = SafetensorsCheckpointer(every_minutes=1)
    for steps in (1, 4, 5, 20, 23):
        shorter = SafetensorsCheckpointer(**options.codex_shorten(steps))
        mine = FolderCheckpointer(make_run(tmp_path), tmp_path, shorter)
        assert len([step for step in range(1, steps + 1) if mine.due(step)]) == min(steps, 5)


# ── checkpoints one by one ────────────────────────────────────────────────────────────────────────────────────────


def test_looking_at_checkpoints_needs_no_torch(tmp_path):
    """Listing, verifying, deleting and exporting import neither torch nor safetensors."""
    mine = checkpointer(tmp_path, keep_last=5)
    for step in (1, 2, 3):
        mine.save(step, state(step), {}, wait=True)
    (tmp_path / "out").mkdir()
    script = f"""
import sys
from pathlib import Path
from codex_kernel.testing import make_run
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer
run = make_run(Path({str(tmp_path)!r}))
mine = FolderCheckpointer(run, run.folder / "checkpoints", SafetensorsCheckpointer())
whole, damaged = mine.checkpoints()
assert [one.step for one in whole] == [1, 2, 3] and damaged == []
assert mine.verify(whole[0]) == [] and mine.files(whole[0]) and mine.kept(whole) == {{2, 3}}
mine.delete(whole[0].path)
mine.export(whole[1], Path({str(tmp_path / "out")!r}))
assert mine.newest() == whole[2]
mine.close()
print(sorted({{"torch", "safetensors", "numpy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_file_that_was_not_saved_is_named_and_does_no_harm(tmp_path):
    """A note that someone left in a checkpoint is said by `verify` and when it is used, as it is all the same."""
    mine = checkpointer(tmp_path)
    mine.save(1, state(1), {}, wait=True)
    path = commit.path_of(mine.folder, 1)
    (path / "model" / "notes.txt").write_text("mine")
    assert mine.verify(mine.checkpoints()[0][0]) == []
    assert mine.newest().step == 1
    assert len(mine.run.report.warnings) == 2
    assert all(
        "not saved with it and are not read: model/notes.txt" in said for said in mine.run.report.warnings
    )


def test_what_was_set_aside_says_why(tmp_path):
    """The reason outlives the process that found it."""
    mine = checkpointer(tmp_path)
    mine.save(1, state(1), {}, wait=True)
    (commit.path_of(mine.folder, 1) / "trainer.json").unlink()
    assert mine.newest() is None
    (damaged,) = checkpointer(tmp_path).checkpoints()[1]
    assert damaged.path.name.startswith(".bad-00000001-")
    assert damaged.reason == "trainer.json: missing"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES])
def test_a_file_that_cannot_be_opened_now_is_no_damage(tmp_path, monkeypatch, code):
    """Too many open files, or another user's folder, says nothing of the checkpoint: it is an error, and it stays."""
    mine = checkpointer(tmp_path)
    mine.save(1, state(1), {}, wait=True)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(commit.hashlib, "file_digest", refuse)
        with pytest.raises(StorageError, match=f"cannot read .*: {os.strerror(code)}"):
            mine.newest()
    assert mine.newest().step == 1


def test_a_model_is_not_exported_by_half(tmp_path, monkeypatch):
    """On a disk that fails, and of a checkpoint without a model, nothing is left in the folder."""
    mine = checkpointer(tmp_path)
    mine.save(1, state(1), {}, wait=True)
    mine.save(2, CheckpointState({}, {"v.json": 1}), {}, wait=True)
    with_model, without = mine.checkpoints()[0]
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CodexError, match="has no model"):
        mine.export(without, out)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            StorageError, match=r"cannot export the model to .*out: No space left on device; 1,\d\d\d"
        ):
            mine.export(with_model, out)
    assert list(out.iterdir()) == []
    (out / "mine").touch()
    with pytest.raises(CodexError, match="expected an empty folder"):
        mine.export(with_model, out)


def test_only_reading_leaves_everything_as_it_is(tmp_path):
    """A checkpointer that was opened to read neither saves nor deletes."""
    checkpointer(tmp_path).save(1, state(1), {}, wait=True)
    run = make_run(tmp_path)
    reader = FolderCheckpointer(run, run.folder / "checkpoints", SafetensorsCheckpointer(), read_only=True)
    (one,), _ = reader.checkpoints()
    for change in (lambda: reader.delete(one.path), lambda: reader.save(2, state(2), {})):
        with pytest.raises(CodexError, match="opened for reading alone"):
            change()
    assert steps_in(reader) == [1]
