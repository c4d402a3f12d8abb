"""Tracing: off it costs nothing; on, each call is a record, and nothing that befalls the trace ends a run."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

from codex_kernel import metrics, tracing
from codex_kernel.errors import InputError, PluginError
from codex_kernel.hooks import Hooks
from codex_kernel.hookspecs import hookimpl
from codex_kernel.interfaces import GenerateRequest, Outcome, Progress
from codex_kernel.testing import RecordingReporter, make_run
from tests.command import Workplace, toy_workplace
from tests.docs.test_tutorials import environment
from tests.docs.tutorial import play
from tests.toys import install

PROGRESS = Progress(1, 10, 0.1, 5, 1)
HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock of our own into tracing."""
    made = Clock()
    monkeypatch.setattr(tracing, "_clock", made)
    return made


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Trace all hooks that are made from now on, and return what reads the records."""
    path = tmp_path / "trace.ndjson"
    tracing.start(path)
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    tracing.stop()


def hooks_with(*plugins: object) -> Hooks:
    """Register plugins under their class names."""
    hooks = Hooks()
    for plugin in plugins:
        hooks.register(plugin, type(plugin).__name__)
    return hooks


def told(hooks: Hooks, folder: Path) -> None:
    """Tell the observers of a record of metrics."""
    hooks.metrics(make_run(folder), 1, {"loss": 1.0}, "train", PROGRESS)


def brief(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return plugin, milliseconds, outcome and depth of each record."""
    return [(record["plugin"], record["ms"], record["outcome"], record["depth"]) for record in records]


@define(eq=False)
class Model:
    """A model that takes three milliseconds."""

    clock: Clock

    @hookimpl
    def codex_model(self) -> str:
        self.clock.now += 0.003
        return "model"


@define(eq=False)
class Adapter:
    """An adapter that takes one before and two after."""

    clock: Clock

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        self.clock.now += 0.001
        model = yield
        self.clock.now += 0.002
        return f"adapted {model}"


@define(eq=False)
class Logger:
    """A logger that counts what it is told, and may raise."""

    raises: BaseException | None = None
    told: int = 0

    @hookimpl
    def codex_metrics(self, step: int) -> None:
        self.told += step
        if self.raises:
            raise self.raises


# ── off ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_tracing_the_functions_that_are_called_are_the_plugins_own() -> None:
    """No hook implementation, of a provider or an observer, is wrapped or copied."""
    logger, model = Logger(), Model(Clock())
    hooks = hooks_with(logger, model)
    for plugin in (logger, model):
        for caller in hooks._pm.get_hookcallers(plugin) or ():
            (impl,) = caller.get_hookimpls()
            assert impl.function.__func__ is vars(type(plugin))[caller.name]
            assert impl.function.__self__ is plugin
    ((call, _, _),) = hooks._bind("codex_metrics")
    assert call.__func__ is Logger.codex_metrics


def test_without_tracing_no_plugin_stands_beside_those_of_the_manifest() -> None:
    """The observer of the trace is registered only where there is one."""
    assert hooks_with(Logger())._pm.list_name_plugin()[0][0] == "Logger #0"
    assert len(hooks_with(Logger())._pm.get_plugins()) == 1


# ── on ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrapper_is_timed_apart_from_what_it_wraps(tmp_path: Path, clock: Clock, trace: Any) -> None:
    """Each call has its own milliseconds; what is wrapped is deeper by one."""
    hooks = hooks_with(Model(clock), Adapter(clock), Adapter(clock))
    assert hooks.model(make_run(tmp_path), None, materialize=True) == "adapted adapted model"  # type: ignore[arg-type]
    assert brief(trace()) == [("Model", 3.0, "ok", 2), ("Adapter", 3.0, "ok", 1), ("Adapter", 3.0, "ok", 0)]


@define(eq=False)
class Asking:
    """A tokenizer that lets the cleaners be asked while it works."""

    clock: Clock
    hooks: list[Hooks]

    @hookimpl
    def codex_tokenizer(self, run: Any) -> str:
        self.clock.now += 0.004
        self.hooks[0].cleaner(run)
        self.clock.now += 0.001
        return "tokenizer"


