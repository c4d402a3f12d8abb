"""The values and protocols that the parts of a run hand to one another.

One rule: no part of a run knows another but through this module. It imports neither torch nor numpy, so tensors and
arrays are `Any` here; their shapes are in the names: B blocks of a batch, T tokens of a block, V vocabulary, D width
of the hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen

IGNORE_INDEX = -100
"""The target of a position that is not trained (torch's own default for `ignore_index`)."""


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Document:
    """One document of a dataset.

    `id` names it uniquely (a path, `file:line`); documents with the same `group` never fall into different splits.
    `text` is trained; `prompt` stands before it and is only read. An end-of-text token follows the text.
    """

    id: str
    group: str
    text: str
    prompt: str = ""


@frozen(eq=False)
class Batch:
    """Some blocks of tokens, as numpy arrays.

    `input_ids_BT` int64. `targets_BT` int64 holds for each position the *next* token of the same document (no further
    shift is needed), or IGNORE_INDEX; a block may have no target. `position_ids_BT` int64 counts from 0 in each
    document of a block, so it is always below T, also where a document goes on from the block before.
    `document_ids_BT` int64 numbers the documents of a block from 0, and is -1 on padding: attention must not cross
    from one to another. `sample_ids_B` int64 are the blocks' numbers in the split.
    """

    input_ids_BT: Any
    targets_BT: Any
    position_ids_BT: Any
    document_ids_BT: Any
    sample_ids_B: Any


class Blocks(Protocol):
    """One split of the data as blocks of `seq_len` tokens, read from disk as they are asked for."""

    @property
    def seq_len(self) -> int:
        """Tokens of a block (T)."""

    @property
    def target_tokens(self) -> int:
        """Targets of all blocks that are not IGNORE_INDEX."""

    @property
    def bytes_per_token(self) -> float:
        """Mean UTF-8 bytes of text that one target stands for."""

    def __len__(self) -> int:
        """Blocks of the split."""

    def gather(self, sample_ids_B: Any) -> Batch:
        """Return the blocks with these numbers, in this order."""


class Data(Protocol):
    """What a trainer trains on: two splits, and the order of the training samples."""

    @property
    def train(self) -> Blocks:
        """The training split, never empty."""

    @property
    def validation(self) -> Blocks | None:
        """The validation split; None where the manifest asks for none."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of tokens, boundaries and options: equal exactly where the batches are equal."""

    def samples(self, start: int, count: int) -> Any:
        """Return `count` sample ids (int64) of the endless training order from position `start` on.

        A pure function of the seed and the position: every epoch is a permutation of all training blocks, and epoch
        e takes the positions e·n … (e+1)·n - 1. It costs the same at any position and holds no state.
        """


# ── tokenizer ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Tokenizer(Protocol):
    """Turns text into ids and back; `decode(encode(text)) == text` for any text."""

    @property
    def vocab_size(self) -> int:
        """Ids are 0 … vocab_size - 1; the model's embedding has at least as many rows."""

    @property
    def eos_id(self) -> int:
        """The end-of-text token, put after each document and trained."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the ids of the text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; `eos_id` and other control tokens stand for no text."""


@runtime_checkable
class BatchTokenizer(Protocol):
    """A tokenizer that encodes many texts at once (on its library's own threads)."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return `[encode(text) for text in texts]`, faster."""


@runtime_checkable
class SavedTokenizer(Protocol):
    """A tokenizer with state (a vocabulary) that must be kept with the run.

    A tokenizer without it is rebuilt from its options alone.
    """

    def save(self, folder: Path) -> None:
        """Write the files from which the same plugin makes an equal tokenizer; `folder` exists and is empty."""

    def fingerprint(self) -> str:
        """Hex digest of all that decides which ids a text gets: vocabulary, merges, normaliser, specials."""


# ── model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Model(Protocol):
    """A causal language model: a `torch.nn.Module` (or what another trainer understands) with this forward."""

    def __call__(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:
        """Return `logits_BTV`; position t sees only the positions ≤ t of its own document."""


@runtime_checkable
class HiddenStates(Protocol):
    """A model that can stop before its head, so that the loss never holds the logits of a whole batch."""

    def hidden(self, input_ids_BT: Any, position_ids_BT: Any, document_ids_BT: Any) -> Any:
        """Return `hidden_BTD`, what the head is applied to."""

    def head_weight(self) -> Any:
        """Return `weight_VD`; the logits are `hidden_BTD @ weight_VD.T`, without bias or scaling."""


@runtime_checkable
class PretrainedFormat(Protocol):
    """A model whose weights are kept in the format of its own library.

    A plain `nn.Module` without it is kept under the names of its `state_dict()`.
    """

    @property
    def weights_file(self) -> str:
        """File name of the weights, such as `model.safetensors` or `adapter_model.safetensors`."""

    def weights(self) -> Mapping[str, Any]:
        """Return the tensors to keep (of an adapted model, the adapter's alone), without shared storage."""

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Take back what `weights()` gave, in place; raise ValueError where a name or a shape differs."""

    def config_files(self) -> Mapping[str, bytes]:
        """Return the small files beside the weights (`config.json`, …) that the library needs to open them."""


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────


@frozen(eq=False)
class CheckpointState:
    """All that a run needs to go on, as plain data, so that any checkpointer can keep it without pickle.

    Keys are file names relative to the checkpoint, with forward slashes. `tensors`: `*.safetensors` → name → tensor;
    `values`: `*.json` → a JSON value; `files`: any other name → its bytes. The model's part lies under `model/`.
    """

    tensors: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    files: Mapping[str, bytes] = field(factory=dict)


@frozen
class Checkpoint:
    """A checkpoint on disk; `metrics` are those it was saved with (validation metrics as `validation/loss`)."""

    step: int
    path: Path
    metrics: Mapping[str, float]
    size_bytes: int


class Checkpointer(Protocol):
    """Keeps and brings back the state of a run."""

    def due(self, step: int) -> bool:
        """Say whether a checkpoint is to be saved after this optimizer step."""

    def save(self, step: int, state: CheckpointState, metrics: Mapping[str, float]) -> None:
        """Keep the state; report it through `run.report.checkpoint_saved` once it is safe on disk.

        The tensors may change as soon as it returns.
        """

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; report and set aside damaged ones; None where there is none."""

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return what was saved, tensors on the CPU."""

    def close(self) -> None:
        """Wait for saves under way and let go of files and threads."""


# ── a run ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@frozen
class Progress:
    """How far a run is: optimizer steps done, of how many (None: not known before), epochs, tokens and samples seen.

    `tokens` counts trained targets, `samples` blocks.
    """

    step: int
    total_steps: int | None
    epoch: float
    tokens: int
    samples: int


class Reporter(Protocol):
    """Where the parts of a run report to; cheap, never blocking, and safe to call from any thread."""

    def metrics(self, progress: Progress, values: Mapping[str, float], *, split: str = "train") -> None:
        """Write one record of metrics and tell the loggers; call it at logging steps, not for each token."""

    def activity(self, name: str, done: float, total: float | None, unit: str = "") -> None:
        """Tell how far a piece of work outside the training loop is, such as ("encode", 20, 288, "documents")."""

    def event(self, name: str, **fields: Any) -> None:
        """Write one record to the run's events: something that a person may ask about later."""

    def warning(self, message: str) -> None:
        """Write an event and show it to the user."""

    def checkpoint_saved(self, checkpoint: Checkpoint) -> None:
        """Tell that a checkpoint is safe on disk."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return what a checkpoint must hold so that the metrics can be rewound to it (a JSON value)."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rewind the metrics to the checkpoint that holds this state."""


class StopRequest(Protocol):
    """Whether someone asked the run to stop after the optimizer step under way."""

    @property
    def signal_number(self) -> int | None:
        """The signal that asked; None as long as nobody did."""


@frozen(eq=False)
class RunContext:
    """The run that a hook is called for.

    `folder` is the run's own folder (a plugin may write files of its own there), `cache` a folder shared by all runs,
    `base` the folder that relative paths of the manifest start from: where the run was first started.
    `rank` and `world_size` number the processes of the run; loggers are active on rank 0 only.
    """

    run_id: str
    name: str
    seed: int
    folder: Path
    cache: Path
    base: Path
    report: Reporter
    stop: StopRequest
    rank: int = 0
    world_size: int = 1


@frozen
class EvaluateOptions:
    """When the model is evaluated on the validation split; None: only at the end. `max_blocks` None: all of it."""

    every_steps: int | None = None
    max_blocks: int | None = None


@frozen
class Evaluation:
    """Sums over an evaluation: `loss_sum` in nats, `tokens` targets, `bytes` of UTF-8 text those targets stand for."""

    loss_sum: float
    tokens: int
    bytes: float


@frozen(eq=False)
class Parts:
    """What a trainer is given: everything that the run built before it.

    `evaluation_metrics` asks all metric plugins of the manifest; it always has `loss` (nats per token).
    """

    tokenizer: Tokenizer
    data: Data
    model: Model
    checkpointer: Checkpointer
    evaluate: EvaluateOptions
    evaluation_metrics: Callable[[Evaluation], dict[str, float]]


@frozen
class TrainResult:
    """How training ended: totals over the whole run, the last metrics, and why it stopped.

    `metrics` has `train/loss` and, where there is a validation split, `validation/…`. `signal_number` is None unless a
    signal stopped the run.
    """

    progress: Progress
    metrics: Mapping[str, float]
    stop_reason: str
    signal_number: int | None = None


class Trainer(Protocol):
    """Trains the model of its Parts."""

    def fit(self, state: CheckpointState | None) -> TrainResult:
        """Train to the end, or to a stop request; go on from `state` where it is given, else start."""


@frozen
class Estimate:
    """What `codex plan` says of a run before it starts; None: not known or not measured.

    `memory_bytes` maps a part (weights, gradients, optimizer, activations, logits) to its size on the training device.
    """

    parameters: int
    trainable_parameters: int
    memory_bytes: Mapping[str, int]
    steps: int
    tokens: int
    checkpoint_bytes: int
    seconds_per_step: float | None = None
    notes: Sequence[str] = ()


@runtime_checkable
class Estimates(Protocol):
    """A trainer that can foretell its needs; `codex plan` asks it."""

    def estimate(self, *, measure: bool) -> Estimate:
        """Estimate the run; with `measure`, time a few real steps. Leaves no trace in the run."""


@frozen
class GenerateRequest:
    """What `codex generate` was asked for; `temperature` 0 takes the likeliest token, None for a limit means off.

    `context_tokens` is the length that the model was trained on: no more tokens than that are read at once.
    """

    prompt: str
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    context_tokens: int


@frozen
class Outcome:
    """How a run ended, as written to `outcome.json`.

    `status`: completed (steps > 0 and the limit reached), stopped (by a signal, can be resumed) or failed.
    """

    status: str
    exit_code: int
    reason: str
    steps: int
    tokens: int
    samples: int
    seconds: float
    metrics: Mapping[str, float]
    checkpoint: str | None
    detached: Sequence[str]


CorpusText = Iterable[str]
"""Training texts that can be gone through more than once."""

TextPieces = Iterator[str]
"""Generated text, piece by piece."""
