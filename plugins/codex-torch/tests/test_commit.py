import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from fault_points import checkpointer, fault, state
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from codex_kernel import Checkpoint, InputError, KeepBest, StorageError
from codex_kernel.testing import make_run
from codex_torch import commit, index, tensor_file
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer


def saved(folder: Path, *steps: int, **options) -> FolderCheckpointer:
    """A checkpointer that has saved those steps; its reporter says nothing but what came after them."""
    run = make_run(folder)
    mine = FolderCheckpointer(run, run.folder / "checkpoints", SafetensorsCheckpointer(**options))
    for step in steps:
        mine.save(step, state(step), {"validation/loss": 1 / step})
        mine.close()
    run.report.checkpoints.clear()
    return mine


def steps_in(mine: FolderCheckpointer) -> list[int]:
    """The steps of the checkpoints on disk."""
    return [step for step, _ in commit.find(mine.folder)]


def flip(file: Path, at: int) -> None:
    """Change a bit of the byte at a place."""
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


# ── a process that dies ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["kill", "tear"])
def test_a_death_at_any_file_operation_loses_nothing(tmp_path, mode):
    """Killed before an operation or within a write, the newest whole checkpoint is found; the next save clears up."""
    script = Path(__file__).with_name("fault_points.py")
    out = subprocess.run([sys.executable, script, tmp_path, mode], capture_output=True, text=True, check=True)
    deaths = int(out.stdout)
    assert deaths > 25
    found = []
    for number in range(1, deaths + 1):
        mine = checkpointer(tmp_path / str(number))
        newest = mine.newest()
        assert newest is not None, f"operation {number}"
        assert mine.run.report.warnings == [], f"operation {number}"
        loaded = mine.load(newest)
        assert loaded.values["trainer.json"] == {"step": newest.step}
        assert float(loaded.tensors["optimizer.safetensors"]["exp_avg/w"].min()) == newest.step
        found.append(newest.step)
        mine.save(4, state(4), {}, wait=True)
        assert [path.name for path in sorted(mine.folder.iterdir())] == [
            f"step-{newest.step:08d}",
            "step-00000004",
        ]
    assert found == sorted(found), "once it is there it stays"
    assert set(found) == {2, 3}


def test_everything_is_synced_before_it_gets_its_name(tmp_path):
    """Each file and folder is synced before the rename, and the parent after it."""
    mine = saved(tmp_path)
    with fault(-1, "kill") as operations:
        mine.save(1, state(1), {})
        mine.close()
    renamed = operations.index("rename")
    files = 4  # two of tensors, one of values, the index
    folders = 3  # the checkpoint, its model/, and the run's, where the folder of all checkpoints is new
    assert operations[:renamed].count("fsync") == files + folders
    assert operations[renamed + 1 :].count("fsync") == 1
    assert operations.index("mkdir") < operations.index("fsync") < operations.index("write"), "its own parent"


# ── a disk that fails ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_write_costs_that_save_alone(tmp_path, monkeypatch, code):
    """The error has path, bytes needed and free; earlier checkpoints stay, the half one goes; saving works again."""
    mine = saved(tmp_path, 1)
    write, fsync = os.write, os.fsync
    for failing in range(1, 8):
        count = iter(range(1, 1000))

        def fail(call, *args, count=count, failing=failing):
            if next(count) == failing:
                raise OSError(code, os.strerror(code))
            return call(*args)

        monkeypatch.setattr(os, "write", lambda *args, fail=fail: fail(write, *args))
        monkeypatch.setattr(os, "fsync", lambda *args, fail=fail: fail(fsync, *args))
        with pytest.raises(StorageError) as caught:
            mine.save(2, state(2), {}, wait=True)
        monkeypatch.undo()
        assert caught.value.exit_code == 6
        assert f"{mine.folder / 'step-00000002'}: {os.strerror(code)}; 2," in caught.value.message
        assert "bytes needed" in caught.value.message
        assert [path.name for path in mine.folder.iterdir()] == ["step-00000001"]
    mine.save(2, state(2), {}, wait=True)
    assert steps_in(mine) == [1, 2]


def test_a_disk_that_is_too_full_is_found_before_a_byte_is_written(tmp_path, monkeypatch):
    """The bytes needed are compared with the bytes free first."""
    mine = saved(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"the disk is too full; 2,[67]\d\d bytes needed, 1,000 free"):
        mine.save(2, state(2), {}, wait=True)
    assert steps_in(mine) == [1]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """Where a file stands in the way the error says so."""
    mine = saved(tmp_path)
    mine.folder.write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot save the checkpoint .*step-00000001"):
        mine.save(1, state(1), {}, wait=True)


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.data())
def test_a_flipped_bit_anywhere_is_found(data):
    """Whatever byte of whatever file changes, the checkpoint is not used and the file is named."""
    with tempfile.TemporaryDirectory() as name:
        mine = saved(Path(name), 1, 2)
        path = commit.path_of(mine.folder, 2)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        file = data.draw(st.sampled_from(files))
        flip(file, data.draw(st.integers(0, file.stat().st_size - 1)))
        newest = mine.newest()
        assert newest is not None
        assert newest.step == 1
        (warning,) = mine.run.report.warnings
        assert f"step-00000002 is damaged ({file.relative_to(path)}: " in warning


