"""The test kit for plugin authors: a contract class per kind of plugin, whole runs, and an isolated catalog.

The names below load on first use, so that nothing is imported that a test does not need.

One rule: it is used as a third party uses it; codex's own plugins pass the same contracts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from codex_kernel.testing import _rewrite as _rewrite

if TYPE_CHECKING:
    from codex_kernel.loading import HEAVY as HEAVY
    from codex_kernel.testing._calls import hooks_of as hooks_of
    from codex_kernel.testing.adapter import AdapterContract as AdapterContract
    from codex_kernel.testing.chat import ChatTokenizerContract as ChatTokenizerContract
    from codex_kernel.testing.checkpoint_archive import CheckpointArchiveContract as CheckpointArchiveContract
    from codex_kernel.testing.checkpointer import CheckpointerContract as CheckpointerContract
    from codex_kernel.testing.cleaner import CleanerContract as CleanerContract
    from codex_kernel.testing.command import CommandContract as CommandContract
    from codex_kernel.testing.dataset import DatasetContract as DatasetContract
    from codex_kernel.testing.dataset import RecordDatasetContract as RecordDatasetContract
    from codex_kernel.testing.isolated import IsolatedCatalog as IsolatedCatalog
    from codex_kernel.testing.logger import LoggerContract as LoggerContract
    from codex_kernel.testing.metric import MetricContract as MetricContract
    from codex_kernel.testing.model import ModelContract as ModelContract
    from codex_kernel.testing.plugin import PluginContract as PluginContract
    from codex_kernel.testing.plugin import SpawnedContract as SpawnedContract
    from codex_kernel.testing.plugin_manifest import PluginManifestContract as PluginManifestContract
    from codex_kernel.testing.runs import Ran as Ran
    from codex_kernel.testing.runs import resume_run as resume_run
    from codex_kernel.testing.runs import run_manifest as run_manifest
    from codex_kernel.testing.runs import toy_manifest as toy_manifest
    from codex_kernel.testing.tokenizer import TokenizerContract as TokenizerContract
    from codex_kernel.testing.toy_checkpointer import ToyCheckpointer as ToyCheckpointer
    from codex_kernel.testing.toy_plugins import ToyDataset as ToyDataset
    from codex_kernel.testing.toy_plugins import ToyModel as ToyModel
    from codex_kernel.testing.toy_plugins import ToyTrainer as ToyTrainer
    from codex_kernel.testing.toy_plugins import toy_corpus as toy_corpus
    from codex_kernel.testing.toy_transformer import ToyTransformer as ToyTransformer
    from codex_kernel.testing.toys import NeverStop as NeverStop
    from codex_kernel.testing.toys import RecordingReporter as RecordingReporter
    from codex_kernel.testing.toys import make_run as make_run
    from codex_kernel.testing.trainer import TrainerContract as TrainerContract

_HOMES = {
    "_calls": "hooks_of",
    "adapter": "AdapterContract",
    "chat": "ChatTokenizerContract",
    "checkpoint_archive": "CheckpointArchiveContract",
    "checkpointer": "CheckpointerContract",
    "cleaner": "CleanerContract",
    "command": "CommandContract",
    "dataset": "DatasetContract RecordDatasetContract",
    "isolated": "IsolatedCatalog",
    "logger": "LoggerContract",
    "metric": "MetricContract",
    "model": "ModelContract",
    "plugin": "HEAVY PluginContract SpawnedContract",
    "plugin_manifest": "PluginManifestContract",
    "runs": "Ran resume_run run_manifest toy_manifest",
    "tokenizer": "TokenizerContract",
    "toy_checkpointer": "ToyCheckpointer",
    "toy_plugins": "ToyDataset ToyModel ToyTrainer toy_corpus",
    "toy_transformer": "ToyTransformer",
    "toys": "NeverStop RecordingReporter make_run",
    "trainer": "TrainerContract",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [*_MODULE_OF]  # noqa: PLE0604 - the names are strings, made from the table above


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
