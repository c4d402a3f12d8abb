"""Models, and the checkpoints that keep them.

One rule: a tensor is `Any` here, and is only handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen


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
        """Return the small files beside the weights (`config.json`, …) that the library needs to open them.

        Where `weights()` leaves out a base model, `base_model.json` says which one: a run is not resumed over another.
        """


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

    def save(
        self, step: int, state: CheckpointState, metrics: Mapping[str, float], *, wait: bool = False
    ) -> None:
        """Keep the state; report it through `run.report.checkpoint_saved` once it is safe on disk.

        The state may change as soon as it returns. Without `wait` the state may reach the disk later; where that
        fails, the run goes on without this checkpoint: it is a warning and the event `checkpoint_failed` (`step`,
        `reason`). With `wait` it is on disk when it returns; raises StorageError where it is not.
        """

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; report and set aside damaged ones; None where there is none.

        Waits for a save under way.
        """

    def load(self, checkpoint: Checkpoint) -> CheckpointState:
        """Return what was saved, tensors on the CPU."""

    def close(self) -> None:
        """Wait for saves under way and let go of files and threads; it may be called twice."""


@frozen
class Damaged:
    """Something on disk that was a checkpoint and cannot be used: `reason` names the file and what is wrong with it."""

    path: Path
    reason: str


@runtime_checkable
class CheckpointArchive(Protocol):
    """A checkpointer whose checkpoints can be looked at one by one: for `codex checkpoints`."""

    def checkpoints(self) -> tuple[Sequence[Checkpoint], Sequence[Damaged]]:
        """Return all checkpoints, oldest first, and apart from them those that are damaged or were set aside.

        Reads what a checkpoint says of itself, not its tensors.
        """

    def verify(self, checkpoint: Checkpoint) -> Sequence[str]:
        """Read every file; return a sentence (`file: what is wrong`) for each that is not as it was saved."""

    def files(self, checkpoint: Checkpoint) -> Mapping[str, int]:
        """Return the size in bytes of each file, by its name in the checkpoint."""

    def kept(self, checkpoints: Sequence[Checkpoint]) -> frozenset[int]:
        """Return the steps that the options would keep of these."""

    def delete(self, path: Path) -> None:
        """Delete a checkpoint, or a damaged one, so that half of it never looks like a checkpoint."""

    def export(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Write the model's part (what lies under `model/`) to files in a folder that exists and is empty.

        Raises StorageError where it cannot be written, CodexError where the checkpoint is not as it was saved.
        """