def test_a_damaged_checkpoint_is_kept_aside(tmp_path):
    """It is renamed, so that a person can look at it and nothing takes it for a checkpoint again."""
    mine = saved(tmp_path, 1, 2)
    flip(commit.path_of(mine.folder, 2) / "trainer.json", 3)
    mine.newest()
    aside = [path.name for path in mine.folder.iterdir() if path.name.startswith(".bad-00000002-")]
    assert len(aside) == 1
    assert aside[0] in mine.run.report.warnings[0]
    for step in (3, 4, 5):
        mine.save(step, state(step), {})
    mine.close()
    assert (mine.folder / aside[0]).is_dir()


def test_a_checkpoint_under_the_name_of_another_is_found(tmp_path):
    """A folder that was copied to a higher step is not newer."""
    mine = saved(tmp_path, 1, 2)
    shutil.copytree(commit.path_of(mine.folder, 1), commit.path_of(mine.folder, 9))
    assert mine.newest().step == 2
    assert "checkpoint.json: it is of step 1" in mine.run.report.warnings[0]


def test_a_newer_format_is_an_error_and_no_damage(tmp_path):
    """A checkpoint of a later version is left alone, with a word on what to do."""
    mine = saved(tmp_path, 1)
    file = commit.path_of(mine.folder, 1) / "checkpoint.json"
    body = json.loads(file.read_text()) | {"format": 99}
    del body["digest"]
    file.write_text(json.dumps(body | {"digest": index.digest_of(body)}))
    with pytest.raises(InputError, match="format 99, expected 1"):
        mine.newest()
    assert steps_in(mine) == [1]


def test_an_index_never_leads_out_of_its_folder(tmp_path):
    """A checkpoint whose index names a file elsewhere is damaged."""
    mine = saved(tmp_path, 1)
    path = commit.path_of(mine.folder, 1)
    files = {**index.read_index(path).files, "../../../secret.json": (6, "0" * 64)}
    (path / "checkpoint.json").write_bytes(index.dump(index.Index(1, mine.run.run_id, {}, files)))
    assert mine.newest() is None
    assert "outside of the checkpoint" in mine.run.report.warnings[0]


# ── what is kept ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_are_kept_beside_the_last(tmp_path):
    """The checkpoint with the lowest validation loss outlives newer ones."""
    mine = saved(tmp_path, keep_last=1, keep_best=KeepBest("validation/loss"))
    for step, loss in enumerate((3.0, 1.0, 2.0, float("nan"), 2.5), start=1):
        mine.save(step, state(step), {"validation/loss": loss})
    mine.close()
    assert steps_in(mine) == [2, 5]


def test_a_metric_that_is_never_there_is_said_once(tmp_path):
    """A misspelt metric does not silently keep nothing."""
    mine = saved(tmp_path, 1, 2, keep_best=KeepBest("validation/los"))
    (warning,) = mine.run.report.warnings
    assert "without 'validation/los', it has validation/loss" in warning


def test_leftovers_are_deleted_by_the_next_save(tmp_path):
    """Half saves and half deletions go; what has another name stays."""
    mine = saved(tmp_path, 1)
    for name in (".tmp-00000002-ab12", ".trash-00000001-ab12", ".tmp-mine", "tmp-00000002-ab12"):
        (mine.folder / name / "model").mkdir(parents=True)
    again = saved(tmp_path, 2)
    assert sorted(path.name for path in again.folder.iterdir()) == [
        ".tmp-mine",
        "step-00000001",
        "step-00000002",
        "tmp-00000002-ab12",
    ]
    assert [fields["path"][-18:] for name, fields in again.run.report.events] == [
        ".tmp-00000002-ab12",
        "rash-00000001-ab12",
    ]


def test_a_resume_clears_up_what_the_last_save_could_not(tmp_path):
    """Killed after its last save and before it deleted others, a run that goes on has what the options keep."""
    saved(tmp_path, 1, 2, 3, keep_last=3).close()
    mine = saved(tmp_path, keep_last=1)
    (mine.folder / ".trash-00000001-ab12" / "model").mkdir(parents=True)
    reader = FolderCheckpointer(mine.run, mine.folder, mine.options, read_only=True)
    assert reader.newest().step == 3
    assert len(list(mine.folder.iterdir())) == 4, "who only reads deletes nothing"
    assert mine.newest().step == 3
    assert [path.name for path in mine.folder.iterdir()] == ["step-00000003"]


def test_a_damaged_newest_one_costs_no_older_one(tmp_path):
    """What is kept is decided among the whole ones: the older one is not deleted for the sake of a damaged one."""
    saved(tmp_path, 1, 2, keep_last=2).close()
    mine = saved(tmp_path, keep_last=1)
    flip(commit.path_of(mine.folder, 2) / "trainer.json", 3)
    assert mine.newest().step == 1
    assert steps_in(mine) == [1]


