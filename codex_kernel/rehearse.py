"""A short rehearsal of a run that is killed and resumed, beside one that is not: for `codex verify-resume`.

One rule: it is the user's own manifest through the real command line; only what makes it short is changed, and nobody
outside hears of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from codex_kernel import killing, metrics, yaml_writer
from codex_kernel.archive import none_usable, opened
from codex_kernel.compare import Difference, compare_file, compare_metrics
from codex_kernel.durable import write_whole
from codex_kernel.errors import CodexError
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import Reporter
from codex_kernel.killing import Kill, Pace, Watch
from codex_kernel.manifest import as_mapping
from codex_kernel.plan import Plan
from codex_kernel.runfolder import RunFolder, open_run

EVALUATIONS = 4
EVALUATED_BLOCKS = 8
MISSES_PER_KILL = 3
DIFFERENCES_PER_FILE = 20
_LOG_LINES = 3

Tell = Callable[[str], None]


@frozen
class Hit:
    """A kill that struck: in which killed run, after which recorded step, and whether a save was under way.

    `resumed_from` is the step of the checkpoint that the run went on from.
    """

    run: int
    step: int
    in_save: bool
    resumed_from: int = 0

    @property
    def lost_steps(self) -> int:
        """Steps that were done twice."""
        return self.step - self.resumed_from


@frozen
class Wish:
    """What is asked for: how many kills, over how many steps, and the seed that their instants are drawn from."""

    kills: int
    steps: int
    seed: int


@frozen
class Rehearsal:
    """What came of it; `records`, `files` and `size_bytes` count what was compared in each killed run.

    `differences` has the first of each file alone, DIFFERENCES_PER_FILE of them.
    """

    wish: Wish
    steps: int
    hits: Sequence[Hit]
    records: int
    files: int
    size_bytes: int
    differences: Sequence[Difference]


class ChildFailedError(CodexError):
    """A run of the rehearsal failed; the exit code is its own, 128 plus the signal where one ended it."""

    def __init__(self, what: str, code: int, log: Path) -> None:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-_LOG_LINES:]
        super().__init__(
            "\n".join([f"{what} failed with exit code {code}", *said]),
            remedy="--keep keeps what it wrote and printed",
        )
        self.exit_code = code if code > 0 else 128 - code


@frozen
class Places:
    """Where the rehearsal is: its own folder, the folder that relative paths start from, and the cache."""

    folder: Path
    base: Path
    cache: Path
    report: Reporter

    @property
    def manifest(self) -> Path:
        """The shortened manifest."""
        return self.folder / "manifest.yaml"

    def run(self, name: str) -> RunFolder:
        """Return the folder of one run, which need not exist yet."""
        return RunFolder(self.folder / name, "", name, self.base)

    def log(self, run: RunFolder) -> Path:
        """Return where the output of a run's processes goes."""
        return self.folder / f"{run.name}.log"


