"""The data of a run, built while the process is killed, the disk fails or another process builds the same."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import shutil
import signal
import time
from pathlib import Path

import pytest
from attrs import define, frozen

from tests.faults.commands import Ended, Server, Workplace
from tests.faults.comparison import strict_json, tree
from tests.faults.injection import Fault, Operation
from tests.faults.trials import SLOW, some, sweep

STORAGE = 6
KINDS = ("corpora", "tokenizers", "tokens")
MANIFEST = """\
name: data
dataset: {type: jsonl, paths: [data.jsonl]}
tokenizer: {type: hf-bpe, vocab_size: 300}
data: {seq_len: 32, validation_fraction: 0.2, packing: whole}
model: {type: hf-causal-lm, config: {model_type: llama}}
trainer: {type: torch, max_steps: 1}
"""
_KEY = re.compile(r"[0-9a-f]{64}")


@frozen
class DataWorkplace(Workplace):
    """A folder with a manifest and its data, and a cache of its own, which is what the faults are in."""

    @property
    def run(self) -> Path:
        return self.cache

    def whole(self) -> dict[str, str]:
        """Return path → digest of all files of the folders that have a final name."""
        names = [
            path for kind in KINDS for path in (self.cache / kind).glob("*") if _KEY.fullmatch(path.name)
        ]
        return {
            f"{path.relative_to(self.cache)}/{name}": digest
            for path in names
            for name, digest in tree(path).items()
        }

    def others(self) -> list[str]:
        """Return what else lies in the cache, locks aside."""
        found = [path.name for kind in KINDS for path in (self.cache / kind).glob("*")]
        return [name for name in found if not _KEY.fullmatch(name) and not name.endswith(".lock")]


def make_workplace(folder: Path, files: Path | None = None) -> DataWorkplace:
    """Make the folder, with the data and the manifest of `files`, or new ones."""
    if files is None:
        folder.mkdir(parents=True)
        texts = [f"def f{n}(x):\n    return x + {n % 7}\n" * (1 + n % 9) for n in range(80)]
        records = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / "data.jsonl").write_text("".join(records))
        (folder / "data.yaml").write_text(MANIFEST)
    else:
        shutil.copytree(files, folder)
    return DataWorkplace(folder, folder.with_name(f"{folder.name}-cache"))


@define(eq=False)
class Undisturbed:
    """A build that nothing happened to."""

    workplace: DataWorkplace
    operations: list[Operation]
    files: dict[str, str]


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory) -> Undisturbed:
    """Return a build that nothing happened to."""
    workplace = make_workplace(tmp_path_factory.mktemp("data") / "undisturbed")
    command = server.start(workplace, "data", "build", "data.yaml", fault=Fault())
    assert command.ended().code == 0, command.ended().said
    files = workplace.whole()
    assert {name.split("/")[0] for name in files} == set(KINDS)
    return Undisturbed(workplace, command.operations(), files)


def check_builds(server: Server, workplace: DataWorkplace, undisturbed: Undisturbed, what: object) -> Ended:
    """Fail where a build does not end well, or leaves something else than one that nothing happened to."""
    ended = server.codex(workplace, "data", "build", "data.yaml")
    assert ended.code == 0, f"{what}: {ended.said}"
    assert workplace.whole() == undisturbed.files, f"{what}: {ended.said}"
    assert not workplace.others(), f"{what}: {workplace.others()}"
    return ended


def check_whole(workplace: DataWorkplace, undisturbed: Undisturbed, what: object) -> None:
    """Fail where a folder has its final name and is not whole."""
    found = workplace.whole()
    named = {name.rsplit("/", 1)[0] for name in found}
    expected = {name: digest for name, digest in undisturbed.files.items() if name.rsplit("/", 1)[0] in named}
    assert found == expected, what


# ── killed, no room ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=SLOW)])
@pytest.mark.parametrize("mode", ["kill", "tear"])
def test_a_killed_build_leaves_nothing_half_valid(server, undisturbed, tmp_path, mode, every):
    """Killed anywhere, every folder with a final name is whole, and the next build is as if nothing had happened."""

    def kill(operation: Operation) -> None:
        workplace = make_workplace(tmp_path / f"{mode}-{operation.number}", undisturbed.workplace.folder)
        command = server.start(workplace, "data", "build", "data.yaml", fault=Fault(mode, operation.number))
        what = f"{mode} at {operation}"
        assert command.ended().code == -signal.SIGKILL, f"{what}: {command.ended().said}"
        check_whole(workplace, undisturbed, what)
        check_builds(server, workplace, undisturbed, what)
        shutil.rmtree(workplace.cache)

    met = [one for one in undisturbed.operations if mode == "kill" or (one.name == "write" and one.bytes > 1)]
    sweep(some(met, every if mode == "kill" else 1 + every // 4), kill)


@pytest.mark.parametrize("every", [12, pytest.param(2, marks=SLOW)])
def test_a_full_disk_ends_a_build_and_costs_nothing_that_was_whole(server, undisturbed, tmp_path, every):
    """No room from some operation on: exit code 6 with path, need and remedy; with room again the build is whole."""

    def fill(operation: Operation) -> None:
        workplace = make_workplace(tmp_path / str(operation.number), undisturbed.workplace.folder)
        fault = Fault("fail", operation.number, value=errno.ENOSPC)
        ended = server.codex(workplace, "data", "build", "data.yaml", fault=fault)
        assert ended.code == STORAGE, f"{operation}: {ended.said}"
        assert "No space left on device" in ended.err, f"{operation}: {ended.err}"
        assert str(workplace.cache) in ended.err, f"{operation}: {ended.err}"
        assert "codex data prune" in ended.err, f"{operation}: {ended.err}"
        assert "Traceback" not in ended.said
        check_whole(workplace, undisturbed, operation)
        check_builds(server, workplace, undisturbed, operation)
        shutil.rmtree(workplace.cache)

    taking_room = [one for one in undisturbed.operations if one.name in {"mkdir", "open", "write"}]
    sweep(some(taking_room, every), fill)


# ── two at once ───────────────────────────────────────────────────────────────────────────────────────────────────


def until(what: str, seconds: float = 60.0):
    """Yield until the caller breaks off, some milliseconds apart; fail where that takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        select.select([], [], [], 0.01)
    pytest.fail(f"waited {seconds} s for {what}")


