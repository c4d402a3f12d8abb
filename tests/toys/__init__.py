"""Installs toy distributions for tests: metadata and modules in a folder that is put on the path."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

TOYS = Path(__file__).parent / "codex_toys.py"
TOY_PLUGINS = {
    "codex.datasets": {"toy": "codex_toys:ToyDataset"},
    "codex.models": {"toy": "codex_toys:ToyModel"},
    "codex.adapters": {"sharpen": "codex_toys:Sharpen"},
    "codex.trainers": {"toy": "codex_toys:ToyTrainer"},
    "codex.checkpointers": {"toy": "codex_toys:ToyCheckpointer"},
    "codex.loggers": {"toy": "codex_toys:ToyLogger"},
}
TOY_MANIFEST = """\
name: toy
dataset: {type: toy}
tokenizer: bytes
data: {seq_len: 32, validation_fraction: 0.2}
model: toy
trainer: {type: toy, max_steps: 6}
checkpointer: {type: toy, every_steps: 2}
loggers: [toy]
"""


def install(
    site: Path,
    distribution: str,
    plugins: Mapping[str, Mapping[str, str]],
    *,
    version: str = "1.0",
    modules: Mapping[str, str] | None = None,
    requires: str = "codex-kernel",
) -> Path:
    """Put a distribution into the folder `site` as an installer would; return its metadata folder.

    plugins: entry-point group → name → target. modules: module name → source text.
    """
    site.mkdir(parents=True, exist_ok=True)
    metadata = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    header = f"Metadata-Version: 2.4\nName: {distribution}\nVersion: {version}\nSummary: {distribution} for tests\n"
    (metadata / "METADATA").write_text(f"{header}Requires-Dist: {requires}\n\nRequires-Dist: not-a-header\n")
    lines = [
        f"[{group}]\n" + "".join(f"{n} = {t}\n" for n, t in names.items()) for group, names in plugins.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    record = ""
    for name, text in (modules or {}).items():
        (site / f"{name}.py").write_text(text)
        record += f"{name}.py,sha256={hashlib.sha256(text.encode()).hexdigest()},{len(text)}\n"
    (metadata / "RECORD").write_text(record)
    return metadata


def install_toys(site: Path) -> Path:
    """Put the toy plugins into `site` and return it."""
    site.mkdir(parents=True, exist_ok=True)
    shutil.copy(TOYS, site)
    install(site, "codex-toys", TOY_PLUGINS)
    return site
