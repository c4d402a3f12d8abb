"""A run's folder is made once, found again, written whole, and held by one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import durable, runfolder
from codex_kernel.errors import CodexError, InputError, LockedError, StorageError
from codex_kernel.runfolder import RunFolder


def new(tmp_path: Path, name: str = "toy") -> RunFolder:
    """Make a run below tmp_path/runs."""
    return runfolder.create(tmp_path / "runs", name, tmp_path)


def test_a_run_is_found_by_folder_id_start_of_id_and_name(tmp_path: Path) -> None:
    """All that a user may call a run leads to the same folder."""
    folder, runs = new(tmp_path), tmp_path / "runs"
    assert folder.path == runs / "toy" / folder.run_id
    for word in (str(folder.path), folder.run_id, folder.run_id[:-1], "toy"):
        assert runfolder.find(runs, word) == folder


def test_the_name_means_the_newest_run_and_an_ambiguous_start_is_refused(tmp_path: Path) -> None:
    """A prefix of several ids is not guessed at."""
    for run_id in ("20260101-000000-aa00", "20260102-000000-bb00"):
        path = tmp_path / "runs" / "toy" / run_id
        path.mkdir(parents=True)
        about = {"schema": 1, "run_id": run_id, "name": "toy", "base": str(tmp_path)}
        (path / "run.json").write_text(json.dumps(about))
    assert runfolder.find(tmp_path / "runs", "toy").run_id == "20260102-000000-bb00"
    with pytest.raises(InputError, match="is the start of 2 run ids"):
        runfolder.find(tmp_path / "runs", "2026")
    with pytest.raises(InputError, match="no run 'nothing'"):
        runfolder.find(tmp_path / "runs", "nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"schema": 1}', "cannot be read"),
        ('{"schema": 99}', "was written by a newer codex"),
    ],
)
def test_a_folder_that_is_no_run_of_this_version_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A damaged or newer run.json is named."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=message):
        runfolder.open_run(tmp_path)


def test_a_manifest_in_place_of_a_run_is_told_how_it_goes_on(tmp_path: Path) -> None:
    """The command that goes on with a manifest's newest run is in the error."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text("name: m\n")
    with pytest.raises(InputError, match="expected a run, got the file") as caught:
        runfolder.find(tmp_path / "runs", str(manifest))
    assert caught.value.remedy == f"of a manifest: codex run {manifest} --resume auto"


def test_an_exact_folder_must_be_new_or_empty(tmp_path: Path) -> None:
    """A folder with files is never written into."""
    exact = tmp_path / "here"
    exact.mkdir()
    folder = runfolder.create(tmp_path, "toy", tmp_path, exactly=exact)
    with pytest.raises(InputError, match="holds a run already") as error:
        runfolder.create(tmp_path, "toy", tmp_path, exactly=exact)
    assert f"codex resume {folder.path}" in (error.value.remedy or "")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        runfolder.create(tmp_path, "toy", tmp_path, exactly=tmp_path / "other")


def test_of_many_that_make_one_folder_at_the_same_instant_one_succeeds(tmp_path: Path) -> None:
    """The others are told that the folder is in use or holds a run; none writes over the first."""
    for trial in range(10):
        exact, together = tmp_path / str(trial), threading.Barrier(6)

        def make(exact: Path = exact, together: threading.Barrier = together) -> RunFolder | CodexError:
            together.wait()
            try:
                return runfolder.create(tmp_path, "toy", tmp_path, exactly=exact)
            except (InputError, LockedError) as error:
                return error

        with ThreadPoolExecutor(6) as threads:
            made = [thread.result() for thread in [threads.submit(make) for _ in range(6)]]
        (winner,) = (one for one in made if isinstance(one, RunFolder))
        assert runfolder.open_run(exact) == winner
        for loser in made:
            if isinstance(loser, CodexError):
                assert "holds a run already" in loser.message or "is in use by" in loser.message


