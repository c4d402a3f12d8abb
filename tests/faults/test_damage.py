"""Damage: what is not as it was saved is named, the next older checkpoint is used, nothing differs silently."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.faults.comparison import check_same, checkpoints, events, newest_step, tree
from tests.faults.trials import SLOW, stopped_after, sweep

STOPPED_AFTER, OLDER = 14, 12


def missing(path, older):
    """Delete the file."""
    path.unlink()


def zeroed(path, older):
    """Overwrite it with zeros, as a file system may after a crash."""
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path, older):
    """Leave nothing in it."""
    path.write_bytes(b"")


def halved(path, older):
    """Leave its first half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flipped(path, older):
    """Flip one bit in its middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replaced(path, older):
    """Put the file of an older checkpoint in its place."""
    shutil.copyfile(older, path)


KINDS = [missing, zeroed, emptied, halved, flipped, replaced]


@pytest.fixture(scope="module", params=["full", "lora"])
def stopped(request, server, tmp_path_factory):
    """Return a subject and a workplace whose run was stopped."""
    subject = request.getfixturevalue(request.param)
    workplace = subject.workplace(tmp_path_factory.mktemp("stopped") / "work")
    stopped_after(server, subject, workplace, STOPPED_AFTER)
    assert sorted(checkpoints(workplace.run))[-2:] == [OLDER, STOPPED_AFTER]
    return subject, workplace


def names_it(workplace, ended, file):
    """Say whether the file is named in what was printed or in an event."""
    text = ended.said + (workplace.run / "events.ndjson").read_text()
    return f"step-{STOPPED_AFTER:08d}" in text and any(
        file in line for line in text.splitlines() if "damaged" in line
    )


def damage_and_resume(server, subject, workplace, file, kind):
    """Damage a file of the newest checkpoint, resume, and compare."""
    what = f"{kind.__name__}: {file}"
    folders = checkpoints(workplace.run)
    damaged = folders[STOPPED_AFTER] / file
    before = damaged.read_bytes()
    kind(damaged, folders[OLDER] / file)
    if damaged.exists() and damaged.read_bytes() == before:
        shutil.rmtree(workplace.folder)
        return  # the same in both checkpoints, as a configuration is
    ended = server.codex(workplace, "resume", "run")
    assert ended.code == 0, f"{subject.name}, {what}: exit {ended.code}: {ended.said}"
    assert names_it(workplace, ended, file), f"{subject.name}, {what}: it is not named: {ended.said}"
    check_same(subject, workplace.run, what, stopped=True)
    shutil.rmtree(workplace.folder)


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=SLOW)])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_used(server, stopped, tmp_path, every):
    """Every file of the newest checkpoint, damaged in every way: the run ends as if nothing had happened."""
    subject, halted = stopped
    folder = checkpoints(halted.run)[STOPPED_AFTER]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    points = [(file, kind) for file in files for kind in KINDS][::every]
    sweep(
        points,
        lambda point: damage_and_resume(
            server,
            subject,
            subject.continued(tmp_path / f"{point[1].__name__}-{point[0].replace('/', '-')}", halted),
            *point,
        ),
    )


def test_a_whole_checkpoint_folder_that_is_another_one_is_not_used(server, stopped, tmp_path):
    """An older checkpoint under the newest one's name is found out, for the step stands in its index."""
    subject, halted = stopped
    workplace = subject.continued(tmp_path / "work", halted)
    folders = checkpoints(workplace.run)
    shutil.rmtree(folders[STOPPED_AFTER])
    shutil.copytree(folders[OLDER], folders[STOPPED_AFTER])
    ended = server.codex(workplace, "resume", "run")
    assert ended.code == 0, ended.said
    assert names_it(workplace, ended, "checkpoint.json")
    check_same(subject, workplace.run, stopped=True)


def test_a_file_that_was_not_saved_is_named_and_changes_nothing(server, stopped, tmp_path):
    """What someone put into a checkpoint is said, and the run ends as if it were not there."""
    subject, halted = stopped
    workplace = subject.continued(tmp_path / "work", halted)
    (checkpoints(workplace.run)[STOPPED_AFTER] / "foreign.safetensors").write_bytes(b"foreign")
    ended = server.codex(workplace, "resume", "run")
    assert ended.code == 0, ended.said
    assert "foreign.safetensors" in ended.said + (workplace.run / "events.ndjson").read_text()
    check_same(subject, workplace.run, stopped=True)


def without_set_aside(digests):
    """Leave out what every command writes, and the new part of the name of what was set aside."""
    named = {re.sub(r"\.bad-(\d+)-\w+", r"step-\1", path): digest for path, digest in digests.items()}
    return {path: digest for path, digest in named.items() if path not in {"events.ndjson", "run.lock"}}


def test_without_a_whole_checkpoint_nothing_is_started_and_nothing_is_deleted(server, stopped, tmp_path):
    """All checkpoints damaged: exit 4, each of them named; records and all bytes of the checkpoints are still there."""
    subject, halted = stopped
    workplace = subject.continued(tmp_path / "work", halted)
    damaged = sorted(checkpoints(workplace.run))
    for path in checkpoints(workplace.run).values():
        flipped(path / "trainer.json", None)
    before = tree(workplace.run)
    ended = server.codex(workplace, "resume", "run")
    assert ended.code == 4, ended.said
    assert newest_step(workplace.run) in {0, STOPPED_AFTER}
    told = " ".join(event["message"] for event in events(workplace.run, "warning"))
    assert [step for step in damaged if f"step-{step:08d}" in told] == damaged
    assert without_set_aside(before).items() <= without_set_aside(tree(workplace.run)).items()


@pytest.mark.parametrize("kind", [missing, emptied, halved])
def test_metrics_that_are_shorter_than_the_checkpoint_knows_end_the_resume(server, stopped, tmp_path, kind):
    """A hole in the metrics is never gone over: the file is named, exit 2, and the checkpoints are untouched."""
    subject, halted = stopped
    workplace = subject.continued(tmp_path / "work", halted)
    kind(workplace.run / "metrics.ndjson", None)
    before = tree(workplace.run / "checkpoints")
    ended = server.codex(workplace, "resume", "run")
    assert ended.code == 2, ended.said
    assert "metrics.ndjson" in ended.err
    assert tree(workplace.run / "checkpoints") == before
