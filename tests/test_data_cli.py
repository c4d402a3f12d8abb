"""`codex data`: building, looking, checking, counting, and clearing the cache."""

import fcntl
import json
import os
import time

import pytest

from tests.command import toy_workplace

LINES = """\
{"prompt": "add\\n", "completion": "def add(a, b):\\n    return a + b\\n"}
{"text": "def caf\u00e9(): \\u001b[31m\\n"}
{"text": ""}
{"text": "twice"}
{"text": "twice"}
"""
BAD = """\
{"text": 3}
not json
{"words": "none"}
"""
MANIFEST = """\
name: data
dataset: {type: jsonl, paths: [data.jsonl]}
tokenizer: bytes
data: {seq_len: 64, validation_fraction: 0, packing: whole}
model: toy
trainer: {type: toy, max_steps: 2}
checkpointer: toy
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Return a workplace with a manifest over five records, whose data is built."""
    place = toy_workplace(tmp_path_factory.mktemp("data"))
    place.write("data.jsonl", LINES)
    place.write("bad.jsonl", LINES + BAD)
    place.write("data.yaml", MANIFEST)
    assert place.codex("data", "build", "data.yaml").code == 0
    return place


def answer(place, *arguments):
    """Return what `codex data … --json` says."""
    said = place.codex("data", *arguments, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def kept(place, kind="tokens"):
    """Return the folders of a kind."""
    return sorted(path.name for path in (place.folder / "cache" / kind).iterdir() if path.is_dir())


# ── build ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_building_tells_what_became_of_the_documents(tmp_path):
    """The first build prints its counts, the second one says that nothing was built."""
    place = toy_workplace(tmp_path)
    place.write("data.jsonl", LINES)
    place.write("data.yaml", MANIFEST)
    first, again = place.codex("data", "build", "data.yaml"), place.codex("data", "build", "data.yaml")
    assert (first.code, again.code) == (0, 0), first.err
    assert first.out.startswith("built ")
    assert again.out.startswith("reused ")
    assert [line.split() for line in first.out.splitlines()[1:4]] == [
        ["documents", "5"],
        ["empty", "1"],
        ["duplicates", "1"],
    ]


def test_documents_that_were_dropped_are_told_apart(tmp_path):
    """Of how many documents the ones are that are left is said where some were dropped."""
    place = toy_workplace(tmp_path)
    place.write("data.jsonl", LINES)
    place.write("data.yaml", MANIFEST)
    longest = ("--set", "data.seq_len=8", "--set", "data.on_overflow=drop")
    said = place.codex("data", "build", "data.yaml", *longest)
    split = answer(place, "build", "data.yaml", *longest)["data"]["splits"]["train"]
    assert split["documents_dropped"]
    total = split["documents"] + split["documents_dropped"]
    assert f"{split['documents']} of {total} in {split['groups']} group" in said.out


def test_a_run_finds_what_was_built(workplace):
    """`codex run` after `codex data build` encodes nothing, and the run's data.json has the same key."""
    key = answer(workplace, "build", "data.yaml")["data"]["key"]
    said = workplace.codex("run", "data.yaml", "--run-dir", "found")
    assert said.code == 0, said.err
    found = workplace.folder / "found"
    assert json.loads((found / "data.json").read_text())["key"] == key
    events = [json.loads(line)["event"] for line in (found / "events.ndjson").read_text().splitlines()]
    assert "data_reused" in events
    assert "data_built" not in events


def test_bad_records_can_be_skipped_by_a_number(workplace):
    """Bad records end a build with the first one's line; --skip-bad skips and counts so many, in run and plan too."""
    wrong = ("--set", "dataset.paths=[bad.jsonl]")
    said = workplace.codex("data", "build", "data.yaml", *wrong)
    assert (said.code, "bad.jsonl:6" in said.err) == (2, True), said.err
    assert answer(workplace, "build", "data.yaml", *wrong, "--skip-bad", "3")["data"]["documents_bad"] == 3
    assert workplace.codex("data", "build", "data.yaml", *wrong, "--skip-bad", "2").code == 2
    for command in ("run", "plan"):
        said = workplace.codex(command, "data.yaml", *wrong, "--skip-bad", "3")
        assert (said.code, "3 records cannot be read" in said.out + said.err) == (0, True), said.err


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_is_shown_with_its_documents_and_what_is_only_read(workplace):
    """Documents stand apart, prompts are marked, special tokens are named, and control characters are escaped."""
    said = workplace.codex("data", "show", "data.yaml", "--block", "0")
    assert said.code == 0, said.err
    assert "⟦add\n⟧def add(a, b):\n    return a + b\n<|endoftext|>" in said.out
    assert "⟦d⟧ef café(): \\x1b[31m" in said.out
    assert "\x1b" not in said.out
    assert said.out.count("-- document ") == 3


def test_the_tokens_of_a_block_are_those_of_the_store(workplace):
    """As JSON a block has the ids, and of each whether it is trained; every trained one is a target."""
    (block,) = answer(workplace, "show", "data.yaml", "--block", "0")["blocks"]
    first = block["documents"][0]
    text = "add\ndef add(a, b):\n    return a + b\n"
    assert bytes(first["ids"][:-1]).decode() == text
    assert first["trained"] == [place >= len("add\n") for place in range(len(text) + 1)]
    assert "".join(one["text"] for one in first["text"]) == text + "<|endoftext|>"
    assert sum(sum(document["trained"]) for document in block["documents"]) == block["targets"]
    assert block["tokens"] + block["padding"] == 64


def test_each_token_can_have_a_line(workplace):
    """With --tokens a line has the slot, the id, whether it is trained, and the text."""
    lines = workplace.codex("data", "show", "data.yaml", "--block", "0", "--tokens").out.splitlines()
    assert lines[2].split() == ["0", "97", "read", "'a'"]
    assert lines[6].split() == ["4", "100", "trained", "'d'"]


def test_a_run_and_a_key_can_be_shown_too(workplace):
    """A run has its tokenizer; of a key alone the tokens are numbers."""
    assert workplace.codex("run", "data.yaml", "--run-dir", "shown").code == 0
    by_run = workplace.codex("data", "show", "shown", "--block", "0")
    assert by_run.out == workplace.codex("data", "show", "data.yaml", "--block", "0").out
    key = answer(workplace, "build", "data.yaml")["data"]["key"]
    assert "97 100 100" in workplace.codex("data", "show", key[:10], "--block", "0").out


def test_blocks_come_in_the_order_of_training(workplace):
    """Without --block, a manifest and its run show the same first blocks, those of the weights of a mixture."""
    workplace.write("rare.jsonl", '{"text": "rare"}\n')
    often = '{"type": "jsonl", "paths": ["data.jsonl"]}'
    rare = '{"type": "jsonl", "paths": ["rare.jsonl"]}'
    dataset = (
        f'{{"type": "mixture", "sources": {{"o": {often}, "r": {rare}}}, "weights": {{"o": 0, "r": 1}}}}'
    )
    workplace.write("mixed.yaml", MANIFEST.replace("{type: jsonl, paths: [data.jsonl]}", dataset))
    by_manifest = workplace.codex("data", "show", "mixed.yaml", "--blocks", "1")
    assert "⟦r⟧are" in by_manifest.out, by_manifest.err
    assert workplace.codex("run", "mixed.yaml", "--run-dir", "mixed").code == 0
    assert workplace.codex("data", "show", "mixed", "--blocks", "1").out == by_manifest.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "nowhere"), 2, "nor a manifest, nor the key of a token store"),
        (("show", "nowhere.yaml"), 2, "nowhere.yaml: no such file"),
        (("show", "0123456789"), 2, "nor the key of a token store"),
        (("show", "data.jsonl"), 2, "data.jsonl:"),
        (("show", "data.yaml", "--split", "validation"), 2, "has no validation split"),
        (("show", "data.yaml", "--block", "99"), 2, "there is no block 99"),
        (("show", "data.yaml", "--blocks", "0"), 2, "--blocks"),
        (("build", "nowhere.yaml"), 2, "nowhere.yaml: no such file"),
        (("build", "data.yaml", "--skip-bad", "-1"), 2, "--skip-bad"),
        (("stats", "data.yaml", "--set", "data.seqlen=3"), 2, "did you mean"),
        (("validate", "data.yaml", "--set", "dataset.paths=[no.jsonl]"), 2, "no.jsonl"),
        (("prune", "--keep-runs", "nowhere", "--yes"), 2, "there is no folder nowhere"),
        (("prune", "--older-than", "-1"), 2, "--older-than"),
    ],
)
def test_what_cannot_be_done_is_said(workplace, arguments, code, message):
    """A wrong name or number is one clear error, never a traceback."""
    said = workplace.codex("data", *arguments)
    assert said.code == code, said.err
    assert message in said.err
    assert "Traceback" not in said.err


