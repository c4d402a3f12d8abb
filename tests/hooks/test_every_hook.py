"""A test for each hook, named after it: when it is called, in which order, with what, and what its answer does.

The plugins are those of codex_spy.py: a set of toys that write down how they are called, in real commands.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve

from codex_kernel import hookspecs, metrics
from tests.command import Said, Workplace, toy_workplace
from tests.toys import install

SPY = Path(__file__).parent / "codex_spy.py"
KINDS = (
    *("dataset", "cleaner", "tokenizer", "model", "adapter", "checkpointer", "trainer", "metric", "logger"),
)
MANIFEST = """\
name: spied
dataset: {type: spy, copies: 1}
cleaners: [{type: spy, word: f7}, {type: spy, word: f8}]
tokenizer: spy
data: {seq_len: 32, validation_fraction: 0.2}
model: spy
adapters: [{type: spy, name: inner}, {type: spy, name: outer}]
trainer: {type: spy, max_steps: 4}
checkpointer: {type: spy, every_steps: 2}
evaluate: {metrics: [{type: spy}, {type: spy, name: other, value: 2.5}]}
loggers: [{type: spy}, {type: spy, name: second}]
"""


@define(eq=False)
class Watched:
    """A command that was watched: what it said, and each call of a hook."""

    said: Said
    calls: list[dict[str, Any]]
    folder: Path

    def of(self, hook: str, who: str | None = None) -> list[dict[str, Any]]:
        """Return the calls of one hook (of one plugin)."""
        return [call for call in self.calls if call["hook"] == hook and who in (None, call["who"])]

    def place(self, hook: str, nth: int = 0) -> int:
        """Return where among the calls of the main thread the nth one of a hook is."""
        main = [call["hook"] for call in self.calls if call["thread"] == "MainThread"]
        return [place for place, name in enumerate(main) if name == hook][nth]


@define(eq=False)
class Watch:
    """A workplace whose commands are watched."""

    workplace: Workplace
    number: int = 0

    def codex(self, *arguments: str | Path) -> Watched:
        """Run a command and return what was seen of it."""
        self.number += 1
        path = self.workplace.folder / f"spy-{self.number}.ndjson"
        said = evolve(self.workplace, variables={"SPY": str(path)}).codex(*arguments)
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return Watched(said, calls, self.workplace.folder)

    def run(self, *settings: str) -> Watched:
        """Run the manifest into a folder of its own, with settings over it."""
        sets = [word for setting in settings for word in ("--set", setting)]
        return self.codex("run", "spied.yaml", "--run-dir", f"run-{self.number + 1}", *sets)


def watch_in(folder: Path) -> Watch:
    """Make a workplace with the spies."""
    workplace = toy_workplace(folder)
    shutil.copy(SPY, workplace.site)
    groups = {f"codex.{kind}s": {"spy": f"codex_spy:{kind.title()}"} for kind in KINDS}
    groups["codex.datasets"]["made"] = "codex_spy:Made"
    install(workplace.site, "codex-spy", groups)
    workplace.write("spied.yaml", MANIFEST)
    return Watch(workplace)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Run the manifest once, for all tests that only look."""
    watched = watch_in(tmp_path_factory.mktemp("spied")).run()
    assert watched.said.code == 0, watched.said.err
    return watched


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Make a workplace of one's own."""
    return watch_in(tmp_path)


def records(watched: Watched, name: str) -> list[dict[str, Any]]:
    """Return the records of a log of the run."""
    return list(metrics.read(watched.folder / "run-1" / name))


def hooks() -> list[str]:
    """Return every hook, in the order of the specifications."""
    return [name for group in hookspecs.SPECS for name in vars(group) if name.startswith("codex_")]


def test_every_hook_has_a_test_here_that_is_named_after_it() -> None:
    """In the order of the specifications; no test is left of a hook that is gone."""
    text = Path(__file__).read_text(encoding="utf-8")
    tested = re.findall(r"^def test_(codex_\w+?)__", text, re.MULTILINE)
    assert list(dict.fromkeys(tested)) == hooks()


