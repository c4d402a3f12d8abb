"""The contract of checkpointer plugins: what a run relies on, as tests.

    class TestMine(CheckpointerContract):
        def make(self, *, every_steps, keep_last):
            return MyCheckpointer(every_steps=every_steps, keep_last=keep_last)

        def tensor(self, array):
            return torch.from_numpy(array)

A checkpointer that satisfies `CheckpointArchive` subclasses `CheckpointArchiveContract`, which has these tests too.

One rule: it knows the protocol only, and files only as something that can be damaged. It needs pytest.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from codex_kernel.errors import CodexError, StorageError
from codex_kernel.interfaces import Checkpointer, CheckpointState, RunContext
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.damage import delete, empty, files_in, flip_a_bit, halve
from codex_kernel.testing.plugin import PluginContract
from codex_kernel.testing.toys import RecordingReporter, make_run

VALUES = {
    "trainer.json": {"step": 3, "lr": 0.1 + 0.2, "nested": [1, None, "ü", 2**62]},
    "model/config.json": {"model_type": "toy"},
}
FILES = {"model/merges.txt": b"\x00\xffa b\n", "note": b""}


class CheckpointerContract(PluginContract):
    """What holds for every checkpointer plugin; subclass it and give `make` and `tensor`."""

    kind = "checkpointer"

    def make(self, *, every_steps: int | None, keep_last: int) -> Any:
        """Return the plugin, with these options."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:  # noqa: ARG002 - it is told its folder by the run
        """Return the plugin."""
        return self.make(every_steps=3, keep_last=2)

    def tensor(self, array: Any) -> Any:
        """Return a tensor, of the trainer's library, with the values and the dtype of a numpy array."""
        raise NotImplementedError

    # ── builders ──────────────────────────────────────────────────────────────────────────────────────────────────

    def open(
        self, run: RunContext, *, every_steps: int | None = None, keep_last: int = 2, read_only: bool = False
    ) -> Checkpointer:
        """Return the checkpointer of a run, as the run itself gets it."""
        hooks = hooks_of(self.make(every_steps=every_steps, keep_last=keep_last))
        checkpointer: Checkpointer = hooks.codex_checkpointer(
            run=run, folder=run.folder / "checkpoints", read_only=read_only
        )
        return checkpointer

    def state(self, number: float = 0.0) -> CheckpointState:
        """Return a state with tensors of several dtypes and shapes, JSON values and files."""
        import numpy as np

        arrays = {
            "weight": np.arange(12, dtype=np.float32).reshape(3, 4) + np.float32(number),
            "moment": np.array([math.nan, math.inf, -0.0, 1e-310]),
            "step": np.array(7.0, dtype=np.float32),
            "ids": np.array([[2**40, -1]], dtype=np.int64),
            "bytes": np.arange(5, dtype=np.uint8),
            "none": np.zeros((0, 3), dtype=np.float32),
        }
        return CheckpointState(
            tensors={
                "model/model.safetensors": {"weight": self.tensor(arrays["weight"])},
                "optimizer.safetensors": {name: self.tensor(array) for name, array in arrays.items()},
            },
            values={**VALUES, "number.json": number},
            files=FILES,
        )

    def saved(self, run: RunContext, *steps: int, **options: Any) -> Checkpointer:
        """Return a checkpointer that has saved those steps, each with its step as its number."""
        checkpointer = self.open(run, **options)
        for step in steps:
            checkpointer.save(step, self.state(step), {"train/loss": 1 / step})
        return checkpointer

    def number_of(self, checkpointer: Checkpointer) -> float | None:
        """Return the number in the newest checkpoint; None where there is none."""
        newest = checkpointer.newest()
        return None if newest is None else checkpointer.load(newest).values["number.json"]

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    def test_a_new_run_has_no_checkpoint(self, tmp_path: Path) -> None:
        """In a folder that does not exist there is none, and asking makes nothing."""
        run = make_run(tmp_path)
        assert self.open(run).newest() is None
        assert not (run.folder / "checkpoints").exists()

    def test_what_is_saved_comes_back(self, tmp_path: Path) -> None:
        """Tensors come back bit by bit with dtype and shape, values and files as they were."""
        checkpointer, state = self.open(make_run(tmp_path)), self.state(1.5)
        checkpointer.save(3, state, {})
        newest = checkpointer.newest()
        assert newest is not None
        assert_equal_states(checkpointer.load(newest), state)

    def test_a_save_is_reported_when_it_is_safe(self, tmp_path: Path) -> None:
        """Each save is reported once, by the checkpointer's end at the latest, with what is on disk then."""
        run = make_run(tmp_path)
        self.saved(run, 3, 6).close()
        reported = reporter_of(run).checkpoints
        assert [checkpoint.step for checkpoint in reported] == [3, 6]
        assert all(checkpoint.path.exists() and checkpoint.size_bytes > 0 for checkpoint in reported)
        assert reported[1] == self.open(run).newest()

    def test_a_save_that_waits_is_on_disk_when_it_returns(self, tmp_path: Path) -> None:
        """With `wait` another process finds it at once, and it has been reported."""
        run = make_run(tmp_path)
        checkpointer = self.open(run)
        checkpointer.save(3, self.state(3), {}, wait=True)
        assert [checkpoint.step for checkpoint in reporter_of(run).checkpoints] == [3]
        assert self.number_of(self.open(run, read_only=True)) == 3
        checkpointer.close()

    def test_a_save_under_way_is_waited_for(self, tmp_path: Path) -> None:
        """`newest` finds what the last save began to write, and so does a save that waits, of the same step too."""
        run = make_run(tmp_path)
        checkpointer = self.open(run)
        checkpointer.save(3, self.state(3), {})
        assert self.number_of(checkpointer) == 3
        checkpointer.save(6, self.state(6), {})
        checkpointer.save(6, self.state(6), {}, wait=True)
        assert [checkpoint.step for checkpoint in reporter_of(run).checkpoints] == [3, 6]
        assert self.number_of(self.open(run, read_only=True)) == 6
        checkpointer.close()

    def test_metrics_are_kept(self, tmp_path: Path) -> None:
        """A checkpoint has the metrics that it was saved with, NaN and infinities among them."""
        run = make_run(tmp_path)
        checkpointer = self.open(run)
        metrics = {"validation/loss": 0.1 + 0.2, "a": math.nan, "b": math.inf, "c": -math.inf}
        checkpointer.save(3, self.state(), metrics)
        checkpointer.close()
        newest = self.open(run).newest()
        assert newest is not None
        assert {name: str(value) for name, value in newest.metrics.items()} == {
            name: str(value) for name, value in metrics.items()
        }

    def test_later_changes_do_not_reach_what_was_saved(self, tmp_path: Path) -> None:
        """As soon as a save returns tensors, values and metrics may change, save after save."""
        import numpy as np

        run = make_run(tmp_path)
        array, values, metrics = np.zeros(1_000_000, dtype=np.float32), {"steps": [0]}, {"loss": 0.0}
        checkpointer = self.open(run, keep_last=3)
        for step in (1, 2, 3):
            array[:], values["steps"][0], metrics["loss"] = step, step, float(step)
            tensors = {"a.safetensors": {"a": self.tensor(array), "row": self.tensor(array[:7])}}
            checkpointer.save(step, CheckpointState(tensors, {"v.json": values}), metrics)
            array[:], values["steps"][0], metrics["loss"] = -1, -1, -1.0
        checkpointer.close()
        saved = reporter_of(run).checkpoints
        assert [checkpoint.metrics for checkpoint in saved] == [{"loss": float(step)} for step in (1, 2, 3)]
        for checkpoint in saved:
            found = self.open(run).load(checkpoint)
            assert found.values["v.json"] == {"steps": [checkpoint.step]}
            for tensor in found.tensors["a.safetensors"].values():
                values_in = np.asarray(tensor)
                assert float(values_in.min()) == float(values_in.max()) == checkpoint.step

    def test_states_may_change_their_shape(self, tmp_path: Path) -> None:
        """Tensors may come, go, grow and change their dtype from one save to the next."""
        import numpy as np

        run = make_run(tmp_path)
        checkpointer = self.open(run, keep_last=4)
        shapes: list[dict[str, Any]] = [
            {"a": np.ones((2, 3), dtype=np.float32)},
            {"a": np.ones((3, 2), dtype=np.float32), "b": np.ones(4)},
            {"a": np.ones((3, 2), dtype=np.int64)},
            {"b": np.full((2, 2), 7.0).T[1:]},
        ]
        states = [
            CheckpointState(
                {"t.safetensors": {name: self.tensor(array) for name, array in arrays.items()}}, {}
            )
            for arrays in shapes
        ]
        for step, state in enumerate(states, start=1):
            checkpointer.save(step, state, {})
        checkpointer.close()
        for checkpoint, state in zip(reporter_of(run).checkpoints, states, strict=True):
            assert_equal_states(checkpointer.load(checkpoint), state)

    def test_a_save_that_fails_costs_that_checkpoint_alone(self, tmp_path: Path) -> None:
        """It is a warning and an event, with `wait` a StorageError; once there is a place to write to, saving works."""
        run = make_run(tmp_path)
        in_the_way = run.folder / "checkpoints"
        in_the_way.write_text("no folder can be made here")
        checkpointer = self.open(run)
        checkpointer.save(3, self.state(3), {})
        checkpointer.close()
        reporter = reporter_of(run)
        failed = [fields for name, fields in reporter.events if name == "checkpoint_failed"]
        assert [fields["step"] for fields in failed] == [3]
        assert failed[0]["reason"]
        assert any(str(in_the_way) in warning for warning in reporter.warnings), reporter.warnings
        try:
            checkpointer.save(6, self.state(6), {}, wait=True)
        except StorageError as error:
            assert str(in_the_way) in error.message
            assert error.remedy, "an error without a remedy"
        else:
            raise AssertionError("a save that waits for a checkpoint that cannot be written")
        assert reporter.checkpoints == []
        in_the_way.unlink()
        checkpointer.save(9, self.state(9), {})
        checkpointer.close()
        assert self.number_of(self.open(run)) == 9

    def test_another_process_finds_it(self, tmp_path: Path) -> None:
        """A checkpointer made later over the same folder finds the newest checkpoint."""
        run = make_run(tmp_path)
        self.saved(run, 5, 10).close()
        assert self.number_of(self.open(run)) == 10

    def test_two_runs_in_one_process_do_not_meet(self, tmp_path: Path) -> None:
        """Checkpointers of two runs, saving in turn, each keep and find the checkpoints of their own run."""
        runs = [make_run(tmp_path / name) for name in ("first", "second")]
        both = [self.open(run) for run in runs]
        for step in (3, 6):
            for number, checkpointer in enumerate(both):
                checkpointer.save(step, self.state(10 * number + step), {})
        for checkpointer in both:
            checkpointer.close()
        assert [self.number_of(self.open(run)) for run in runs] == [6, 16]

    def test_the_newest_has_the_most_steps(self, tmp_path: Path) -> None:
        """Steps order checkpoints, whatever the clock said when they were saved."""
        run = make_run(tmp_path)
        self.saved(run, 9, 100, keep_last=5).close()
        for path in (run.folder / "checkpoints").rglob("*"):
            # As after a clock that was set back: the earlier step has the later time.
            os.utime(path, (1, 1) if "100" in str(path.relative_to(run.folder)) else None)
        assert self.number_of(self.open(run)) == 100

    def test_it_is_due_every_so_many_steps(self, tmp_path: Path) -> None:
        """Checkpoints are due at the multiples of `every_steps`, and never where it is None."""
        run = make_run(tmp_path)
        every_third, never = self.open(run, every_steps=3), self.open(run, every_steps=None)
        assert [step for step in range(1, 10) if every_third.due(step)] == [3, 6, 9]
        assert not any(never.due(step) for step in range(1, 10))

    def test_only_the_last_ones_are_kept(self, tmp_path: Path) -> None:
        """Saving deletes what is older than the last `keep_last`, and nothing that is not a checkpoint."""
        run = make_run(tmp_path)
        folder = run.folder / "checkpoints"
        mine = folder / "step-mine"
        mine.mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
        self.saved(run, 1, 2, 3, 4, keep_last=2).close()
        reported = reporter_of(run).checkpoints
        assert [checkpoint.step for checkpoint in reported if checkpoint.path.exists()] == [3, 4]
        assert mine.is_dir()
        assert (folder / "notes.txt").read_text() == "mine"

    def test_saving_a_step_again_is_harmless(self, tmp_path: Path) -> None:
        """A step that is saved twice is there once, and whole."""
        run = make_run(tmp_path)
        checkpointer = self.saved(run, 4, 8)
        checkpointer.save(8, self.state(8), {})
        checkpointer.close()
        assert self.number_of(self.open(run)) == 8

    def test_a_damaged_file_is_found_and_the_older_one_used(self, tmp_path: Path) -> None:
        """A file of the newest that is missing, cut, emptied or off by a bit is named, and the older one is used."""
        for number, (name, damage) in enumerate(self._damages(tmp_path)):
            run = make_run(tmp_path / str(number))
            self.saved(run, 5, 10).close()
            newest = reporter_of(run).checkpoints[-1]
            damage(newest.path / name)
            case = f"{damage.__name__} {name}"
            assert self.number_of(self.open(run)) == 5, case
            assert any(name in warning for warning in reporter_of(run).warnings), case
            assert self.number_of(self.open(run)) == 5, f"{case}, asked again"

    def test_saving_goes_on_after_damage(self, tmp_path: Path) -> None:
        """A step whose checkpoint was found damaged can be saved again."""
        run = make_run(tmp_path)
        self.saved(run, 5, 10).close()
        flip_a_bit(next(files_in(reporter_of(run).checkpoints[-1].path)))
        self.saved(run, 10).close()
        assert self.number_of(self.open(run)) == 10

    def test_nothing_usable_is_none(self, tmp_path: Path) -> None:
        """Where every checkpoint is damaged there is none, and nothing is loaded."""
        run = make_run(tmp_path)
        self.saved(run, 5, 10).close()
        for checkpoint in reporter_of(run).checkpoints:
            flip_a_bit(next(files_in(checkpoint.path)))
        assert self.open(run).newest() is None

    def test_reading_alone_changes_nothing(self, tmp_path: Path) -> None:
        """A checkpointer that is opened read-only finds damage as well, and leaves every file where it is."""
        run = make_run(tmp_path)
        self.saved(run, 5, 10).close()
        folder = run.folder / "checkpoints"
        (folder / ".tmp-of-another-process").mkdir()
        flip_a_bit(next(files_in(reporter_of(run).checkpoints[-1].path)))
        before = sorted(folder.rglob("*"))
        assert self.number_of(self.open(run, read_only=True)) == 5
        assert sorted(folder.rglob("*")) == before

    def test_names_that_lead_elsewhere_are_refused(self, tmp_path: Path) -> None:
        """A state whose file names leave the checkpoint's folder is an error, and writes nothing there."""
        run = make_run(tmp_path)
        for name in ("../outside", str(tmp_path / "outside")):
            try:
                self.open(run).save(1, CheckpointState({}, {}, {name: b"x"}), {})
            except CodexError:
                pass
            else:
                raise AssertionError(f"{name} was saved")
        assert not list(tmp_path.rglob("outside"))
        assert self.open(run).newest() is None

    def test_it_may_be_closed_twice(self, tmp_path: Path) -> None:
        """Closing is the last thing a run does, also after an error, also when nothing was saved."""
        checkpointer = self.open(make_run(tmp_path))
        checkpointer.close()
        checkpointer.close()

    def _damages(self, tmp_path: Path) -> list[tuple[str, Any]]:
        """Return (file name, what to do to it) for every file of a checkpoint."""
        run = make_run(tmp_path / "names")
        self.saved(run, 1).close()
        root = reporter_of(run).checkpoints[0].path
        return [
            (str(file.relative_to(root)), damage)
            for file in files_in(root)
            for damage in ((flip_a_bit, halve, empty, delete) if file.stat().st_size else (delete,))
        ]


def reporter_of(run: RunContext) -> RecordingReporter:
    """Return the reporter of a run that `make_run` made."""
    assert isinstance(run.report, RecordingReporter)
    return run.report


def assert_equal_states(found: CheckpointState, expected: CheckpointState) -> None:
    """Compare two states: tensors by their bits, all else by value."""
    assert {name: set(tensors) for name, tensors in found.tensors.items()} == {
        name: set(tensors) for name, tensors in expected.tensors.items()
    }
    for file, tensors in expected.tensors.items():
        for name, tensor in tensors.items():
            assert bits(found.tensors[file][name]) == bits(tensor), f"{file}: {name}"
    assert found.values == expected.values
    assert found.files == expected.files


def bits(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Return dtype, shape and bytes of a tensor on the CPU, of a dtype that numpy knows."""
    import numpy as np

    array = np.asarray(tensor)
    return str(array.dtype), array.shape, array.tobytes()
