"""Every plugin that codex ships is held to the contract of its kind by some test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from codex_kernel.catalog import Catalog

ROOT = Path(__file__).parents[2]
FIRST_PARTY = {"codex-kernel", *(folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir())}
CONTRACTS = {
    "dataset": {"DatasetContract", "RecordDatasetContract"},
    "cleaner": {"CleanerContract"},
    "tokenizer": {"TokenizerContract"},
    "model": {"ModelContract"},
    "adapter": {"AdapterContract"},
    "trainer": {"TrainerContract"},
    "checkpointer": {"CheckpointerContract", "CheckpointArchiveContract"},
    "logger": {"LoggerContract"},
    "metric": {"MetricContract"},
    "command": {"CommandContract"},
}
ENTRIES = [entry for entry in Catalog.scan().entries if entry.distribution in FIRST_PARTY]


def held() -> dict[str, set[str]]:
    """Return contract → the names that its subclasses in the tests mention."""
    found: dict[str, set[str]] = {}
    for file in [*ROOT.glob("tests/builtin/*.py"), *ROOT.glob("plugins/*/tests/test_*.py")]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                for base in node.bases:
                    found.setdefault(ast.unparse(base), set()).update(names)
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_each_plugin_is_held_to_its_contract(entry):
    """A subclass of the contract of its kind names the class of the plugin."""
    name = entry.target.partition(":")[2]
    assert any(name in held().get(contract, set()) for contract in CONTRACTS[entry.kind]), (
        f"no test holds {name} to {' or '.join(sorted(CONTRACTS[entry.kind]))}"
    )
