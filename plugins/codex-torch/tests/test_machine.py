import itertools
import math
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from attrs import evolve
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from unsynced_disk import PowerCut, UnsyncedDisk

from codex_kernel import CheckpointState, CodexError, KeepBest, retained_steps
from codex_kernel.interfaces import Checkpoint
from codex_kernel.testing import make_run
from codex_torch import checkpointer, commit
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer

METRIC = "validation/loss"
LONG_AGO = 1_500_000_000
"""A time, in seconds since the epoch, before any test was run."""
remove = shutil.rmtree  # as it is when no fault is built in
rules = st.none() | st.builds(KeepBest, st.just(METRIC), st.sampled_from(["min", "max"]), st.integers(1, 2))
losses = st.sampled_from([None, 0.5, 1.0, 2.0, math.nan, math.inf])
operations = st.integers(0, 30)
"""A save of these states takes 17 operations on disk, the first one in a folder or with a deletion 22."""


class Checkpoints(RuleBasedStateMachine):
    """A run that saves, stops, loses power, finds damage and goes on, beside what ought to be on disk.

    `there`: step → metrics of each checkpoint on disk; `hurt`: those with a damage that only their digests show;
    `broken`: those whose index or sizes show it.
    """

    ignored: frozenset = frozenset()
    home = None

    @initialize(
        keep_last=st.integers(1, 3),
        keep_best=rules,
        keep_every=st.none() | st.integers(2, 4),
        asynchronous=st.booleans(),
    )
    def begin(self, **options):
        # In memory where there is such a folder: nothing here depends on a real disk.
        shared = Path("/dev/shm")  # noqa: S108
        self.home = Path(tempfile.mkdtemp(dir=shared if os.access(shared, os.W_OK) else None))
        self.options = SafetensorsCheckpointer(**options)
        self.numbers = itertools.count()
        root = self._folder()
        root.mkdir()
        self.step, self.there, self.hurt, self.broken = 0, {}, set(), set()
        self._plug_in(UnsyncedDisk(root, self.ignored))

    def _folder(self):
        return self.home / str(next(self.numbers))

    @contextmanager
    def _watching(self):
        """The disk sees what is done; names end in numbers, not in chance, so that a history can be played again."""
        with self.disk.watching(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(commit.secrets, "token_hex", lambda _: f"{next(self.numbers):08x}")
            yield

    def _plug_in(self, disk):
        """A process starts on a machine with this disk."""
        self.disk = disk
        self.run = evolve(make_run(self.home), folder=disk.root)
        self.mine = FolderCheckpointer(self.run, disk.root / "checkpoints", self.options)

    def teardown(self):
        """However the history went, in the end the run goes on from its newest whole checkpoint."""
        if self.home is None:
            return
        self.disk.cut_in = None  # a history may end in the middle of a rule
        try:
            if not self.disk.off:  # as it is when the history broke off at a power cut
                self._plug_in(self.disk)
                self._resume()
        finally:
            remove(self.home)

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(further=st.integers(1, 3), loss=losses, wait=st.booleans())
    def save(self, further, loss, wait):
        """A save that nothing happens to."""
        self._save(further, loss, wait=wait)
        assert self._reported() == [self.step]
        self._saved(loss)
        assert {step for step, _ in commit.find(self.mine.folder)} == set(self.there)

    @rule(further=st.integers(1, 3), loss=losses, wait=st.booleans(), cut_in=operations, data=st.data())
    def save_and_lose_power(self, further, loss, wait, cut_in, data):
        """The machine goes off in the save, or in the deletion that follows it."""
        self.disk.cut_in = cut_in
        with suppress(PowerCut):
            self._save(further, loss, wait=wait)
        reported = self._reported() == [self.step]
        self._lose_power(data)
        found = {step for step, _ in commit.find(self.mine.folder)}
        known = {**self.there, self.step: metrics_of(loss)}
        sound = set(self.there) - self.broken
        must = self._kept({step: known[step] for step in sound | {self.step}}) if reported else sound
        assert must <= found <= set(known), (must, found, reported)
        self.there = {step: known[step] for step in found}

    @rule(further=st.integers(1, 3), loss=losses, full_in=st.integers(0, 20))
    def save_on_a_full_disk(self, further, loss, full_in):
        """There is room for some of it alone; the run goes on."""
        self.disk.full_in = full_in
        self._save(further, loss, wait=False)
        self.disk.full_in = None
        failed = [fields["step"] for name, fields in self.run.report.events if name == "checkpoint_failed"]
        if self._reported():
            assert failed == []
            self._saved(loss)
        else:
            assert failed == [self.step]
            assert [path.name for path in self._beside() if path.name.startswith(".tmp-")] == []
        assert {step for step, _ in commit.find(self.mine.folder)} == set(self.there)

    @rule(data=st.data())
    def lose_power(self, data):
        """Between two saves."""
        self._lose_power(data)

    @rule()
    def settle(self):
        """Time goes by, and the system writes everything out."""
        self.disk.settle()

    @precondition(lambda self: self._whole())
    @rule(data=st.data(), damage=st.sampled_from(["flip", "halve", "delete"]))
    def damage(self, data, damage):
        """Something else changes a file of a checkpoint."""
        self.disk.settle()
        step = data.draw(st.sampled_from(self._whole()))
        path = commit.path_of(self.mine.folder, step)
        names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        file = path / data.draw(st.sampled_from(names))
        content = bytearray(file.read_bytes())
        if damage == "delete" or len(content) < 2:
            file.unlink()
        elif damage == "halve":
            file.write_bytes(content[: len(content) // 2])
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1
            file.write_bytes(content)
        seen = damage != "flip" or len(content) < 2 or file.name == "checkpoint.json"
        (self.broken if seen else self.hurt).add(step)
        self.disk.settle()

    @rule(data=st.data())
    def the_clock_jumps(self, data):
        """What is there has any time of change."""
        for path in sorted(self._beside()):
            time = data.draw(st.integers(0, LONG_AGO))
            os.utime(path, (time, time))

    @rule(cut_in=st.none() | st.integers(0, 6), data=st.data())
    def resume(self, cut_in, data):
        """A new process finds the newest whole checkpoint, or loses power while it sets aside a damaged one."""
        self._plug_in(self.disk)
        self.disk.cut_in = cut_in
        try:
            self._resume()
        except PowerCut:
            self._lose_power(data)
            # Each that was to be set aside or deleted is there or not; the whole ones to keep are.
            found = {step for step, _ in commit.find(self.mine.folder)}
            whole = {step: self.there[step] for step in self._whole()}
            assert self._kept(whole) <= found <= set(self.there)
            self.there = {step: self.there[step] for step in found}
        finally:
            self.disk.cut_in = None

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def what_looks_like_a_checkpoint_is_one(self):
        """Every folder with the name of a checkpoint is as it was saved, but for those that were damaged."""
        if self.home is None:
            return
        for step, path in commit.find(self.mine.folder):
            assert step in self.there
            if step not in self.hurt | self.broken:
                assert commit.faults(path) == []

    def _resume(self):
        with self._watching():
            newest = self.mine.newest()
        whole = self._whole()
        assert (newest.step if newest else None) == max(whole, default=None)
        # Those that were in its way have been set aside, and what a cut kept from being deleted has gone.
        before = {step: self.there[step] for step in self.there if newest and step <= newest.step}
        kept = self._kept({step: m for step, m in before.items() if step not in self.broken})
        self.there = {step: metrics for step, metrics in before.items() if step in kept}
        if newest:
            state = self.mine.load(newest)
            assert state.values["number.json"] == newest.step
            assert state.tensors["model/model.safetensors"]["w"].tolist() == [float(newest.step)] * 5
            self.step = newest.step

    def _save(self, further, loss, *, wait):
        self.step = max([self.step, *self.there]) + further
        self.hurt.discard(self.step)  # said of a checkpoint of this step that was set aside
        self.broken.discard(self.step)
        self.run.report.checkpoints.clear()
        self.run.report.events.clear()
        state = CheckpointState(
            {"model/model.safetensors": {"w": torch.full((5,), float(self.step))}},
            {"number.json": self.step},
        )
        try:
            with self._watching():
                self.mine.save(self.step, state, metrics_of(loss), wait=wait)
                self.mine.close()
        finally:
            self.disk.cut_in = None

    def _saved(self, loss):
        """A checkpoint has come, and what need not be kept has gone."""
        there = {step: metrics for step, metrics in self.there.items() if step not in self.broken}
        there[self.step] = metrics_of(loss)
        kept = self._kept(there)
        self.there = {step: metrics for step, metrics in there.items() if step in kept}

    def _kept(self, there):
        options = self.options
        known = [Checkpoint(step, Path(), metrics, 0) for step, metrics in there.items()]
        return retained_steps(
            known, keep_last=options.keep_last, keep_best=options.keep_best, keep_every=options.keep_every
        )

    def _whole(self):
        return sorted(set(self.there) - self.hurt - self.broken)

    def _reported(self):
        return [checkpoint.step for checkpoint in self.run.report.checkpoints]

    def _beside(self):
        return list(self.mine.folder.iterdir()) if self.mine.folder.exists() else []

    def _lose_power(self, data):
        def survives(change):
            parts = ["nothing", "all"] if change.of.names is not None else ["nothing", "half", "all"]
            return data.draw(st.sampled_from(parts))

        self._plug_in(self.disk.cut_power(survives, self._folder()))


def metrics_of(loss):
    """The metrics of a checkpoint."""
    return {} if loss is None else {METRIC: loss}


def run_machine(machine, examples: int) -> None:
    """Let a machine look for a history that breaks a promise."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            report_multiple_bugs=False,
            phases=[Phase.generate],
            database=None,
        ),
    )


def test_no_history_of_faults_loses_a_checkpoint():
    """Whatever is saved, cut, damaged and resumed: the newest whole checkpoint is found, and those to keep are kept."""
    run_machine(Checkpoints, 200)


@pytest.mark.slow
def test_no_history_of_faults_loses_a_checkpoint_in_many_tries():
    """The same with more histories."""
    run_machine(Checkpoints, 1000)


# ── the machine finds what it is there to find ────────────────────────────────────────────────────────────────────


def in_place(path: Path, kind: str, original=commit._beside) -> Path:
    """No temporary name: a save writes where the checkpoint will be."""
    return path if kind == "tmp" else original(path, kind)


def by_time(folder: Path, original=commit.find) -> list[tuple[int, Path]]:
    """The order of the clock; what is of today has one time, so that a history can be played again."""
    return sorted(original(folder), key=lambda found: min(LONG_AGO, found[1].stat().st_mtime))


def all_but_newest(checkpoints, **options):
    """A retention that forgets to count what it keeps."""
    return frozenset(one.step for one in checkpoints)


FAULTS = {
    "folders are not synced": (commit, "sync_folder", lambda folder: None),
    "a save has no temporary name": (commit, "_beside", in_place),
    "a deletion does not rename first": (commit, "discard", shutil.rmtree),
    "digests are not compared": (commit, "verify", commit.glance),
    "checkpoints are ordered by time": (commit, "find", by_time),
    "a failed save leaves its half": (commit.shutil, "rmtree", lambda path, **_: None),
    "all are kept": (checkpointer, "retained_steps", all_but_newest),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_machine_finds_a_fault_in_the_code(monkeypatch, fault):
    """Each fault that is built into the checkpointer breaks one of the promises in some history."""
    module, name, broken = FAULTS[fault]
    monkeypatch.setattr(module, name, broken)
    with pytest.raises((AssertionError, CodexError)):
        run_machine(Checkpoints, 300)


@pytest.mark.parametrize("ignored", ["files", "folders"])
def test_the_machine_finds_a_sync_that_is_missing(ignored):
    """Where the files, or the folders, are never synced, a power cut loses what was reported as safe."""

    class Unsynced(Checkpoints):
        pass

    Unsynced.ignored = frozenset({ignored})
    with pytest.raises(AssertionError):
        run_machine(Unsynced, 300)