def test_the_hooks_that_are_called_in_a_run_are_called_in_their_order(run: Watched) -> None:
    """Providers in the main thread, in the order of the page; every observer in the one thread of its own."""
    main = [call["hook"] for call in run.calls if call["thread"] == "MainThread" and call["hook"] != "clean"]
    assert list(dict.fromkeys(main)) == [
        "codex_preflight",
        "codex_dataset",
        "codex_cleaner",
        "codex_tokenizer",
        "codex_mixing",
        "codex_model",
        "codex_checkpointer",
        "codex_trainer",
        "codex_metric",
    ]
    observers = {call["hook"] for call in run.calls if call["thread"] == "codex-observers"}
    assert observers == {name for name in hooks() if name in vars(hookspecs.LoggerSpecs)}
    assert {call["thread"] for call in run.calls} == {"MainThread", "codex-observers"}


# ── before anything is built ──────────────────────────────────────────────────────────────────────────────────────


def test_codex_preflight__is_called_before_anything_is_built_and_its_answers_end_the_command(
    run: Watched, watch: Watch
) -> None:
    """It is given base and cache; each sentence is a fault at its section's place, and no folder is made."""
    (call,) = run.of("codex_preflight")
    assert run.place("codex_preflight") == 0
    assert (call["base"], call["cache"]) == (str(run.folder), str(run.folder / "cache"))
    for command in (
        ("run", "spied.yaml", "--run-dir", "r"),
        ("validate", "spied.yaml"),
        ("plan", "spied.yaml"),
    ):
        wrong = watch.codex(*command, "--set", "dataset.problems=[no disk, no net]")
        assert wrong.said.code == 2
        assert "$.dataset: no disk\n" in wrong.said.err
        assert "$.dataset: no net\n" in wrong.said.err
        assert [call["hook"] for call in wrong.calls] == ["codex_preflight"]
    assert not (watch.workplace.folder / "r").exists()


def test_codex_shorten__is_asked_of_every_plugin_and_its_answer_is_the_rehearsal(watch: Watch) -> None:
    """By `codex verify-resume` alone: what it gives replaces options of its own section; None leaves them."""
    rehearsed = watch.codex("verify-resume", "spied.yaml", "--kills", "0", "--steps", "3", "--keep")
    assert rehearsed.said.code == 0, rehearsed.said.err
    asked = [(call["who"], call["steps"]) for call in rehearsed.of("codex_shorten")]
    assert sorted(asked) == [("checkpointer", 3), ("dataset", 3), ("trainer", 3)]
    kept = re.search(r"kept: (.+)", rehearsed.said.err)
    assert kept
    manifest = (Path(kept[1]) / "manifest.yaml").read_text()
    assert "copies: 2\n" in manifest
    assert "max_steps: 3\n" in manifest
    assert "every_steps: 2\n" in manifest
    shutil.rmtree(kept[1])


def test_codex_shorten__is_not_called_by_a_run(run: Watched) -> None:
    """A run is never shortened."""
    assert run.of("codex_shorten") == []


# ── providers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_codex_dataset__gives_the_documents_first_of_all_providers(run: Watched, watch: Watch) -> None:
    """Once, with the run; its answer is what is trained on, and a run without an answer ends with 7."""
    (call,) = run.of("codex_dataset")
    assert run.place("codex_dataset") == run.place("codex_preflight") + 1
    assert (call["folder"], call["rank"], call["seed"]) == (str(run.folder / "run-1"), 0, 17)
    assert call["sources"] == {}
    data = json.loads((run.folder / "run-1" / "data.json").read_text())
    assert sum(split["documents"] for split in data["splits"].values()) == 58  # sixty, and two cleaned away
    silent = watch.run("dataset.empty=true")
    assert silent.said.code == 7
    assert "no plugin of this manifest implements codex_dataset" in silent.said.err


def test_codex_dataset__of_others_is_given_their_documents_by_name(watch: Watch) -> None:
    """The sources answer before it, each alone."""
    watch.workplace.write(
        "made.yaml",
        MANIFEST.replace(
            "{type: spy, copies: 1}", "{type: made, sources: {a: spy, b: {type: toy, copies: 2}}}"
        ),
    )
    said = watch.codex("data", "validate", "made.yaml")
    assert said.said.code == 0, said.said.err
    assert [(call["who"], call["sources"]) for call in said.of("codex_dataset")] == [
        ("dataset", {}),
        ("made", {"a": 60, "b": 120}),
    ]


