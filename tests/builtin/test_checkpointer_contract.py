"""The contract of checkpointers finds what is broken: one with a fault fails the check that says so."""

from __future__ import annotations

import pytest

from tests.testing.faulty import Fault, Faulty

HEAD = """
import json, pathlib, shutil
from codex_kernel import Checkpoint, CheckpointState, CodexError, Damaged, StorageError
from codex_kernel.testing import CheckpointArchiveContract
from codex_kernel.testing import toy_checkpointer as toy
from codex_kernel.testing.toy_checkpointer import Folders, ToyCheckpointer

@frozen
class Sound(ToyCheckpointer):
    folders: ClassVar[type] = Folders

    @hookimpl
    def codex_checkpointer(self, run, folder, read_only):
        return self.folders(self, run, folder, read_only)

class Contract(CheckpointArchiveContract):
    made = Sound

    def make(self, *, every_steps, keep_last):
        return self.made(every_steps=every_steps, keep_last=keep_last)

    def tensor(self, array):
        return array

del CheckpointArchiveContract
"""


def folders(name: str, code: str, *fails: str) -> Fault:
    """Return a checkpointer that has these methods instead."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return Fault(
        f"class {name}Folders(Folders):\n{lines}\n\n"
        f"@frozen\nclass {name}(Sound):\n    folders: ClassVar[type] = {name}Folders\n",
        fails,
        raw=True,
    )


BODIES = {
    "MakesItsFolder": (
        "def newest(self):\n    self.folder.mkdir(parents=True, exist_ok=True)\n    return super().newest()",
        "a_new_run_has_no_checkpoint",
    ),
    "RoundsTensors": (
        (
            "def load(self, checkpoint):\n"
            "    state = super().load(checkpoint)\n"
            "    tensors = {file: {name: array.astype('float32') for name, array in arrays.items()}\n"
            "               for file, arrays in state.tensors.items()}\n"
            "    return attrs.evolve(state, tensors=tensors)"
        ),
        "what_is_saved_comes_back",
        "states_may_change_their_shape",
    ),
    "ReportsNothing": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    run, self.run = self.run, attrs.evolve(self.run, report=type(self.run.report)())\n"
            "    super().save(step, state, metrics, wait=wait)\n"
            "    self.run = run"
        ),
        "a_save_is_reported_when_it_is_safe",
    ),
    "WritesAtItsEnd": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    self.late = (step, state, metrics)\n"
            "def close(self):\n"
            "    if getattr(self, 'late', None): super().save(*self.late)"
        ),
        "a_save_that_waits_is_on_disk_when_it_returns",
        "later_changes_do_not_reach_what_was_saved",
        "a_save_under_way_is_waited_for",
    ),
    "LosesMetrics": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    finite = {name: value for name, value in metrics.items() if value == value}\n"
            "    super().save(step, state, finite, wait=wait)"
        ),
        "metrics_are_kept",
    ),
    "HidesFailures": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    if self.folder.is_file(): return\n"
            "    super().save(step, state, metrics, wait=wait)"
        ),
        "a_save_that_fails_costs_that_checkpoint_alone",
    ),
    "RemembersInTheProcess": (
        "def newest(self):\n    return super().newest() if self.saved_last else None",
        "another_process_finds_it",
    ),
    "SharesItsFolder": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    self.folder = vars(type(self)).get('first') or self.folder\n"
            "    type(self).first = self.folder\n"
            "    super().save(step, state, metrics, wait=wait)"
        ),
        "two_runs_in_one_process_do_not_meet",
    ),
    "GoesByTheClock": (
        (
            "def newest(self):\n"
            "    known = self.checkpoints()[0]\n"
            "    return max(known, key=lambda one: one.path.stat().st_mtime) if known else None"
        ),
        "the_newest_has_the_most_steps",
        "a_damaged_file_is_found_and_the_older_one_used",
        "nothing_usable_is_none",
    ),
    "IsAlwaysDue": ("def due(self, step): return True", "it_is_due_every_so_many_steps"),
    "KeepsAll": (
        "def kept(self, checkpoints): return frozenset(one.step for one in checkpoints)",
        "only_the_last_ones_are_kept",
    ),
    "DeletesWhatIsNotItsOwn": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    super().save(step, state, metrics, wait=wait)\n"
            "    shutil.rmtree(self.folder / 'step-mine', ignore_errors=True)"
        ),
        "only_the_last_ones_are_kept",
    ),
    "CannotSaveAgain": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    if any(one.step == step for one in self.checkpoints()[0]): raise CodexError('there is one')\n"
            "    super().save(step, state, metrics, wait=wait)"
        ),
        "saving_a_step_again_is_harmless",
    ),
    "GoesOnOverDamage": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    if (self.folder / f'step-{step:08d}').exists(): return\n"
            "    super().save(step, state, metrics, wait=wait)"
        ),
        "saving_goes_on_after_damage",
    ),
    "TidiesUpWhatItOnlyReads": (
        (
            "def newest(self):\n"
            "    for path in self.folder.glob('.tmp*'): path.rmdir()\n"
            "    return super().newest()"
        ),
        "reading_alone_changes_nothing",
    ),
    "WritesAnywhere": (
        (
            "def save(self, step, state, metrics, *, wait=False):\n"
            "    for name, content in state.files.items():\n"
            "        (self.folder / 'files' / name).resolve().parent.mkdir(parents=True, exist_ok=True)\n"
            "        (self.folder / 'files' / name).resolve().write_bytes(content)\n"
            "    super().save(step, attrs.evolve(state, files={}), metrics, wait=wait)"
        ),
        "names_that_lead_elsewhere_are_refused",
    ),
    "ClosesOnce": (
        "def close(self):\n    if getattr(self, 'closed', False): raise ValueError('closed')\n    self.closed = True",
        "it_may_be_closed_twice",
    ),
    "ListsNoDamage": (
        "def checkpoints(self): return super().checkpoints()[0], []",
        "all_checkpoints_are_listed",
    ),
    "NamesTheFirstFaultAlone": (
        "def verify(self, checkpoint): return super().verify(checkpoint)[:1]",
        "every_damaged_file_is_named_at_once",
    ),
    "ExplainsInItsOwnWords": (
        "def verify(self, checkpoint): return ['it is damaged'] if super().verify(checkpoint) else []",
        "verifying_names_each_file",
    ),
    "ListsNoSizes": (
        "def files(self, checkpoint): return {name: 0 for name in super().files(checkpoint)}",
        "files_have_their_sizes",
    ),
    "ForeseesOneLess": (
        (
            "def kept(self, checkpoints):\n"
            "    return super().kept(checkpoints) - ({4} if self.read_only else set())"
        ),
        "what_would_be_kept_is_what_is_kept",
    ),
    "DeletesAnything": (
        "def delete(self, path): shutil.rmtree(path, ignore_errors=True)",
        "deleting_deletes_that_one",
    ),
    "ExportsWhatIsDamaged": (
        (
            "def export(self, checkpoint, folder):\n"
            "    shutil.copytree(checkpoint.path / 'model', folder, dirs_exist_ok=True)"
        ),
        "the_model_is_exported",
    ),
}
FAULTS = {name: folders(name, code, *fails) for name, (code, *fails) in BODIES.items()}
FAULTY = Faulty("CheckpointArchiveContract", HEAD, FAULTS)


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """Fault → the checks that fail for it."""
    return FAULTY.failed(tmp_path_factory.mktemp("faulty"))


@pytest.mark.parametrize("name", FAULTY.all_faults)
def test_the_contract_of_checkpointers_finds_the_fault(failed, name):
    """The check that speaks of the fault fails; a sound checkpointer passes all."""
    FAULTY.check(failed, name)


def test_every_check_of_the_contract_has_failed_for_some_fault(failed):
    """No check is idle: each one has found something."""
    assert FAULTY.idle(failed) == set()
