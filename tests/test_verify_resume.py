"""`codex verify-resume`, through the real command line on toys, and the comparison behind it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.compare import compare_file, compare_metrics, differing, is_clock_reading
from codex_kernel.killing import Watch, draw, whole_lines
from codex_kernel.runfolder import RunFolder
from tests.command import Said, Workplace, toy_workplace
from tests.toys import install

TINY = """\
name: tiny
dataset: {type: python-source, distributions: [attrs]}
tokenizer: bytes
data: {seq_len: 32, validation_fraction: 0.2}
model:
  type: hf-causal-lm
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
trainer: {type: torch, max_steps: 500, global_batch_size: 2, optimizer: adamw}
loggers: [console, {type: csv}]
"""


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toys whose folder for temporary files is its own."""
    made = toy_workplace(tmp_path)
    (tmp_path / "tmp").mkdir()
    return evolve(made, variables={"TMPDIR": str(tmp_path / "tmp")})


def rehearsed(workplace: Workplace, *arguments: str) -> tuple[Said, dict[str, Any]]:
    """Run the rehearsal; return what it said, and its JSON."""
    said = workplace.codex("verify-resume", "toy.yaml", "--seed", "1", "--json", *arguments)
    return said, json.loads(said.out) if said.out else {}


def left(workplace: Workplace) -> list[Path]:
    """Return what is left in the folder for temporary files."""
    return list((workplace.folder / "tmp").iterdir())


