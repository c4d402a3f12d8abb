"""The parts of the data benchmark that are whole commands: `codex resume` and `codex data build`.

One rule: a command is started as a user starts it, and measured from outside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from source_code import texts_of, vocabulary, write_jsonl
from turns import Row, ratio

ROOT = Path(__file__).resolve().parents[1]
STEPS = (10, 1_000_000)

# ── resume ────────────────────────────────────────────────────────────────────────────────────────────────────────

FIRST_BATCH = '''
"""A trainer that claims to be at a step, saves, and on resume says when its first batch is there."""
import json, time
from attrs import frozen
from codex_kernel import CheckpointState, Progress, TrainResult, hookimpl

@frozen
class FirstBatch:
    step: int = 10

    @hookimpl
    def codex_trainer(self, run, parts):
        return _Loop(self, run, parts)

@frozen(eq=False)
class _Loop:
    options: FirstBatch
    run: object
    parts: object

    def fit(self, state):
        step = state.values["trainer.json"]["step"] if state else self.options.step
        batch = self.parts.data.train.gather(self.parts.data.samples(step * 32, 32))
        (self.run.folder / "first-batch.json").write_text(json.dumps([time.time(), batch.sample_ids_B.tolist()]))
        progress = Progress(step, None, 0.0, 1, 1)
        self.run.report.metrics(progress, {"loss": 1.0})
        self.parts.checkpointer.save(step, CheckpointState({}, {"trainer.json": {"step": step}}), {})
        return TrainResult(progress, {"train/loss": 1.0}, "asked to stop", 15)
'''
MANIFEST = """\
name: first-batch
dataset: {type: python-source, distributions: [sympy, networkx]}
tokenizer: bytes
data: {seq_len: 256}
model: toy
trainer: {type: first-batch}
checkpointer: toy
"""


def resume(arguments: argparse.Namespace) -> Iterator[Row]:
    """Start `codex resume` in turns on two runs that differ in their step alone."""
    sys.path.insert(0, str(ROOT))
    from tests.toys import install, install_toys

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install_toys(folder / "site")
        plugins = {"codex.trainers": {"first-batch": "first_batch:FirstBatch"}}
        install(folder / "site", "first-batch", plugins, modules={"first_batch": FIRST_BATCH})
        (folder / "manifest.yaml").write_text(MANIFEST)
        for step in STEPS:
            codex(folder, "run", "manifest.yaml", "--set", f"trainer.step={step}", "--run-dir", f"at-{step}")
        codex(folder, "--version")
        ways: dict[str, Callable[[], float]] = {
            **{
                f"codex resume, at step {step:,}": lambda step=step: until_batch(folder, step)
                for step in STEPS
            },
            "codex --version": lambda: codex(folder, "--version"),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(arguments.rounds + 2):
            for way, measured in ways.items():
                if (found := measured()) and number:
                    seconds[way].append(found)
        early = seconds[f"codex resume, at step {STEPS[0]:,}"]
        for number, (way, found) in enumerate(seconds.items()):
            target = "about 1" if number == 1 else ""
            yield Row(
                "resume", way, statistics.median(found), "s", ratio(found, early), f"step {STEPS[0]}", target
            )


def codex(folder: Path, *arguments: str) -> float:
    """Run a command and return its seconds."""
    began = time.perf_counter()
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "site"),
        "CODEX_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "codex_kernel", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 143}:  # 143: the trainer says that SIGTERM stopped it
        raise SystemExit(f"codex {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return time.perf_counter() - began


def until_batch(folder: Path, step: int) -> float:
    """Return the seconds from the start of `codex resume` until it has its first batch."""
    run = folder / f"at-{step}"
    began = time.time()
    codex(folder, "resume", str(run))
    told, ids = json.loads((run / "first-batch.json").read_text())
    if told < began or not ids:
        raise SystemExit(f"{run}: there was no batch")
    return float(told - began)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory(arguments: argparse.Namespace) -> Iterator[Row]:
    """Build the data of a corpus that is larger than the memory the process may have."""
    for tokenizer in arguments.tokenizer or ["bytes"]:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            size = write_jsonl(folder / "corpus.jsonl", arguments.corpus_mb * 10**6)
            section = "bytes"
            if tokenizer != "bytes":
                (folder / "tokenizer").mkdir()
                vocabulary(folder, texts_of(4)).save(folder / "tokenizer")
                section = "{type: hf-bpe, path: tokenizer/tokenizer.json}"
            (folder / "manifest.yaml").write_text(
                f"name: memory\ndataset: {{type: jsonl, paths: [corpus.jsonl]}}\ntokenizer: {section}\n"
                "model: {type: hf-causal-lm, config: {model_type: llama}}\ntrainer: {type: torch, max_steps: 1}\n"
            )
            for limit in (arguments.limit_mb, None):
                seconds, peak = build(folder, limit)
                what = f"limit {limit} MB" if limit else "no limit, from the cache"
                yield Row(
                    "memory",
                    f"{tokenizer}, {size / 1e6:,.0f} MB of text, {what}, {seconds:.0f} s",
                    peak / 1e6,
                    "MB peak",
                    peak / size,
                    "the corpus",
                    "< 1",
                )


def build(folder: Path, limit_mb: int | None) -> tuple[float, int]:
    """Run `codex data build` under a limit, None: without; return its seconds, and its peak in bytes."""

    def limited() -> None:
        if limit_mb:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_mb * 10**6,) * 2)

    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "codex_kernel", "data", "build", "manifest.yaml"],
        cwd=folder,
        env={**os.environ, "CODEX_CACHE": str(folder / "cache")},
        preexec_fn=limited,  # noqa: PLW1509 - there is one thread
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"codex data build: exit code {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024
