"""Lets pytest explain a contract that fails: its asserts show the values that they compared.

One rule: it is imported before the contracts, and does nothing outside of pytest.
"""

from __future__ import annotations

import sys

KINDS = (
    "_calls",
    "_imports",
    "adapter",
    "chat",
    "checkpoint_archive",
    "checkpointer",
    "cleaner",
    "command",
    "dataset",
    "logger",
    "metric",
    "model",
    "plugin",
    "plugin_manifest",
    "tokenizer",
    "trainer",
)

if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite(*(f"codex_kernel.testing.{kind}" for kind in KINDS))