@define(eq=False)
class Cleaner:
    """A cleaner that takes ten milliseconds and leaves nothing to do."""

    clock: Clock

    @hookimpl
    def codex_cleaner(self) -> None:
        self.clock.now += 0.010


def test_a_hook_called_within_another_is_deeper_and_has_its_own_time(
    tmp_path: Path, clock: Clock, trace: Any
) -> None:
    """So the seconds of all plugins can be added up."""
    hooks: list[Hooks] = []
    hooks.append(hooks_with(Asking(clock, hooks), Cleaner(clock)))
    hooks[0].tokenizer(make_run(tmp_path), None, None)
    assert brief(trace()) == [("Cleaner", 10.0, "none", 1), ("Asking", 5.0, "ok", 0)]


@define(eq=False)
class Generator:
    """Generates three pieces, a millisecond each, and may fail after them."""

    clock: Clock
    raises: Exception | None = None

    @hookimpl
    def codex_generate(self) -> Iterator[str]:
        for piece in "abc":
            self.clock.now += 0.001
            yield piece
        if self.raises:
            raise self.raises


@pytest.mark.parametrize(("taken", "ms"), [(1, 1.0), (3, 3.0), (9, 3.0)])
def test_an_answer_that_is_a_generator_is_timed_while_it_is_gone_through(
    tmp_path: Path, clock: Clock, trace: Any, taken: int, ms: float
) -> None:
    """What its user does between two pieces is not its time; one that is left early has its record, too."""
    pieces = hooks_with(Generator(clock)).generate(
        make_run(tmp_path),
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        GenerateRequest("", 1, 0.0, None, None, 0, 8),
    )
    for _, _piece in zip(range(taken), pieces, strict=False):
        clock.now += 5
    pieces.close()  # type: ignore[attr-defined]
    assert brief(trace()) == [("Generator", ms, "ok", 0)]


@pytest.mark.parametrize("traced", [False, True])
def test_who_failed_is_told_as_without_tracing(tmp_path: Path, clock: Clock, *, traced: bool) -> None:
    """Also from within a generator, a wrapper, or below a decorator that two plugins share."""
    if traced:
        tracing.start(tmp_path / "t.ndjson")
    try:
        run = make_run(tmp_path)
        with pytest.raises(PluginError) as error:
            hooks_with(Decorated("bad"), Silent(), Silent(1)).mixing()
        assert str(error.value) == "Decorated failed in codex_mixing: ValueError: bad"
        with pytest.raises(PluginError) as error:
            hooks_with(Model(clock), Adapter(clock), BadAdapter()).model(run, None, materialize=True)  # type: ignore[arg-type]
        assert str(error.value) == "BadAdapter failed in codex_model: ValueError: cannot adapt"
        with pytest.raises(PluginError) as error:
            hooks_with(BadModel(), BadAdapter(), Adapter(clock)).model(run, None, materialize=True)  # type: ignore[arg-type]
        assert str(error.value) == "BadModel failed in codex_model: ValueError: no weights"
        with pytest.raises(PluginError) as error:
            hooks_with(Model(clock), Unyielding()).model(run, None, materialize=True)  # type: ignore[arg-type]
        assert "test_tracing.py" in str(error.value)
        assert "did not yield" in str(error.value)
        generator = hooks_with(Generator(clock, OSError("gone")))
        with pytest.raises(PluginError, match="Generator failed in codex_generate: OSError: gone"):
            list(generator.generate(run, None, None, None, None))  # type: ignore[arg-type]
    finally:
        tracing.stop()


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as a library would."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


@frozen
class Decorated:
    """Raises."""

    text: str

    @hookimpl
    @shared
    def codex_mixing(self) -> None:
        raise ValueError(self.text)


