"""Which plugins a run used is known to the byte, compared when it goes on, and can be demanded of another run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from codex_kernel import plugin_lock
from codex_kernel.catalog import Catalog, Entry
from codex_kernel.errors import InputError
from tests.command import Workplace, toy_workplace
from tests.toys import TOY_MANIFEST, install

LOGGER = {"codex.loggers": {"mine": "codex_mine:Mine"}}
SOURCE = (
    "from attrs import frozen\nfrom codex_kernel import hookimpl\n\n\n@frozen\nclass Mine:\n"
    "    @hookimpl\n    def codex_metrics(self, step): pass\n"
)
MANIFEST = TOY_MANIFEST.replace("loggers: [toy]", "loggers: [toy, mine]")


def entry(folder: Path) -> Entry:
    """Return the one entry of a folder."""
    (found,) = Catalog.scan([str(folder)]).entries
    return found


def row(folder: Path) -> dict[str, Any]:
    """Return the row of the one entry of a folder."""
    return plugin_lock.rows([entry(folder)])[0]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Make a workplace with a stopped run, in `run`, of the toys and a logger that others may change."""
    made = toy_workplace(tmp_path_factory.mktemp("locked"))
    install(made.site, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    made.write("m.yaml", MANIFEST)
    said = made.codex("run", "m.yaml", "--run-dir", "run", "--set", "trainer.max_steps=4")
    assert said.code == 0, said.err
    return made


# ── what the lock says ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_says_who_from_where_and_which_files(tmp_path, monkeypatch):
    """Kind, name, target, distribution, version, origin, and a hash of the files, from the record or the source."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    found = row(tmp_path)
    assert (found["kind"], found["name"], found["target"]) == ("logger", "mine", "codex_mine:Mine")
    assert (found["distribution"], found["version"], found["direct_url"]) == ("codex-mine", "1.0", None)
    assert len(found["files_sha256"]) == len(found["record_sha256"]) == 64
    assert found["source_sha256"] is None
    (metadata / "RECORD").write_text("__editable__.pth,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert (row(tmp_path)["files_sha256"], len(row(tmp_path)["source_sha256"])) == (None, 64)


def test_the_hash_of_the_files_is_that_of_the_wheel_on_every_machine(tmp_path):
    """What an installer adds to the record (scripts, its own notes, bytecode, another order) does not count."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    before = row(tmp_path)
    record = (metadata / "RECORD").read_text()
    added = "../../../bin/mine,sha256=xyz,9\ncodex_mine-1.0.dist-info/INSTALLER,sha256=abc,2\n"
    (metadata / "RECORD").write_text(added + "__pycache__/codex_mine.cpython-311.pyc,,\n" + record)
    assert row(tmp_path)["files_sha256"] == before["files_sha256"]
    assert row(tmp_path)["record_sha256"] != before["record_sha256"]
    assert list(plugin_lock.changed([before], [row(tmp_path)])) == []


def test_a_password_in_the_origin_is_not_written_down(tmp_path):
    """A repository's address is kept, what stands before its @ is not."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    note = {"url": "https://me:secret@example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    (metadata / "direct_url.json").write_text(json.dumps(note))
    assert row(tmp_path)["direct_url"] == {**note, "url": "https://example.org/x.git"}


@pytest.mark.parametrize("url", ["https://bob:p/ss@host/x", "https://host/x?private_token=p/ss"])
def test_an_unusual_password_is_not_written_down_either(tmp_path, url):
    """One with a slash, and a token in the query; nor is one of an older lock shown."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    (metadata / "direct_url.json").write_text(json.dumps({"url": url}))
    assert row(tmp_path)["direct_url"] == {"url": "https://host/x"}
    now = {**OLD, "direct_url": {"url": url}, "files_sha256": "g"}
    (told,) = plugin_lock.changed([OLD], [now])
    assert "is from https://host/x:" in told


def test_a_change_of_an_installed_file_is_seen(tmp_path):
    """Any file that the record lists and pip brought, also data; bytecode does not count."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    (tmp_path / "codex_mine_data.json").write_text("{}")
    with (metadata / "RECORD").open("a") as record:
        record.write("codex_mine_data.json,,\n__pycache__/codex_mine.cpython-311.pyc,,\n")
    before = row(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "codex_mine.cpython-311.pyc").write_text("x")
    assert list(plugin_lock.changed([before], [row(tmp_path)])) == []
    (tmp_path / "codex_mine_data.json").write_text("[]")
    told = "codex-mine 1.0 has the same version, but its files were changed: logger 'mine'"
    assert list(plugin_lock.changed([before], [row(tmp_path)])) == [told]
    (tmp_path / "codex_mine_data.json").write_text("{}")
    (tmp_path / "codex_mine.py").write_text(f"{SOURCE}# changed in place\n")
    assert list(plugin_lock.changed([before], [row(tmp_path)])) == [told]


def test_the_hash_is_that_of_the_record_as_long_as_nobody_changes_a_file(tmp_path):
    """So a lock that was made from the record alone holds."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    digest = base64.urlsafe_b64encode(hashlib.sha256(SOURCE.encode()).digest()).rstrip(b"=").decode()
    line = f"codex_mine.py,sha256={digest},{len(SOURCE)}"
    (metadata / "RECORD").write_text(f"{line}\ncodex_mine-1.0.dist-info/RECORD,,\n")
    assert row(tmp_path)["files_sha256"] == hashlib.sha256(line.encode()).hexdigest()


def test_files_that_are_gone_or_cannot_be_read_are_told(tmp_path):
    """A pipe of a file's name is not waited for, and a path out of the installation is not followed."""
    metadata = install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE, "codex_mine_b": ""})
    (tmp_path / "outside").write_text("1")
    with (metadata / "RECORD").open("a") as record:
        record.write("x/../../outside,,\n/etc/passwd,,\n")
    before = row(tmp_path)
    (tmp_path / "codex_mine_b.py").unlink()
    os.mkfifo(tmp_path / "codex_mine_b.py")
    now = row(tmp_path)
    assert now["missing_files"] == {"count": 1, "first": "codex_mine_b.py"}
    (told,) = plugin_lock.changed([before], [now])
    assert "but 1 of its files are gone, codex_mine_b.py among them" in told


