"""What is run and killed: a tiny model, trained whole or by an adapter, with everything on that a resume must restore.

One rule: dropout draws from the generators in every micro-batch, so that a generator put back wrongly shows in the
next loss.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from tests.faults.commands import Ended, Server, Workplace
from tests.faults.injection import Fault, Operation

STEPS, SAVED_EVERY, EVALUATED_EVERY = 24, 4, 5
SHORT = ("trainer.max_steps=12", "checkpointer.every_steps=3", "checkpointer.keep_last=1")
SHORT_SAVES = {"first": 3, "middle": 9, "last": 12}  # the last two delete a checkpoint
MICRO_BATCHES = 2
_FULL = """\
  type: hf-causal-lm
  config:
    model_type: llama
    hidden_size: 16
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 2
    max_position_embeddings: 32
    attention_dropout: 0.2
    tie_word_embeddings: true
"""
_LORA = """\
  type: hf-causal-lm
  path: base
  overrides: {attention_dropout: 0.2}
adapters:
  - {type: lora, r: 2, alpha: 4, dropout: 0.2, target_modules: [q_proj, v_proj, down_proj]}
"""
_MANIFEST = f"""\
name: faults
seed: 5
dataset: {{type: jsonl, paths: [data.jsonl]}}
tokenizer: bytes
data: {{seq_len: 32, validation_fraction: 0.2}}
model:
MODEL
trainer:
  type: torch
  max_steps: {STEPS}
  global_batch_size: 4
  micro_batch_size: {4 // MICRO_BATCHES}
  lr: 1e-2
  warmup_steps: 3
  precision: fp32
  device: cpu
  log_every: 1
evaluate: {{every_steps: {EVALUATED_EVERY}, max_blocks: 4}}
checkpointer:
  type: safetensors
  every_steps: {SAVED_EVERY}
  keep_last: 2
  keep_best: {{metric: train/loss, mode: max, count: 1}}
loggers: []
"""


@frozen
class Subject:
    """A manifest in a folder with all that it needs, and two runs of it that nothing happened to.

    `reference` is the run itself, `complete` the same with every step saved and kept. `sets` are overrides of the
    manifest, `seconds` what the command took that made the reference, `operations` its file operations.
    """

    name: str
    home: Path
    sets: Sequence[str]
    reference: Path
    complete: Path
    seconds: float
    operations: Sequence[Operation]

    @property
    def cache(self) -> Path:
        """The cache of encoded data."""
        return self.home.parent / "cache"

    def workplace(self, folder: Path) -> Workplace:
        """Make a folder in which a run of this subject can be started."""
        shutil.copytree(
            self.home, folder, ignore=shutil.ignore_patterns("run", "complete"), dirs_exist_ok=True
        )
        return Workplace(folder, self.cache)

    def continued(self, folder: Path, workplace: Workplace) -> Workplace:
        """Make a folder in which the run of another workplace can be resumed, as often as one likes."""
        shutil.copytree(workplace.folder, folder, dirs_exist_ok=True, symlinks=True)
        return Workplace(folder, self.cache)

    def arguments(self) -> list[str]:
        """Return the command line that starts a run."""
        return run_arguments(self.sets)


def forward_of(step: int, micro_batch: int) -> int:
    """Return the number of the training forward pass of a step's micro-batch, both from 1."""
    return MICRO_BATCHES * (step - 1) + micro_batch


def run_arguments(sets: Sequence[str], place: str = "run") -> list[str]:
    """Return the command line that starts a run."""
    return [
        "run",
        "manifest.yaml",
        "--run-dir",
        place,
        *(word for value in sets for word in ("--set", value)),
    ]


def write_home(folder: Path, base: Path | None) -> Path:
    """Write manifest and data; with `base`, a model's folder, an adapter is trained over it, else the whole model."""
    folder.mkdir(parents=True)
    model = _FULL if base is None else _LORA
    (folder / "manifest.yaml").write_text(_MANIFEST.replace("MODEL\n", model))
    draw = random.Random(7)
    words = ["def", "return", "x", "y", "self", "(", ")", ":", "=", "+", "None", "for", "in", "if"]
    rows = [{"text": " ".join(draw.choices(words, k=draw.randint(5, 40)))} for _ in range(80)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if base is not None:
        shutil.copytree(base, folder / "base")
    return folder


def finished(ended: Ended) -> Ended:
    """Fail, with what the command printed, where it did not complete."""
    assert ended.code == 0, f"exit {ended.code}: {ended.said}"
    return ended


def make_subject(server: Server, name: str, home: Path, sets: Sequence[str] = ()) -> Subject:
    """Run a manifest to its end, once as it is and once with every step saved and kept."""
    workplace = Workplace(home, home.parent / "cache")
    keep_all = [*sets, "checkpointer.every_steps=1", "checkpointer.keep_last=1000"]
    finished(server.codex(workplace, *run_arguments(keep_all, "complete")))
    began = time.monotonic()  # of the second run: the data is encoded already
    command = server.start(workplace, *run_arguments(sets), fault=Fault())
    finished(command.ended())
    seconds = time.monotonic() - began
    return Subject(name, home, tuple(sets), home / "run", home / "complete", seconds, command.operations())