def shortened(plan: Plan, hooks: Hooks, steps: int) -> dict[str, Any]:
    """Return the manifest of the rehearsal: each plugin shortens its section; some evaluations, and no loggers."""
    changes = {id(plugin): answer for plugin, answer in hooks.shorten(steps)}
    sections = {chosen.section.path: chosen.resolved(changes) for chosen in plan.chosen}
    manifest = as_mapping(plan.manifest, sections)
    blocks = min(plan.evaluate.max_blocks or EVALUATED_BLOCKS, EVALUATED_BLOCKS)
    manifest["evaluate"] |= {"every_steps": max(1, steps // EVALUATIONS), "max_blocks": blocks}
    return {**manifest, "loggers": []}


def rehearse(plan: Plan, hooks: Hooks, wish: Wish, places: Places, tell: Tell) -> Rehearsal:
    """Run once undisturbed, then killed and resumed until all kills have struck, and compare bit by bit.

    Raises ChildFailedError where a run fails, CodexError where the kills find nothing to strike.
    """
    write_whole(places.manifest, yaml_writer.write(shortened(plan, hooks, wish.steps)).encode())
    reference = places.run("undisturbed")
    pace = _undisturbed(reference, places, tell)
    first, last = _range(reference, wish.kills)
    hits: list[Hit] = []
    runs: list[RunFolder] = []
    chance = random.Random(wish.seed)
    misses = 0
    while not runs or len(hits) < wish.kills:
        # A run that ended before all kills struck (its steps are short) is followed by another one.
        runs.append(places.run(f"killed-{len(runs) + 1}"))
        kills = killing.draw(chance, wish.kills - len(hits), first, last)
        struck = _disturbed(runs[-1], len(runs), kills, pace, places, tell)
        hits += struck
        misses += len(struck) < len(kills)
        if misses > MISSES_PER_KILL * wish.kills:
            raise CodexError(
                f"the run came to its end before {wish.kills - len(hits)} of {wish.kills} kills, again and again",
                remedy="give it more steps: --steps",
            )
    tell("comparing")
    return _compared(reference, runs, places, Rehearsal(wish, last + 1, hits, 0, 0, 0, ()))


# ── the runs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _undisturbed(run: RunFolder, places: Places, tell: Tell) -> Pace:
    tell("undisturbed run: starting")
    log = places.log(run)
    with killing.started(["run", str(places.manifest), "--run-dir", str(run.path)], log) as process:
        pace = killing.undisturbed(process, Watch(run), lambda step: tell(f"undisturbed run: step {step}"))
    _check("the undisturbed run", process.returncode, log)
    return pace


def _check(what: str, code: int, log: Path) -> None:
    if code:
        raise ChildFailedError(what, code, log)


def _range(run: RunFolder, kills: int) -> tuple[int, int]:
    """Return the steps after which a kill may strike: from the first checkpoint on, and before the last step."""
    steps = [record["step"] for record in metrics.read(run.metrics) if record["split"] == "train"]
    saved = [event["step"] for event in killing.saves(run)]
    last = max(steps, default=0)
    if kills and (not saved or min(saved) >= last):
        raise CodexError(
            f"the rehearsal of {last} steps saves no checkpoint before its end, so a killed run could not be resumed",
            remedy="give it more steps (--steps), or set the checkpointer's interval",
        )
    return min(saved, default=0), last - 1


def _disturbed(  # noqa: PLR0913 - the run, its kills, and where and how they are done
    run: RunFolder, number: int, kills: Sequence[Kill], pace: Pace, places: Places, tell: Tell
) -> list[Hit]:
    """Run to the end, killed and resumed on the way; return the kills that struck before it."""
    hits: list[Hit] = []
    log = places.log(run)
    arguments = ["run", str(places.manifest), "--run-dir", str(run.path)]
    for when in [*kills, None]:
        what = f"killed run {number}, {len(hits)} of {len(kills)} kills"
        tell(f"{what}: {'resuming' if hits else 'starting'}")
        watch = Watch(run)
        with killing.started(arguments, log) as process:

            def seen(step: int, what: str = what) -> None:
                tell(f"{what}: step {step}")

            struck = when is not None and killing.kill_at(process, watch, when, pace, seen)
            if when is None:
                killing.undisturbed(process, watch, seen)
        if hits:
            hits[-1] = evolve(hits[-1], resumed_from=_resumed_from(watch))
        if not struck:
            _check("the resumed run" if hits else "the run", process.returncode, log)
            return hits
        if run.outcome.exists():  # it was at its end already
            return hits
        hits.append(Hit(number, _last_step(run), in_save=bool(watch.saving())))
        arguments = ["resume", str(run.path)]
    return hits


def _resumed_from(watch: Watch) -> int:
    """Return the step that a resumed process went on from: the one before its first record."""
    first = [record["step"] for record in watch.new_records() if record["split"] == "train"]
    return first[0] - 1 if first else _last_step(watch.folder)


def _last_step(run: RunFolder) -> int:
    return max((r["step"] for r in metrics.read(run.metrics) if r["split"] == "train"), default=0)


# ── the comparison ────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(
    reference: RunFolder, runs: Sequence[RunFolder], places: Places, rehearsal: Rehearsal
) -> Rehearsal:
    records = list(metrics.read(reference.metrics))
    step, files = _last_checkpoint(reference, places)
    differences: list[Difference] = []
    for run in runs:
        of_metrics = compare_metrics(run.metrics.name, records, metrics.read(run.metrics))
        differences += islice(of_metrics, DIFFERENCES_PER_FILE)
        other_step, others = _last_checkpoint(run, places)
        if other_step != step:
            differences.append(Difference("checkpoints", "newest step", None, str(step), str(other_step)))
        else:
            for name in sorted({*files, *others}):
                of_file = compare_file(name, step, files.get(name), others.get(name))
                differences += islice(of_file, DIFFERENCES_PER_FILE)
    return evolve(
        rehearsal,
        records=len(records),
        files=len(files),
        size_bytes=sum(path.stat().st_size for path in files.values()),
        differences=differences,
    )


def _last_checkpoint(run: RunFolder, places: Places) -> tuple[int, Mapping[str, Path]]:
    """Return the step of a run's newest whole checkpoint, and where each of its files is."""
    with opened(open_run(run.path), places.cache, places.report) as found:
        newest = found.archive.newest()
        if newest is None:
            raise none_usable(found)
        return newest.step, {name: newest.path / name for name in found.archive.files(newest)}