@frozen
class Silent:
    """Leaves the answer to others."""

    number: int = 0

    @hookimpl
    @shared
    def codex_mixing(self) -> None:
        """Answer nothing."""


class BadAdapter:
    """Raises after the model is there."""

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        yield
        raise ValueError("cannot adapt")


class BadModel:
    """Raises."""

    @hookimpl
    def codex_model(self) -> None:
        raise ValueError("no weights")


class Unyielding:
    """A wrapper that forgets to yield."""

    @hookimpl(wrapper=True)
    def codex_model(self) -> Iterator[None]:
        return
        yield


def test_a_failed_call_is_recorded_with_its_error(tmp_path: Path, clock: Clock, trace: Any) -> None:
    """The plugin that raised has the error; a wrapper that only lets it pass gave no answer, and none failed."""
    with pytest.raises(PluginError):
        hooks_with(BadModel(), Adapter(clock)).model(make_run(tmp_path), None, materialize=True)  # type: ignore[arg-type]
    assert brief(trace()) == [("BadModel", 0.0, "error", 1), ("Adapter", 1.0, "none", 0)]
    assert trace()[0]["error"] == "ValueError: no weights"
    assert "error" not in trace()[1]


def test_a_failing_observer_is_detached_as_without_tracing(tmp_path: Path, trace: Any) -> None:
    """Three failures, three records, and no fourth call."""
    failures: list[Any] = []
    logger = Logger(ValueError("x" * 1000))
    hooks = hooks_with(logger)
    hooks.on_observer_failure = failures.append
    for _ in range(5):
        told(hooks, tmp_path)
    assert (logger.told, len(failures), failures[-1].detached) == (3, 3, True)
    assert [record["outcome"] for record in trace()] == ["error"] * 3
    assert len(trace()[0]["error"]) == 200


