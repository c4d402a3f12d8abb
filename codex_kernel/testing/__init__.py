"""The test kit for plugin authors: a run to call hooks with, and a contract class per kind of plugin.

One rule: it is used as a third party uses it; codex's own plugins pass the same contracts.
"""

from __future__ import annotations

from codex_kernel.testing import _rewrite as _rewrite
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.chat import ChatTokenizerContract
from codex_kernel.testing.checkpoint_archive import CheckpointArchiveContract
from codex_kernel.testing.checkpointer import CheckpointerContract
from codex_kernel.testing.cleaner import CleanerContract
from codex_kernel.testing.dataset import DatasetContract, RecordDatasetContract
from codex_kernel.testing.logger import LoggerContract
from codex_kernel.testing.tokenizer import TokenizerContract
from codex_kernel.testing.toys import NeverStop, RecordingReporter, make_run
from codex_kernel.testing.trainer import TrainerContract

__all__ = [
    "ChatTokenizerContract",
    "CheckpointArchiveContract",
    "CheckpointerContract",
    "CleanerContract",
    "DatasetContract",
    "LoggerContract",
    "NeverStop",
    "RecordDatasetContract",
    "RecordingReporter",
    "TokenizerContract",
    "TrainerContract",
    "hooks_of",
    "make_run",
]
