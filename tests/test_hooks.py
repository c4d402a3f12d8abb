"""The hooks of a run: providers are resolved once and named when they fail; observers cannot end a run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import define, field, frozen

from codex_kernel import hookspecs, tracing
from codex_kernel.errors import InputError, PluginError
from codex_kernel.hooks import Hooks, ObserverFailure
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import Evaluation, Progress
from codex_kernel.testing import make_run

PROGRESS = Progress(1, 10, 0.1, 5, 1)


def specs() -> dict[str, Any]:
    """Return every hook and its specification."""
    return {
        name: function
        for group in hookspecs.SPECS
        for name, function in inspect.getmembers(group, inspect.isfunction)
        if name.startswith("codex_")
    }


def hooks_with(*plugins: object) -> Hooks:
    """Register plugins under their class names."""
    hooks = Hooks()
    for plugin in plugins:
        hooks.register(plugin, type(plugin).__name__)
    return hooks


@pytest.mark.parametrize("name", sorted(specs()))
def test_the_typed_front_has_a_method_for_each_hook_with_the_same_parameters(name: str) -> None:
    """Hooks.<name without codex_> takes the hook's parameters, and annotations; it finds `sources` itself."""
    method = getattr(Hooks, name.removeprefix("codex_"))
    ours = {n: p.annotation for n, p in inspect.signature(method).parameters.items() if n != "self"}
    theirs = {n: p.annotation for n, p in inspect.signature(specs()[name]).parameters.items() if n != "self"}
    theirs.pop("sources", None)
    assert ours == theirs


@pytest.mark.parametrize("name", sorted(specs()))
def test_every_hook_says_when_it_is_called_what_it_takes_and_what_none_means(name: str) -> None:
    """The specification's docstring names the process, each parameter but the run, and None where it is an answer."""
    text = inspect.getdoc(specs()[name]) or ""
    assert re.search(r"\brank\b|\bprocess\b", text), f"{name} does not say which process calls it"
    for parameter in inspect.signature(specs()[name]).parameters:
        if parameter not in {"self", "run"}:
            assert re.search(rf"\b{parameter}\b", text), f"{name} does not explain {parameter}"
    answer = str(inspect.signature(specs()[name]).return_annotation)
    if answer != "None":
        assert "None" in text, f"{name} does not say what None means"


@frozen
class Numbers:
    start: int = 0

    @hookimpl
    def codex_dataset(self) -> list[int]:
        return [self.start]


def test_a_provider_may_take_any_subset_of_the_arguments(tmp_path: Path) -> None:
    """A plugin that needs nothing of the run leaves the argument out."""
    assert hooks_with(Numbers(3)).dataset(make_run(tmp_path)) == [3]


@frozen
class Unhashable:
    options: dict[str, int]

    @hookimpl
    def codex_dataset(self) -> list[int]:
        return list(self.options.values())


def test_options_that_cannot_be_hashed_are_options_too(tmp_path: Path) -> None:
    """A frozen plugin may hold a list or a mapping, and stand beside another plugin."""
    assert hooks_with(Numbers(1), Unhashable({"start": 2})).dataset(make_run(tmp_path)) == [2]


def test_the_same_section_twice_is_refused_in_plain_words() -> None:
    """Two sections of one plugin must differ in their options."""
    hooks_with(Numbers(1), Numbers(2))
    with pytest.raises(InputError, match="Numbers is in the manifest twice with the same options"):
        hooks_with(Numbers(1), Numbers(1))


def test_no_answer_is_an_error(tmp_path: Path) -> None:
    """A provider hook that nobody implements is named."""
    with pytest.raises(PluginError, match="no plugin of this manifest implements codex_tokenizer"):
        hooks_with(Numbers()).tokenizer(make_run(tmp_path), None, None)


@frozen
class Failing:
    error: BaseException = field(factory=lambda: ValueError("no such column\nand more"))

    @hookimpl
    def codex_dataset(self) -> None:
        raise self.error


def test_a_failing_provider_is_named(tmp_path: Path) -> None:
    """The error says which plugin failed in which hook, and why, in one line."""
    with pytest.raises(PluginError) as error:
        hooks_with(Numbers(), Failing()).dataset(make_run(tmp_path))
    assert str(error.value) == "Failing failed in codex_dataset: ValueError: no such column"


def test_a_provider_that_exits_does_not_end_the_process(tmp_path: Path) -> None:
    """SystemExit in a hook is a plugin's error like any other."""
    with pytest.raises(PluginError, match="Failing failed in codex_dataset: SystemExit: 3"):
        hooks_with(Failing(SystemExit(3))).dataset(make_run(tmp_path))


def test_an_error_meant_for_the_user_passes_unchanged(tmp_path: Path) -> None:
    """What a plugin says through codex's own errors keeps its exit code."""
    with pytest.raises(InputError, match="no file"):
        hooks_with(Failing(InputError("no file"))).dataset(make_run(tmp_path))


