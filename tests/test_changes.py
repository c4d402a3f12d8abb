"""Differences between a run's manifest and the one that it goes on by: found by key, sorted by what they mean."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import changes, option
from codex_kernel.catalog import Catalog
from codex_kernel.changes import ABSENT, Change
from codex_kernel.errors import InputError
from codex_kernel.manifest import load
from codex_kernel.plan import Plan, resolve
from tests.toys import TOY_MANIFEST, install, install_toys

DEEP = """
from attrs import frozen
from codex_kernel import hookimpl, option

@frozen
class Spike:
    sigmas: float = option(6.0, help="Width.")
    window: int = option(64, help="Length.", on_resume="harmless")

@frozen
class Deep:
    lr: float = option(1.0, help="Rate.")
    betas: tuple[float, float] = option((0.9, 0.95), help="Decay.")
    spike: Spike | None = option(None, help="Spikes.")
    guard: Spike = option(factory=Spike, help="Guard.", on_resume="harmless")
    ranks: int = option(1, help="Ranks.", on_resume="refused")
    log_every: int = option(10, help="Steps.", on_resume="harmless")
    extra: dict[str, float] = option(factory=dict, help="More.")

    @hookimpl
    def codex_trainer(self): ...
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the toys and a trainer with nested options."""
    folder = install_toys(tmp_path_factory.mktemp("site"))
    plugins = {"codex.trainers": {"deep": "codex_deep_trainer:Deep"}}
    install(folder, "codex-deep", plugins, modules={"codex_deep_trainer": DEEP})
    return folder


@pytest.fixture
def planned(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that plans the toy manifest with some overrides."""
    monkeypatch.syspath_prepend(site)
    path = tmp_path / "toy.yaml"
    path.write_text(TOY_MANIFEST)

    def plan(*sets: str) -> Plan:
        return resolve(load(path, (), sets), Catalog.scan(), [])

    return plan


def found(planned: Any, before: tuple[str, ...], now: tuple[str, ...]) -> dict[str, tuple[Any, Any, str]]:
    """Return key → (was, is, meaning) between two sets of overrides of the toy manifest."""
    differences = changes.between(planned(*before).resolved(), planned(*now))
    return {change.key: (change.was, change.now, change.meaning) for change in differences}


@pytest.mark.parametrize(
    ("before", "now", "key", "change"),
    [
        ("lr=1.0", "lr=0.5", "lr", (1.0, 0.5, "curve")),
        ("lr=1", "log_every=5", "log_every", (10, 5, "harmless")),
        ("lr=1", "ranks=2", "ranks", (1, 2, "refused")),
        ("lr=1", "betas=[0.9, 0.99]", "betas", ([0.9, 0.95], [0.9, 0.99], "curve")),
        ("spike.sigmas=6", "spike.sigmas=3", "spike.sigmas", (6.0, 3.0, "curve")),
        ("spike.sigmas=6", "spike.window=3", "spike.window", (64, 3, "harmless")),
        ("lr=1", "guard.sigmas=3", "guard.sigmas", (6.0, 3.0, "harmless")),
        ("lr=1", "spike.sigmas=3", "spike", (None, {"sigmas": 3.0, "window": 64}, "curve")),
        ("extra.a=1", "extra.a=2", "extra.a", (1.0, 2.0, "curve")),
        ("extra.a=1", "extra={a: 1, b: 2}", "extra.b", (ABSENT, 2.0, "curve")),
    ],
)
def test_an_option_says_what_its_change_means(
    planned: Any, before: str, now: str, key: str, change: tuple[Any, Any, str]
) -> None:
    """The option's own word counts, then that of the option around it, then that of its kind of plugin."""
    base = ("trainer={type: deep}",)
    differences = found(planned, (*base, f"trainer.{before}"), (*base, f"trainer.{now}"))
    assert differences == {f"trainer.{key}": change}