def test_codex_mixing__is_asked_after_the_dataset_and_its_shares_decide_the_order(
    run: Watched, watch: Watch
) -> None:
    """None: all blocks equally often; weights: so often is each source gone through, which the events say."""
    assert len(run.of("codex_mixing")) == 1
    assert run.place("codex_mixing") > run.place("codex_dataset")
    assert "mixture" not in {event["event"] for event in records(run, "events.ndjson")}
    mixed = watch.run("dataset.even=3")
    assert mixed.said.code == 0, mixed.said.err
    (event,) = [event for event in records(mixed, "events.ndjson") if event["event"] == "mixture"]
    assert event["passes"]["even"] > 2 * event["passes"]["odd"]


def test_codex_cleaner__is_asked_in_the_order_of_the_manifest_and_each_step_sees_what_was_kept(
    run: Watched, watch: Watch
) -> None:
    """Anew for each pass; what a step drops, those after it are not given; None: nothing to do."""
    first, second = run.of("codex_cleaner")[:2]
    assert (first["who"], second["who"]) == ("f7", "f8")
    assert first["folder"] == str(run.folder / "run-1")
    assert run.place("codex_cleaner") > run.place("codex_dataset")
    passes = len(run.of("codex_cleaner")) // 2
    assert [call["who"] for call in run.of("clean")] == ["f7", "f8"] * (len(run.of("clean")) // 2)
    assert passes >= 1
    steps = json.loads((run.folder / "run-1" / "data.json").read_text())["cleaning"]
    assert [step["dropped"] for step in steps] == [1, 1]
    idle = watch.run("cleaners=[spy]")
    assert idle.said.code == 0, idle.said.err
    assert idle.of("clean") == []


def test_codex_tokenizer__is_given_the_texts_of_the_training_split_and_later_what_it_saved(
    run: Watched, watch: Watch
) -> None:
    """A new run: the corpus, nothing saved. Resumed: the folder that it filled. Generate: that, and no corpus."""
    (call,) = run.of("codex_tokenizer")
    assert run.place("codex_tokenizer") > run.place("codex_cleaner")
    assert call["saved"] is None
    assert 30 < call["texts"] < 58
    (trainer,) = run.of("codex_trainer")
    assert trainer["tokenizer"] == "Words"
    assert (run.folder / "run-1" / "tokenizer" / "words.txt").exists()

    watch.run()
    saved = str(watch.workplace.folder / "run-1" / "tokenizer")
    resumed = watch.codex(
        "resume", "run-1", "--set", "trainer.max_steps=5", "--allow-change", "trainer.max_steps"
    )
    assert resumed.said.code == 0, resumed.said.err
    assert [call["saved"] for call in resumed.of("codex_tokenizer")] == [saved]
    generated = watch.codex("generate", "run-1", "--prompt", "x")
    assert [(call["texts"], call["saved"]) for call in generated.of("codex_tokenizer")] == [(None, saved)]
    silent = watch.run("tokenizer.empty=true")
    assert "no plugin of this manifest implements codex_tokenizer" in silent.said.err


def test_codex_model__is_given_the_tokenizer_and_what_the_adapters_return_is_trained(
    run: Watched, watch: Watch
) -> None:
    """The last adapter of the manifest is outermost: it begins first and ends last."""
    calls = run.of("codex_model")
    assert [call["who"] for call in calls] == [
        "outer before",
        "inner before",
        "model",
        "inner after",
        "outer after",
    ]
    assert run.place("codex_model") > run.place("codex_tokenizer")
    assert (calls[2]["tokenizer"], calls[2]["materialize"]) == ("Words", True)
    assert [call["mean"] for call in calls[3:]] == [0.0, 1.0]
    assert run.of("codex_trainer")[0]["model"] == 2.0
    planned = watch.codex("plan", "spied.yaml", "--no-measure")
    assert planned.said.code == 0, planned.said.err
    assert [call["materialize"] for call in planned.of("codex_model", "model")] == [False]


def test_codex_checkpointer__is_given_the_folder_and_whether_it_may_write(run: Watched, watch: Watch) -> None:
    """After the model; what it returns is what the trainer saves with. Generate and plan only read."""
    (call,) = run.of("codex_checkpointer")
    assert run.place("codex_checkpointer") > run.place("codex_model", -1)
    assert (call["place"], call["read_only"]) == (str(run.folder / "run-1" / "checkpoints"), False)
    assert run.of("codex_trainer")[0]["checkpointer"] == "JsonFiles"
    assert (run.folder / "run-1" / "checkpoints" / "step-00000002").is_dir()
    watch.run()
    for command in (("generate", "run-1", "--prompt", "x"), ("plan", "spied.yaml")):
        assert [call["read_only"] for call in watch.codex(*command).of("codex_checkpointer")] == [True]


def test_codex_trainer__is_given_all_parts_last_of_all_and_is_what_trains(run: Watched) -> None:
    """The parts are those that the other plugins gave."""
    (call,) = run.of("codex_trainer")
    assert run.place("codex_trainer") == run.place("codex_checkpointer") + 1
    assert (call["tokenizer"], call["checkpointer"], call["model"]) == ("Words", "JsonFiles", 2.0)
    assert call["blocks"] > 0
    assert json.loads((run.folder / "run-1" / "outcome.json").read_text())["steps"] == 4


def test_codex_generate__is_called_by_generate_alone_and_its_pieces_are_printed(
    run: Watched, watch: Watch
) -> None:
    """With the model as it was built, the checkpoint's state beside it, and what was asked for."""
    assert run.of("codex_generate") == []
    watch.run()
    generated = watch.codex("generate", "run-1", "--prompt", "zero ", "--temperature", "0")
    assert (generated.said.code, generated.said.out) == (0, "zero one two\n"), generated.said.err
    (call,) = generated.of("codex_generate")
    assert (call["prompt"], call["temperature"], call["tokenizer"], call["model"]) == (
        "zero ",
        0.0,
        "Words",
        2.0,
    )
    assert call["state"] == ["model/table.json", "trainer.json"]


def test_codex_metric__is_called_after_each_evaluation_and_its_numbers_are_recorded(
    run: Watched, watch: Watch
) -> None:
    """In the training thread, with the sums; two that give one name end the run with 7."""
    calls = run.of("codex_metric")
    assert {call["who"] for call in calls} == {"spied", "other"}
    assert {call["thread"] for call in calls} == {"MainThread"}
    assert all(call["tokens"] > 0 and call["bytes"] > 0 for call in calls)
    (record,) = [record for record in records(run, "metrics.ndjson") if record["split"] == "validation"]
    assert (record["spied"], record["other"]) == (0.5, 2.5)
    assert record["loss"] == pytest.approx(calls[0]["loss"] / calls[0]["tokens"])
    twice = watch.run("evaluate.metrics=[{type: spy}, {type: spy, value: 3}]")
    assert twice.said.code == 7
    assert "metric 'spy' (codex-spy 1.0) gives the metric 'spied', which another one gives" in twice.said.err


# ── observers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_codex_run_started__is_the_first_of_a_run_and_of_a_resume_with_the_flat_manifest(
    run: Watched, watch: Watch
) -> None:
    """Once for each logger, in the order of the manifest, before whatever else observers are told."""
    first, second = run.of("codex_run_started")
    assert (first["who"], second["who"]) == ("spy", "second")
    assert first["folder"] == str(run.folder / "run-1")
    settings = first["settings"]
    assert (settings["trainer.max_steps"], settings["trainer.type"], settings["loggers.1.name"]) == (
        4,
        "spy",
        "second",
    )
    observed = [call["hook"] for call in run.calls if call["thread"] == "codex-observers"]
    assert observed[:2] == ["codex_run_started", "codex_run_started"]
    assert {"codex_event", "codex_activity", "codex_metrics"} <= set(observed[2:])
    watch.run()
    resumed = watch.codex(
        "resume", "run-1", "--set", "trainer.max_steps=5", "--allow-change", "trainer.max_steps"
    )
    assert len(resumed.of("codex_run_started", "spy")) == 1