def test_of_a_very_large_file_the_size_and_the_record_must_do(tmp_path, monkeypatch):
    """A run does not wait for gigabytes to be read."""
    install(tmp_path, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    monkeypatch.setattr(plugin_lock, "MAX_BYTES", 10)
    before = row(tmp_path)
    (tmp_path / "codex_mine.py").write_text(SOURCE.upper())
    assert row(tmp_path) == before
    (tmp_path / "codex_mine.py").write_text(SOURCE + "\n")
    assert row(tmp_path)["files_sha256"] != before["files_sha256"]


def test_an_editable_plugin_in_a_namespace_has_a_hash(tmp_path, monkeypatch):
    """The namespace has no file of its own; the module, or the package within it, has."""
    plugins = {"codex.loggers": {"mine": "codex_space.mine:Mine"}}
    install(tmp_path, "codex-mine", plugins)
    module = tmp_path / "codex_space" / "mine.py"
    module.parent.mkdir()
    module.write_text(SOURCE)
    (module.parent / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = row(tmp_path)
    assert (before["files_sha256"], len(before["source_sha256"])) == (None, 64)
    (module.parent / "other.py").write_text("x = 1")
    assert row(tmp_path) == before
    module.write_text(f"{SOURCE}# changed\n")
    assert len(list(plugin_lock.changed([before], [row(tmp_path)]))) == 1


OLD = {
    "kind": "logger", "name": "mine", "target": "m:A", "distribution": "d", "version": "1",
    "direct_url": None, "record_sha256": "r", "files_sha256": "f", "source_sha256": None,
}  # fmt: skip
EDITABLE = {"url": "file:///x", "dir_info": {"editable": True}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"version": "2"}, "logger 'mine' was d 1, is d 2"),
        ({"distribution": "e"}, "logger 'mine' was d 1, is e 1"),
        ({"target": "m:B"}, "logger 'mine' (d 1) was m:A, is m:B"),
        ({"files_sha256": "g"}, "d 1 has the same version, but its files were changed: logger 'mine'"),
        ({"record_sha256": "s"}, None),
        (
            {"files_sha256": None, "source_sha256": "s", "direct_url": EDITABLE},
            "d 1 was installed from an index, is from file:///x (editable): logger 'mine'",
        ),
        ({"direct_url": {"url": "file:///w.whl"}}, None),
    ],
)
def test_a_change_is_told_by_what_matters_most(change, told):
    """Version before origin before files; the same files are the same plugin, wherever they came from."""
    assert list(plugin_lock.changed([OLD], [{**OLD, **change}])) == ([] if told is None else [told])


def test_an_older_lock_is_held_to_what_it_says():
    """A lock without origin and files says nothing of them; its hash of the record counts."""
    old = {name: OLD[name] for name in ("kind", "name", "target", "distribution", "version", "record_sha256")}
    assert list(plugin_lock.changed([old], [OLD])) == []
    assert len(list(plugin_lock.changed([old], [{**OLD, "record_sha256": "s"}]))) == 1


# ── a run that goes on ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_silent_change_of_a_plugins_files_is_told_when_the_run_goes_on(tmp_path):
    """Same version, other source: the resume says so on the terminal and in the run's events, and goes on."""
    made = toy_workplace(tmp_path)
    metadata = install(made.site, "codex-mine", LOGGER, modules={"codex_mine": SOURCE})
    (metadata / "RECORD").write_text("__editable__.pth,,\n")
    made.write("m.yaml", MANIFEST.replace("loggers: [", "loggers: [console, "))
    assert made.codex("run", "m.yaml", "--run-dir", "run", "--set", "trainer.max_steps=4").code == 0
    (made.site / "codex_mine.py").write_text(f"{SOURCE}\n# a silent change\n")
    more = ["--set", "trainer.max_steps=6", "--allow-change", "trainer.max_steps"]
    said = made.codex("resume", "run", *more)
    assert said.code == 0, said.err
    told = (
        "plugin changed since the run began: codex-mine 1.0 has the same version, but its files were "
        "changed: logger 'mine'"
    )
    assert told in said.err
    assert told in (tmp_path / "run" / "events.ndjson").read_text()


