"""The contract of checkpointers whose checkpoints can be looked at one by one, for `codex checkpoints`.

One rule: it adds to the contract of every checkpointer, and takes nothing away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codex_kernel.errors import CodexError
from codex_kernel.interfaces import CheckpointArchive, RunContext
from codex_kernel.testing.checkpointer import CheckpointerContract, reporter_of
from codex_kernel.testing.damage import delete, files_in, flip_a_bit
from codex_kernel.testing.toys import make_run


class CheckpointArchiveContract(CheckpointerContract):
    """What holds beyond it for a checkpointer that is a `CheckpointArchive`: for `codex checkpoints`."""

    def archive(self, run: RunContext, **options: Any) -> CheckpointArchive:
        """Return the checkpointer of a run as an archive."""
        checkpointer = self.open(run, **options)
        assert isinstance(checkpointer, CheckpointArchive)
        return checkpointer

    def test_all_checkpoints_are_listed(self, tmp_path: Path) -> None:
        """Whole ones come oldest first with what they were saved with, damaged and set-aside ones beside them."""
        run = make_run(tmp_path)
        assert self.archive(run).checkpoints() == ([], [])
        self.saved(run, 9, 10, 100, 101, keep_last=5).close()
        saved = reporter_of(run).checkpoints
        assert self.archive(run, read_only=True).checkpoints() == (saved, [])
        names = [str(file.relative_to(saved[3].path)) for file in files_in(saved[3].path)]
        for file in files_in(saved[3].path):
            delete(file)
        whole, damaged = self.archive(run, read_only=True).checkpoints()
        assert list(whole) == saved[:3]
        assert [one.path for one in damaged] == [saved[3].path]
        assert any(name in damaged[0].reason for name in names)
        self.open(run, keep_last=9).newest()  # sets it aside
        whole, damaged = self.archive(run, read_only=True).checkpoints()
        assert list(whole) == saved[:3]
        assert len(damaged) == 1
        assert damaged[0].path.exists()
        assert damaged[0].reason

    def test_verifying_names_each_file(self, tmp_path: Path) -> None:
        """Of a whole checkpoint nothing is said; each file that is damaged is named; nothing is moved."""
        for number, (name, damage) in enumerate(self._damages(tmp_path)):
            run = make_run(tmp_path / str(number))
            self.saved(run, 5).close()
            checkpoint = reporter_of(run).checkpoints[0]
            archive = self.archive(run, read_only=True)
            assert list(archive.verify(checkpoint)) == []
            damage(checkpoint.path / name)
            case = f"{damage.__name__} {name}"
            sentences = archive.verify(checkpoint)
            assert [sentence for sentence in sentences if sentence.startswith(f"{name}: ")], case
            assert len(sentences) == 1, case
            assert checkpoint.path.exists(), case

    def test_every_damaged_file_is_named_at_once(self, tmp_path: Path) -> None:
        """Two damaged files are two sentences."""
        run = make_run(tmp_path)
        self.saved(run, 5).close()
        checkpoint = reporter_of(run).checkpoints[0]
        archive = self.archive(run, read_only=True)
        names = [name for name, size in archive.files(checkpoint).items() if size][:2]
        for name in names:
            flip_a_bit(checkpoint.path / name)
        assert sorted(sentence.split(":")[0] for sentence in archive.verify(checkpoint)) == sorted(names)

    def test_files_have_their_sizes(self, tmp_path: Path) -> None:
        """Each file of the state is there under its name with its size on disk."""
        run = make_run(tmp_path)
        self.saved(run, 5).close()
        checkpoint = reporter_of(run).checkpoints[0]
        files = self.archive(run, read_only=True).files(checkpoint)
        state = self.state()
        assert {*state.tensors, *state.values, *state.files} <= set(files)
        assert {name: (checkpoint.path / name).stat().st_size for name in files} == dict(files)

    def test_what_would_be_kept_is_what_is_kept(self, tmp_path: Path) -> None:
        """The steps that the options keep of a list are those that a save leaves of it."""
        run = make_run(tmp_path)
        self.saved(run, 1, 2, 3, 4, keep_last=10).close()
        archive = self.archive(run, keep_last=2, read_only=True)
        foreseen = archive.kept(archive.checkpoints()[0])
        self.saved(run, 5, keep_last=3).close()
        left = {one.step for one in self.archive(run).checkpoints()[0]}
        assert foreseen | {5} == left

    def test_deleting_deletes_that_one(self, tmp_path: Path) -> None:
        """A checkpoint or a damaged one is gone without a trace; elsewhere, and read-only, nothing is deleted."""
        run = make_run(tmp_path)
        self.saved(run, 1, 2, 3, keep_last=5).close()
        saved = reporter_of(run).checkpoints
        flip_a_bit(next(files_in(saved[2].path)))
        self.open(run, keep_last=9).newest()  # sets it aside
        archive = self.archive(run)
        archive.delete(saved[0].path)
        for damaged in archive.checkpoints()[1]:
            archive.delete(damaged.path)
        assert archive.checkpoints() == ([saved[1]], [])
        assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [saved[1].path.name]
        mine = tmp_path / "mine"
        mine.mkdir()
        for refused, path in ((archive, mine), (self.archive(run, read_only=True), saved[1].path)):
            try:
                refused.delete(path)
            except CodexError:
                assert path.exists()
            else:
                raise AssertionError(f"{path} was deleted")

    def test_the_model_is_exported(self, tmp_path: Path) -> None:
        """What lies under `model/` comes out as it was saved; with a damaged file nothing is left of it."""
        run = make_run(tmp_path)
        self.saved(run, 5).close()
        checkpoint, out = reporter_of(run).checkpoints[0], tmp_path / "out"
        archive = self.archive(run, read_only=True)
        out.mkdir()
        archive.export(checkpoint, out)
        names = {
            name.removeprefix("model/") for name in archive.files(checkpoint) if name.startswith("model/")
        }
        assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == names
        for name in names:
            assert (out / name).read_bytes() == (checkpoint.path / "model" / name).read_bytes()
        for number, name in enumerate(sorted(names)):
            flip_a_bit(checkpoint.path / "model" / name)
            again = tmp_path / f"out-{number}"
            again.mkdir()
            try:
                archive.export(checkpoint, again)
            except CodexError as error:
                assert name in error.message
            else:
                raise AssertionError(f"exported with a damaged {name}")
            assert list(again.iterdir()) == []
            flip_a_bit(checkpoint.path / "model" / name)
