"""Time to the first optimizer step: `codex run` against a script that imports the same library and trains at once.

    python benchmarks/first_step.py [--rounds 5]

One rule: both start as a new process and end their clock where the first optimizer step is over; only the ratio within
a round counts, first of the CPU seconds (of the process, its threads and its children), since others may use the
machine too. The script is as short as such a script can be: no check, no record, no checkpoint, one big string of
bytes cut into blocks. codex is run twice a round: `cold` encodes the texts, `warm` finds them in its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """
import json, os, sys, time
import numpy as np, torch
from transformers import AutoModelForCausalLM, LlamaConfig

torch.manual_seed(17)
with open(sys.argv[1], encoding="utf-8") as file:
    text = "".join(json.loads(line)["text"] for line in file)
blocks_BT = torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8)[: 8 * 128].astype(np.int64)).view(8, 128)
config = LlamaConfig(vocab_size=257, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
                     max_position_embeddings=128, tie_word_embeddings=True)
model = AutoModelForCausalLM.from_config(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
model(input_ids=blocks_BT, labels=blocks_BT, use_cache=False).loss.backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
print(sum(os.times()[:4]), time.time())
"""

CLOCK = """
import os, time
from attrs import frozen
from codex_kernel import hookimpl

@frozen
class Clock:
    @hookimpl
    def codex_metrics(self, run, step):
        if step == 1:
            (run.folder / "clock.txt").write_text(f"{sum(os.times()[:4])} {time.time()}")
"""

MANIFEST = """
name: first-step
seed: 17
dataset: {type: jsonl, paths: [texts.jsonl]}
tokenizer: bytes
data: {seq_len: 128, validation_fraction: 0}
model:
  type: hf-causal-lm
  config: {model_type: llama, hidden_size: 128, intermediate_size: 352, num_hidden_layers: 4, num_attention_heads: 4,
           max_position_embeddings: 128, tie_word_embeddings: true}
trainer: {type: torch, max_steps: 2, global_batch_size: 8, lr: 1e-3, precision: fp32, device: cpu, log_every: 1}
checkpointer: safetensors
loggers: [console, bench-clock]
"""


def prepare(folder: Path, documents: int = 2000) -> None:
    """Write a manifest, a script, and a megabyte of texts."""
    lines = (f"def f{i}(x):\n    return x * {i}\n" * 12 for i in range(documents))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    (folder / "first.yaml").write_text(MANIFEST)
    (folder / "bare.py").write_text(SCRIPT)
    install_clock(folder / "site")


def install_clock(site: Path) -> None:
    """Put a logger plugin that keeps the time of the first step into a folder, as an installer would."""
    metadata = site / "codex_bench_clock-1.0.dist-info"
    metadata.mkdir(parents=True)
    header = "Metadata-Version: 2.4\nName: codex-bench-clock\nVersion: 1.0\nRequires-Dist: codex-kernel\n"
    (metadata / "METADATA").write_text(header)
    (metadata / "entry_points.txt").write_text("[codex.loggers]\nbench-clock = codex_bench_clock:Clock\n")
    (site / "codex_bench_clock.py").write_text(CLOCK)


def to_first_step(folder: Path, command: list[str], run: Path | None = None) -> tuple[float, float]:
    """Run a command in a new process; return CPU and wall seconds from its start to the end of its first step."""
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "CODEX_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    began = time.time()
    done = subprocess.run(  # noqa: S603 - commands of this file
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    cpu, end = (done.stdout if run is None else (run / "clock.txt").read_text()).split()
    return float(cpu), float(end) - began


def compare(rounds: int) -> None:
    """Measure in turns, and print."""
    ratios: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            bare = to_first_step(folder, ["bare.py", "texts.jsonl"])
            line = f"first step, round {number}: bare {bare[0]:.2f} CPU s ({bare[1]:.2f} s)"
            for kind, found in ratios.items():
                command = ["-m", "codex_kernel", "run", "first.yaml", "--run-dir", kind]
                ours = to_first_step(folder, command, folder / kind)
                found.append((ours[0] / bare[0], ours[1] / bare[1]))
                line += f", {kind} {ours[0]:.2f} ({ours[1]:.2f})"
            print(line, flush=True)
    for kind, found in ratios.items():
        cpu, wall = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"first step, {kind}: {cpu:.3f} of the bare script's CPU seconds, {wall:.3f} of its time")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=5)
    compare(parser.parse_args().rounds)
