"""codex: a plugin kernel for training and fine-tuning language models.

The names below are what plugins may import; they load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module

from codex_kernel._version import __version__

TYPE_CHECKING = False  # typing is slow to import, and type checkers know this name
if TYPE_CHECKING:
    from codex_kernel.api import PLUGIN_API as PLUGIN_API
    from codex_kernel.durable import sync_folder as sync_folder
    from codex_kernel.durable import write_whole as write_whole
    from codex_kernel.errors import CodexError as CodexError
    from codex_kernel.errors import ConversationError as ConversationError
    from codex_kernel.errors import InputError as InputError
    from codex_kernel.errors import NoCheckpointError as NoCheckpointError
    from codex_kernel.errors import NonFiniteError as NonFiniteError
    from codex_kernel.errors import PluginError as PluginError
    from codex_kernel.errors import StorageError as StorageError
    from codex_kernel.hookspecs import hookimpl as hookimpl
    from codex_kernel.interfaces import IGNORE_INDEX as IGNORE_INDEX
    from codex_kernel.interfaces import BadRecord as BadRecord
    from codex_kernel.interfaces import Batch as Batch
    from codex_kernel.interfaces import BatchDecoder as BatchDecoder
    from codex_kernel.interfaces import BatchTokenizer as BatchTokenizer
    from codex_kernel.interfaces import Blocks as Blocks
    from codex_kernel.interfaces import ChatIds as ChatIds
    from codex_kernel.interfaces import ChatTokenizer as ChatTokenizer
    from codex_kernel.interfaces import Checkpoint as Checkpoint
    from codex_kernel.interfaces import CheckpointArchive as CheckpointArchive
    from codex_kernel.interfaces import Checkpointer as Checkpointer
    from codex_kernel.interfaces import CheckpointState as CheckpointState
    from codex_kernel.interfaces import Cleaned as Cleaned
    from codex_kernel.interfaces import Cleaner as Cleaner
    from codex_kernel.interfaces import CorpusText as CorpusText
    from codex_kernel.interfaces import Damaged as Damaged
    from codex_kernel.interfaces import Data as Data
    from codex_kernel.interfaces import Document as Document
    from codex_kernel.interfaces import Estimate as Estimate
    from codex_kernel.interfaces import Estimates as Estimates
    from codex_kernel.interfaces import EvaluateOptions as EvaluateOptions
    from codex_kernel.interfaces import Evaluation as Evaluation
    from codex_kernel.interfaces import FingerprintedTokenizer as FingerprintedTokenizer
    from codex_kernel.interfaces import GenerateRequest as GenerateRequest
    from codex_kernel.interfaces import HiddenStates as HiddenStates
    from codex_kernel.interfaces import Message as Message
    from codex_kernel.interfaces import Mixing as Mixing
    from codex_kernel.interfaces import Model as Model
    from codex_kernel.interfaces import OffsetTokenizer as OffsetTokenizer
    from codex_kernel.interfaces import Outcome as Outcome
    from codex_kernel.interfaces import Parts as Parts
    from codex_kernel.interfaces import PretrainedFormat as PretrainedFormat
    from codex_kernel.interfaces import Probe as Probe
    from codex_kernel.interfaces import Probes as Probes
    from codex_kernel.interfaces import Progress as Progress
    from codex_kernel.interfaces import Reporter as Reporter
    from codex_kernel.interfaces import RunContext as RunContext
    from codex_kernel.interfaces import SavedTokenizer as SavedTokenizer
    from codex_kernel.interfaces import SpecialTokens as SpecialTokens
    from codex_kernel.interfaces import StopRequest as StopRequest
    from codex_kernel.interfaces import TextPieces as TextPieces
    from codex_kernel.interfaces import Tokenizer as Tokenizer
    from codex_kernel.interfaces import TrainedTokenizer as TrainedTokenizer
    from codex_kernel.interfaces import Trainer as Trainer
    from codex_kernel.interfaces import TrainResult as TrainResult
    from codex_kernel.interfaces import UnknownToken as UnknownToken
    from codex_kernel.native_calls import interruptible as interruptible
    from codex_kernel.options import Secret as Secret
    from codex_kernel.options import Sources as Sources
    from codex_kernel.options import option as option
    from codex_kernel.records import RecordFields as RecordFields
    from codex_kernel.records import TextFields as TextFields
    from codex_kernel.records import columns_of as columns_of
    from codex_kernel.records import document_of as document_of
    from codex_kernel.retention import KeepBest as KeepBest
    from codex_kernel.retention import retained_steps as retained_steps

_HOMES = {
    "api": "PLUGIN_API",
    "durable": "sync_folder write_whole",
    "errors": "CodexError ConversationError InputError NoCheckpointError NonFiniteError PluginError StorageError",
    "hookspecs": "hookimpl",
    "interfaces": (
        "IGNORE_INDEX BadRecord Batch BatchDecoder BatchTokenizer Blocks ChatIds ChatTokenizer Checkpoint "
        "CheckpointArchive Checkpointer CheckpointState Cleaned Cleaner CorpusText Damaged Data Document Estimate "
        "Estimates EvaluateOptions Evaluation FingerprintedTokenizer GenerateRequest HiddenStates Message Mixing Model "
        "OffsetTokenizer Outcome Parts PretrainedFormat Probe Probes Progress Reporter RunContext SavedTokenizer "
        "SpecialTokens StopRequest TextPieces Tokenizer TrainedTokenizer Trainer TrainResult UnknownToken"
    ),
    "native_calls": "interruptible",
    "options": "Secret Sources option",
    "records": "RecordFields TextFields columns_of document_of",
    "retention": "KeepBest retained_steps",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604 - the names are strings, made from the table above


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
