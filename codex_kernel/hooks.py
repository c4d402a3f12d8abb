"""The hooks of one run: a typed front of pluggy, with what pluggy leaves out.

One rule: a provider's error ends the run and names its plugin; an observer's error never does, unless its section says
so. pluggy's own calls are untyped, stop at the first exception, and do not say whose it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import CodeType
from typing import Any

import pluggy
from attrs import define, field, frozen

from codex_kernel import hook_check, hookspecs, tracing
from codex_kernel.errors import CodexError, InputError, PluginError, in_words
from codex_kernel.interfaces import (
    BadRecord,
    Checkpoint,
    Checkpointer,
    CheckpointState,
    Cleaner,
    CorpusText,
    Document,
    Evaluation,
    GenerateRequest,
    Mixing,
    Model,
    Outcome,
    Parts,
    Progress,
    RunContext,
    TextPieces,
    Tokenizer,
    Trainer,
)
from codex_kernel.metric_values import as_numbers
from codex_kernel.metrics import RESERVED

FAILURES_BEFORE_DETACHING = 3

_Observer = tuple[Callable[..., Any], Callable[[tuple[object, ...]], tuple[object, ...]], object]
"""An implementation, what picks its arguments among those of the hook, and its plugin."""


@frozen
class ObserverFailure:
    """A failed call of an observer; `detached` says that it will not be called again, `fatal` that the run must end."""

    plugin: str
    hook: str
    error: BaseException
    detached: bool
    fatal: bool

    def __str__(self) -> str:
        text = f"{self.plugin} failed in {self.hook}: {in_words(self.error)}"
        return f"{text}; it is detached from this run" if self.detached else text


@define(eq=False)
class Hooks:
    """The plugins of one run, and a method for each hook."""

    on_observer_failure: Callable[[ObserverFailure], None] = field(default=lambda _failure: None)
    _is_source: bool = False
    _pm: pluggy.PluginManager = field(init=False)
    _labels: dict[int, str] = field(init=False, factory=dict)
    _strict: set[int] = field(init=False, factory=set)
    _failures: dict[tuple[int, str], int] = field(init=False, factory=dict)
    _sources: dict[str, Hooks] = field(init=False, factory=dict)
    _bound: dict[str, tuple[_Observer, ...]] = field(init=False, factory=dict)
    _trace: tracing.Trace | None = field(init=False, factory=tracing.current)

    def __attrs_post_init__(self) -> None:
        self._pm = pluggy.PluginManager("codex")
        for specs in hookspecs.SPECS:
            self._pm.add_hookspecs(specs)
        if self._trace is not None and not self._is_source:
            self.register(tracing.RunTrace(self._trace), "tracing")

    def register(self, plugin: object, label: str, *, fail_with_run: bool = False) -> None:
        """Add a plugin; raise PluginError where a hook is misspelt or takes what no hook has, InputError for a twin.

        label: kind, name and distribution, for messages. fail_with_run: an error of this observer ends the run.
        A plugin registered later is asked first, and wraps those before it.
        """
        try:
            hook_check.check(plugin, label)
            # pluggy would refuse it too, in words that nobody understands.
            # Not get_plugins(): it hashes, and a frozen plugin with a list or mapping among its options has no hash.
            if any(plugin == other for _, other in self._pm.list_name_plugin()):
                raise InputError(  # noqa: TRY301 - codex's own errors pass
                    f"{label} is in the manifest twice with the same options",
                    remedy="remove one of the sections",
                )
            self._pm.register(plugin, name=f"{label} #{len(self._labels)}")
            self._pm.check_pending()
        except (CodexError, KeyboardInterrupt):
            raise
        except BaseException as error:  # its metaclass, or its way to compare, may raise anything
            said = isinstance(error, pluggy.PluginValidationError)
            reason = str(error).strip().splitlines()[-1] if said else in_words(error)
            raise PluginError(
                f"{label} does not fit the hooks of this kernel: {reason}",
                remedy=hook_check.ALL_HOOKS,
            ) from error
        self._labels[id(plugin)] = label
        self._bound.clear()
        if fail_with_run:
            self._strict.add(id(plugin))
        if self._trace is not None and not isinstance(plugin, tracing.RunTrace):
            self._trace.follow(self._pm, plugin, label)

    def add_source(self, name: str, plugin: object, label: str) -> None:
        """Add a dataset that the dataset is made of; raise as `register` does.

        It has hooks of its own: it answers for its documents alone, and observes what all others do.
        """

        def tell(failure: ObserverFailure) -> None:
            self.on_observer_failure(failure)  # whatever it is by then

        source = Hooks(tell, is_source=True)
        source.register(plugin, label)
        self._sources[name] = source

    # ── providers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def preflight(self, base: Path, cache: Path) -> Iterator[tuple[object, str]]:
        """Yield (plugin, problem) for everything that the plugins find wrong."""
        for impl in self._pm.hook.codex_preflight.get_hookimpls():
            # The answer may be a generator, so it is gone through while its plugin is still to blame.
            for problem in self._call(
                impl, {"base": base, "cache": cache}, lambda answer: list(answer or ())
            ):
                yield impl.plugin, problem
        for source in self._sources.values():
            yield from source.preflight(base, cache)

    def shorten(self, steps: int) -> list[tuple[object, dict[str, object]]]:
        """Return (plugin, option → value) of each plugin that changes its section for a short rehearsal."""
        answers = []
        for impl in self._pm.hook.codex_shorten.get_hookimpls():
            changes = self._call(
                impl, {"steps": steps}, lambda answer: None if answer is None else dict(answer)
            )
            if changes is not None:
                answers.append((impl.plugin, changes))
        for source in self._sources.values():
            answers.extend(source.shorten(steps))
        return answers

    def dataset(self, run: RunContext) -> Iterable[Document | BadRecord]:
        """Return the documents; a dataset that is made of others is given theirs."""
        sources = {}
        for name, source in self._sources.items():
            try:
                sources[name] = source.dataset(run)
            except InputError as error:
                raise InputError(f"source {name!r}: {error.message}", remedy=error.remedy) from error
        return self._provide("codex_dataset", run=run, sources=sources)  # type: ignore[no-any-return] # pluggy is untyped

    def mixing(self) -> Mixing | None:
        """Return the shares in which the sources of the dataset are trained; None: all blocks equally often."""
        with self._blaming("codex_mixing", self._pm.hook.codex_mixing.get_hookimpls()):
            return self._pm.hook.codex_mixing()  # type: ignore[no-any-return]

    def cleaner(self, run: RunContext) -> list[tuple[object, Cleaner]]:
        """Return (plugin, cleaning step), each step anew, in the order of the manifest."""
        impls = reversed(self._pm.hook.codex_cleaner.get_hookimpls())
        made = ((impl.plugin, self._call(impl, {"run": run}, lambda answer: answer)) for impl in impls)
        return [(plugin, cleaner) for plugin, cleaner in made if cleaner is not None]

    def tokenizer(self, run: RunContext, corpus: CorpusText | None, saved: Path | None) -> Tokenizer:
        """Return the tokenizer."""
        return self._provide("codex_tokenizer", run=run, corpus=corpus, saved=saved)  # type: ignore[no-any-return]

    def model(self, run: RunContext, tokenizer: Tokenizer, *, materialize: bool) -> Model:
        """Return the model, wrapped by the adapters."""
        return self._provide("codex_model", run=run, tokenizer=tokenizer, materialize=materialize)  # type: ignore[no-any-return]

    def checkpointer(self, run: RunContext, folder: Path, *, read_only: bool) -> Checkpointer:
        """Return the checkpointer."""
        return self._provide("codex_checkpointer", run=run, folder=folder, read_only=read_only)  # type: ignore[no-any-return]

    def trainer(self, run: RunContext, parts: Parts) -> Trainer:
        """Return the trainer."""
        return self._provide("codex_trainer", run=run, parts=parts)  # type: ignore[no-any-return]

    def generate(
        self,
        run: RunContext,
        model: Model,
        tokenizer: Tokenizer,
        state: CheckpointState,
        request: GenerateRequest,
    ) -> TextPieces:
        """Yield the continuation of a prompt, piece by piece."""
        # The answer is most often a generator: it fails while it is gone through.
        with self._blaming("codex_generate", self._pm.hook.codex_generate.get_hookimpls()):
            yield from self._provide(
                "codex_generate", run=run, model=model, tokenizer=tokenizer, state=state, request=request
            )

    def metric(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the metrics of all metric plugins together; raise PluginError where two give the same name."""
        metrics: dict[str, float] = {}
        for impl in self._pm.hook.codex_metric.get_hookimpls():
            for name, value in self._call(impl, {"evaluation": evaluation}, _metric_answer).items():
                if name in metrics:
                    raise PluginError(
                        f"{self._labels[id(impl.plugin)]} gives the metric {name!r}, which another one gives"
                    )
                metrics[name] = value
        return metrics

    def _provide(self, hook: str, **arguments: Any) -> Any:
        """Call a firstresult hook; raise PluginError, with the plugin's name, where it fails or nobody answers."""
        caller = getattr(self._pm.hook, hook)
        with self._blaming(hook, caller.get_hookimpls()):
            answer = caller(**arguments)
        if answer is None:
            raise PluginError(
                f"no plugin of this manifest implements {hook}",
                remedy="codex plugins list shows what is there",
            )
        return answer

    def _call(self, impl: Any, arguments: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
        """Call one implementation and read its answer; raise PluginError, with the plugin's name, where that fails."""
        with self._blaming(impl.function.__name__, [impl]):
            return read(impl.function(*(arguments[name] for name in _taken(impl))))

    @contextmanager
    def _blaming(self, hook: str, impls: Iterable[Any]) -> Iterator[None]:
        """Turn what a plugin raises into a PluginError that names it; codex's own errors say enough already."""
        try:
            yield
        except (CodexError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise self._failed(hook, error, impls) from error

    def _failed(self, hook: str, error: BaseException, impls: Iterable[Any]) -> PluginError:
        """Say whose exception it is: that of the innermost implementation in the traceback."""
        labels = {code: self._labels[id(impl.plugin)] for impl in impls for code in _codes(impl.function)}
        # Where only one was called, it is its fault also when its answer could not be read.
        owners = set(labels.values())
        owner = owners.pop() if len(owners) == 1 else "a plugin"
        frame = error.__traceback__
        while frame is not None:
            owner, frame = labels.get(frame.tb_frame.f_code, owner), frame.tb_next
        return PluginError(
            f"{owner} failed in {hook}: {in_words(error)}", remedy="--debug shows the traceback"
        )

    # ── observers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def run_started(self, run: RunContext, settings: Mapping[str, object]) -> None:
        """Tell the observers that a run starts or goes on."""
        self._notify("codex_run_started", (run, settings))

    def activity(self, run: RunContext, name: str, done: float, total: float | None, unit: str) -> None:
        """Tell the observers how far a piece of work is."""
        self._notify("codex_activity", (run, name, done, total, unit))

    def metrics(
        self, run: RunContext, step: int, metrics: Mapping[str, float], split: str, progress: Progress
    ) -> None:
        """Give the observers a record of metrics."""
        self._notify("codex_metrics", (run, step, metrics, split, progress))

    def collect_metrics(self, run: RunContext, step: int) -> dict[str, float]:
        """Ask the observers for metrics of the machine."""
        collected: dict[str, float] = {}
        for answer in self._notify("codex_collect_metrics", (run, step), _collected_answer):
            collected.update(answer)
        return collected

    def event(self, run: RunContext, name: str, fields: Mapping[str, object]) -> None:
        """Give the observers an event."""
        self._notify("codex_event", (run, name, fields))

    def checkpoint_saved(self, run: RunContext, checkpoint: Checkpoint) -> None:
        """Tell the observers of a checkpoint."""
        self._notify("codex_checkpoint_saved", (run, checkpoint))

    def run_finished(self, run: RunContext, outcome: Outcome) -> None:
        """Tell the observers that the run is over."""
        self._notify("codex_run_finished", (run, outcome))

    def _notify(
        self, hook: str, arguments: tuple[object, ...], read: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """Call every observer by itself, in pluggy's order; return the answers that are not None, as `read`.

        arguments: all of the hook, in the order of its specification.
        """
        answers, failures = [], self._failures
        for call, pick, plugin in self._bound.get(hook) or self._bind(hook):
            try:
                answer = call(*pick(arguments))
                if answer is not None:
                    answers.append(answer if read is None else read(answer))
            except BaseException as error:  # noqa: BLE001 - an observer may raise anything, and the run must go on
                self._note_failure(plugin, hook, error)
                continue
            if failures:
                failures.pop((id(plugin), hook), None)
        for source in self._sources.values() if self._sources else ():
            answers.extend(source._notify(hook, arguments, read))  # noqa: SLF001 - it is one of these
        return answers

    def _bind(self, hook: str) -> tuple[_Observer, ...]:
        """Return the observers of a hook, ready to be called: pluggy's way there costs more than most of them."""
        names = hook_check.parameters(hook)
        self._bound[hook] = tuple(
            (impl.function, _picker([names.index(name) for name in _taken(impl)]), impl.plugin)
            for impl in reversed(getattr(self._pm.hook, hook).get_hookimpls())
        )
        return self._bound[hook]

    def _note_failure(self, plugin: object, hook: str, error: BaseException) -> None:
        """Count the failures in a row of one hook, detach the observer at the third, and report it."""
        key = (id(plugin), hook)
        count = self._failures[key] = self._failures.get(key, 0) + 1
        fatal = id(plugin) in self._strict
        detached = not fatal and count >= FAILURES_BEFORE_DETACHING
        if detached:
            self._pm.unregister(plugin)
            self._bound.clear()
        self.on_observer_failure(ObserverFailure(self._labels[id(plugin)], hook, error, detached, fatal))


def _taken(impl: Any) -> tuple[str, ...]:
    """Return the hook's arguments that an implementation takes, in its own order; those with a default come last."""
    return (*impl.argnames, *impl.kwargnames)


def _picker(places: list[int]) -> Callable[[tuple[object, ...]], tuple[object, ...]]:
    """Return a function that picks these places of a tuple, as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[place] for place in places)


def _codes(function: Callable[..., Any]) -> Iterator[CodeType]:
    """Yield the code of an implementation and of those that decorate it; tracing's own is nobody's."""
    layer: Any = function
    while layer is not None:
        if not hasattr(layer, tracing.TRACED):
            yield layer.__code__
        layer = getattr(layer, "__wrapped__", None)


def _metric_answer(answer: Any) -> dict[str, float]:
    """Read the answer of a metric plugin; the loss itself is the trainer's."""
    return {} if answer is None else as_numbers(answer, taken=("loss", *RESERVED))


def _collected_answer(answer: Any) -> dict[str, float] | None:
    """Read the metrics of the machine that an observer gives."""
    return None if answer is None else as_numbers(answer, taken=RESERVED)