def processes(workplace: Workplace) -> list[str]:
    """Return the command lines of processes that work below the workplace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if str(workplace.folder) in line:
            found.append(line)
    return found


# ── the rehearsal ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_resumes_exactly_is_identical(workplace: Workplace) -> None:
    """Exit 0; each kill has its step, where the run went on from and what it lost; nothing is left."""
    said, found = rehearsed(workplace, "--kills", "4", "--steps", "25")
    assert said.code == 0, said.err
    assert (found["schema_version"], found["identical"], found["differences"]) == (1, True, [])
    assert (found["steps"], found["records"], found["files"]) == (25, 26, 1)
    assert len(found["kills"]) == 4
    for kill in found["kills"]:
        assert 0 < kill["resumed_from"] <= kill["step"] <= 25
        assert kill["lost_steps"] == kill["step"] - kill["resumed_from"] <= 5
    assert found["seed"] == 1
    assert left(workplace) == []
    assert not (workplace.folder / "runs").exists()


def test_people_read_a_table_and_a_verdict(workplace: Workplace) -> None:
    """A row a kill, and one line that says what was compared and how to do it again."""
    said = workplace.codex("verify-resume", "toy.yaml", "--kills", "2", "--seed", "5")
    rows = said.out.splitlines()
    assert rows[0].split() == ["kill", "after", "step", "when", "resumed", "from", "steps", "lost"]
    assert [row.split()[0] for row in rows[1:3]] == ["1", "2"]
    assert rows[3].startswith("identical: 20 steps, 21 records of metrics, 1 files of the last checkpoint")
    assert rows[3].endswith("2 kills (--seed 5 --steps 20 --kills 2)")
    assert "undisturbed run …" in said.err


def test_weights_that_are_not_put_back_are_a_difference(workplace: Workplace) -> None:
    """Exit 1; the first step that differs is named, and so is the value in the checkpoint."""
    said = workplace.codex("verify-resume", "toy.yaml", "--kills", "1", "--set", "trainer.forgets=weights")
    assert said.code == 1
    _, kill, first, *rest = said.out.splitlines()
    step = int(kill.split()[-2])
    # Killed after the last step was saved, the run has only its evaluation left to do.
    where = rf"(train loss at step {step + 1}|validation loss at step {step})"
    assert re.match(rf"metrics.ndjson: {where}: undisturbed [\d.]+, resumed [\d.]+$", first)
    assert any(line.startswith("state.json: model/table.json[") for line in rest)
    assert rest[-1].startswith("different: metrics.ndjson, state.json; 20 steps")


def test_records_that_are_not_taken_back_are_a_difference(workplace: Workplace) -> None:
    """Exit 1: a step that stands in the metrics twice, or once more for each further kill."""
    for seed in ("1", "2", "3", "4", "5"):
        said = workplace.codex(
            "verify-resume",
            "toy.yaml",
            "--json",
            "--kills",
            "3",
            "--seed",
            seed,
            "--set",
            "trainer.forgets=records",
        )
        found = json.loads(said.out)
        if any(kill["lost_steps"] for kill in found["kills"]):
            break
    assert said.code == 1
    assert {"train records"} <= {one["what"] for one in found["differences"]}
    counts = {one["resumed"] for one in found["differences"] if one["what"] == "train records"}
    assert counts & {"2", "3", "4"}


def test_without_kills_two_runs_are_compared(workplace: Workplace) -> None:
    """It says whether the run repeats itself at all."""
    said, found = rehearsed(workplace, "--kills", "0")
    assert (said.code, found["identical"], found["kills"]) == (0, True, [])


def test_the_rehearsal_is_short_and_nobody_hears_of_it(workplace: Workplace) -> None:
    """Plugins shorten their sections, loggers are left out; --keep keeps the folder and says where it is."""
    said, found = rehearsed(workplace, "--kills", "1", "--steps", "10", "--keep", "--set", "trainer.lr=4")
    folder = Path(found["folder"])
    assert f"kept: {folder}" in said.err
    manifest = (folder / "manifest.yaml").read_text()
    assert "max_steps: 10" in manifest
    assert "lr: 4.0" in manifest
    assert "every_steps: 2" in manifest
    assert "loggers: []" in manifest
    for run in ("undisturbed", "killed-1"):
        assert (folder / run / "outcome.json").exists()
        assert not (folder / run / "told.txt").exists()  # what the toy logger writes
        assert "Resume" not in (folder / f"{run}.log").read_text()


def test_a_run_that_fails_ends_the_rehearsal_with_its_code(workplace: Workplace) -> None:
    """The last lines that it printed say why."""
    said, _ = rehearsed(workplace, "--set", "trainer.fail_at=7")
    assert said.code == 7
    assert "the undisturbed run failed with exit code 7" in said.err
    assert "ValueError: asked to fail" in said.err
    assert left(workplace) == []


def test_a_run_with_one_checkpoint_cannot_be_killed(workplace: Workplace) -> None:
    """Before the first checkpoint there is nothing to resume, and the error says what helps."""
    modules = {"codex_lonely": LONELY}
    install(
        workplace.site,
        "codex-lonely",
        {"codex.checkpointers": {"lonely": "codex_lonely:Lonely"}},
        modules=modules,
    )
    said, _ = rehearsed(workplace, "--set", "checkpointer.type=lonely")
    assert (said.code, "no checkpoint before its end" in said.err) == (1, True)


LONELY = """
from attrs import frozen
from codex_toys import JsonFiles, ToyCheckpointer
from codex_kernel import hookimpl

@frozen
class Lonely:
    @hookimpl
    def codex_checkpointer(self, run, folder): return JsonFiles(ToyCheckpointer(), run, folder)
