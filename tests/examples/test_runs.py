"""Whole runs of the example packages by the real command line: a model that is not torch, a logger that mirrors it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from codex_kernel import metrics
from codex_kernel.compare import is_clock_reading
from tests.command import Workplace
from tests.examples.packages import EXAMPLES, workplace_of
from tests.resumable import kill_in_training
from tests.toys import install

SECRET_LOGGER = '''
"""A logger with a secret."""
from attrs import frozen
from codex_kernel import Secret, hookimpl

@frozen
class Tracker:
    """Sends nothing anywhere."""

    token: Secret

    @hookimpl
    def codex_metrics(self, run, step):
        assert self.token.reveal() == "hunter2-hunter2"
        if step == 1:
            run.report.warning(f"the token is {self.token}")
'''


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    """Make a workplace with an undisturbed run in the folder `whole`."""
    made = workplace_of(tmp_path_factory.mktemp("examples"))
    said = made.codex("run", "small.yaml", "--run-dir", "whole")
    assert said.code == 0, said.err
    return made


def records(folder: Path) -> list[dict]:
    """Return the records of a run without what the clock has said."""
    return [
        {name: value for name, value in record.items() if not is_clock_reading(name)}
        for record in metrics.read(folder / "metrics.ndjson")
    ]


def counts(folder: Path) -> dict[str, bytes]:
    """Return the model's files in the newest checkpoint."""
    newest = max((folder / "checkpoints").glob("step-*"))
    return {path.name: path.read_bytes() for path in sorted((newest / "model").iterdir())}


def event_reader():
    """Return the reader of event files that the logger's own tests have."""
    import importlib.util

    path = EXAMPLES / "codex-plugin-tensorboard" / "tests" / "event_reader.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers(folder: Path) -> list[tuple[int, str, float]]:
    """Return (step, tag, value) of the numbers in a run's event files, as they stand there."""
    return [
        (read.step, read.tag, read.value)
        for read in event_reader().read(folder / "tensorboard")
        if isinstance(read.value, float)
    ]


def told(folder: Path) -> list[tuple[int, str, float]]:
    """Return (step, tag, value) of the run's own records; event files have 32 bits of a number."""
    import numpy as np

    own = ("schema", "run_id", "time", "step", "epoch", "tokens", "split", "nonfinite")
    return [
        (record["step"], f"{record['split']}/{name}", float(np.float32(value)))
        for record in metrics.read(folder / "metrics.ndjson")
        for name, value in record.items()
        if name not in own
    ]


# ── a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_learns(workplace):
    """One pass over a small package's source is far below the 8 bits a byte of knowing nothing, and torch is not there.

    The first loss is that of the uniform distribution.
    """
    trained = [record for record in records(workplace.folder / "whole") if record["split"] == "train"]
    assert trained[0]["loss"] == pytest.approx(math.log(257))
    outcome = json.loads((workplace.folder / "whole" / "outcome.json").read_text())
    assert outcome["status"] == "completed"
    assert outcome["metrics"]["validation/bits_per_byte"] < 3


def test_the_kernels_metrics_are_right(workplace):
    """Perplexity is the exponential of the loss, and bits per byte follow from it, a token being a byte."""
    for record in records(workplace.folder / "whole"):
        if record["split"] == "validation":
            assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
            # An end of text is a token of no byte.
            assert record["bits_per_byte"] == pytest.approx(record["loss"] / math.log(2), rel=0.01)


def test_the_logger_mirrors_the_run(workplace):
    """The event files have the numbers of `metrics.ndjson`, all of them, in their order, once, and the settings."""
    folder = workplace.folder / "whole"
    assert numbers(folder) == told(folder)
    shown = {read.tag: (read.step, read.value) for read in event_reader().read(folder / "tensorboard")}
    assert shown["settings"][0] == 0
    assert "| trainer.global_batch_size | 8 |" in shown["settings"][1]
    assert shown["events/outcome"][1].startswith("completed: ")
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info", "events/checkpoint_saved"} <= set(
        shown
    )


