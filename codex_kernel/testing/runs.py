"""Whole runs in a test: a manifest, run to its end in this process or in one of its own, and what came of it.

    ran = run_manifest(toy_manifest(loggers=["mine"]), plugins={"logger": {"mine": MyLogger}}, folder=tmp_path)
    assert ran.outcome.status == "completed"

One rule: a run goes the way of `codex run`, from the text of its manifest to its outcome.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from codex_kernel import manifest, metrics, runfolder
from codex_kernel.catalog import Catalog
from codex_kernel.durable import read_json
from codex_kernel.errors import CodexError, Problem
from codex_kernel.interfaces import Outcome
from codex_kernel.plan import preflight, resolve
from codex_kernel.runfolder import RunFolder
from codex_kernel.testing.isolated import IsolatedCatalog, active, isolated
from codex_kernel.yaml_writer import write

TOYS = {
    "dataset": {"toy": "codex_kernel.testing.toy_plugins:ToyDataset"},
    "model": {"toy": "codex_kernel.testing.toy_plugins:ToyModel"},
    "trainer": {"toy": "codex_kernel.testing.toy_plugins:ToyTrainer"},
    "checkpointer": {"toy": "codex_kernel.testing.toy_checkpointer:ToyCheckpointer"},
}
"""The plugins `toy` that every run of `run_manifest` may use, beside those of the kernel itself."""

Plugins = Mapping[str, Mapping[str, Any]]
"""Kind → name → class of a plugin, or its target."""


@frozen(eq=False)
class Ran:
    """What came of a run.

    `folder` is the run's own folder; `outcome` how it ended; `events` and `metrics` its records, in order; `output`
    what a process of its own printed; `error` what ended it, where `check=False` let that pass.
    """

    folder: Path
    outcome: Outcome
    events: Sequence[Mapping[str, Any]]
    metrics: Sequence[Mapping[str, Any]]
    exit_code: int
    output: str = ""
    error: CodexError | None = None

    @property
    def warnings(self) -> list[str]:
        """What the run warned of."""
        return [str(event["message"]) for event in self.events if event["event"] == "warning"]

    @property
    def failures(self) -> list[str]:
        """What its loggers failed with: plugin, hook and error."""
        failed = [event for event in self.events if event["event"] == "observer_failed"]
        return [f"{event['plugin']} in {event['hook']}: {event['error']}" for event in failed]

    def series(self, name: str, split: str = "train") -> list[tuple[int, float]]:
        """Return (step, value) of one metric."""
        return metrics.series(iter([dict(record) for record in self.metrics]), split, name)


def toy_manifest(**sections: Any) -> str:
    """Return a manifest whose sections are toys, but for those that are given: `toy_manifest(loggers=["mine"])`."""
    whole: dict[str, Any] = {
        "name": "toy",
        "dataset": {"type": "toy"},
        "tokenizer": {"type": "bytes"},
        "data": {"seq_len": 32, "validation_fraction": 0.2},
        "model": {"type": "toy"},
        "trainer": {"type": "toy"},
        "checkpointer": {"type": "toy", "every_steps": 2},
        "loggers": [],
    }
    return write(whole | sections)


def run_manifest(  # noqa: PLR0913 - what a run can differ in
    text: str | Path,
    *,
    folder: Path,
    plugins: Plugins | None = None,
    sets: Sequence[str] = (),
    isolated: bool = False,
    check: bool = True,
) -> Ran:
    """Run a manifest to its end.

    text: the manifest, or its file. folder: where relative paths start, and the run is put. plugins: what the manifest
    may name beside the kernel's own plugins and the toys. sets: as after `--set`. isolated: in a process of its own.
    check: False returns what is left of a run that failed; else its error is raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = text
    if isinstance(text, str):
        path = folder / "manifest.yaml"
        path.write_text(text, encoding="utf-8")
    with _findable(folder, plugins or {}):
        run = _in_a_process if isolated else _here
        return run(Path(path).absolute(), folder.absolute(), sets, check)