@pytest.mark.parametrize(
    ("now", "key", "meaning"),
    [
        ("trainer={type: deep}", "trainer.type", "refused"),
        ("seed=18", "seed", "refused"),
        ("name=other", "name", "harmless"),
        ("data.seq_len=16", "data.seq_len", "harmless"),
        ("dataset.copies=2", "dataset.copies", "harmless"),
        ("adapters=[sharpen]", "adapters", "refused"),
        ("loggers=[toy, console]", "loggers", "harmless"),
        ("loggers.0.fail=true", "loggers.0.fail", "harmless"),
        ("loggers.0.on_error=fail", "loggers.0.on_error", "harmless"),
        ("evaluate.every_steps=5", "evaluate.every_steps", "harmless"),
        ("evaluate.metrics=[perplexity]", "evaluate.metrics", "harmless"),
        ("checkpointer.every_steps=5", "checkpointer.every_steps", "harmless"),
        ("checkpointer.type=safetensors", "checkpointer.type", "refused"),
        ("dataset={type: text-files, paths: [x]}", "dataset.type", "harmless"),
        ("trainer.type=codex-toys/toy", "trainer.type", "harmless"),
    ],
)
def test_a_section_says_what_its_change_means(planned: Any, now: str, key: str, meaning: str) -> None:
    """By its kind; another plugin is one change, whatever its options; the long name of the same one is harmless."""
    differences = found(planned, (), (now,))
    assert {name: change[2] for name, change in differences.items()} == {key: meaning}


def test_options_of_an_adapter_change_the_curve(planned: Any) -> None:
    """Their key has the adapter's place in the list."""
    differences = found(planned, ("adapters=[sharpen]",), ("adapters=[{type: sharpen, factor: 3.0}]",))
    assert differences == {"adapters.0.factor": (2.0, 3.0, "curve")}


def test_an_option_that_a_plugin_has_learned_since_is_harmless_at_its_default(planned: Any) -> None:
    """Its default is what the plugin did before; another value, and an option that is gone, change the curve."""
    plan = planned("trainer={type: deep}", "trainer.lr=0.5")
    before = plan.resolved()
    del before["trainer"]["betas"], before["trainer"]["lr"]
    before["trainer"]["old"] = 1
    assert [
        (change.key, change.was, change.now, change.meaning) for change in changes.between(before, plan)
    ] == [
        ("trainer.lr", ABSENT, 0.5, "curve"),
        ("trainer.betas", ABSENT, [0.9, 0.95], "harmless"),
        ("trainer.old", 1, ABSENT, "curve"),
    ]


def test_no_difference_is_no_change(planned: Any) -> None:
    """A plan is the same as itself."""
    assert found(planned, (), ()) == {}


def test_changes_that_may_not_be_are_named_all_at_once(planned: Any) -> None:
    """The error has every key with was and is, the remedy every flag."""
    before = planned().resolved()
    plan = planned("trainer.lr=1.5", "trainer.max_steps=7", "checkpointer.every_steps=3")
    differences = changes.between(before, plan)
    with pytest.raises(InputError) as error:
        changes.check(differences, before, plan, [])
    assert "trainer.max_steps was 6, is 7; trainer.lr was 5.0, is 1.5" in error.value.message
    assert error.value.remedy == (
        "to go on nevertheless add --allow-change trainer.max_steps --allow-change trainer.lr"
    )
    with pytest.raises(InputError, match=r"trainer\.lr was") as error:
        changes.check(differences, before, plan, ["trainer.max_steps", "data.seq_len"])
    assert "max_steps" not in error.value.message
    changes.check(differences, before, plan, ["trainer.max_steps", "trainer.lr"])


def test_no_permission_makes_another_run_of_it(planned: Any) -> None:
    """Refused is refused, also where it is allowed by its key; what else differs does not matter then."""
    before, plan = planned().resolved(), planned("seed=4", "trainer.lr=1.5")
    with pytest.raises(InputError, match="this would be another run: seed was 17, is 4") as error:
        changes.check(changes.between(before, plan), before, plan, ["seed"])
    assert "start a new run" in (error.value.remedy or "")