@frozen
class Shorten:
    name: str

    @hookimpl
    def codex_shorten(self, steps: int) -> dict[str, object]:
        return {self.name: steps}


@frozen
class LeavesItAsItIs:
    @hookimpl
    def codex_shorten(self) -> None:
        return None


@frozen
class AnswersNonsense:
    @hookimpl
    def codex_shorten(self) -> int:
        return 3


def test_a_rehearsal_is_made_of_each_plugins_own_changes() -> None:
    """codex_shorten asks all plugins, and leaves out those that change nothing."""
    trainer, checkpointer = Shorten("max_steps"), Shorten("every_steps")
    answers = hooks_with(trainer, LeavesItAsItIs(), checkpointer).shorten(12)
    assert answers == [(trainer, {"max_steps": 12}), (checkpointer, {"every_steps": 12})]


def test_an_answer_that_cannot_be_read_names_its_plugin() -> None:
    """A hook's answer is gone through while its plugin is still to blame."""
    with pytest.raises(PluginError, match="AnswersNonsense failed in codex_shorten: TypeError"):
        hooks_with(AnswersNonsense()).shorten(12)


@frozen
class Wrap:
    word: str

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        model = yield
        return f"{self.word}({model})"


@frozen
class Plain:
    @hookimpl
    def codex_model(self, materialize: bool) -> str:
        return f"model-{materialize}"


def test_adapters_wrap_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    """`adapters: [quant, lora]` gives lora(quant(model))."""
    hooks = hooks_with(Plain(), Wrap("quant"), Wrap("lora"))
    assert hooks.model(make_run(tmp_path), None, materialize=False) == "lora(quant(model-False))"  # type: ignore[arg-type]


@frozen
class Misspelt:
    @hookimpl
    def codex_metric_s(self) -> None: ...


@frozen
class Invented:
    @hookimpl
    def codex_zzz(self) -> None: ...


@frozen
class ForLater:
    @hookimpl(optionalhook=True)
    def codex_zzz(self, what: int) -> None: ...


@frozen
class Keywords:
    @hookimpl
    def codex_metrics(self, **given: object) -> None: ...


@frozen
class Defaulted:
    @hookimpl
    def codex_metrics(self, step: int, los: float = 0.0) -> None: ...


@frozen
class KeywordOnly:
    @hookimpl
    def codex_metrics(self, *, step: int) -> None: ...


@frozen
class Async:
    @hookimpl
    async def codex_metrics(self, step: int) -> None: ...


@frozen
class Unknown:
    @hookimpl
    def codex_metrics(self, loss: float) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "message", "remedy"),
    [
        (Misspelt(), "unknown hook 'codex_metric_s'", "did you mean 'codex_metrics'?"),
        (Invented(), "unknown hook 'codex_zzz'", "pydoc codex_kernel.hookspecs shows the hooks"),
        (Defaulted(), "takes 'los', which the hook does not have", "the hook has run, step, "),
        (KeywordOnly(), "takes 'step' by keyword only", "remove the *"),
        (Keywords(), "takes **given, which is always empty", "name what it needs of: run, step, "),
        (Async(), "is async", "write def"),
        (Unknown(), "takes 'loss', which the hook does not have", "the hook has run, step, "),
    ],
)
def test_an_implementation_that_would_never_be_called_right_is_refused(
    plugin: object, message: str, remedy: str
) -> None:
    """Misspelt hooks, unknown, defaulted, keyword-only and async ones are refused, with what would be right."""
    with pytest.raises(PluginError) as error:
        hooks_with(plugin)
    assert message in str(error.value)
    assert error.value.remedy
    assert remedy in error.value.remedy


def test_a_hook_for_other_kernels_is_no_fault(tmp_path: Path) -> None:
    """`optionalhook` says so: it is never called here, and what else its plugin has is."""
    hooks = hooks_with(Plain(), ForLater())
    assert hooks.model(make_run(tmp_path), None, materialize=False) == "model-False"  # type: ignore[arg-type]


@define(eq=False)
class Watcher:
    fails: int = 0
    seen: list[int] = field(factory=list)
    error: BaseException = field(factory=lambda: SystemExit("tracker down"))

    @hookimpl
    def codex_metrics(self, step: int) -> None:
        if self.fails:
            self.fails -= 1
            raise self.error
        self.seen.append(step)


def observe(hooks: Hooks, tmp_path: Path, steps: int) -> None:
    """Send that many records of metrics."""
    run = make_run(tmp_path)
    for step in range(steps):
        hooks.metrics(run, step, {"loss": 1.0}, "train", PROGRESS)


def test_a_failing_observer_does_not_stop_the_others_and_is_detached_at_the_third_failure_in_a_row(
    tmp_path: Path,
) -> None:
    """Each observer is called by itself; one that fails again and again is left out, and said to be."""
    failures: list[ObserverFailure] = []
    bad, good = Watcher(fails=99), Watcher()
    hooks = hooks_with(bad, good)
    hooks.on_observer_failure = failures.append
    observe(hooks, tmp_path, 5)
    assert good.seen == [0, 1, 2, 3, 4]
    assert [failure.detached for failure in failures] == [False, False, True]
    assert str(failures[-1]) == (
        "Watcher failed in codex_metrics: SystemExit: tracker down; it is detached from this run"
    )


class WordlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("traced", [False, True])
def test_an_error_whose_message_cannot_be_read_ends_nothing(tmp_path: Path, traced: bool) -> None:
    """Its type is told in place of it: of a provider, of an observer, and in a trace."""
    trace = tracing.start(tmp_path / "trace.ndjson") if traced else None
    try:
        failures: list[ObserverFailure] = []
        hooks = hooks_with(Failing(WordlessError()), Watcher(fails=1, error=WordlessError()))
        hooks.on_observer_failure = failures.append
        observe(hooks, tmp_path, 1)
        words = "WordlessError (its message cannot be read)"
        assert str(failures[0]) == f"Watcher failed in codex_metrics: {words}"
        with pytest.raises(PluginError) as error:
            hooks.dataset(make_run(tmp_path))
        assert str(error.value) == f"Failing failed in codex_dataset: {words}"
        assert (words in (tmp_path / "trace.ndjson").read_text()) if trace else True
    finally:
        tracing.stop()


def test_an_observer_that_recovers_is_kept(tmp_path: Path) -> None:
    """Only failures in a row count."""
    watcher = Watcher(fails=2)
    hooks = hooks_with(watcher)
    observe(hooks, tmp_path, 3)
    watcher.fails = 2
    observe(hooks, tmp_path, 3)
    assert watcher.seen == [2, 2]


def test_an_observer_that_must_not_fail_is_reported_as_fatal(tmp_path: Path) -> None:
    """`on_error: fail` turns the first failure into the end of the run."""
    failures: list[ObserverFailure] = []
    hooks = Hooks()
    hooks.on_observer_failure = failures.append
    hooks.register(Watcher(fails=1), "watcher", fail_with_run=True)
    observe(hooks, tmp_path, 1)
    assert failures[0].fatal
    assert not failures[0].detached


@define(eq=False)
class Mean:
    name: str = "mean"

    @hookimpl
    def codex_metric(self, evaluation: Evaluation) -> dict[str, float]:
        return {self.name: evaluation.loss_sum / evaluation.tokens}


def test_metrics_of_all_plugins_are_put_together_and_a_name_given_twice_is_an_error() -> None:
    """Two metric plugins must not overwrite one another."""
    evaluation = Evaluation(loss_sum=6.0, tokens=3, bytes=9.0)
    assert hooks_with(Mean("a"), Mean("b")).metric(evaluation) == {"a": 2.0, "b": 2.0}
    with pytest.raises(PluginError, match="gives the metric 'mean'"):
        hooks_with(Mean(), Mean()).metric(evaluation)


@define(eq=False)
class Answer:
    """A metric plugin that gives this."""

    answer: Any

    @hookimpl
    def codex_metric(self) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"loss": 0.001}, "a metric cannot be named loss"),
        ({"step": 1.0}, "a metric cannot be named step"),
        ({"acc": "0.5"}, "expected a number for the metric 'acc', got '0.5'"),
        ({"acc": None}, "expected a number for the metric 'acc', got None"),
        ([1], "expected metrics by their names, got list"),
    ],
)
def test_a_metric_plugin_that_gives_no_metrics_is_named(answer: Any, message: str) -> None:
    """The loss is the trainer's own, and a value is a number."""
    with pytest.raises(PluginError, match="Answer failed in codex_metric") as error:
        hooks_with(Answer(answer)).metric(Evaluation(loss_sum=6.0, tokens=3, bytes=9.0))
    assert message in str(error.value)


def test_a_metric_plugin_may_give_nothing_or_numbers_of_any_library() -> None:
    """None is no metric; a numpy scalar is a number."""
    evaluation = Evaluation(loss_sum=6.0, tokens=3, bytes=9.0)
    assert hooks_with(Answer(None), Answer({"acc": np.float32(0.5)})).metric(evaluation) == {"acc": 0.5}


@frozen
class Lazy:
    """Answers by generators that fail when they are gone through."""

    @hookimpl
    def codex_preflight(self) -> Iterator[str]:
        yield "one problem"
        raise OSError("disk on fire")

    @hookimpl
    def codex_generate(self) -> Iterator[str]:
        yield "text"
        raise IndexError("no token")


def test_a_generator_that_fails_is_still_its_plugins_fault(tmp_path: Path) -> None:
    """An error while an answer is gone through names the plugin, as one in the call does."""
    hooks = hooks_with(Lazy())
    with pytest.raises(PluginError, match="Lazy failed in codex_preflight: OSError: disk on fire"):
        list(hooks.preflight(tmp_path, tmp_path))
    pieces = hooks.generate(make_run(tmp_path), None, None, None, None)  # type: ignore[arg-type]
    assert next(pieces) == "text"
    with pytest.raises(PluginError, match="Lazy failed in codex_generate: IndexError: no token"):
        next(pieces)