def resume_run(ran: Ran, *, folder: Path, plugins: Plugins | None = None, sets: Sequence[str] = ()) -> Ran:
    """Go on with a run that was stopped, by the manifest that it began with; `folder` as when it began."""
    from codex_kernel import execute

    with _findable(folder, plugins or {}):
        run = runfolder.open_run(ran.folder)
        plan = _plan(run.begun(), sets)
        hooks = preflight(plan, run.base, folder / "cache")
        outcome = execute.resume(plan, hooks, run, folder / "cache", execute.Resumption((), ["codex resume"]))
        return _ran(run, outcome.exit_code)


@contextmanager
def _findable(folder: Path, plugins: Plugins) -> Iterator[IsolatedCatalog]:
    """Make plugins findable, in the isolated catalog that holds, else in one of this run alone."""
    catalog = active()
    if catalog is None:
        with isolated(folder / "site") as own:
            _add(own, plugins)
            yield own
    else:
        _add(catalog, plugins)
        yield catalog


def _add(catalog: IsolatedCatalog, plugins: Plugins) -> None:
    for kind, classes in plugins.items():
        for name, plugin in classes.items():
            catalog.add(kind, name, plugin)
    taken = {kind: catalog.has(kind, "toy") for kind in TOYS}
    toys = {kind: targets for kind, targets in TOYS.items() if not taken[kind]}
    if toys:
        catalog.add_distribution("codex-testing-toys", toys)


def _plan(path: Path, sets: Sequence[str]) -> Any:
    problems: list[Problem] = []
    return resolve(manifest.load(path, (), sets, problems), Catalog.scan(), problems)


def _here(path: Path, folder: Path, sets: Sequence[str], check: bool) -> Ran:  # noqa: FBT001 - the caller's own word
    from codex_kernel import execute

    plan = _plan(path, sets)
    hooks = preflight(plan, folder, folder / "cache")
    run = runfolder.create(folder / "runs", plan.name, folder)
    how = execute.Start(plan.manifest.text, [f"--set {text}" for text in sets], ["codex", "run", str(path)])
    try:
        outcome = execute.start(plan, hooks, run, folder / "cache", how)
    except CodexError as error:
        if check:
            raise
        return _ran(run, error.exit_code, error=error)
    return _ran(run, outcome.exit_code)


def _in_a_process(path: Path, folder: Path, sets: Sequence[str], check: bool) -> Ran:  # noqa: FBT001 - likewise
    name = manifest.load(path, (), sets, []).name or "run"
    run_dir = folder / "runs" / name / f"process-{len(list(folder.glob('runs/*/process-*')))}"
    command = [sys.executable, "-m", "codex_kernel", "run", str(path), "--run-dir", str(run_dir)]
    command += [word for text in sets for word in ("--set", text)]
    ran = subprocess.run(  # noqa: S603 - this interpreter and this package
        command,
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    error = CodexError(ran.stdout.strip() or f"it ended with {ran.returncode}", remedy=" ".join(command))
    if (ran.returncode and check) or not (run_dir / "run.json").exists():
        raise error
    return _ran(runfolder.open_run(run_dir), ran.returncode, ran.stdout, error if ran.returncode else None)


def _environment(folder: Path) -> dict[str, str]:
    import os

    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, "CODEX_CACHE": str(folder / "cache"), "NO_COLOR": "1"}


def _ran(run: RunFolder, exit_code: int, output: str = "", error: CodexError | None = None) -> Ran:
    """Read a run's folder."""
    about = read_json(run.outcome) or {}
    known = {field.name for field in fields(Outcome)}
    return Ran(
        folder=run.path,
        outcome=Outcome(**{name: value for name, value in about.items() if name in known}),
        events=list(metrics.read(run.events)),
        metrics=list(metrics.read(run.metrics)),
        exit_code=exit_code,
        output=output,
        error=error,
    )
