"""Sections within a section: the datasets that a dataset is made of are read, told and kept like any plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from attrs import frozen

from codex_kernel import Sources, changes, hookimpl, option
from codex_kernel.catalog import Catalog
from codex_kernel.changes import ABSENT
from codex_kernel.errors import InputError, ManifestError, PluginError
from codex_kernel.hooks import Hooks
from codex_kernel.manifest import load
from codex_kernel.option_types import is_made_of_sources
from codex_kernel.plan import Plan, preflight, resolve
from codex_kernel.rehearse import shortened
from codex_kernel.schema import manifest_schema
from codex_kernel.testing import make_run
from tests.command import Workplace, toy_workplace
from tests.toys import install, install_toys

MANIFEST = """\
name: mixed
dataset:
  type: mixture
  sources:
    code: toy
    chat:
      type: jsonl
      paths: [chat.jsonl]
  weights: {code: 3, chat: 1}
tokenizer: bytes
data: {seq_len: 32, validation_fraction: 0.2}
model: toy
trainer: {type: toy, max_steps: 6}
checkpointer: {type: toy, every_steps: 2}
loggers: [toy]
"""
CHAT = "".join(json.dumps({"text": f"question {i}: what is {i} and {i}?"}) + "\n" for i in range(40))
OTHERS = """
import sys
from attrs import frozen
from codex_kernel import Document, InputError, Sources, hookimpl, option

@frozen
class Telling:
    every: int = option(1, help="A number.", on_resume="curve")

    @hookimpl
    def codex_shorten(self, steps):
        return {"every": steps}

    @hookimpl
    def codex_dataset(self):
        raise InputError("dataset.every: is odd", remedy="make it even")

    @hookimpl
    def codex_run_started(self):
        sys.stdout.write("the source watches\\n")


@frozen
class Failing:
    @hookimpl
    def codex_dataset(self):
        raise RuntimeError("boom")


@frozen
class Other:
    parts: Sources = option(help="Sections.")

    @hookimpl
    def codex_dataset(self): ...
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the toys and some odd datasets."""
    folder = install_toys(tmp_path_factory.mktemp("site"))
    names = {name.lower(): f"codex_odd_datasets:{name}" for name in ("Telling", "Failing", "Other")}
    install(folder, "codex-odd", {"codex.datasets": names}, modules={"codex_odd_datasets": OTHERS})
    return folder


@pytest.fixture
def planned(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that plans the manifest with some overrides and override files."""
    monkeypatch.syspath_prepend(site)
    path = tmp_path / "mixed.yaml"
    path.write_text(MANIFEST)
    (tmp_path / "chat.jsonl").write_text(CHAT)

    def plan(*sets: str, over: str | None = None) -> Plan:
        files = []
        if over is not None:
            (tmp_path / "over.yaml").write_text(over)
            files = [tmp_path / "over.yaml"]
        problems: list[Any] = []
        return resolve(load(path, files, sets, problems), Catalog.scan(), problems)

    return plan


def said(planned: Any, *sets: str, **more: Any) -> list[str]:
    """Return what is wrong with the manifest, without the folder."""
    with pytest.raises(ManifestError) as caught:
        planned(*sets, **more)
    return [str(problem).rpartition("mixed.yaml")[2] for problem in caught.value.problems]


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_source_is_written_out_with_every_default(planned: Any) -> None:
    """Its short form too; the resolved manifest is the same run again."""
    resolved = planned().resolved()
    assert resolved["dataset"]["sources"]["code"] == {"type": "toy", "copies": 1}
    assert resolved["dataset"]["sources"]["chat"]["type"] == "jsonl"
    assert resolved["dataset"]["sources"]["chat"]["completion"] == "completion"
    assert list(resolved["dataset"]) == ["type", "sources", "weights", "schedule"]
    assert planned(over=yaml.safe_dump(resolved, sort_keys=False)).resolved() == resolved