def test_codex_activity__tells_how_far_the_work_before_training_is(run: Watched) -> None:
    """Its end is always told: done equals total."""
    activities = {call["name"]: call for call in run.of("codex_activity", "spy")}
    built = activities["build model"]
    assert (built["done"], built["total"], built["unit"]) == (1, 1, "")
    assert len(activities) > 1


def test_codex_metrics__is_given_each_record_of_every_split_in_order(run: Watched) -> None:
    """What is in metrics.ndjson, with the step and the progress that it was made at."""
    told = [(call["split"], call["step"]) for call in run.of("codex_metrics", "spy")]
    assert [step for split, step in told if split == "train"] == [1, 2, 3, 4]
    assert told.count(("validation", 4)) == 1
    assert all(call["at"] == call["step"] for call in run.of("codex_metrics"))
    written = {(r["split"], r["step"]): r for r in records(run, "metrics.ndjson")}
    assert set(told) == set(written)
    for call in run.of("codex_metrics", "second"):
        record = written[call["split"], call["step"]]
        assert {name: record[name] for name in call["metrics"]} == call["metrics"]


def test_codex_collect_metrics__is_asked_after_each_record_of_training_and_all_are_told_the_answers(
    run: Watched,
) -> None:
    """What all give together is one record of the split `system`; None gives none."""
    assert [call["step"] for call in run.of("codex_collect_metrics", "spy")] == [1, 2, 3, 4]
    system = [call for call in run.of("codex_metrics", "spy") if call["split"] == "system"]
    assert [(call["step"], call["metrics"]) for call in system] == [
        (1, {"spy_heat": 21.0, "second_heat": 21.0}),
        (3, {"spy_heat": 23.0, "second_heat": 23.0}),
    ]
    calls = [call for call in run.calls if call["who"] == "spy"]
    for call in run.of("codex_collect_metrics", "spy"):
        before = calls[calls.index(call) - 1]
        assert (before["hook"], before["split"], before["step"]) == ("codex_metrics", "train", call["step"])


