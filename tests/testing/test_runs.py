"""Whole runs with the test kit: in this process and in one of its own, with plugins of the test's own."""

from __future__ import annotations

import os
import sys

import pytest
from attrs import define, field, frozen

from codex_kernel import CodexError, Document, hookimpl, option
from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer, Utf8Bytes
from codex_kernel.testing import resume_run, run_manifest, toy_manifest


@define(eq=False)
class Notes:
    """A logger that keeps the steps it is told, in a file of the run's folder."""

    word: str = option("step", help="What stands before a step.")
    told: list[str] = field(init=False, factory=list)

    @hookimpl
    def codex_metrics(self, step, metrics, split):
        self.told.append(f"{self.word} {step} {split} {sorted(metrics)}")

    @hookimpl
    def codex_run_finished(self, run, outcome):
        (run.folder / "notes.txt").write_text("\n".join([*self.told, outcome.status]))


@frozen
class Failing:
    """A logger that fails at each record."""

    @hookimpl
    def codex_metrics(self):
        raise RuntimeError("the tracker is down")


@frozen
class TwoTexts:
    """A dataset of the same text twice, and others."""

    @hookimpl
    def codex_dataset(self):
        return [Document(str(n), str(n), f"text {n // 2} of {'many ' * (n // 2)}") for n in range(40)]


class Shouting(Utf8Bytes):
    """A tokenizer that is not lossless."""


@frozen
class ShoutingPlugin:
    """Gives it."""

    @hookimpl
    def codex_tokenizer(self):
        return Shouting(BytesTokenizer().codex_tokenizer().special_tokens)


PLUGINS = {"logger": {"notes": Notes, "failing": Failing}}


def test_a_whole_run_of_toys_learns(tmp_path):
    """Without any plugin but the toys a run trains, evaluates, saves, and is resumable."""
    ran = run_manifest(toy_manifest(), folder=tmp_path)
    losses = [loss for _, loss in ran.series("loss")]
    assert ran.outcome.status == "completed"
    assert ran.outcome.steps == 6
    assert losses[-1] < losses[0] - 1
    assert ran.outcome.metrics["validation/loss"] < losses[0]
    assert ran.outcome.checkpoint.endswith("step-00000006")
    assert [event["event"] for event in ran.events].count("checkpoint_saved") == 3
    assert ran.warnings == []
    assert ran.exit_code == 0


@pytest.mark.parametrize("isolated", [False, True])
def test_a_logger_of_the_test_is_told(tmp_path, isolated):
    """A class of the test module serves a whole run, in this process and in another one."""
    text = toy_manifest(loggers=[{"type": "notes", "word": "at"}])
    ran = run_manifest(text, plugins=PLUGINS, folder=tmp_path, isolated=isolated)
    notes = (ran.folder / "notes.txt").read_text().splitlines()
    assert notes[0] == "at 1 train ['loss']"
    assert notes[-2].startswith("at 6 validation ")
    assert notes[-1] == "completed"


def test_dataset_and_tokenizer_of_the_test_serve_a_run(tmp_path):
    """A third party's dataset and tokenizer are run without torch: documents are read, split, encoded, trained."""
    text = toy_manifest(dataset={"type": "two"}, tokenizer={"type": "shouting"}, loggers=[])
    plugins = {"dataset": {"two": TwoTexts}, "tokenizer": {"shouting": ShoutingPlugin}}
    ran = run_manifest(text, plugins=plugins, folder=tmp_path, sets=["trainer.max_steps=3"])
    assert ran.outcome.steps == 3
    assert "torch" not in {event.get("module") for event in ran.events}


def test_a_failing_logger_is_told(tmp_path):
    """The run goes on, and says which logger failed, and that it was detached."""
    ran = run_manifest(toy_manifest(loggers=["failing"]), plugins=PLUGINS, folder=tmp_path)
    assert ran.outcome.status == "completed"
    assert any("the tracker is down" in failure for failure in ran.failures)
    assert any("failing" in observer for observer in ran.outcome.detached)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_run_that_fails_raises_or_is_returned(tmp_path, isolated):
    """Its error is raised; with check=False what is left of the run is returned."""
    text = toy_manifest(loggers=[{"type": "failing", "on_error": "fail"}])
    with pytest.raises(CodexError, match="the tracker is down"):
        run_manifest(text, plugins=PLUGINS, folder=tmp_path / "first", isolated=isolated)
    ran = run_manifest(text, plugins=PLUGINS, folder=tmp_path / "second", isolated=isolated, check=False)
    assert ran.outcome.status == "failed"
    assert ran.exit_code == 7
    assert "the tracker is down" in str(ran.error)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_manifest_that_is_wrong_is_told(tmp_path, isolated):
    """A slip in an option is the error that `codex run` shows, with its place."""
    with pytest.raises(CodexError, match=r"trainer\.max_stepz"):
        run_manifest(
            toy_manifest(trainer={"type": "toy", "max_stepz": 1}), folder=tmp_path, isolated=isolated
        )


def test_what_is_installed_is_not_found(tmp_path):
    """A plugin that happens to be installed is no part of a run, unless the test adds it."""
    with pytest.raises(CodexError, match="not in the test's isolated catalog"):
        run_manifest(toy_manifest(trainer={"type": "torch"}), folder=tmp_path)
    target = "codex_torch.plugin:TorchTrainer"
    with pytest.raises(CodexError) as caught:
        run_manifest(
            toy_manifest(trainer={"type": "torch", "no": 1}),
            plugins={"trainer": {"torch": target}},
            folder=tmp_path / "second",
        )
    assert "unknown key 'no'" in str(caught.value)


def test_a_run_can_be_resumed(tmp_path):
    """A finished run that is resumed with more steps goes on from its checkpoint."""
    ran = run_manifest(toy_manifest(), folder=tmp_path)
    with pytest.raises(CodexError, match="max_steps"):
        resume_run(ran, folder=tmp_path, sets=["trainer.max_steps=8"])
    again = resume_run(ran, folder=tmp_path)
    assert again.outcome.steps == 6
    assert again.metrics == ran.metrics


def test_a_run_leaves_the_process_as_it_was(tmp_path):
    """Path, variables and catalog are those of before."""
    before = (dict(os.environ), list(sys.path))
    run_manifest(toy_manifest(loggers=["notes"]), plugins=PLUGINS, folder=tmp_path)
    assert (dict(os.environ), list(sys.path)) == before
    assert not [name for name in sys.modules if name.startswith("codex_added_")]


def test_a_manifest_may_be_a_file(tmp_path):
    """A path is read where it lies; relative paths of the manifest start from `folder`."""
    (tmp_path / "texts").mkdir()
    for number in range(30):
        (tmp_path / "texts" / f"{number}.py").write_text(f"number = {number}\n" * 5)
    file = tmp_path / "mine.yaml"
    file.write_text(toy_manifest(dataset={"type": "text-files", "paths": ["texts/*.py"]}))
    assert run_manifest(file, folder=tmp_path).outcome.status == "completed"