def test_every_plugin_is_in_the_lock(planned: Any) -> None:
    """The sources follow the dataset that is made of them."""
    names = [row["name"] for row in planned().lock()["plugins"]]
    assert names[:4] == ["mixture", "toy", "jsonl", "bytes"]


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        (
            ["dataset.sources.code.copes=2"],
            "$.dataset.sources.code.copes: unknown key 'copes' (did you mean 'copies'?)",
        ),
        (["dataset.sources.code.copies=0"], "$.dataset.sources.code.copies: expected a number > 0, got 0"),
        (
            ["dataset.sources.code.copies=two"],
            "$.dataset.sources.code.copies: expected an integer, got 'two'",
        ),
        (
            ["dataset.sources.code.type=toi"],
            "$.dataset.sources.code: unknown dataset 'toi' (did you mean 'toy'?)",
        ),
        (["dataset.sources.code.on_error=fail"], "unknown key 'on_error': only a logger may fail"),
        (["dataset.sources.code=3"], "$.dataset.sources.code: expected a plugin's name, or a mapping"),
        (["dataset.sources.code={}"], "$.dataset.sources.code.type: missing 'type'"),
        (["dataset.sources={}"], "$.dataset.sources: expected at least one source, got none"),
        (["dataset.sources=[toy]"], "$.dataset.sources: expected a mapping of names to sections"),
        (['dataset.sources={"a:b": toy}'], "$.dataset.sources: expected the name of a source"),
        (
            ["dataset.sources.code={type: mixture, sources: {a: toy}}"],
            "$.dataset.sources.code.type: a source is a dataset by itself, and 'mixture' is made of sources",
        ),
        (
            ["dataset={type: other, parts: {a: toy}}"],
            "Other declares parts as Sources (call the one such option",
        ),
    ],
)
def test_what_is_wrong_in_a_source_is_said_as_anywhere(planned: Any, sets: list[str], problem: str) -> None:
    """With the path of the option, and what is near."""
    assert any(problem in line for line in said(planned, *sets)), said(planned, *sets)


def test_all_faults_are_found_at_once(planned: Any) -> None:
    """Those of both sources and of the mixture itself, each at its own place."""
    wrong = MANIFEST.replace("code: toy", "code: {type: toy, x: 1}").replace("paths:", "path:")
    with pytest.raises(ManifestError) as caught:
        planned(over=wrong.replace("chat: 1}", "chta: 1}"))
    found = [(problem.where.rpartition("/")[2], problem.path) for problem in caught.value.problems]
    assert found == [
        ("mixed.yaml:9:12", "$.dataset.weights"),
        ("over.yaml:5:23", "$.dataset.sources.code.x"),
        ("over.yaml:8:7", "$.dataset.sources.chat.path"),
    ]


def test_an_override_file_lays_over_a_source(planned: Any) -> None:
    """Mappings merge; another type drops the options that the former plugin had."""
    over = planned(over="dataset: {sources: {chat: {text: body}}}").resolved()["dataset"]["sources"]
    assert (over["chat"]["text"], over["chat"]["paths"]) == ("body", ["chat.jsonl"])
    over = planned(over="dataset: {sources: {chat: {type: toy, copies: 2}}}").resolved()["dataset"]["sources"]
    assert over["chat"] == {"type": "toy", "copies": 2}


def test_a_source_can_be_set_on_the_command_line(planned: Any) -> None:
    """Below its short form, and with another type, whatever the order."""
    assert planned("dataset.sources.code.copies=2").resolved()["dataset"]["sources"]["code"]["copies"] == 2
    for sets in (
        ("dataset.sources.chat.type=toy", "dataset.sources.chat.copies=3"),
        ("dataset.sources.chat.copies=3", "dataset.sources.chat.type=toy"),
    ):
        assert planned(*sets).resolved()["dataset"]["sources"]["chat"] == {"type": "toy", "copies": 3}


def test_preflight_names_the_source(planned: Any, tmp_path: Path) -> None:
    """The path of the section within the section."""
    with pytest.raises(ManifestError) as caught:
        preflight(planned("dataset.sources.code.copies=101"), tmp_path, tmp_path / "cache")
    [problem] = caught.value.problems
    assert (problem.path, problem.message) == ("$.dataset.sources.code", "too many copies")


