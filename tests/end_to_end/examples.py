"""The example manifests on a small scale, and what is compared between their runs."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codex_kernel import metrics

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What a clock says: the rest of a record is the same in every run of a manifest.
_CLOCKS = {"run_id", "time", "tokens_per_second", "step_seconds", "peak_memory_bytes"}
_PATIENCE_SECONDS = 240


def sets(*values: str) -> list[str]:
    """Return the arguments that set these values."""
    return [word for value in values for word in ("--set", value)]


QUICKSTART = str(EXAMPLES / "quickstart.yaml")
STEPS = 60  # each takes some milliseconds: enough are left for a test that stops the run on the way
SHORT_QUICKSTART = sets(
    "tokenizer.vocab_size=512",
    "data.seq_len=64",
    "model.config.hidden_size=64",
    "model.config.intermediate_size=128",
    "model.config.num_hidden_layers=2",
    "model.config.num_attention_heads=4",
    "model.config.num_key_value_heads=4",
    f"trainer.max_steps={STEPS}",
    "trainer.warmup_steps=2",
    "trainer.log_every=1",
    "trainer.precision=fp32",
    "checkpointer.every_steps=12",
    "evaluate.every_steps=30",
    "evaluate.max_blocks=8",
)


def records(run: Path) -> list[dict[str, Any]]:
    """Return the run's metrics without what a clock says of them."""
    return [
        {name: value for name, value in record.items() if name not in _CLOCKS}
        for record in metrics.read(run / "metrics.ndjson")
    ]


def losses(run: Path, split: str = "train") -> list[tuple[int, float]]:
    """Return (step, loss) of each record of the split."""
    return metrics.series(metrics.read(run / "metrics.ndjson"), split, "loss")


def tensor_files(run: Path) -> dict[str, bytes]:
    """Return the tensor files of the newest checkpoint, with their bytes: weights, optimizer, random numbers."""
    newest = newest_checkpoint(run)
    files = sorted(newest.rglob("*.safetensors"))
    return {path.relative_to(newest.parent).as_posix(): path.read_bytes() for path in files}


def newest_checkpoint(run: Path) -> Path:
    """Return the folder of the checkpoint with the highest step."""
    return max((run / "checkpoints").glob("step-*"))


def can_be_resumed(run: Path, step: int) -> bool:
    """Say whether the run has recorded `step`, and has a checkpoint to go on from."""
    recorded = max((record["step"] for record in metrics.read(run / "metrics.ndjson")), default=0)
    return recorded >= step and any((run / "checkpoints").glob("step-*/checkpoint.json"))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return once the condition holds; fail where the process ends before, or takes minutes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            raise AssertionError(f"it ended too early, with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, "it takes too long"
