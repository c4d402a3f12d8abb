"""The model's part of a checkpoint: out of a model, and back into it.

One rule: a model that knows its library's format is asked for it; any other is kept under the names of its state_dict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from codex_kernel import CheckpointState, InputError, PluginError, PretrainedFormat, Reporter

FOLDER = "model"
PLAIN_FILE = "model.safetensors"
BASE_FILE = "base_model.json"


@frozen(eq=False)
class SavedModel:
    """What is kept of a model: file names as in a checkpoint, see `CheckpointState`."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]
    files: Mapping[str, bytes]


def saved(model: nn.Module) -> SavedModel:
    """Return the model's weights and the small files beside them; the weights are not copied."""
    if not isinstance(model, PretrainedFormat):
        return SavedModel({f"{FOLDER}/{PLAIN_FILE}": _plain(model)}, {}, {})
    files = model.config_files()
    return SavedModel(
        # Detached: the pointer of a parameter may change before the tensor is read, that of a tensor does not.
        {f"{FOLDER}/{model.weights_file}": {name: t.detach() for name, t in model.weights().items()}},
        {f"{FOLDER}/{name}": json.loads(text) for name, text in files.items() if name.endswith(".json")},
        {f"{FOLDER}/{name}": text for name, text in files.items() if not name.endswith(".json")},
    )


def load(model: nn.Module, state: CheckpointState) -> None:
    """Put a checkpoint's weights into the model; raise InputError where they are not of such a model."""
    known = isinstance(model, PretrainedFormat)
    name = f"{FOLDER}/{model.weights_file if isinstance(model, PretrainedFormat) else PLAIN_FILE}"
    if name not in state.tensors:
        there = ", ".join(sorted(n for n in state.tensors if n.startswith(f"{FOLDER}/"))) or "none"
        raise InputError(
            f"the checkpoint has no {name}, it has {there}",
            remedy="use the model and the adapters that it was saved with",
        )
    try:
        if known:
            model.load_weights(state.tensors[name])  # type: ignore[operator] # `known` says that it is a PretrainedFormat
        else:
            _load_plain(model, state.tensors[name])
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint's {name} does not fit the model: {error}",
            remedy="use the model and the adapters that it was saved with",
        ) from error


def check_config(model: nn.Module, state: CheckpointState, report: Reporter) -> None:
    """Compare the model's small files with the checkpoint's; raise InputError where the base model is another one.

    Any other difference (a newer library writes a key more) is a warning.
    """
    for name, now in saved(model).values.items():
        before = state.values.get(name)
        if before == now:
            continue
        if name == f"{FOLDER}/{BASE_FILE}":
            raise InputError(
                f"the adapter was trained over another base model: it was {before}, it is {now}",
                remedy="use the base model that the run began with, or start a new run",
            )
        report.warning(f"the model's {name} differs from the checkpoint's: {_difference(before, now)}")


def _difference(before: Any, now: Any) -> str:
    """Return `key was x, is y` for each key that differs."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"it was {before}, it is {now}"
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return "; ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed)


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict with each tensor once: tied weights under the first of their names."""
    return {name: tensor.detach() for name, tensor, first in _named(model) if name == first}


def _load_plain(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = {name: tensor for name, tensor, first in _named(model) if name == first}
    if missing := sorted(own.keys() - weights.keys()):
        raise ValueError(f"it lacks {', '.join(missing[:5])} and {len(missing)} in all")
    if unknown := sorted(weights.keys() - own.keys()):
        raise ValueError(f"the model has no {', '.join(unknown[:5])}, {len(unknown)} in all")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != weights[name].shape:
                raise ValueError(f"{name} has shape {list(tensor.shape)}, got {list(weights[name].shape)}")
            tensor.copy_(weights[name])


def _named(model: nn.Module) -> list[tuple[str, Tensor, str]]:
    """Return (name, tensor, first name of that tensor) of everything in the state_dict."""
    first: dict[int, str] = {}
    named = []
    for name, tensor in model.state_dict(
        keep_vars=True
    ).items():  # the parameters themselves, so that ties show
        if not isinstance(tensor, Tensor):
            raise PluginError(f"the model keeps {name}, a {type(tensor).__name__}: expected tensors alone")
        named.append((name, tensor, first.setdefault(id(tensor), name)))
    return named