def test_a_folder_with_other_files_gets_no_lock_file(tmp_path: Path) -> None:
    """What is refused is not touched."""
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        runfolder.create(tmp_path, "toy", tmp_path, exactly=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_another_process_is_about_to_use_is_refused(tmp_path: Path) -> None:
    """Between the other's lock and its run.json, too."""
    exact = tmp_path / "here"
    exact.mkdir()
    with (
        RunFolder(exact, "r1", "toy", tmp_path).locked(),
        pytest.raises(LockedError, match=f"is in use by process {os.getpid()} on"),
    ):
        runfolder.create(tmp_path, "toy", tmp_path, exactly=exact)


def test_a_damaged_run_is_told_apart_and_hides_no_other(tmp_path: Path) -> None:
    """It is found only where it is the one that is named, and then it is said what is wrong with it."""
    folder, runs = new(tmp_path), tmp_path / "runs"
    for name in ("20200101-000000-aa00", "29990101-000000-aa00"):
        broken = runs / "toy" / name
        broken.mkdir()
        (broken / "run.json").write_text("")
    assert runfolder.list_runs(runs) == [folder]
    assert [damaged.path.name for damaged in runfolder.survey(runs)[1]] == [
        "20200101-000000-aa00",
        "29990101-000000-aa00",
    ]
    for word in (folder.run_id, "toy"):
        assert runfolder.find(runs, word) == folder
    for word in ("29990101-000000-aa00", "2999", str(runs / "toy" / "29990101-000000-aa00")):
        with pytest.raises(InputError, match=r"29990101-000000-aa00/run\.json cannot be read"):
            runfolder.find(runs, word)


def test_an_empty_name_means_no_run(tmp_path: Path) -> None:
    """An empty variable of a script must not choose a run."""
    new(tmp_path)
    with pytest.raises(InputError, match="no run is named"):
        runfolder.find(tmp_path / "runs", "")


def test_text_that_is_no_unicode_is_written_and_read_back(tmp_path: Path) -> None:
    """A path may hold any bytes."""
    folder = runfolder.create(tmp_path / "r\udcff", "toy", tmp_path / "b\udcff")
    assert runfolder.open_run(folder.path) == folder
    durable.write_json(tmp_path / "x.json", {"é\udcff": "\ud800"})
    assert durable.read_json(tmp_path / "x.json") == {"é\udcff": "\ud800"}


HOLD = """
    import sys
    from pathlib import Path
    from codex_kernel.runfolder import open_run
    with open_run(Path(sys.argv[1])).locked():
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    """The lock names its holder, and ends with it, however it ends."""
    folder = new(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(LockedError, match=f"is in use by process {holder.pid} on") as caught,
            folder.locked(),
        ):
            pytest.fail("two processes hold one run")
        assert caught.value.remedy == "wait for it, or stop it", "of resume and prune, too"
        holder.kill()
    with folder.locked():
        pass


@given(data=st.binary(max_size=2000))
def test_a_file_is_written_whole(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """What is read back is what was written, and nothing else is left behind."""
    folder = tmp_path_factory.mktemp("whole")
    durable.write_whole(folder / "file", b"before")
    durable.write_whole(folder / "file", data)
    assert (folder / "file").read_bytes() == data
    assert [file.name for file in folder.iterdir()] == ["file"]


def test_a_file_that_does_not_fit_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    """A full disk (here: a limit on file size) is a StorageError with path and bytes, and loses nothing."""
    script = """
        import resource, signal, sys
        from pathlib import Path
        from codex_kernel.errors import StorageError
        from codex_kernel.durable import write_whole
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        path = Path(sys.argv[1]) / "file"
        write_whole(path, b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_whole(path, bytes(5000))
        except StorageError as error:
            print(error)
            print(path.read_bytes(), [p.name for p in path.parent.iterdir()])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    message, rest = done.stdout.splitlines()
    assert message.startswith(f"cannot write {tmp_path / 'file'}: File too large, 5,000 bytes needed, ")
    assert message.endswith(" free")
    assert rest == "b'before' ['file']"


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """A file where a folder should be is named."""
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        new(tmp_path)


def test_a_json_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    """A half outcome.json is an error with its path; a missing one is None."""
    assert durable.read_json(tmp_path / "outcome.json") is None
    (tmp_path / "outcome.json").write_text('{"status": "compl')
    with pytest.raises(InputError, match=r"outcome\.json cannot be read"):
        durable.read_json(tmp_path / "outcome.json")
    (tmp_path / "outcome.json").write_text("[]")
    with pytest.raises(InputError, match=r"outcome\.json cannot be read: expected an object"):
        durable.read_json(tmp_path / "outcome.json")


# ── the newest run, and one that is set aside ─────────────────────────────────────────────────────────────────────


def test_the_newest_run_of_a_name_is_found(tmp_path: Path) -> None:
    """By its run id; runs of other names do not count, and there may be none."""
    runs = tmp_path / "runs"
    assert runfolder.newest(runs, "a") is None
    made = [runfolder.create(runs, name, tmp_path) for name in ("a", "a", "b")]
    expected = max(made[0].run_id, made[1].run_id)
    found = runfolder.newest(runs, "a")
    assert found is not None
    assert found.run_id == expected


def test_a_damaged_run_that_is_the_newest_is_said_to_be_so(tmp_path: Path) -> None:
    """An older damaged one is passed over."""
    runs = tmp_path / "runs"
    folder = runfolder.create(runs, "a", tmp_path)
    for run_id in ("19990101-000000-aaaa", "29990101-000000-aaaa"):
        (folder.path.parent / run_id).mkdir()
        (folder.path.parent / run_id / "run.json").write_text("{")
        if run_id.startswith("1"):
            assert runfolder.newest(runs, "a") == folder
    with pytest.raises(InputError, match=r"29990101-000000-aaaa/run\.json cannot be read") as error:
        runfolder.newest(runs, "a")
    assert "move" in (error.value.remedy or "")


def test_what_a_run_left_is_set_aside_and_its_place_is_free(tmp_path: Path) -> None:
    """Everything but the lock lies in a folder of its own, which is no run for lists; a new run fits in."""
    place = tmp_path / "runs" / "here"
    old = runfolder.create(tmp_path, "a", tmp_path, exactly=place)
    old.resolved.write_text("name: a")
    with old.locked():
        beside = runfolder.set_aside(old)
    assert sorted(path.name for path in beside.iterdir()) == ["resolved.yaml", "run.json"]
    assert runfolder.open_run(beside).run_id == old.run_id
    assert runfolder.list_runs(tmp_path / "runs") == []
    new = runfolder.create(tmp_path, "a", tmp_path, exactly=place)
    assert runfolder.open_run(place).run_id == new.run_id


def test_setting_aside_can_be_interrupted_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as run.json has not moved, the run is there and can be set aside again; nothing is lost."""
    place = tmp_path / "here"
    old = runfolder.create(tmp_path, "a", tmp_path, exactly=place)
    for name in ("manifest.yaml", "resolved.yaml"):
        (place / name).write_text(name)
    rename, calls = Path.rename, []

    def interrupted(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) in {2, 4}:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runfolder.set_aside(old)
        assert runfolder.open_run(place) == old
    beside = runfolder.set_aside(old)
    assert calls[-1] == "run.json"
    assert sorted(path.name for path in beside.iterdir()) == ["manifest.yaml", "resolved.yaml", "run.json"]


def test_what_a_killed_write_left_is_swept_and_nothing_else(tmp_path):
    """Temporary files of `write_whole` go; files and folders of other names stay."""
    for name in (".tmp-outcome.json-2a6ce62e", "notes.txt", ".tmp-mine", ".tmp-data.json-xyz"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".tmp-tokenizer-2a6ce62e").mkdir()
    assert [path.name for path in durable.sweep(tmp_path)] == [".tmp-outcome.json-2a6ce62e"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".tmp-data.json-xyz",
        ".tmp-mine",
        ".tmp-tokenizer-2a6ce62e",
        "notes.txt",
    ]


def test_a_folder_whose_maker_was_killed_at_once_is_unused(tmp_path: Path) -> None:
    """Its lock and a half run.json are no run: the next one begins there, and the half file is swept by it."""
    (tmp_path / "run.lock").touch()
    (tmp_path / ".tmp-run.json-2a6ce62e").write_text("{")
    folder = runfolder.create(tmp_path, "a", tmp_path, exactly=tmp_path)
    assert runfolder.open_run(tmp_path) == folder
    assert [path.name for path in durable.sweep(tmp_path)] == [".tmp-run.json-2a6ce62e"]


@pytest.mark.parametrize(
    ("there", "begins"), [("20991231-235959-ffff", "21000101-000000-"), ("20999999-235959-ffff", "20")]
)
def test_a_new_run_is_the_newest_whatever_the_clock_says(tmp_path: Path, there: str, begins: str) -> None:
    """Set back since, or within one second, a clock does not put a run behind those that there are."""
    (tmp_path / "runs" / "toy" / there).mkdir(parents=True)
    (tmp_path / "runs" / "toy" / "zzz").mkdir()
    assert new(tmp_path).run_id.startswith(begins)
    made = [new(tmp_path, "other") for _ in range(5)]
    assert sorted(folder.run_id for folder in made) == [folder.run_id for folder in made]
    assert runfolder.newest(tmp_path / "runs", "other") == made[-1]


def test_a_run_that_another_process_has_put_in_its_place_is_not_set_aside(tmp_path: Path) -> None:
    """Between a look at a folder and its lock another process may have begun there."""
    place = tmp_path / "here"
    old = runfolder.create(tmp_path, "a", tmp_path, exactly=place)
    runfolder.set_aside(old)
    with pytest.raises(LockedError, match="was taken over by another process"):
        runfolder.check_still_there(old)
    mine = runfolder.create(tmp_path, "a", tmp_path, exactly=place)
    with pytest.raises(LockedError, match="was taken over by another process"):
        runfolder.set_aside(old)
    runfolder.check_still_there(mine)


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path: Path) -> None:
    """Whoever wants to make room needs it; only the name of the holder is not known then."""
    script = """
        import resource, signal, sys
        from pathlib import Path
        from codex_kernel.errors import LockedError
        from codex_kernel.runfolder import RunFolder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        folder = RunFolder(Path(sys.argv[1]), "", "", Path())
        with folder.locked():
            try:
                with folder.locked():
                    pass
            except LockedError as error:
                print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path} is in use by another process\n"