# ── a run by the lock of another ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["run", "run/plugins.lock.json"])
def test_a_run_with_the_very_same_plugins_is_let_through(workplace, path, tmp_path):
    """A run folder or its lock may be named."""
    said = workplace.codex("run", "m.yaml", "--locked", path, "--run-dir", tmp_path / "again")
    assert said.code == 0, said.err


def test_a_run_with_other_plugins_is_refused_before_anything_is_built_with_all_differences(
    workplace, tmp_path
):
    """Exit 7; missing, further and other plugins each on a line; the remedy installs the versions of the lock."""
    lock = json.loads((workplace.folder / "run" / "plugins.lock.json").read_text())
    for one in lock["plugins"]:
        if one["name"] == "mine":
            one["version"] = "0.9"
        elif one["kind"] == "trainer":
            one["source_sha256"] = "0" * 64
    lock["plugins"] = [one for one in lock["plugins"] if one["kind"] != "dataset"]
    lock["plugins"].append({**lock["plugins"][0], "name": "elsewhere", "kind": "adapter"})
    other = tmp_path / "other.lock.json"
    other.write_text(json.dumps(lock))
    said = workplace.codex("run", "m.yaml", "--locked", other, "--run-dir", tmp_path / "never")
    assert said.code == 7
    assert said.err.splitlines() == [
        f"{other}: adapter 'elsewhere' is not used here",
        f"{other}: dataset 'toy' is not in the lock",
        f"{other}: logger 'mine' was codex-mine 0.9, is codex-mine 1.0 (pip install codex-mine==0.9)",
        f"{other}: codex-toys 1.0 has the same version, but its files were changed: trainer 'toy'",
        "error: 4 problems found, nothing was run",
    ]
    assert not (tmp_path / "never").exists()


def test_a_run_that_goes_on_is_held_to_the_lock_too(workplace, tmp_path):
    """`--resume` and `--locked` go together."""
    other = tmp_path / "empty.lock.json"
    other.write_text('{"schema": 1, "plugins": []}')
    said = workplace.codex("run", "m.yaml", "--resume", "run", "--locked", other)
    assert said.code == 7
    assert "dataset 'toy' is not in the lock" in said.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 1}, "plugins[0].version: expected text, got 1"),
        ({"direct_url": "text"}, "plugins[0].direct_url: expected an object or null, got 'text'"),
        ({"files_sha256": 1}, "plugins[0].files_sha256: expected text or null, got 1"),
        ({"kind": ["a"]}, "plugins[0].kind: expected text, got ['a']"),
    ],
)
def test_a_value_of_the_wrong_type_in_a_lock_is_bad_input(tmp_path, change, told):
    """Where it stands, what was expected and what is there; also where a run goes on."""
    file = tmp_path / "plugins.lock.json"
    file.write_text(json.dumps({"plugins": [{**OLD, **change}]}))
    with pytest.raises(InputError) as error:
        plugin_lock.check(tmp_path, [OLD])
    assert error.value.message == f"{file} is no lock of plugins: {told}"
    with pytest.raises(InputError, match="is no lock of plugins"):
        list(plugin_lock.changed([{**OLD, **change}], [OLD]))


def test_a_note_of_the_origin_may_hold_anything(tmp_path):
    """Parts of another type than an installer writes are passed over."""
    was = {**OLD, "direct_url": {"url": 1, "vcs_info": "git", "dir_info": [1]}}
    (told,) = plugin_lock.changed([was], [{**OLD, "files_sha256": "g"}])
    assert "was installed from 1, is from an index" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no lock"), ("[]", "expected an object"), ("{}", "is no lock of plugins"),
     ('{"plugins": [1]}', "is no lock of plugins"), ('{"plugins": [{"kind": "logger", "name": "x"}]}', "is no lock")],
)  # fmt: skip
def test_what_is_no_lock_is_bad_input(workplace, tmp_path, text, message):
    """A wrong path or file ends with exit code 2, and says what is expected."""
    path = tmp_path / "some.json"
    if text is not None:
        path.write_text(text)
    said = workplace.codex("run", "m.yaml", "--locked", path)
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize("lock", [{"schema": 1}, {"plugins": None}, {"plugins": {}}])
def test_a_run_whose_lock_has_no_plugins_is_bad_input(workplace, tmp_path, lock):
    """It goes on no further than to say so."""
    folder = tmp_path / "run"
    shutil.copytree(workplace.folder / "run", folder)
    (folder / "plugins.lock.json").write_text(json.dumps(lock))
    more = ["--set", "trainer.max_steps=6", "--allow-change", "trainer.max_steps"]
    said = workplace.codex("resume", folder, *more)
    assert said.code == 2
    assert "plugins.lock.json is no lock of plugins: plugins: expected a list" in said.err