@pytest.mark.parametrize("percent", [20, 70])
def test_killed_and_resumed_it_ends_the_same(workplace, percent):
    """Killed by SIGKILL and resumed, a run has the records and the counts, to the bit, of one that was not.

    And its event files have each step once, with nothing of what was done after the checkpoint that it went on from.
    """
    name = f"killed-{percent}"
    folder = workplace.folder / name
    size = (workplace.folder / "whole" / "metrics.ndjson").stat().st_size * percent // 100
    assert kill_in_training(workplace, size, "run", "small.yaml", "--run-dir", name, folder=folder) is None
    command = ["run", "small.yaml", "--run-dir", name, "--resume", "auto"]
    said = workplace.codex(*command)
    assert said.code == 0, said.err
    assert records(folder) == records(workplace.folder / "whole")
    assert counts(folder) == counts(workplace.folder / "whole")
    assert sorted(numbers(folder)) == sorted(told(folder))
    steps = [step for step, tag, _ in numbers(folder) if tag == "train/loss"]
    assert steps == sorted(set(steps))


# ── the other commands ────────────────────────────────────────────────────────────────────────────────────────────


def test_verify_resume_finds_it_identical(workplace):
    """`codex verify-resume` rehearses it: shortened by its own hook, killed, compared."""
    said = workplace.codex("verify-resume", "small.yaml", "--kills", "2", "--seed", "1")
    assert said.code == 0, said.err
    assert "identical: 20 steps" in said.out


def test_plan_foretells_it(workplace):
    """`codex plan` has its steps and an upper bound of its size, and its probes pass."""
    said = workplace.codex("plan", "small.yaml", "--probe", "--json")
    assert said.code == 0, said.err
    whole = records(workplace.folder / "whole")
    steps, ngrams = max(r["step"] for r in whole), max(r.get("ngrams", 0) for r in whole)
    estimate = json.loads(said.out)["estimate"]
    assert estimate["steps"] == steps
    assert estimate["parameters"] >= ngrams


def test_generation_follows_the_seed(workplace):
    """One seed gives one text, another one another; at temperature 0 there is no chance in it."""

    def text(*arguments: str) -> str:
        said = workplace.codex("generate", "whole", "--prompt", "def ", "--max-new-tokens", "60", *arguments)
        assert said.code == 0, said.err
        return said.out

    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")
    assert text("--temperature", "0", "--seed", "1") == text("--temperature", "0", "--seed", "2")


def test_an_order_that_does_not_fit_is_refused(workplace):
    """More tokens than a key has room for are an error that says how many fit, before anything is trained."""
    said = workplace.codex("run", "small.yaml", "--run-dir", "wrong", "--set", "model.order=8")
    assert said.code != 0
    assert "8 tokens of 9 bits do not fit into 64 bits" in said.err
    assert "set model.order to 7" in said.err
    assert "Traceback" not in said.err


def test_secrets_are_not_in_the_event_files(tmp_path):
    """A secret of another section is shown as its reference, and its value is in no file of the logger."""
    workplace = workplace_of(tmp_path, TOKEN="hunter2-hunter2")
    install(
        workplace.site,
        "codex-tracker",
        {"codex.loggers": {"tracker": "codex_tracker:Tracker"}},
        modules={"codex_tracker": SECRET_LOGGER},
    )
    loggers = 'loggers=[tensorboard, {type: tracker, token: "${env:TOKEN}"}]'
    said = workplace.codex(
        "run", "small.yaml", "--run-dir", "r", "--set", loggers, "--set", "trainer.epochs=0.1"
    )
    assert said.code == 0, said.err
    content = b"".join(path.read_bytes() for path in (tmp_path / "r" / "tensorboard").iterdir())
    assert b"hunter2" not in content
    assert b"the token is ${env:TOKEN}" in content
    assert b".token | ${env:TOKEN} |" in content