# ── running ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_documents_of_the_sources_are_those_of_the_dataset(planned: Any, tmp_path: Path) -> None:
    """Each source is a dataset by itself, asked once."""
    hooks = planned("dataset.sources.chat=failing", "dataset.sources.chat={type: toy, copies: 2}").hooks()
    documents = list(hooks.dataset(make_run(tmp_path)))
    assert [sum(d.source == name for d in documents) for name in ("code", "chat")] == [60, 120]
    mixing = hooks.mixing()
    assert mixing is not None
    assert mixing.weights == {"code": 3, "chat": 1}


def test_what_a_source_raises_is_its_own(planned: Any, tmp_path: Path) -> None:
    """A wrong option is said with the source's name, a fault with the plugin's."""
    with pytest.raises(InputError, match=r"source 'code': dataset\.every: is odd") as caught:
        planned("dataset.sources.code.type=telling").hooks().dataset(make_run(tmp_path))
    assert caught.value.remedy == "make it even"
    with pytest.raises(
        PluginError, match=r"dataset 'failing' \(codex-odd 1.0\) failed in codex_dataset: .*boom"
    ):
        planned("dataset.sources.code.type=failing").hooks().dataset(make_run(tmp_path))


def test_a_source_observes_and_is_shortened_like_any_plugin(
    planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hooks other than its documents are called too."""
    plan = planned("dataset.sources.code.type=telling")
    plan.hooks().run_started(make_run(tmp_path), {})
    assert capsys.readouterr().out == "the source watches\n"
    assert shortened(plan, plan.hooks(), 4)["dataset"]["sources"]["code"] == {"type": "telling", "every": 4}


def test_a_failing_observer_of_a_source_is_reported() -> None:
    """To whoever listens to the run's hooks, whenever it began to."""

    @frozen
    class Watching:
        @hookimpl
        def codex_event(self) -> None:
            raise ValueError("no")

    hooks, failures = Hooks(), []
    hooks.add_source("code", Watching(), "watching")
    hooks.on_observer_failure = failures.append
    for _ in range(4):
        hooks.event(None, "x", {})  # type: ignore[arg-type]
    assert [failure.detached for failure in failures] == [False, False, True]


def test_only_the_named_option_may_hold_sections() -> None:
    """`sources`, once."""

    @frozen
    class Right:
        sources: Sources = option(help="Sections.")

    @frozen
    class Plain:
        sources: int = option(1, help="A number.")

    Right.__annotations__["sources"], Plain.__annotations__["sources"] = Sources, int
    assert is_made_of_sources(Right)
    assert not is_made_of_sources(Plain)


# ── going on ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (["dataset.sources.code.copies=2"], ("dataset.sources.code.copies", 1, 2, "harmless")),
        (["dataset.sources.chat.text=body"], ("dataset.sources.chat.text", "text", "body", "harmless")),
        (
            ["dataset.sources.code={type: telling}"],
            ("dataset.sources.code.type", "toy", "telling", "harmless"),
        ),
        (["dataset.weights.chat=2"], ("dataset.weights.chat", 1.0, 2.0, "refused")),
        (
            ["dataset.schedule=[{from_tokens: 5, weights: {code: 1, chat: 1}}]"],
            ("dataset.schedule", [], [{"from_tokens": 5, "weights": {"code": 1.0, "chat": 1.0}}], "refused"),
        ),
    ],
)
def test_changes_are_found_within_a_source(planned: Any, now: list[str], change: tuple[Any, ...]) -> None:
    """Data is compared by its fingerprint, so a source may be written otherwise; other shares are another run."""
    found = changes.between(planned().resolved(), planned(*now))
    assert [(one.key, one.was, one.now, one.meaning) for one in found] == [change]


