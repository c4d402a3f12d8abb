"""How long a checkpoint holds up training: one step, and a whole run.

    python benchmarks/checkpoint.py [blocked] [run] [--rounds 5] [--mb 60] [--mb 1000]
                                    [--size small] [--steps 100] [--every 10]

One rule: all ways of saving save the same state in turn, round by round, and only the ratio within a round counts: a
busy machine and a slow disk change the times. The first round fills fresh memory, and is told by itself.

`blocked`: the seconds in which the training thread waits in `save`; beside them, until all is on disk. `dcp` is
`torch.distributed.checkpoint.async_save` with its defaults, `torch.save` is followed by a sync of the file. codex syncs
all files and folders and takes the SHA-256 of every byte. Below 1 codex holds up the step for less time.

`run`: the seconds of a whole run that saves every so many steps, against the same run without; wall time, and CPU time
of all threads, which is what saving costs where no core is free. On a busy machine those times differ by more than what
is looked for, so the share of the run that `save` itself takes is told too: of the wall time what the training thread
waits, of the CPU time what it and the writing thread use. Every 10 steps is 1 % of a run of 1,000; of a run that
is shorter than that, the saves at the beginning and at the end count for more.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from attrs import frozen
from torch import Tensor
from workload import SIZES, Endless, decoder, real_run

from codex_kernel import CheckpointState, EvaluateOptions, Parts
from codex_kernel.testing import make_run
from codex_kernel.testing.training import ToyBlocks, ToyTokenizer
from codex_torch.checkpointer import FolderCheckpointer, SafetensorsCheckpointer
from codex_torch.plugin import LoopTrainer, TorchTrainer

clock = time.perf_counter


class Times(NamedTuple):
    """Seconds that the caller waits, and seconds until the state is on disk."""

    blocked: float
    total: float


# ── one save ──────────────────────────────────────────────────────────────────────────────────────────────────────


def state_of(megabytes: int) -> dict[str, dict[str, Tensor]]:
    """Return weights and two moments in fp32, of layers of one matrix and two vectors, that make up the size."""
    width = 512 if megabytes < 200 else 1024  # noqa: PLR2004 - a dozen layers or more
    of_layer = sum(math.prod(shape) for shape in _layer(width).values()) * 4 * 3
    layers = max(1, round(megabytes * 1e6 / of_layer))
    shapes = {f"layers.{n}.{name}": shape for n in range(layers) for name, shape in _layer(width).items()}
    return {kind: {name: torch.rand(shape) for name, shape in shapes.items()} for kind in ("w", "m", "v")}


def _layer(width: int) -> dict[str, tuple[int, ...]]:
    return {"qkv": (3 * width, width), "norm": (width,), "bias": (3 * width,)}


class Codex:
    """The checkpointer as a run has it."""

    def __init__(self, folder: Path) -> None:
        run = make_run(folder)
        self.checkpointer = FolderCheckpointer(
            run, run.folder / "checkpoints", SafetensorsCheckpointer(keep_last=1)
        )
        self.step = 0

    def __call__(self, state: dict[str, dict[str, Tensor]]) -> Times:
        """Save once."""
        self.step += 1
        tensors = {
            "model/model.safetensors": state["w"],
            "optimizer.safetensors": {
                f"{kind}/{name}": t for kind in "mv" for name, t in state[kind].items()
            },
        }
        saved = CheckpointState(tensors, {"trainer.json": {"step": self.step}})
        began = clock()
        self.checkpointer.save(self.step, saved, {})
        blocked = clock() - began
        assert [one.step for one in self.checkpointer.checkpoints()[0]] == [self.step]  # noqa: S101 - waits for it
        return Times(blocked, clock() - began)


class Dcp:
    """`async_save` with its defaults, in one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, state: dict[str, dict[str, Tensor]]) -> Times:
        """Save once."""
        path = self.folder / "dcp"
        shutil.rmtree(path, ignore_errors=True)
        began = clock()
        future = dcp.async_save(state, checkpoint_id=path, no_dist=True)
        blocked = clock() - began
        future.result()  # type: ignore[union-attr] # a Future, where no stager of one's own is given
        return Times(blocked, clock() - began)


class TorchSave:
    """`torch.save` and a sync, in the training thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, state: dict[str, dict[str, Tensor]]) -> Times:
        """Save once."""
        path = self.folder / "state.pt"
        path.unlink(missing_ok=True)
        began = clock()
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        return Times(clock() - began, clock() - began)


def measure_blocked(megabytes: int, rounds: int, folder: Path) -> None:
    """Save one state in each way, round by round, and print."""
    state = state_of(megabytes)
    tensors = [tensor for kind in state.values() for tensor in kind.values()]
    size = sum(tensor.nbytes for tensor in tensors) / 1e6
    ways: dict[str, Callable[[Any], Times]] = {
        "codex": Codex(folder),
        "dcp": Dcp(folder),
        "torch.save": TorchSave(folder),
    }
    seconds: dict[str, list[Times]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in in_turn(ways, number):
            seconds[name].append(ways[name](state))
            tensors[0].add_(1)
        told = ", ".join(
            f"{n} {t[-1].blocked * 1e3:.1f} ({t[-1].total * 1e3:.0f})" for n, t in seconds.items()
        )
        print(
            f"{size:.0f} MB, {len(tensors)} tensors, round {number or 'of the first saves'}: blocked (total) {told} ms"
        )
    mine = seconds.pop("codex")
    for name, theirs in seconds.items():
        first = mine[0].blocked / theirs[0].blocked
        ratio = median(a.blocked / b.blocked for a, b in zip(mine[1:], theirs[1:], strict=True))
        total = median(a.total / b.total for a, b in zip(mine[1:], theirs[1:], strict=True))
        print(
            f"{size:.0f} MB: blocked, codex to {name}: {ratio:.3f} (first save {first:.2f}); to disk {total:.2f}"
        )
    print(f"{size:.0f} MB: codex blocks for {median(one.blocked for one in mine[1:]) * 1e3:.1f} ms")


# ── a whole run ───────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class NoSaves:
    """A checkpointer that keeps nothing."""

    def due(self, step: int) -> bool:  # noqa: ARG002
        """Say no."""
        return False

    def save(self, *_: Any, wait: bool = False) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Do nothing."""