def test_records_of_many_threads_are_whole_lines_with_the_names_of_their_threads(
    tmp_path: Path, trace: Any
) -> None:
    """Depth is counted in each thread by itself."""
    hooks = hooks_with(Logger())
    threads = [
        threading.Thread(target=lambda: [told(hooks, tmp_path) for _ in range(200)], name=f"t{number}")
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [record["thread"] for record in trace()]
    assert sorted(found) == sorted(f"t{number}" for number in range(4) for _ in range(200))
    assert {record["depth"] for record in trace()} == {0}


def test_the_rank_of_a_process_is_in_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the launcher has given it one."""
    monkeypatch.setenv("RANK", "3")
    tracing.start(tmp_path / "t.ndjson")
    told(hooks_with(Logger()), tmp_path)
    tracing.stop()
    assert json.loads((tmp_path / "t.ndjson").read_text())["rank"] == 3


def test_the_sources_of_a_dataset_are_traced_by_their_own_names(tmp_path: Path, trace: Any) -> None:
    """They have hooks of their own, and one trace."""
    hooks = hooks_with(Logger())
    hooks.add_source("one", Logger(), "dataset 'one' (x 1)")
    told(hooks, tmp_path)
    assert [record["plugin"] for record in trace()] == ["Logger", "dataset 'one' (x 1)"]


# ── what befalls the trace ────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_file_ends_the_trace_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plugins go on, and their seconds are still counted."""
    trace = tracing.start(tmp_path / "t.ndjson")
    hooks = hooks_with(logger := Logger())
    told(hooks, tmp_path)
    assert trace._descriptor is not None
    os.close(trace._descriptor)
    for _ in range(3):
        told(hooks, tmp_path)
    tracing.stop()
    assert capsys.readouterr().err == "warning: the trace of the plugins ends here: Bad file descriptor\n"
    assert logger.told == 4
    assert trace.totals()[0]["calls"] == 4


def test_a_folder_that_cannot_be_written_ends_the_trace_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that it was for goes on."""
    run = make_run(tmp_path)
    (run.folder / tracing.FILE_NAME).mkdir()
    tracing.start(None)
    hooks = hooks_with(logger := Logger())
    hooks.run_started(run, {})
    told(hooks, tmp_path)
    tracing.stop()
    err = capsys.readouterr().err
    assert err.startswith("warning: the plugins are not traced: cannot write ")
    assert len(err.splitlines()) == 1
    assert logger.told == 1


def events_of(hooks: Hooks, folder: Path) -> dict[str, int]:
    """Tell of a whole run in a folder of its own; return the calls that it recorded of each plugin."""
    folder.mkdir()
    run = make_run(folder)
    hooks.run_started(run, {})
    told(hooks, folder)
    hooks.run_finished(run, Outcome("completed", 0, "done", 1, 1, 1, 1.0, {}, None, []))
    assert isinstance(run.report, RecordingReporter)
    (event,) = [fields for name, fields in run.report.events if name == "plugin_seconds"]
    return {row["plugin"]: row["calls"] for row in event["plugins"]}


@pytest.mark.parametrize("named", [False, True])
def test_a_second_run_of_a_process_is_traced_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, named: bool
) -> None:
    """Each run counts its own calls, those before its start among them, and has its own file unless one was named."""
    tracing.start(tmp_path / "t.ndjson" if named else None)
    for name in ("one", "two"):
        hooks = hooks_with(Logger(), Model(Clock()))
        hooks.model(make_run(tmp_path), None, materialize=True)  # type: ignore[arg-type]
        assert events_of(hooks, tmp_path / name) == {"Logger": 1, "Model": 1}
    tracing.stop()
    files = sorted(tmp_path.rglob("*.ndjson"))
    lines = [len(file.read_text().splitlines()) for file in files]
    assert lines == ([4] if named else [2, 2])
    assert capsys.readouterr().err == ""


def test_a_run_that_broke_off_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """Its calls stay in its own file, and what was called after the last run is in that run's."""
    trace = tracing.start(None)
    for name, calls in (("one", 2), ("two", 1)):
        (tmp_path / name).mkdir()
        hooks = hooks_with(Logger())
        hooks.run_started(make_run(tmp_path / name), {})
        for _ in range(calls):
            told(hooks, tmp_path)
    assert [row["calls"] for row in trace.totals()] == [1]
    trace.end()
    told(hooks, tmp_path)
    tracing.stop()
    files = [tmp_path / name / "run" / tracing.FILE_NAME for name in ("one", "two")]
    assert [len(file.read_text().splitlines()) for file in files] == [2, 2]


def test_events_that_cannot_be_written_do_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds per plugin are worth a warning, not a run."""

    def full(*_args: object, **_fields: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordingReporter, "event", full)
    failures: list[object] = []
    tracing.start(tmp_path / "t.ndjson")
    hooks = hooks_with()
    hooks.on_observer_failure = failures.append
    outcome = Outcome("completed", 0, "done", 1, 1, 1, 1.0, {}, None, [])
    hooks.run_finished(make_run(tmp_path), outcome)
    tracing.stop()
    assert failures == []
    assert "warning: the seconds per plugin are not in the record" in capsys.readouterr().err


def test_a_file_that_cannot_be_opened_is_an_error_before_anything_is_done(tmp_path: Path) -> None:
    """It was asked for, so it is not left out."""
    with pytest.raises(InputError, match="--trace-plugins: cannot write"):
        tracing.start(tmp_path / "no" / "t.ndjson")
    assert tracing.current() is None


# ── a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins."""
    return toy_workplace(tmp_path)


def records(path: Path) -> list[dict[str, Any]]:
    """Read a trace."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_its_trace_into_its_folder_and_its_seconds_into_its_events(workplace: Workplace) -> None:
    """Each call from preflight to the end, with the thread that it was made in; a table at the end."""
    options = ("--set", "adapters=[sharpen]", "--trace-plugins")
    said = workplace.codex("run", "toy.yaml", "--run-dir", "here", *options)
    assert said.code == 0, said.err
    assert said.err == ""
    found = records(workplace.folder / "here" / "plugin-trace.ndjson")
    assert all(
        list(record) == ["time", "hook", "plugin", "ms", "outcome", "depth", "thread"] for record in found
    )
    main = [(r["hook"], r["plugin"].split()[0], r["depth"]) for r in found if r["thread"] == "MainThread"]
    assert main == [
        ("codex_preflight", "dataset", 0),
        ("codex_dataset", "dataset", 0),
        ("codex_tokenizer", "tokenizer", 0),
        ("codex_model", "model", 1),
        ("codex_model", "adapter", 0),
        ("codex_checkpointer", "checkpointer", 0),
        ("codex_trainer", "trainer", 0),
        ("codex_metric", "metric", 0),
        ("codex_metric", "metric", 0),
    ]
    observed = [r["hook"] for r in found if r["thread"] == "codex-observers"]
    assert (observed[0], observed[-1]) == ("codex_run_started", "codex_run_finished")
    assert observed.count("codex_metrics") == 13
    (event,) = [
        event
        for event in metrics.read(workplace.folder / "here" / "events.ndjson")
        if event["event"] == "plugin_seconds"
    ]
    totals = {row["plugin"]: row for row in event["plugins"]}
    assert sum(row["calls"] for row in totals.values()) == len(found)
    seconds = totals["logger 'toy' (codex-toys 1.0)"]["seconds"]
    assert seconds == pytest.approx(
        sum(r["ms"] for r in found if r["plugin"].startswith("logger")) / 1000, abs=1e-4
    )
    assert list(totals) == sorted(totals, key=lambda name: -totals[name]["seconds"])
    table = said.out.partition("in the hooks of\n")[2].partition("\n\n")[0].splitlines()
    assert len(table) == len(totals)
    assert "plugin_seconds" not in (workplace.folder / "here" / "told.txt").read_text()


def test_a_traced_run_is_the_same_run(workplace: Workplace) -> None:
    """Its metrics are those of a run without a trace, which has neither the file nor the table."""
    workplace.codex("run", "toy.yaml", "--run-dir", "traced", "--trace-plugins")
    plain = workplace.codex("run", "toy.yaml", "--run-dir", "plain")
    losses = [
        metrics.series(metrics.read(workplace.folder / name / "metrics.ndjson"), "train", "loss")
        for name in ("traced", "plain")
    ]
    assert losses[0] == losses[1]
    assert "in the hooks of" not in plain.out
    assert not (workplace.folder / "plain" / "plugin-trace.ndjson").exists()
    assert "plugin_seconds" not in (workplace.folder / "plain" / "events.ndjson").read_text()


def test_a_resumed_run_adds_to_its_trace(workplace: Workplace) -> None:
    """Its table is that of the resume alone."""
    workplace.codex("run", "toy.yaml", "--run-dir", "here", "--trace-plugins")
    before = records(workplace.folder / "here" / "plugin-trace.ndjson")
    allowed = ("--allow-change", "trainer.max_steps")
    said = workplace.codex("resume", "here", "--trace-plugins", "--set", "trainer.max_steps=8", *allowed)
    assert said.code == 0, said.err
    after = records(workplace.folder / "here" / "plugin-trace.ndjson")
    assert after[: len(before)] == before
    *_, event = (
        event
        for event in metrics.read(workplace.folder / "here" / "events.ndjson")
        if event["event"] == "plugin_seconds"
    )
    assert sum(row["calls"] for row in event["plugins"]) == len(after) - len(before)


def test_a_trace_goes_to_the_file_that_is_named(workplace: Workplace) -> None:
    """And not into the run's folder."""
    said = workplace.codex("--trace-plugins=t.ndjson", "run", "toy.yaml", "--run-dir", "here")
    assert said.code == 0, said.err
    assert records(workplace.folder / "t.ndjson")[-1]["hook"] == "codex_run_finished"
    assert not (workplace.folder / "here" / "plugin-trace.ndjson").exists()


def test_a_command_without_a_run_writes_its_trace_to_standard_error(workplace: Workplace) -> None:
    """Standard output stays what it is."""
    plain = workplace.codex("validate", "toy.yaml")
    said = workplace.codex("validate", "toy.yaml", "--trace-plugins")
    assert (said.code, said.out) == (0, plain.out)
    assert json.loads(said.err)["hook"] == "codex_preflight"
    workplace.codex("run", "toy.yaml", "--run-dir", "here")
    generated = workplace.codex("generate", "here", "--prompt", "a", "--trace-plugins")
    hooks = [json.loads(line)["hook"] for line in generated.err.splitlines()]
    assert hooks == ["codex_checkpointer", "codex_tokenizer", "codex_model", "codex_generate"]


def test_a_run_that_fails_has_its_trace_and_its_seconds(workplace: Workplace) -> None:
    """The failed call is the record that has an error."""
    text = (
        "from attrs import frozen\nfrom codex_kernel import hookimpl\n@frozen\nclass Bad:\n"
        "    @hookimpl\n    def codex_model(self):\n        raise ValueError('no weights')\n"
    )
    install(
        workplace.site, "codex-bad", {"codex.models": {"bad": "codex_bad:Bad"}}, modules={"codex_bad": text}
    )
    said = workplace.codex(
        "run", "toy.yaml", "--run-dir", "here", "--trace-plugins", "--set", "model.type=bad"
    )
    assert said.code == 7
    assert "model 'bad' (codex-bad 1.0) failed in codex_model: ValueError: no weights" in said.err
    failed = [r for r in records(workplace.folder / "here" / "plugin-trace.ndjson") if "error" in r]
    assert [(r["hook"], r["outcome"], r["error"]) for r in failed] == [
        ("codex_model", "error", "ValueError: no weights")
    ]
    assert '"plugin_seconds"' in (workplace.folder / "here" / "events.ndjson").read_text()


def test_a_full_disk_ends_the_trace_with_one_warning_and_not_the_run(workplace: Workplace) -> None:
    """The run completes, and tells the seconds all the same."""
    said = workplace.codex("run", "toy.yaml", "--run-dir", "here", "--trace-plugins=/dev/full")
    assert said.code == 0, said.err
    assert said.err == "warning: the trace of the plugins ends here: No space left on device\n"
    assert "in the hooks of" in said.out


@define(eq=False)
class Defaulting:
    """An observer whose arguments have defaults."""

    seen: list[tuple[int, str]] = field(factory=list)

    @hookimpl
    def codex_metrics(self, step: int, split: str = "nothing was passed") -> None:
        self.seen.append((step, split))


@pytest.mark.parametrize("traced", [False, True])
def test_a_default_of_an_argument_yields_to_what_the_hook_passes(tmp_path: Path, *, traced: bool) -> None:
    """As in pluggy itself, traced or not."""
    if traced:
        tracing.start(tmp_path / "t.ndjson")
    try:
        plugin = Defaulting()
        told(hooks_with(plugin), tmp_path)
    finally:
        tracing.stop()
    assert plugin.seen == [(1, "train")]


@pytest.mark.slow
def test_the_page_on_tracing_is_as_it_shows(tmp_path: Path) -> None:
    """Every file of the page is written, every command runs and prints what the page shows."""
    (tmp_path / "work").mkdir()
    play(HOW_TO / "trace-plugins.md", tmp_path / "work", environment(tmp_path))


def test_the_page_on_tracing_explains_each_field(
    tmp_path: Path, trace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No field of a record is missing in its table, in its order, and none is invented."""
    monkeypatch.setenv("RANK", "0")
    tracing.start(tmp_path / "ranked.ndjson")
    told(hooks_with(Logger(ValueError("x"))), tmp_path)
    tracing.stop()
    table = (HOW_TO / "trace-plugins.md").read_text(encoding="utf-8").partition("| field |")[2]
    named = [line.split("`")[1] for line in table.partition("\n\n")[0].splitlines() if line.startswith("| `")]
    assert named == list(json.loads((tmp_path / "ranked.ndjson").read_text()))
    assert trace() == []