@pytest.mark.parametrize(
    ("key", "hint"),
    [("trainer.l", "trainer.lr"), ("trianer.lr", "trainer.lr"), ("loggers.0.fial", "loggers.0.fail")],
)
def test_a_permission_for_nothing_is_a_typo(planned: Any, key: str, hint: str) -> None:
    """The nearest key is proposed."""
    before, plan = planned().resolved(), planned()
    with pytest.raises(InputError, match="the manifest has no such key") as error:
        changes.check([], before, plan, [key])
    assert error.value.remedy == f"did you mean {hint!r}?"


def event(key: str, now: Any, meaning: str = "curve") -> dict[str, Any]:
    """Return the event of a change that a run has gone on with."""
    return {"event": "manifest_changed", **Change(key, 1, now, meaning).as_fields()}  # type: ignore[arg-type]


def test_what_a_run_went_on_with_stays_allowed_as_long_as_it_holds(planned: Any) -> None:
    """Only the newest change of a key counts, only where its value is still the manifest's, and only for the curve."""
    plan = planned("trainer.lr=1.5")
    assert changes.allowed_before([event("trainer.lr", 1.5)], plan) == {"trainer.lr"}
    assert changes.allowed_before([event("trainer.lr", 1.5), event("trainer.lr", 2.5)], plan) == set()
    assert changes.allowed_before([event("trainer.lr", 1.5, "harmless")], plan) == set()
    assert changes.allowed_before([event("trainer.gone", ABSENT)], plan) == {"trainer.gone"}
    assert changes.allowed_before([{"event": "run_started"}], plan) == set()


def test_long_values_are_shown_in_short() -> None:
    """One line must hold many changes."""
    text = str(Change("model.config", ABSENT, {"layers": list(range(100))}, "curve"))
    assert text.startswith('model.config was not set, is {"layers": [0, 1,')
    assert len(text) < 120


# ── for any values ────────────────────────────────────────────────────────────────────────────────────────────────

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3)
trees = st.recursive(
    scalars | st.lists(scalars, max_size=3),
    lambda children: st.dictionaries(st.text("abc", min_size=1, max_size=2), children, max_size=3),
    max_leaves=8,
)


def put(tree: Any, way: list[str], value: Any) -> Any:
    """Return the tree with a value at the end of a way, or without what stands there where it is ABSENT."""
    if not way:
        return value
    made = dict(tree)
    child = put(made.get(way[0]), way[1:], value)
    if child is ABSENT:
        made.pop(way[0], None)
    else:
        made[way[0]] = child
    return made


@given(trees, trees)
def test_the_changes_lead_from_one_value_to_the_other(was: Any, now: Any) -> None:
    """Put over the old value, the differences make the new one: none is missing."""
    made = {"x": copy.deepcopy(was)}
    for key, _, new in changes._leaves("x", was, now):
        made = put(made, key.split("."), new)
    assert changes._is_same(made, {"x": now})


@given(trees)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    """No change is invented."""
    assert list(changes._leaves("x", value, copy.deepcopy(value))) == []


@pytest.mark.parametrize(
    ("one", "other", "same"), [(1, 1.0, True), (1, True, False), (0, False, False), ([1], [True], False)]
)
def test_true_is_not_one(one: Any, other: Any, same: bool) -> None:
    """Python finds them equal, a manifest does not."""
    assert changes._is_same(one, other) is same


@frozen
class Needed:
    """A class whose option has no default."""

    way: str = option(help="A way.")


def test_an_option_without_a_default_has_no_harmless_value() -> None:
    """What a plugin newly requires is a change like any other."""
    assert changes._meaning(Needed, "way", ABSENT, "x", "trainer") == "curve"


def test_a_manifest_that_a_person_has_put_back_is_compared_as_it_is_meant(planned: Any) -> None:
    """A plugin's name alone is a section; defaults that are left out are no change that matters, a seed is."""
    before = {"tokenizer": "bytes", "loggers": ["toy"], "model": "toy", "dataset": {"type": "toy"}}
    differences = {change.key: change for change in changes.between(before, planned())}
    assert {key for key, change in differences.items() if change.meaning == "refused"} == {
        "seed",
        "trainer.type",
        "checkpointer.type",
    }
    assert differences["evaluate.max_blocks"].was is ABSENT
    assert not {"tokenizer.type", "model.type", "dataset.type", "loggers"} & differences.keys()