def test_overrides_go_over_a_manifest_alone(workplace):
    """What a run was trained on cannot be overridden: that is said, not left unread."""
    assert workplace.codex("run", "data.yaml", "--run-dir", "fixed").code == 0
    said = workplace.codex("data", "stats", "fixed", "--set", "data.seq_len=8")
    assert (said.code, "--set and --override-file" in said.err) == (2, True), said.err


# ── validate, stats ───────────────────────────────────────────────────────────────────────────────────────────────


def test_all_that_is_wrong_is_named_at_once(workplace):
    """Every bad record is named with file and line, up to a limit, and counted; nothing is built."""
    before = kept(workplace)
    said = workplace.codex(
        "data", "validate", "data.yaml", "--set", "dataset.paths=[bad.jsonl]", "--limit", "2"
    )
    assert said.code == 2
    assert "cannot be read: 3" in said.out
    assert "bad.jsonl:6" in said.out
    assert "bad.jsonl:7" in said.out
    assert "… and 1 more" in said.out
    assert "repeat the content of one before: 1\n  data.jsonl:5" in said.out.replace(
        "bad.jsonl:5", "data.jsonl:5"
    )
    assert "empty: 1" in said.out
    assert "--skip-bad 3" in said.err
    assert kept(workplace) == before


def test_a_sound_dataset_is_usable_and_measured(workplace):
    """With --encode the lengths in tokens are told too, and the documents that do not fit."""
    found = answer(workplace, "validate", "data.yaml", "--encode", "--set", "data.seq_len=19")
    assert (found["usable"], found["documents"], found["empty"], found["duplicates"]) == (True, 5, 1, 1)
    assert (found["lengths"]["documents"], found["lengths"]["overlong"]) == (3, 2)
    assert found["lengths"]["longest"] == len("add\ndef add(a, b):\n    return a + b\n") + 1


