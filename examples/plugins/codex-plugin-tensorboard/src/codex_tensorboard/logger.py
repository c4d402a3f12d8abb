"""The logger `tensorboard`: what a run tells its loggers, as TensorBoard shows it.

One rule: no heavy import here; protobuf comes in with the first event.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from codex_kernel import Checkpoint, InputError, Outcome, RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_tensorboard.event_files import EventFiles

METRICS = ("train/loss", "validation/loss")
"""What the tab HPARAMS shows beside the settings."""


@define(eq=False)
class TensorBoardLogger:
    """Event files for TensorBoard: metrics by split, settings, warnings and checkpoints."""

    folder: str = option(
        "tensorboard",
        help="Folder of the event files, in the run's folder; in an absolute one each run has a folder of its own.",
    )
    flush_seconds: float = option(
        10.0,
        ge=0,
        help="Seconds after which events are brought to disk, for a power cut; a killed run loses none.",
    )
    events: bool = option(default=True, help="Show the run's events (warnings, checkpoints, …) as texts.")
    _files: EventFiles | None = field(init=False, default=None)
    _step: int = field(init=False, default=0)
    _texts: dict[str, tuple[int, str]] = field(init=False, factory=dict)
    _waiting: list[tuple[str, str]] | None = field(init=False, default=None)  # texts of a run that goes on

    @hookimpl
    def codex_preflight(self) -> Iterator[str]:
        """Name a folder that leads out of the run's, and protobuf where it is missing."""
        if problem := misplaced(self.folder):
            yield problem
        if importlib.util.find_spec("google.protobuf") is None:
            yield "the package protobuf is not installed"

    @hookimpl
    def codex_run_started(self, run: RunContext, settings: Mapping[str, object]) -> None:
        """Write the settings; of a run that goes on, once it is known from which step."""
        from codex_tensorboard import messages

        files = self._opened(run)
        if self._waiting is None:
            for summary in messages.hyperparameters(dict(settings), METRICS, time.time()):
                files.add(0, summary)
        self._tell(run, "settings", table(settings))

    @hookimpl
    def codex_metrics(self, run: RunContext, step: int, metrics: Mapping[str, float], split: str) -> None:
        """Write a record of metrics as one event."""
        from codex_tensorboard import messages

        self._step = step
        self._go_on(run)
        if metrics:
            values = {f"{split}/{name}": float(value) for name, value in metrics.items()}
            self._opened(run).add(step, messages.scalars(values))

    @hookimpl
    def codex_event(self, run: RunContext, name: str, fields: Mapping[str, Any]) -> None:
        """Go back with the run to a checkpoint; show every event."""
        if name == "metrics_rewound":
            self._rewind(run, fields)
        if self.events:
            message = fields.get("message")
            told = message if isinstance(message, str) else code(json.dumps(dict(fields), default=str))
            self._tell(run, f"events/{name}", told)

    @hookimpl
    def codex_checkpoint_saved(self, run: RunContext, checkpoint: Checkpoint) -> None:
        """Show where the checkpoint is."""
        if self.events:
            told = f"step {checkpoint.step}: {code(str(checkpoint.path))}, {checkpoint.size_bytes:,} bytes"
            self._tell(run, "events/checkpoint_saved", told)

    @hookimpl
    def codex_run_finished(self, run: RunContext, outcome: Outcome) -> None:
        """Write how the run ended, and close the file."""
        from codex_tensorboard import messages

        self._step = max(self._step, outcome.steps)
        self._go_on(run)
        if self.events:
            self._tell(run, "events/outcome", f"{outcome.status}: {outcome.reason}")
        files = self._opened(run)
        files.add(self._step, messages.session_end(well=outcome.exit_code == 0, now=time.time()))
        files.close()

    def _rewind(self, run: RunContext, fields: Mapping[str, Any]) -> None:
        with (run.folder / "metrics.ndjson").open("rb") as file:
            kept = [json.loads(line) for line in file.read(fields["size_bytes"]).splitlines()]
        self._step = fields.get("step", kept[-1]["step"] if kept else 0)
        self._texts = {tag: (step, told) for tag, (step, told) in self._texts.items() if step <= self._step}
        self._opened(run).rewind(self._step, kept)
        self._go_on(run)

    def _go_on(self, run: RunContext) -> None:
        """Write what has waited until it was known at which step the run goes on."""
        self._opened(run)
        waiting, self._waiting = self._waiting, None
        for tag, told in waiting or []:
            self._tell(run, tag, told)

    def _tell(self, run: RunContext, tag: str, told: str) -> None:
        """Write a text at the step where the run is; of several of one tag and step TensorBoard may show only the last.

        So the last has them all.
        """
        from codex_tensorboard import messages

        files = self._opened(run)
        if self._waiting is not None:
            self._waiting.append((tag, told))
            return
        step, before = self._texts.get(tag, (-1, ""))
        whole = f"{before}\n\n{told}" if step == self._step and tag != "settings" else told
        self._texts[tag] = (self._step, whole)
        files.add(self._step, messages.text(tag, whole))

    def _opened(self, run: RunContext) -> EventFiles:
        if self._files is None:
            from codex_tensorboard.event_files import EventFiles

            if problem := misplaced(self.folder):
                raise InputError(problem, remedy="use a folder inside the run's, or an absolute one")
            self._files = EventFiles(place(self.folder, run), self.flush_seconds)
            self._waiting = [] if self._files.paths() else None
        return self._files


def place(folder: str, run: RunContext) -> Path:
    """Return the folder of a run's event files: no other run has its files there."""
    return Path(folder) / run.run_id if Path(folder).is_absolute() else run.folder / folder


def misplaced(folder: str) -> str | None:
    """Say what is wrong with the folder; None: nothing."""
    inside = os.path.normpath(folder)
    if not folder or inside == ".":
        return f"folder: expected the name of a folder, got {folder!r}"
    if not Path(folder).is_absolute() and Path(inside).parts[0] == "..":
        return f"folder: {folder!r} leads out of the run's folder"
    return None


def table(settings: Mapping[str, object]) -> str:
    """Return the settings as a table in Markdown; secrets are the references that the kernel has made of them."""
    rows = [f"| {cell(name)} | {cell(value)} |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def cell(value: object) -> str:
    """Return a value as it can stand in a cell."""
    return ("null" if value is None else str(value)).replace("|", "\\|").replace("\n", " ")


def code(words: str) -> str:
    """Return words as code in Markdown."""
    return f"`{words.replace('`', chr(39))}`"
