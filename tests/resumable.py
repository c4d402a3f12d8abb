"""Toy runs to stop, kill and resume: how they are made, where they can be made to wait, and what their record says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codex_kernel import metrics
from codex_kernel.yaml_reader import plain, read_file
from tests.command import Said, Workplace, toy_workplace
from tests.toys import install

GATES = '''
"""Toy plugins that wait, where a file `gate-<name>` asks for it, until there is a file `go-<name>`."""
import time
from pathlib import Path
import codex_toys
from attrs import define, frozen
from codex_kernel import Document, hookimpl

def wait_at(name):
    if Path(f"gate-{name}").exists():
        Path(f"at-{name}").touch()
        while not Path(f"go-{name}").exists():
            time.sleep(0.01)

@frozen
class Dataset(codex_toys.ToyDataset):
    @hookimpl
    def codex_preflight(self) -> list[str]:
        wait_at("preflight")
        return []

    @hookimpl
    def codex_dataset(self) -> list[Document]:
        wait_at("build")
        return super().codex_dataset()

@frozen
class Checkpointer(codex_toys.ToyCheckpointer):
    fail: bool = False

    @hookimpl
    def codex_checkpointer(self, run, folder):
        wait_at("parts")
        return Files(self, run, folder)

@define(eq=False)
class Files(codex_toys.JsonFiles):
    def save(self, step, state, metrics, *, wait=False):
        wait_at("save")
        if self.options.fail and step < 6:
            self.run.report.event("checkpoint_failed", step=step, reason="no room")
            return
        super().save(step, state, metrics, wait=wait)
'''
GATED = (
    "--set",
    "dataset.type=gated",
    "--set",
    "checkpointer.type=gated",
    "--set",
    "checkpointer.every_steps=2",
)
MANY = ("--set", "trainer.max_steps=20000", "--set", "checkpointer.every_steps=null")


def gated_workplace(folder: Path) -> Workplace:
    """Make a workplace of toy plugins, some of them with gates."""
    made = toy_workplace(folder)
    plugins = {
        "codex.datasets": {"gated": "codex_gates:Dataset"},
        "codex.checkpointers": {"gated": "codex_gates:Checkpointer"},
    }
    install(made.site, "codex-gates", plugins, modules={"codex_gates": GATES})
    return made


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of a run that have a name."""
    return [event for event in metrics.read(folder / "events.ndjson") if event["event"] == name]


def losses(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of each training record."""
    return metrics.series(metrics.read(folder / "metrics.ndjson"), "train", "loss")


def resolved(folder: Path) -> Any:
    """Return the manifest that a run goes on by."""
    return plain(read_file(folder / "resolved.yaml"))


def outcome(folder: Path) -> Any:
    """Return how a run ended."""
    return json.loads((folder / "outcome.json").read_text())


def failed_at(workplace: Workplace, step: int) -> Path:
    """Make a run of 6 steps, with a checkpoint every 2, that failed before a step; return its folder."""
    said = workplace.codex("run", "toy.yaml", "--run-dir", "r", "--set", f"trainer.fail_at={step}")
    assert said.code == 7
    return workplace.folder / "r"


ALLOW_FAIL = ("--set", "trainer.fail_at=null", "--allow-change", "trainer.fail_at")


def auto(workplace: Workplace, *arguments: str) -> Said:
    """Run the command that a scheduler repeats."""
    return workplace.codex("run", "toy.yaml", "--resume", "auto", *arguments)


def kill_in_training(workplace: Workplace, size: int, *arguments: str, folder: Path) -> int | None:
    """Start a command and kill it once the metrics are that many bytes longer; return its code if it ended before."""
    path = folder / "metrics.ndjson"
    before = path.stat().st_size if path.exists() else 0
    with workplace.start(*arguments) as process:
        while process.poll() is None and (not path.exists() or path.stat().st_size < before + size):
            pass
        ended = process.poll()
        process.kill()
        process.communicate()
    return ended


@contextmanager
def waiting(workplace: Workplace, gate: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command and give it over once it waits at a gate."""
    workplace.write(f"gate-{gate}", "")
    with workplace.start(*arguments) as process:
        while process.poll() is None and not (workplace.folder / f"at-{gate}").exists():
            pass
        yield process
