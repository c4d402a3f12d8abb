"""The values and protocols that the parts of a run hand to one another.

One rule: no part of a run knows another but through this module. It imports neither torch nor numpy, so tensors and
arrays are `Any` here; their shapes are in the names: B blocks of a batch, T tokens of a block, V vocabulary, D width
of the hidden state.
"""

from __future__ import annotations

from codex_kernel.interfaces.data import (
    IGNORE_INDEX,
    Batch,
    BatchTokenizer,
    Blocks,
    CorpusText,
    Data,
    Document,
    SavedTokenizer,
    Tokenizer,
)
from codex_kernel.interfaces.model import (
    Checkpoint,
    CheckpointArchive,
    Checkpointer,
    CheckpointState,
    Damaged,
    HiddenStates,
    Model,
    PretrainedFormat,
)
from codex_kernel.interfaces.run import (
    Estimate,
    Estimates,
    EvaluateOptions,
    Evaluation,
    GenerateRequest,
    Outcome,
    Parts,
    Probe,
    Probes,
    Progress,
    Reporter,
    RunContext,
    StopRequest,
    TextPieces,
    Trainer,
    TrainResult,
)

__all__ = [
    "IGNORE_INDEX",
    "Batch",
    "BatchTokenizer",
    "Blocks",
    "Checkpoint",
    "CheckpointArchive",
    "CheckpointState",
    "Checkpointer",
    "CorpusText",
    "Damaged",
    "Data",
    "Document",
    "Estimate",
    "Estimates",
    "EvaluateOptions",
    "Evaluation",
    "GenerateRequest",
    "HiddenStates",
    "Model",
    "Outcome",
    "Parts",
    "PretrainedFormat",
    "Probe",
    "Probes",
    "Progress",
    "Reporter",
    "RunContext",
    "SavedTokenizer",
    "StopRequest",
    "TextPieces",
    "Tokenizer",
    "TrainResult",
    "Trainer",
]
