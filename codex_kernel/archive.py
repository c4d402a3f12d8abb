"""The checkpoints of a run, looked at one by one: for `codex checkpoints`.

One rule: only the checkpointer's plugin is loaded, so that checkpoints can be read where the rest of the run's plugins
is missing; and the newest checkpoint that is whole is never deleted.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
from attrs import frozen

from codex_kernel.catalog import Catalog
from codex_kernel.durable import beside, storage_errors, sync_folder, write_json
from codex_kernel.errors import InputError, ManifestError, NoCheckpointError, PluginError, Problem
from codex_kernel.foretell import NeverStop
from codex_kernel.hooks import Hooks
from codex_kernel.interfaces import (
    Checkpoint,
    CheckpointArchive,
    Checkpointer,
    Damaged,
    Reporter,
)
from codex_kernel.manifest import load
from codex_kernel.option_types import did_you_mean
from codex_kernel.plan import Chosen, choose
from codex_kernel.retention import KeepBest, retained_steps
from codex_kernel.runfolder import RunFolder

EXPORT_RECORD = "codex-export.json"
EXPORT_SCHEMA = 1


class Archive(Checkpointer, CheckpointArchive, Protocol):
    """A checkpointer whose checkpoints can be looked at one by one."""


@frozen(eq=False)
class Opened:
    """The checkpoints of a run; `best_by` is the run's own rule for the best ones, or that of the lowest loss."""

    folder: RunFolder
    archive: Archive
    best_by: KeepBest

    def known(self) -> list[Checkpoint]:
        """Return the checkpoints that look whole, oldest first."""
        return sorted(self.archive.checkpoints()[0], key=lambda checkpoint: checkpoint.step)


@contextmanager
def opened(folder: RunFolder, cache: Path, report: Reporter, *, read_only: bool = True) -> Iterator[Opened]:
    """Open a run's checkpoints by the checkpointer of its `resolved.yaml`; the caller locks where not `read_only`.

    Raises PluginError where that checkpointer is not installed, or does not satisfy `CheckpointArchive`.
    """
    manifest = load(folder.begun())
    problems: list[Problem] = []
    section = manifest.checkpointer
    chosen = choose(section, Catalog.scan(), problems) if section else None
    if chosen is None:
        raise ManifestError(problems)
    run = folder.context(manifest.seed, cache, report, NeverStop(), frozenset())
    hooks = Hooks()
    hooks.register(chosen.plugin, str(chosen.entry))
    checkpointer = hooks.checkpointer(run, folder.checkpoints, read_only=read_only)
    try:
        yield Opened(folder, _archive(checkpointer, chosen), _best_by(chosen.plugin))
    finally:
        checkpointer.close()


def _archive(checkpointer: Checkpointer, chosen: Chosen) -> Any:
    if isinstance(checkpointer, CheckpointArchive):
        return checkpointer
    raise PluginError(
        f"{chosen.entry} cannot show its checkpoints: it does not implement codex_kernel.CheckpointArchive",
        remedy="codex resume and codex generate work with it all the same",
    )


def _best_by(plugin: Any) -> KeepBest:
    """Return the plugin's option that is a rule for the best checkpoints."""
    values = (getattr(plugin, attribute.name) for attribute in attrs.fields(type(plugin)))
    return next((value for value in values if isinstance(value, KeepBest)), KeepBest("validation/loss"))


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Standing:
    """A checkpoint and what it is among the others; `kept` says that the run's own rules would keep it."""

    checkpoint: Checkpoint
    newest: bool
    best: bool
    kept: bool


def standings(checkpoints: Opened) -> tuple[list[Standing], Sequence[Damaged]]:
    """Return the checkpoints of a run, oldest first, and apart from them the damaged ones."""
    found, damaged = checkpoints.archive.checkpoints()
    known = sorted(found, key=lambda checkpoint: checkpoint.step)
    kept, best = checkpoints.archive.kept(known), best_step(known, checkpoints.best_by)
    return [
        Standing(one, newest=one is known[-1], best=one.step == best, kept=one.step in kept) for one in known
    ], damaged


def best_step(known: Sequence[Checkpoint], rule: KeepBest) -> int | None:
    """Return the step of the best checkpoint by the rule; None where none has the metric."""
    sign = 1.0 if rule.mode == "max" else -1.0
    rated = [
        (sign * checkpoint.metrics[rule.metric], checkpoint.step)
        for checkpoint in known
        if math.isfinite(checkpoint.metrics.get(rule.metric, math.nan))
    ]
    return max(rated)[1] if rated else None


def at_step(checkpoints: Opened, step: int | None) -> Checkpoint:
    """Return the checkpoint of a step, None: the newest; it has not been read yet.

    Raises NoCheckpointError where the run has none, or where that one is damaged, InputError where there never was one
    of that step.
    """
    found, damaged = checkpoints.archive.checkpoints()
    known = sorted(found, key=lambda checkpoint: checkpoint.step)
    if step is None and known:
        return known[-1]
    for checkpoint in known:
        if checkpoint.step == step:
            return checkpoint
    for one in damaged:
        if step is None or f"{step:08d}" in one.path.name:
            raise NoCheckpointError(
                f"{one.path} is damaged: {one.reason}",
                remedy=f"codex checkpoints list {checkpoints.folder.path}",
            )
    if not known:
        raise none_usable(checkpoints)
    steps = ", ".join(str(checkpoint.step) for checkpoint in known)
    raise InputError(f"{checkpoints.folder.checkpoints} has no checkpoint of step {step}, it has {steps}")


