"""Where the example packages are, and a workplace that has them without their being installed."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import evolve

from tests.command import Workplace

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"
PACKAGES = sorted(path.name for path in EXAMPLES.iterdir() if (path / "pyproject.toml").is_file())
MANIFEST = """\
name: small
dataset: {type: python-source, distributions: [attrs]}
tokenizer: bytes
data: {seq_len: 128, validation_fraction: 0.1}
model: {type: ngram, order: 4}
trainer: {type: ngram, epochs: 1, global_batch_size: 8, log_every: 1}
checkpointer: {type: numpy, every_steps: 20, keep_last: 3}
loggers: [tensorboard]
evaluate: {every_steps: 60, metrics: [perplexity, bits-per-byte]}
"""


def workplace_of(folder: Path, **variables: str) -> Workplace:
    """Make a workplace with the example packages and `small.yaml`, which uses all of them; torch is a trap."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join(str(EXAMPLES / name) for name in PACKAGES)
    made = evolve(Workplace(folder), variables={"CODEX_PLUGIN_PATH": paths, **variables})
    made.site.mkdir()
    (made.site / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    made.write("small.yaml", MANIFEST)
    return made