"""


def test_a_manifest_that_is_wrong_is_refused_before_anything_runs(workplace: Workplace) -> None:
    """Exit 2, as every command says it."""
    said = workplace.codex("verify-resume", "toy.yaml", "--set", "trainer.lrr=4")
    assert (said.code, "lrr" in said.err) == (2, True)
    assert left(workplace) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rehearsal_that_is_stopped_leaves_nothing(workplace: Workplace, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM: the exit code says so, no process goes on, the folder is gone."""
    long = ("--steps", "200000", "--kills", "1")
    with workplace.start("verify-resume", "toy.yaml", *long) as process:
        wait_for(lambda: list((workplace.folder / "tmp").glob("*/undisturbed/metrics.ndjson")), process)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert f"stopped by {number.name}" in said
    assert left(workplace) == []
    assert processes(workplace) == []


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds; fail where the process ends before."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_the_real_trainer_resumes_exactly(workplace: Workplace) -> None:
    """torch, safetensors and a transformers model: killed five times, it is the same bit by bit."""
    workplace.write("tiny.yaml", TINY)
    said = workplace.codex("verify-resume", "tiny.yaml", "--seed", "11", "--json")
    assert said.code == 0, said.err + said.out
    found = json.loads(said.out)
    assert (found["identical"], len(found["kills"]), found["steps"]) == (True, 5, 20)
    assert found["records"] == 20 + 4
    assert found["files"] > 3


# ── the kills ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(seed=st.integers(0, 99), count=st.integers(0, 9), first=st.integers(1, 9), more=st.integers(0, 9))
def test_kills_are_in_range_in_order_and_the_same_for_a_seed(seed, count, first, more):
    """Steps from `first` to `last`, ascending; the parts lie in [0, 1)."""
    kills = draw(random.Random(seed), count, first, first + more)
    assert kills == draw(random.Random(seed), count, first, first + more)
    assert len(kills) == count
    assert [kill.after_step for kill in kills] == sorted(kill.after_step for kill in kills)
    assert all(first <= kill.after_step <= first + more and 0 <= kill.part < 1 for kill in kills)


def test_a_watch_sees_only_what_is_written_since_it_began(tmp_path):
    """Records of a process before are old, also where the file is cut back and written on."""
    run = RunFolder(tmp_path, "id", "name", tmp_path)
    lines = [json.dumps({"split": "train", "step": step, "time": step}) + "\n" for step in (1, 2, 3)]
    run.metrics.write_text("".join(lines) + '{"half')
    watch = Watch(run)
    assert (watch.new_records(), watch.step()) == ([], 0)
    run.metrics.write_text(lines[0])
    assert watch.step() == 0
    again = json.dumps({"split": "train", "step": 2, "time": 9}) + "\n"
    run.metrics.write_text(lines[0] + again)
    assert ([record["time"] for record in watch.new_records()], watch.step()) == ([9], 2)


def test_a_save_is_under_way_until_it_is_reported(tmp_path):
    """A name that is new among the checkpoints and in no event."""
    run = RunFolder(tmp_path, "id", "name", tmp_path)
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    watch = Watch(run)
    assert watch.saving() == frozenset()
    (run.checkpoints / "step-00000004").mkdir()
    assert watch.saving() == {"step-00000004"}
    event = {"event": "checkpoint_saved", "path": str(run.checkpoints / "step-00000004"), "step": 4}
    run.events.write_text(json.dumps(event) + "\n")
    assert watch.saving() == frozenset()


def test_a_half_line_at_the_end_does_not_count(tmp_path):
    """It is still being written, or a kill cut it off."""
    (tmp_path / "file").write_text("one\ntw")
    assert whole_lines(tmp_path / "file") == [b"one\n"]
    assert whole_lines(tmp_path / "none") == []


# ── the comparison ────────────────────────────────────────────────────────────────────────────────────────────────


def record(step: int, split: str = "train", **values: Any) -> dict[str, Any]:
    """Make a record of metrics."""
    return {"run_id": os.urandom(2).hex(), "time": time.time(), "step": step, "split": split, **values}