def test_statistics_come_from_the_store_and_the_documents(workplace):
    """Slots filled, lengths in tokens and bytes, and the builder's counts; without the documents those are left out."""
    found = answer(workplace, "stats", "data.yaml")
    train = found["splits"]["train"]
    lengths = [
        len("add\ndef add(a, b):\n    return a + b\n") + 1,
        len("def café(): \x1b[31m\n".encode()) + 1,
        6,
    ]
    assert train["piece_tokens"]["max"] == max(lengths)
    assert train["filled"] == pytest.approx(sum(lengths) / (train["blocks"] * 64))
    assert found["documents"]["document_bytes"]["min"] == 5
    assert found["data"]["duplicates_dropped"] == 1
    said = workplace.codex("data", "stats", "data.yaml")
    assert (said.code, "filled" in said.out) == (0, True), said.err


# ── prune ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def filled(tmp_path):
    """Return a workplace whose cache has the data of a run, and of a manifest that no run was made of."""
    place = toy_workplace(tmp_path)
    place.write("data.jsonl", LINES)
    place.write("data.yaml", MANIFEST)
    assert place.codex("run", "data.yaml").code == 0
    assert place.codex("data", "build", "data.yaml", "--set", "seed=3").code == 0
    return place


def test_what_a_run_needs_is_kept(filled):
    """Only what no run of ./runs names is deleted; --dry-run deletes nothing, and without --yes nobody is asked."""
    before = kept(filled)
    (run,) = (filled.folder / "runs" / "data").glob("*/data.json")
    key = json.loads(run.read_text())["key"]
    assert len(before) == 2
    dry = filled.codex("data", "prune", "--dry-run")
    assert "would delete 2," in dry.out
    assert filled.codex("data", "prune").code == 2
    assert kept(filled) == before
    said = filled.codex("data", "prune", "--yes")
    assert "deleted 2," in said.out
    assert kept(filled) == [key]
    assert len(kept(filled, "corpora")) == 1
    assert filled.codex("data", "show", "data").code == 0