def waits_for_a_lock(pid: int) -> bool:
    """Say whether a process waits for a file lock that another one holds."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and f" {pid} " in line for line in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_builds_at_once_one_builds_and_one_waits(server, undisturbed, tmp_path, kind):
    """The second build of the same thing waits until the first one is done, and takes what that one has built."""
    workplace = make_workplace(tmp_path / "two", undisturbed.workplace.folder)
    inside = next(one for one in undisturbed.operations if f"/{kind}/." in one.path and one.name == "write")
    halt = Fault("signal", inside.number, value=signal.SIGSTOP)
    first = server.start(workplace, "data", "build", "data.yaml", "--json", fault=halt)
    for _ in until("the first build to be halted"):
        if first.is_halted():
            break
    second = server.start(workplace, "data", "build", "data.yaml", "--json")
    for _ in until("the second build to wait"):
        if waits_for_a_lock(second.pid):
            break
    assert second.wait(0.0) is None
    first.signal(signal.SIGCONT)
    told = [one.ended() for one in (first, second)]
    assert [one.code for one in told] == [0, 0], [one.said for one in told]
    reused = [strict_json(one.out)["reused"] for one in told]
    assert reused.count(True) == 1, reused
    if kind == "tokens":
        assert reused == [False, True]
    assert workplace.whole() == undisturbed.files


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────


def flipped(path: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Take the last byte away."""
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flipped, cut, Path.unlink], ids=["bit flipped", "cut", "missing"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_said_and_built_again(server, undisturbed, tmp_path, kind, damage):
    """A corpus, tokenizer or token store with any file not as it was written is built anew, with a warning."""
    names = [name for name in undisturbed.files if name.startswith(kind)]
    assert names
    for number, name in enumerate(names):
        workplace = make_workplace(tmp_path / str(number), undisturbed.workplace.folder)
        shutil.copytree(undisturbed.workplace.cache, workplace.cache)
        if kind == "corpora":  # a corpus is read only where there are no tokens
            shutil.rmtree(workplace.cache / "tokens")
        damage(workplace.cache / name)
        ended = check_builds(server, workplace, undisturbed, f"{damage} {name}")
        assert "damaged" in ended.err, f"{name}: {ended.err}"
        assert str(workplace.cache / Path(name).parent) in ended.err, f"{name}: {ended.err}"


def test_damaged_tokens_are_refused_where_they_are_only_looked_at(server, undisturbed, tmp_path):
    """`codex data show KEY` changes nothing: tokens that are not as they were written are an error, exit code 6."""
    workplace = make_workplace(tmp_path / "look", undisturbed.workplace.folder)
    shutil.copytree(undisturbed.workplace.cache, workplace.cache)
    name = next(name for name in undisturbed.files if name.endswith("train.tokens"))
    flipped(workplace.cache / name)
    before = workplace.whole()
    for command in ("show", "stats"):
        ended = server.codex(workplace, "data", command, name.split("/")[1])
        assert ended.code == STORAGE, ended.said
        assert "damaged" in ended.err
        assert "codex data build" in ended.err
    assert workplace.whole() == before
