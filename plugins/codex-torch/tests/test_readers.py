"""Whoever only looks at checkpoints is not misled by the process that trains and deletes them meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_points import state

from codex_kernel import StorageError
from codex_kernel.testing import make_run
from codex_torch import commit
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer


def trains_and_reads(folder: Path) -> tuple[FolderCheckpointer, FolderCheckpointer]:
    """A checkpointer that keeps one checkpoint and has saved step 1, and one that only reads."""
    run, options = make_run(folder), SafetensorsCheckpointer(keep_last=1)
    writer, reader = (
        FolderCheckpointer(run, run.folder / "checkpoints", options, read_only=only) for only in (False, True)
    )
    writer.save(1, state(1), {}, wait=True)
    return writer, reader


@pytest.mark.parametrize("before", ["_check_digest", "extra_files"])
def test_a_checkpoint_that_goes_while_it_is_read_is_followed_by_its_newer_one(tmp_path, monkeypatch, before):
    """`newest` looks again, and calls nothing damaged."""
    writer, reader = trains_and_reads(tmp_path)
    usual = getattr(commit, before)

    def late(*arguments):
        monkeypatch.setattr(commit, before, usual)
        writer.save(2, state(2), {}, wait=True)
        return usual(*arguments)

    monkeypatch.setattr(commit, before, late)
    assert reader.newest().step == 2
    assert not [name for name, _ in reader.run.report.events if name == "warning"]


@pytest.mark.parametrize("before", ["extra_files", "_check_size", "_check_digest"])
def test_verifying_a_checkpoint_that_goes_meanwhile_is_no_crash(tmp_path, monkeypatch, before):
    """It has faults, and its folder is no longer there: whoever asked can tell."""
    writer, reader = trains_and_reads(tmp_path)
    (one,), _ = reader.checkpoints()
    usual = getattr(commit, before)

    def late(*arguments):
        monkeypatch.setattr(commit, before, usual)
        writer.delete(one.path)
        return usual(*arguments)

    monkeypatch.setattr(commit, before, late)
    assert any(fault.endswith("missing") for fault in reader.verify(one))
    assert not one.path.exists()


def test_an_export_of_a_checkpoint_that_goes_meanwhile_says_so(tmp_path):
    """Deleted is not damaged: to ask again helps."""
    writer, reader = trains_and_reads(tmp_path)
    (one,), _ = reader.checkpoints()
    writer.save(2, state(2), {}, wait=True)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(StorageError, match="missing") as error:
        reader.export(one, out)
    assert "ask again" in error.value.remedy
    assert list(out.iterdir()) == []