def metrics_differences(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> list[str]:
    """Return what differs between two files of metrics."""
    return [f"{d.what} @ {d.step}" for d in compare_metrics("m", one, two)]


def test_readings_of_the_clock_may_differ_and_nothing_else():
    """Times, speeds and the run's id are left out, and metrics of the machine."""
    one = [record(1, loss=1.5, tokens_per_second=8.0, step_seconds=0.1), record(1, "system", cpu=3.0)]
    two = [record(1, loss=1.5, tokens_per_second=9.0, step_seconds=0.2)]
    assert metrics_differences(one, two) == []
    assert metrics_differences(one, [record(1, loss=1.5000000000000002)]) == ["train loss @ 1"]
    assert metrics_differences([record(1, seconds_left=1)], [record(1, seconds_left=2)]) == [
        "train seconds_left @ 1"
    ]
    assert [name for name in ("time", "save_seconds", "loss", "timely") if is_clock_reading(name)] == [
        "time",
        "save_seconds",
    ]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([1, 2, 3], []),
        ([1, 3], ["train record @ 2"]),
        ([1, 2, 2, 3], ["train records @ 2"]),
        ([1, 2, 3, 4], ["train record @ 4"]),
        ([2, 1, 3], ["order of the records @ None"]),
    ],
    ids=str,
)
def test_each_step_is_there_once_and_in_order(steps, said):
    """A missing, a doubled, an extra and a misplaced record are differences."""
    one = [record(step, loss=step) for step in (1, 2, 3)]
    assert metrics_differences(one, [record(step, loss=step) for step in steps]) == said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=VALUES)
def test_a_json_value_is_equal_to_itself(value):
    """NaN included."""
    assert list(differing(value, value)) == []


@given(one=VALUES, two=VALUES)
def test_json_values_differ_both_ways_or_not_at_all(one, two):
    """What differs one way differs the other way, at the same places; JSON texts that differ, differ."""
    there, back = list(differing(one, two)), list(differing(two, one))
    assert sorted(place for place, *_ in there) == sorted(place for place, *_ in back)
    assert (not there) == (json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True))


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]], *, padding: int = 0) -> Path:
    """Write a file of the format safetensors by hand."""
    header, data = {}, b""
    for name, (dtype, shape, blob) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def file_differences(name: str, one: Path | None, two: Path | None) -> list[str]:
    """Return what differs between two files."""
    return [f"{d.what}: {d.undisturbed} {d.resumed}" for d in compare_file(name, 7, one, two)]


def test_a_tensor_that_differs_is_named_with_its_element(tmp_path):
    """Names, types and shapes are compared, and the bytes of each tensor."""
    same = ("F32", [2], struct.pack("<2f", 1, 2))
    one = safetensors(tmp_path / "one", {"a": same, "b": ("F32", [3], struct.pack("<3f", 1, 2, 3))})
    two = safetensors(tmp_path / "two", {"a": same, "b": ("F32", [3], struct.pack("<3f", 1, 2, 4))})
    assert file_differences("m.safetensors", one, two) == ["tensor b, element 2 of 3: 0x40400000 0x40800000"]
    other = safetensors(tmp_path / "other", {"a": ("F16", [4], same[2]), "c": same})
    assert file_differences("m.safetensors", one, other) == [
        "tensor a: F32 [2] F16 [4]",
        "tensor b: F32 [3] missing",
        "tensor c: missing F32 [2]",
    ]


def test_other_files_are_compared_by_their_bytes(tmp_path):
    """The first byte that differs is named; a missing file too."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abcd")
    two.write_bytes(b"abc")
    assert file_differences("tokens.bin", one, two) == ["byte 3: 0x64 the end"]
    assert file_differences("tokens.bin", one, None) == ["the file: there missing"]
    assert file_differences("tokens.bin", one, one) == []


def test_json_files_are_compared_as_values(tmp_path):
    """Clock readings inside may differ, also far down."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text(json.dumps({"window": {"seconds": 1.5, "steps": [1, 2]}, "metrics_bytes": 10}))
    two.write_text(json.dumps({"window": {"seconds": 2.5, "steps": [1, 3]}, "metrics_bytes": 11}))
    assert file_differences("trainer.json", one, two) == ["window.steps[1]: 2 3"]
    two.write_text(json.dumps({"window": {"seconds": 2.5, "steps": [1, 2]}, "metrics_bytes": 11}))
    assert file_differences("trainer.json", one, two) == []