class Timed(FolderCheckpointer):
    """The checkpointer as a run has it, which adds up what its saves take."""

    waited = 0.0
    cpu = 0.0

    def save(self, *args: Any, wait: bool = False) -> None:
        """Save; the training thread waits."""
        wall, cpu = clock(), time.thread_time()
        super().save(*args, wait=wait)
        self.waited += clock() - wall
        if not wait:  # else `_write` was called in this thread, and has counted
            self.cpu += time.thread_time() - cpu

    def _write(self, *args: Any) -> None:
        cpu = time.thread_time()
        super()._write(*args)
        self.cpu += time.thread_time() - cpu


class RunTimes(NamedTuple):
    """Seconds of a run: wall and CPU, and the shares of them that saving took."""

    wall: float
    cpu: float
    waited: float = 0.0
    saving: float = 0.0


def train(size: str, steps: int, folder: Path, save_every: int | None) -> RunTimes:
    """Train a whole run; return its seconds."""
    with tempfile.TemporaryDirectory(dir=folder) as name, real_run(Path(name)) as run:
        options = SafetensorsCheckpointer(every_steps=save_every, keep_last=2)
        saving = Timed(run, run.folder / "checkpoints", options)
        checkpointer: Any = NoSaves() if save_every is None else saving
        trainer = TorchTrainer(
            max_steps=steps,
            global_batch_size=SIZES[size]["blocks"],
            precision="fp32",
            device="cpu",
            threads=torch.get_num_threads(),
        )
        data = Endless(ToyBlocks(64, seq_len=SIZES[size]["seq_len"]))
        model = decoder(SIZES[size])
        parts = Parts(ToyTokenizer(), data, model, checkpointer, EvaluateOptions(), lambda _: {})
        began, began_cpu = clock(), time.process_time()
        LoopTrainer(trainer, run, parts).fit(None)
        checkpointer.close()
        wall, cpu = clock() - began, time.process_time() - began_cpu
        events = (run.folder / "events.ndjson").read_text()
    expected = 0 if save_every is None else -(-steps // save_every)
    if events.count('"checkpoint_saved"') != expected:
        raise RuntimeError(f"expected {expected} checkpoints: {events}")
    return RunTimes(wall, cpu, saving.waited / wall, saving.cpu / cpu)


def measure_run(size: str, steps: int, every: int, rounds: int, folder: Path) -> None:
    """Train with and without saves in turn, round by round, and print."""
    ratios: list[RunTimes] = []
    train(size, 2, folder, 1)  # what is loaded on first use
    for number in range(rounds):
        seconds: dict[str, RunTimes] = {}
        for name in in_turn(("saves", "none"), number):
            seconds[name] = train(size, steps, folder, every if name == "saves" else None)
        mine, bare = seconds["saves"], seconds["none"]
        ratios.append(RunTimes(mine.wall / bare.wall, mine.cpu / bare.cpu, mine.waited, mine.saving))
        told = ", ".join(f"{name} {one.wall:.2f} ({one.cpu:.2f})" for name, one in seconds.items())
        print(f"{size}, {steps} steps, saves every {every}, round {number + 1}: wall (CPU) {told} s")
    wall, cpu, waited, saving = (median(column) for column in zip(*ratios, strict=True))
    print(
        f"{size}: with saves a run takes {wall:.3f} of its time without, {cpu:.3f} of its CPU time; "
        f"in `save` it waits {waited:.2%} of its time, and saving is {saving:.2%} of its CPU time"
    )


def in_turn(things: Iterable[Any], number: int) -> list[Any]:
    """Return them in another order each round, so that none is always the first."""
    order = list(things)
    start = number % len(order)
    return order[start:] + order[:start]


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("what", nargs="*", choices=("blocked", "run"), default=("blocked", "run"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb", type=int, action="append", help="size of the state; default 60 and 1000")
    parser.add_argument("--size", choices=SIZES, default="small", help="the model of `run`")
    parser.add_argument("--steps", type=int, default=100, help="steps of `run`")
    parser.add_argument("--every", type=int, default=10, help="steps of `run` between saves")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", message=".*assuming the intent is to save in a single process")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        if "blocked" in arguments.what:
            for megabytes in arguments.mb or (60, 1000):
                place = folder / str(megabytes)
                place.mkdir()
                measure_blocked(megabytes, arguments.rounds, place)
                shutil.rmtree(place)
        if "run" in arguments.what:
            measure_run(arguments.size, arguments.steps, arguments.every, arguments.rounds, folder)


if __name__ == "__main__":
    main()