def usable(checkpoints: Opened, step: int | None) -> Checkpoint:
    """Return the checkpoint of a step, or the newest one that was read and found whole.

    Raises what `at_step` raises, and NoCheckpointError where none is whole.
    """
    if step is not None:
        return at_step(checkpoints, step)
    newest = checkpoints.archive.newest()
    if newest is None:
        raise none_usable(checkpoints)
    return newest


def none_usable(checkpoints: Opened) -> NoCheckpointError:
    """Return the error that says that there is nothing to work with."""
    return NoCheckpointError(
        f"{checkpoints.folder.checkpoints} has no checkpoint that can be used",
        remedy=f"codex runs show {checkpoints.folder.path}",
    )


# ── deleting ──────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Rules:
    """Which checkpoints `prune` keeps; all None: those that the run's own options keep."""

    keep_last: int | None = None
    keep_best: KeepBest | None = None
    keep_every: int | None = None

    def steps(self, checkpoints: Opened, known: Sequence[Checkpoint]) -> frozenset[int]:
        """Return the steps to keep of these; raise InputError where none has the metric of `keep_best`."""
        if self == Rules():
            return checkpoints.archive.kept(known)
        if self.keep_best is not None:
            _check_metric(self.keep_best.metric, known)
        return retained_steps(
            known, keep_last=self.keep_last or 1, keep_best=self.keep_best, keep_every=self.keep_every
        )


def _check_metric(name: str, known: Sequence[Checkpoint]) -> None:
    """Raise InputError for a metric that no checkpoint has: by a misspelt one the best would be deleted."""
    names = {metric for one in known for metric in one.metrics}
    if name not in names:
        raise InputError(
            f"nothing was deleted: no checkpoint was saved with the metric {name!r}",
            remedy=did_you_mean(name, names) or f"they have {', '.join(sorted(names)) or 'none'}",
        )


@frozen
class Pruning:
    """What would be deleted: checkpoints that no rule keeps, and damaged ones where that was asked for."""

    kept: Sequence[Checkpoint]
    going: Sequence[Checkpoint]
    damaged: Sequence[Damaged]

    @property
    def paths(self) -> list[Path]:
        """What goes, oldest first."""
        return [*(one.path for one in self.going), *(one.path for one in self.damaged)]


def pruning(checkpoints: Opened, rules: Rules, *, damaged: bool) -> Pruning:
    """Return what the rules would delete.

    The newest checkpoint that a resume would take stays, and the damaged ones after it count for no rule. Raises
    NoCheckpointError where there is none: then damaged ones are all that there is of the run.
    """
    newest = usable(checkpoints, None)
    found, bad = checkpoints.archive.checkpoints()
    known = [one for one in found if one.step <= newest.step]
    later = [one for one in found if one.step > newest.step]
    keep = rules.steps(checkpoints, known) | {newest.step}
    return Pruning(
        kept=[one for one in known if one.step in keep],
        going=[one for one in known if one.step not in keep],
        damaged=[*(_damage(checkpoints, one) for one in later), *bad] if damaged else [],
    )


def _damage(checkpoints: Opened, checkpoint: Checkpoint) -> Damaged:
    """Return what is wrong with a checkpoint that cannot be used."""
    faults = checkpoints.archive.verify(checkpoint)
    return Damaged(checkpoint.path, faults[0] if faults else "a resume would not take it")


def size_on_disk(path: Path) -> int:
    """Return the bytes of all files in a folder, or of a file; what a process deletes meanwhile has none."""
    if path.is_file():
        return _size(path)
    return sum(_size(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except FileNotFoundError:
        return 0


# ── taking out ────────────────────────────────────────────────────────────────────────────────────────────────────


def check_target(target: Path) -> None:
    """Raise InputError where something is in the way of an export."""
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists already", remedy="choose a new folder for --to")


def export(checkpoints: Opened, checkpoint: Checkpoint, target: Path) -> dict[str, Any]:
    """Write the model of a checkpoint and the run's tokenizer into a new folder; return what was written down of it.

    The folder is there whole or not at all. Raises InputError where it exists, StorageError where it cannot be written,
    CodexError where the checkpoint is not as it was saved.
    """
    check_target(target)
    folder = checkpoints.folder
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not by the target's name: that may be as long as names can be.
        temporary = beside(target.with_name("export"))
        temporary.mkdir()
    try:
        checkpoints.archive.export(checkpoint, temporary)
        with storage_errors(target):
            _add_tokenizer(folder.tokenizer, temporary)
            record = _record(folder, checkpoint, temporary)
            write_json(temporary / EXPORT_RECORD, record)
            for inner in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
                sync_folder(inner)
            check_target(target)
            temporary.rename(target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def _add_tokenizer(tokenizer: Path, target: Path) -> None:
    """Copy the run's vocabulary beside the model; raise PluginError where both have a file of one name."""
    if not tokenizer.is_dir():
        return
    for source in sorted(path for path in tokenizer.rglob("*") if path.is_file()):
        copy = target / source.relative_to(tokenizer)
        if copy.exists():
            raise PluginError(
                f"model and tokenizer both have a file {copy.name}, one would replace the other"
            )
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _record(folder: RunFolder, checkpoint: Checkpoint, target: Path) -> dict[str, Any]:
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return {
        "schema": EXPORT_SCHEMA,
        "run_id": folder.run_id,
        "name": folder.name,
        "step": checkpoint.step,
        "metrics": json_metrics(checkpoint.metrics),
        "has_tokenizer": folder.tokenizer.is_dir(),
        "files": {path.relative_to(target).as_posix(): _about(path) for path in files},
    }


def _about(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file that is brought to disk with it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def json_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON has them: a value that is not finite becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
