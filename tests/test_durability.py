"""What a resume needs outlives a power cut: it is on disk before anything depends on it.

One rule: no power is cut; `sitecustomize` writes down what a command asks of the disk, and that is looked at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command import Workplace, toy_workplace
from tests.toys import install

RECORDER = '''
"""Write down each fsync, rename and mkdir, with the number and the size of the file at that instant."""
import json, os, stat

def recorded(name, usual, about):
    def call(*arguments, **options):
        result = usual(*arguments, **options)
        with open("disk.log", "a") as log:
            log.write(json.dumps({"did": name, **about(*arguments)}) + "\\n")
        return result
    return call

def of(status):
    return {"file": status.st_ino, "size": status.st_size}

def named(*paths):
    return {"path": os.path.abspath(paths[-1]), **of(os.stat(paths[-1]))}

os.fsync = recorded("fsync", os.fsync, lambda descriptor: of(os.fstat(descriptor)))
for name in ("rename", "replace"):
    setattr(os, name, recorded("rename", getattr(os, name), named))
os.mkdir = recorded("mkdir", os.mkdir, lambda path, *_: named(path))
'''
VOCABULARY = '''
"""Bytes, with a file of its own in the run, as a trained vocabulary has."""
from attrs import frozen
from codex_kernel import hookimpl
from codex_kernel.builtin import bytes_tokenizer

class Saved(bytes_tokenizer.Utf8Bytes):
    def save(self, folder):
        (folder / "words").mkdir()
        (folder / "words" / "all.txt").write_text("abc")

    def fingerprint(self):
        return "abc"

@frozen
class Plugin:
    @hookimpl
    def codex_tokenizer(self):
        return Saved()
'''


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins whose commands write down what they ask of the disk."""
    made = toy_workplace(tmp_path)
    plugins = {"codex.tokenizers": {"saved": "codex_vocabulary:Plugin"}}
    modules = {"codex_vocabulary": VOCABULARY, "sitecustomize": RECORDER}
    install(made.site, "codex-vocabulary", plugins, modules=modules)
    return made


def calls(workplace: Workplace) -> list[dict[str, Any]]:
    """Return what was asked of the disk, in its order."""
    return [json.loads(line) for line in (workplace.folder / "disk.log").read_text().splitlines()]


def test_all_files_of_a_run_and_their_names_are_on_disk(workplace: Workplace) -> None:
    """Each file is synced, and after it got its name the folder is; also the folders that the run made above it."""
    said = workplace.codex("run", "toy.yaml", "--set", "tokenizer=saved")
    assert said.code == 0, said.err
    (folder,) = (workplace.folder / "runs" / "toy").iterdir()
    done = calls(workplace)
    synced = {call["file"] for call in done if call["did"] == "fsync"}
    mine = [path for path in folder.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    assert len(mine) >= 9
    unsynced = {path.name for path in mine if path.stat().st_ino not in synced}
    assert unsynced == {"run.lock", "told.txt"}, (
        "a lock ends with its process; the other one is the toy logger's"
    )

    names = [
        (number, Path(call["path"])) for number, call in enumerate(done) if call["did"] in {"mkdir", "rename"}
    ]
    kept = [(n, path) for n, path in names if path.exists() and "checkpoints" not in path.parts]
    assert {workplace.folder / "runs", folder.parent, folder, folder / "tokenizer"} <= {p for _, p in kept}
    for number, path in kept:
        if workplace.folder / "cache" not in (path, *path.parents):
            above = path.parent.stat().st_ino
            assert above in {call["file"] for call in done[number + 1 :] if call["did"] == "fsync"}, path


def test_a_vocabulary_is_on_disk_before_it_has_its_name(workplace: Workplace) -> None:
    """Its folders and files, for a folder that has its name is taken to be whole."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r", "--set", "tokenizer=saved").code == 0
    done = calls(workplace)
    vocabulary = workplace.folder / "r" / "tokenizer"
    named = next(n for n, call in enumerate(done) if call.get("path") == str(vocabulary))
    before = {call["file"] for call in done[:named] if call["did"] == "fsync"}
    assert {path.stat().st_ino for path in (vocabulary, *vocabulary.rglob("*"))} <= before


def test_a_change_is_recorded_on_disk_before_the_manifest_is_another_one(workplace: Workplace) -> None:
    """Else a power cut could leave a manifest that nobody has ever allowed."""
    assert workplace.codex("run", "toy.yaml", "--run-dir", "r", "--set", "trainer.fail_at=5").code == 7
    (workplace.folder / "disk.log").unlink()
    changes = ("--set", "trainer.fail_at=null", "--allow-change", "trainer.fail_at")
    assert workplace.codex("resume", "r", *changes).code == 0
    events = workplace.folder / "r" / "events.ndjson"
    text = events.read_bytes()
    end = text.index(b"\n", text.index(b"manifest_changed"))
    done = calls(workplace)
    manifest = str(workplace.folder / "r" / "resolved.yaml")
    renamed = next(n for n, call in enumerate(done) if call.get("path") == manifest)
    number = events.stat().st_ino
    assert any(
        call["did"] == "fsync" and call["file"] == number and call["size"] > end for call in done[:renamed]
    )