def test_files_that_were_not_saved_are_named(tmp_path):
    """A foreign file in a checkpoint is neither read nor passed over without a word."""
    mine = saved(tmp_path, 1)
    mine.close()
    (commit.path_of(mine.folder, 1) / "model" / "foreign.safetensors").write_bytes(b"x")
    assert mine.newest().step == 1
    (warning,) = mine.run.report.warnings
    assert (
        "step-00000001 has files that were not saved with it and are not read: model/foreign.safetensors"
        in warning
    )


def test_a_loaded_checkpoint_keeps_no_tensors(tmp_path):
    """Who holds on to a state that was loaded holds neither its memory nor the room of a file deleted since."""
    mine = saved(tmp_path, 1)
    loaded = mine.load(mine.newest())
    weight = loaded.tensors["model/model.safetensors"]["w"]
    assert loaded.tensors["model/model.safetensors"]["w"].data_ptr() != weight.data_ptr()
    assert dict(loaded.tensors).keys() == state(1).tensors.keys()
    commit.discard(commit.path_of(mine.folder, 1))
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        loaded.tensors["model/model.safetensors"]
    assert "optimizer.json" not in loaded.tensors


def test_a_whole_checkpoint_is_not_written_again(tmp_path):
    """The last save of a run finds the step there, and leaves it as it is."""
    mine = saved(tmp_path, 5)
    before = (commit.path_of(mine.folder, 5) / "checkpoint.json").stat()
    mine.save(5, state(6), {})
    assert (commit.path_of(mine.folder, 5) / "checkpoint.json").stat() == before
    assert mine.run.report.checkpoints == []


def test_steps_of_more_than_eight_digits_are_in_order(tmp_path):
    """Names are compared as numbers."""
    mine = saved(tmp_path, 99_999_999, 100_000_000)
    assert mine.newest().step == 100_000_000


# ── the tensors' format ───────────────────────────────────────────────────────────────────────────────────────────

DTYPES = sorted(tensor_file._DTYPES, key=str)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_tensors_come_back_through_the_library(made):
    """What is written piece by piece, safetensors' own loader reads bit by bit."""
    made.pop("__metadata__", None)
    torch.manual_seed(0)
    tensors = {name: torch.randint(0, 2, shape).to(dtype) for name, (dtype, shape) in made.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        path.write_bytes(b"".join(tensor_file.pieces(tensors)))
        found = load_file(path)
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert torch.equal(
                found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)
            )
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.sampled_from([0, 1, 7, 2**16 - 1, 2**16, 2**16 + 1, 2**20 + 3]))
    )
)
def test_pieces_are_written_in_their_order(made):
    """Small pieces are put together and large ones cut, and not a byte is lost, moved or written twice."""
    pieces = [bytes([value]) * size for value, size in made]
    chunks = [bytes(chunk) for chunk in commit._chunks(map(memoryview, pieces))]
    assert b"".join(chunks) == b"".join(pieces)
    assert all(0 < len(chunk) <= 2**20 + 2**16 for chunk in chunks)


def test_views_are_written_as_what_they_show():
    """A transposed tensor, and a piece of a larger one, are written with their own values alone."""
    base = torch.arange(12.0).reshape(3, 4)
    content = b"".join(tensor_file.pieces({"t": base.T, "row": base[1]}))
    assert len(content) < 400
    path_free = content[8 + int.from_bytes(content[:8], "little") :]
    values = torch.frombuffer(bytearray(path_free), dtype=torch.float32).tolist()
    assert values == base[1].tolist() + base.T.flatten().tolist()


def test_a_dtype_that_the_format_lacks_is_named():
    """Complex tensors are refused by name."""
    with pytest.raises(TypeError, match=r"no dtype for 'z': torch\.complex64"):
        list(tensor_file.pieces({"z": torch.zeros(1, dtype=torch.complex64)}))


def test_a_checkpoint_says_what_it_is(tmp_path):
    """Step, path, metrics and size are those on disk."""
    mine = saved(tmp_path, 7)
    newest = mine.newest()
    size = sum(
        file.stat().st_size
        for file in newest.path.rglob("*")
        if file.is_file() and file.name != "checkpoint.json"
    )
    assert newest == Checkpoint(7, mine.folder / "step-00000007", {"validation/loss": 1 / 7}, size)


def test_a_checkpoint_that_was_moved_to_another_disk_may_be_linked_to(tmp_path):
    """It is used as if it were there; when it need not be kept the link goes, and what it led to stays."""
    mine = saved(tmp_path, 1, 2)
    elsewhere = tmp_path / "elsewhere"
    (mine.folder / "step-00000002").rename(elsewhere)
    (mine.folder / "step-00000002").symlink_to(elsewhere)
    assert mine.newest().step == 2
    mine.delete(mine.newest().path)
    assert [path.name for path in mine.folder.iterdir()] == ["step-00000001"]
    assert (elsewhere / "checkpoint.json").exists()
    (mine.folder / ".trash-00000002-ab").symlink_to(elsewhere)
    assert [path.name for path in commit.sweep(mine.folder)] == [".trash-00000002-ab"]
    assert (elsewhere / "checkpoint.json").exists()