def test_an_option_of_a_source_means_what_its_plugin_says(planned: Any) -> None:
    """Also within the section of another."""
    before = planned("dataset.sources.code.type=telling")
    plan = planned("dataset.sources.code.type=telling", "dataset.sources.code.every=5")
    [change] = changes.between(before.resolved(), plan)
    assert (change.key, change.meaning) == ("dataset.sources.code.every", "curve")
    changes.check([change], before.resolved(), plan, ["dataset.sources.code.every"])


def test_a_source_that_comes_or_goes_is_one_change(planned: Any) -> None:
    """With its whole section, and the weights that changed with it."""
    before = planned().resolved()
    found = changes.between(before, planned("dataset.sources.more=toy", "dataset.weights.more=1"))
    assert [(one.key, one.was) for one in found] == [
        ("dataset.sources.more", ABSENT),
        ("dataset.weights.more", ABSENT),
    ]


# ── the schema ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sources", "right"),
    [
        ({"a": "toy"}, True),
        ({"a": {"type": "codex-toys/toy", "copies": 2}}, True),
        ({"a": {"type": "toy", "copes": 2}}, False),
        ({"a": {"type": "mixture", "sources": {"b": "toy"}}}, False),
        ({}, False),
        ({"a b": "toy"}, False),
        (["toy"], False),
    ],
)
def test_the_schema_and_the_kernel_agree_on_sources(planned: Any, sources: Any, right: bool) -> None:
    """What an editor marks is what `codex validate` refuses."""
    from codex_kernel.builtin.mixture import Mixture
    from tests.toys.codex_toys import ToyDataset

    schema = manifest_schema({"dataset": {"mixture": Mixture, "toy": ToyDataset}})
    jsonschema.Draft202012Validator.check_schema(schema)
    dataset = {"type": "mixture", "sources": sources}
    validator = jsonschema.Draft202012Validator({"$ref": "#/$defs/dataset", "$defs": schema["$defs"]})
    assert validator.is_valid(dataset) is right
    try:
        planned(f"dataset={json.dumps(dataset)}")
    except ManifestError:
        assert not right
    else:
        assert right


# ── as a user ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Make a folder with the toys, the manifest and its data."""
    made = toy_workplace(tmp_path_factory.mktemp("mixture"))
    made.write("mixed.yaml", MANIFEST)
    made.write("chat.jsonl", CHAT)
    return made


def test_a_mixture_is_trained_resumed_and_told(workplace: Workplace) -> None:
    """The record has shares and repetitions; other shares are another run, and the tokens are made once."""
    done = workplace.codex("run", "mixed.yaml", "--run-dir", "one")
    assert done.code == 0, done.err
    data = json.loads((workplace.folder / "one" / "data.json").read_text())
    assert data["mixture"]["entries"] == [{"from_sample": 0, "weights": [3, 1]}]
    assert set(data["mixture"]["sources"]) == {"code", "chat"}
    events = [
        json.loads(line) for line in (workplace.folder / "one" / "events.ndjson").read_text().splitlines()
    ]
    [event] = [event for event in events if event["event"] == "mixture"]
    assert event["passes"]["code"] > event["passes"]["chat"] > 0

    refused = workplace.codex("resume", "one", "--set", "dataset.weights.chat=2")
    assert refused.code == 2
    assert "dataset.weights.chat was 1.0, is 2.0" in refused.err

    other = workplace.codex("run", "mixed.yaml", "--run-dir", "two", "--set", "dataset.weights.chat=2")
    assert other.code == 0, other.err
    again = json.loads((workplace.folder / "two" / "data.json").read_text())
    assert again["key"] == data["key"]
    assert again["fingerprint"] != data["fingerprint"]
    assert '"data_reused"' in (workplace.folder / "two" / "events.ndjson").read_text()


def test_a_source_without_a_block_is_an_error(workplace: Workplace) -> None:
    """All its documents are duplicates of another source's: it could not be trained in its share."""
    said = workplace.codex(
        "run", "mixed.yaml", "--run-dir", "three", "--set", "dataset.sources.chat={type: toy, copies: 2}"
    )
    assert said.code == 2
    assert "source 'chat' of the mixture has a weight of 1 and no block to train on" in said.err
