"""The quick start through the real command line, on a small scale: to its end, killed, stopped, and looked at."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.command import Workplace
from tests.end_to_end.examples import (
    QUICKSTART,
    SHORT_QUICKSTART,
    STEPS,
    can_be_resumed,
    losses,
    newest_checkpoint,
    records,
    tensor_files,
    wait_until,
)


def test_the_loss_falls_and_the_run_describes_itself(finished: Path) -> None:
    """Exit 0, less training and validation loss than before, and every file of a run."""
    train, validation = losses(finished), losses(finished, "validation")
    assert [step for step, _ in train] == list(range(1, STEPS + 1))
    assert train[-1][1] < train[0][1] - 1.0
    assert [step for step, _ in validation] == [30, 60]
    assert validation[-1][1] < validation[0][1]
    assert {path.name for path in finished.iterdir()} == {
        "run.json", "manifest.yaml", "overrides.txt", "resolved.yaml", "environment.json", "plugins.lock.json",
        "data.json", "tokenizer", "metrics.ndjson", "events.ndjson", "checkpoints", "outcome.json", "run.lock",
    }  # fmt: skip
    outcome = json.loads((finished / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("completed", 0)
    assert (outcome["steps"], outcome["samples"]) == (STEPS, STEPS * 8)
    assert 0 < outcome["tokens"] <= STEPS * 8 * 64
    assert outcome["checkpoint"] == str(newest_checkpoint(finished))
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "step-00000048",
        "step-00000060",
    ]


def test_the_summary_names_what_matters_and_the_commands_to_go_on_with(finished: Path) -> None:
    """Steps, tokens, losses, bits per byte, the folder, and how to look at it and generate."""
    out = (finished.parent / "out.txt").read_text()
    for words in ("steps", "tokens", "train loss", "validation loss", "bits per byte", "run folder"):
        assert words in out
    for command in ("runs show whole", 'generate whole --prompt "def "'):
        assert f"codex {command}" in out
    progress = (finished.parent / "err.txt").read_text()
    for words in ("loss", "tokens/s", "ETA"):
        assert words in progress


def test_generate_prints_text_and_changes_nothing(finished: Path, workplace: Workplace) -> None:
    """The prompt goes on with new tokens, and the run's folder stays as it was."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    said = workplace.codex("generate", finished, "--prompt", "def ", "--max-new-tokens", "12", "--seed", "3")
    assert said.code == 0, said.err
    assert said.out.startswith("def ")
    assert len(said.out.strip()) > len("def ")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_killed_run_ends_as_if_it_had_never_been_killed(workplace: Workplace, finished: Path) -> None:
    """SIGKILL in the middle, then resume: metrics, weights and optimizer are the same to the last bit."""
    run = workplace.folder / "killed"
    with workplace.start("run", QUICKSTART, "--run-dir", "killed", *SHORT_QUICKSTART) as process:
        wait_until(lambda: can_be_resumed(run, 15), process)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "outcome.json").exists()
    said = workplace.codex("resume", "killed")
    assert said.code == 0, said.err
    assert records(run) == records(finished)
    assert tensor_files(run) == tensor_files(finished)


def test_a_stopped_run_saves_and_ends_as_if_it_had_never_been_stopped(
    workplace: Workplace, finished: Path
) -> None:
    """SIGTERM: the step is finished and saved, exit 143, the command to go on; then the same bits as in one go."""
    run = workplace.folder / "stopped"
    with workplace.start("run", QUICKSTART, "--run-dir", "stopped", *SHORT_QUICKSTART) as process:
        wait_until(lambda: bool(losses(run)), process)
        process.terminate()
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "codex resume stopped" in out
    outcome = json.loads((run / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 143)
    assert 0 < outcome["steps"] < STEPS
    assert newest_checkpoint(run).name == f"step-{outcome['steps']:08d}"
    said = workplace.codex("resume", "stopped")
    assert said.code == 0, said.err
    assert records(run) == records(finished)
    assert tensor_files(run) == tensor_files(finished)


def test_a_second_process_is_told_who_works_there(workplace: Workplace) -> None:
    """`run --run-dir` and `resume` on the folder of a run that is training exit 3 with the number of its process."""
    with workplace.start(
        "run", QUICKSTART, "--run-dir", "here", *SHORT_QUICKSTART, "--set", "trainer.max_steps=100000"
    ) as process:
        wait_until(lambda: bool(losses(workplace.folder / "here")), process)
        for command in (("run", QUICKSTART, "--run-dir", "here", *SHORT_QUICKSTART), ("resume", "here")):
            said = workplace.codex(*command)
            assert said.code == 3, said.err
            assert f"is in use by process {process.pid} on " in said.err
        process.kill()
        process.communicate()


def test_plan_foretells_what_the_run_has(workplace: Workplace, finished: Path) -> None:
    """Parameters, steps and disk of the plan are those of the run; without measuring there is no time."""
    said = workplace.codex("plan", QUICKSTART, *SHORT_QUICKSTART, "--no-measure", "--json")
    assert said.code == 0, said.err
    estimate = json.loads(said.out)["estimate"]
    weights = load_file(newest_checkpoint(finished) / "model" / "model.safetensors")
    count = sum(tensor.numel() for tensor in weights.values())
    assert (estimate["parameters"], estimate["trainable_parameters"]) == (count, count)
    assert 4 * count <= estimate["memory_bytes"]["weights"] < 4.01 * count  # with the model's few buffers
    assert estimate["steps"] == STEPS
    assert estimate["seconds_per_step"] is None
    events = [json.loads(line) for line in (finished / "events.ndjson").read_text().splitlines()]
    saved = [event["size_bytes"] for event in events if event["event"] == "checkpoint_saved"]
    assert 0.9 * saved[-1] < estimate["checkpoint_bytes"] < 1.1 * saved[-1]
    assert not (workplace.folder / "runs").exists()


def test_plan_times_a_few_steps(workplace: Workplace) -> None:
    """The table has the time of a step and of the whole."""
    said = workplace.codex("plan", QUICKSTART, *SHORT_QUICKSTART)
    assert said.code == 0, said.err
    assert " s a step" in said.out
    for part in ("weights", "gradients", "optimizer", "activations", "logits"):
        assert part in said.out


def test_the_model_opens_with_transformers(finished: Path) -> None:
    """A checkpoint's model/ and the run's tokenizer/ are folders that transformers knows by itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = newest_checkpoint(finished) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(finished / "tokenizer")
    saved = load_file(folder / "model.safetensors")
    held = model.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())
    ids_BT = tokenizer("def add(a, b):\n", return_tensors="pt").input_ids
    assert tokenizer.decode(ids_BT[0]) == "def add(a, b):\n"
    assert model(input_ids=ids_BT).logits.shape == (1, ids_BT.shape[1], 512)