def test_nothing_is_deleted_where_a_run_cannot_be_read(filled):
    """A run whose data.json is broken may need anything: it is named, and all stays."""
    (run,) = (filled.folder / "runs" / "data").glob("*/data.json")
    run.write_text("{")
    before = kept(filled)
    said = filled.codex("data", "prune", "--yes")
    assert (said.code, str(run.relative_to(filled.folder)) in said.err) == (2, True), said.err
    assert kept(filled) == before


def test_only_folders_of_ours_that_nobody_works_on_are_deleted(filled):
    """Other files, links and a store that a builder has locked stay; what killed builders left goes."""
    tokens = filled.folder / "cache" / "tokens"
    (tokens / "notes").mkdir()
    (tokens / ("a" * 64)).symlink_to(filled.folder)
    left = tokens / f".{'b' * 64}.4711"
    left.mkdir()
    (left / "train.tokens").write_bytes(b"12")
    locked = tokens / ("c" * 64)
    locked.mkdir()
    with (tokens / f"{'c' * 64}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = filled.codex("data", "prune", "--keep-runs", filled.folder / "runs", "--yes")
    assert said.code == 0, said.err
    assert "a process that builds" in said.out
    assert not left.exists()
    assert {"notes", "a" * 64, "c" * 64} <= set(kept(filled))
    assert filled.folder.joinpath("data.jsonl").exists()


def test_what_was_used_lately_can_be_kept(filled):
    """With --older-than, only what nothing has opened for so many days goes; a build counts as use."""
    month_ago = time.time() - 30 * 86_400
    for path in (filled.folder / "cache").glob("*/*"):
        os.utime(path, (month_ago, month_ago))
    assert filled.codex("data", "build", "data.yaml", "--set", "seed=3").code == 0
    rows = json.loads(filled.codex("data", "prune", "--older-than", "7", "--yes", "--json").out)["entries"]
    assert {(row["kind"], row["deleted"]) for row in rows if row["kept_for"] == "used lately"} == {
        ("tokens", False)
    }
    assert [row["kind"] for row in rows if row["deleted"]] == ["corpus"]


def test_an_empty_cache_has_nothing_to_delete(tmp_path):
    """Without a cache there is nothing to show, and that is no error."""
    said = toy_workplace(tmp_path).codex("data", "prune")
    assert (said.code, "nothing of ours" in said.err) == (0, True)


def test_a_cache_that_cannot_be_looked_through_is_said(tmp_path):
    """Where a file lies in the place of a folder, the error names it; exit code 6."""
    place = toy_workplace(tmp_path)
    (tmp_path / "cache").mkdir()
    place.write("cache/tokens", "in the way")
    said = place.codex("data", "prune", "--yes")
    assert (said.code, "cannot be looked through" in said.err) == (6, True), said.err