def test_codex_event__is_given_each_record_of_the_events_warnings_included(
    run: Watched, watch: Watch
) -> None:
    """Its name and the rest of the record; the failure of another logger is a warning."""
    told = [call["name"] for call in run.of("codex_event", "spy")]
    written = [event["event"] for event in records(run, "events.ndjson")]
    assert [name for name in written if name not in {"checkpoint_saved", "run_finished"}] == [
        name for name in told if name != "run_finished"
    ]
    first = run.of("codex_event", "spy")[0]
    assert first["name"] == "run_started"
    assert first["fields"]["command"][1:3] == ["run", "spied.yaml"]
    failing = watch.run("loggers.1.raises=codex_metrics")
    warnings = [c["fields"]["message"] for c in failing.of("codex_event", "spy") if c["name"] == "warning"]
    assert warnings[0] == "logger 'spy' (codex-spy 1.0) failed in codex_metrics: RuntimeError: asked to"
    assert warnings[-1].endswith("it is detached from this run")
    assert len(failing.of("codex_metrics", "second")) == 3


def test_codex_checkpoint_saved__is_told_when_the_checkpoint_is_safe_on_disk(run: Watched) -> None:
    """Its step, path, size and metrics; its folder is there."""
    told = [
        (call["step"], call["there"], call["size"] > 0) for call in run.of("codex_checkpoint_saved", "spy")
    ]
    assert told == [(2, True, True), (4, True, True), (4, True, True)]
    assert set(run.of("codex_checkpoint_saved")[0]["metrics"]) == {"train/loss"}


def test_codex_run_finished__is_the_last_however_the_run_ended(run: Watched, watch: Watch) -> None:
    """Once for each logger, with the outcome; one that must not fail decides the exit code."""
    observed = [(call["hook"], call["who"]) for call in run.calls if call["thread"] == "codex-observers"]
    assert observed[-2:] == [("codex_run_finished", "spy"), ("codex_run_finished", "second")]
    (call,) = run.of("codex_run_finished", "spy")
    assert (call["status"], call["steps"]) == ("completed", 4)
    failed = watch.run("trainer.fail_at=2")
    (call,) = failed.of("codex_run_finished", "spy")
    assert (failed.said.code, call["status"], call["steps"]) == (7, "failed", 2)
    strict = watch.run("loggers.0.raises=codex_run_finished", "loggers.0.on_error=fail")
    assert (strict.said.code, len(strict.of("codex_run_finished"))) == (7, 2), strict.said.err
