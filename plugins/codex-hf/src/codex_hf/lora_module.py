"""A module with PEFT's low-rank adapters, kept in PEFT's own format.

One rule: the base is frozen and only the adapter is kept, with a digest of the base that it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from codex_hf.module import BASE_FILE, HFModule, copy_weights
from codex_kernel import HiddenStates, InputError, PluginError, RunContext

if TYPE_CHECKING:
    from codex_hf.lora import LoRA

_SHOWN_NAMES = 12
_MATRIX = 2


class LoRAModule(nn.Module):
    """A model with adapters in it; `weights()` are the adapters alone, under PEFT's names."""

    weights_file = "adapter_model.safetensors"

    def __init__(self, base: nn.Module, adapted: Any, base_digest: str | None) -> None:
        super().__init__()
        self.base = base
        # Not a submodule: it wraps modules that are in `base` already.
        self._adapted = (adapted,)
        self._base_digest = base_digest

    def forward(
        self, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor, document_ids_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return `logits_BTV`."""
        logits_BTV: torch.Tensor = self.base(input_ids_BT, position_ids_BT, document_ids_BT)
        return logits_BTV

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the adapters, under the names that PeftModel.from_pretrained reads."""
        # save_embedding_layers: left to itself PEFT asks the model hub whether the embedding was resized.
        tensors: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
            self._adapted[0], save_embedding_layers=False
        )
        return tensors

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take back what `weights()` gave; raise ValueError where a name or a shape differs."""
        copy_weights(self.weights(), weights)

    def config_files(self) -> Mapping[str, bytes]:
        """Return `adapter_config.json`, and which base the adapter belongs to."""
        source = getattr(self.base, "source", type(self.base).__name__)
        base = {"source": source, "sha256": self._base_digest}
        config = {
            name: _plain(value) for name, value in self._adapted[0].peft_config["default"].to_dict().items()
        }
        config["inference_mode"] = True
        return {"adapter_config.json": _json(config), BASE_FILE: _json(base)}


class LoRAModuleWithHead(LoRAModule):
    """The same, over a base whose head is plain and not adapted."""

    def hidden(
        self, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor, document_ids_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return `hidden_BTD`, what the head is applied to."""
        hidden_BTD: torch.Tensor = self._base_states.hidden(input_ids_BT, position_ids_BT, document_ids_BT)
        return hidden_BTD

    def head_weight(self) -> torch.Tensor:
        """Return `weight_VD`."""
        weight_VD: torch.Tensor = self._base_states.head_weight()
        return weight_VD

    @property
    def _base_states(self) -> HiddenStates:
        base: Any = self.base
        states: HiddenStates = base
        return states


def adapt(model: Any, options: LoRA, run: RunContext) -> LoRAModule:
    """Put adapters into the model, in place, and freeze the rest.

    Raises InputError where a target matches no layer or a layer could not be trained, PluginError where the model is
    no torch module.
    """
    if not isinstance(model, nn.Module):
        raise PluginError(f"adapter lora needs a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise InputError("the model has adapters already", remedy="name lora once under adapters")
    inner = model.transformer if isinstance(model, HFModule) else model
    _require_trained_rows(model, options)
    _require_full_precision(inner, options)
    digest = _digest(inner.state_dict())
    head = model.head_weight() if isinstance(model, HiddenStates) else None
    config = _peft_config(inner, model, options, head)
    try:
        with _without_version_warnings():
            adapted = peft.get_peft_model(inner, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise InputError(f"adapters: lora cannot be applied: {error}", remedy=_remedy(inner)) from error
    adapted.peft_config["default"].base_model_name_or_path = _hub_name(model)
    trainable = sum(parameter.numel() for parameter in inner.parameters() if parameter.requires_grad)
    if trainable == 0:
        raise InputError("adapters: lora leaves nothing to train", remedy=_remedy(inner))
    total = sum(parameter.numel() for parameter in inner.parameters())
    run.report.event("lora", trainable_parameters=trainable, parameters=total, base_sha256=digest)
    plain_head = head is not None and not _adapts(inner, head)
    return (LoRAModuleWithHead if plain_head else LoRAModule)(model, adapted, digest)


@contextmanager
def _without_version_warnings() -> Iterator[None]:
    """Silence what PEFT does that transformers is going to rename: it concerns their authors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _peft_config(inner: nn.Module, model: nn.Module, options: LoRA, head: torch.Tensor | None) -> Any:
    targets = options.target_modules
    if not isinstance(model, HFModule):
        if targets is None:
            raise InputError(
                "adapters: lora needs target_modules for a model that PEFT does not know",
                remedy=_remedy(inner),
            )
        if targets == "all-linear":
            # PEFT finds them for transformers models only.
            targets = [name for name, layer in _linear_layers(inner) if layer.weight is not head]
    _require_matches(inner, "target_modules", targets)
    _require_matches(inner, "exclude_modules", options.exclude_modules)
    _require_matches(inner, "modules_to_save", options.modules_to_save)
    return peft.LoraConfig(
        task_type="CAUSAL_LM" if isinstance(model, HFModule) else None,
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        exclude_modules=options.exclude_modules,
        modules_to_save=options.modules_to_save,
        use_rslora=options.rslora,
        use_dora=options.dora,
        init_lora_weights=True if options.init == "default" else "gaussian",
    )


def _require_matches(inner: nn.Module, option: str, wanted: list[str] | str | None) -> None:
    """Raise InputError for each name that matches no layer: PEFT asks only that one of them does."""
    names = [name for name, _ in inner.named_modules()]
    if wanted is None or wanted == "all-linear":
        return
    if isinstance(wanted, str):
        try:
            unmatched = [] if any(re.fullmatch(wanted, name) for name in names) else [wanted]
        except re.error as error:
            raise InputError(
                f"adapters: lora.{option}: {wanted!r} is no regular expression: {error}"
            ) from error
    else:
        unmatched = [want for want in wanted if not any(_is_named(name, want) for name in names)]
    if unmatched:
        raise InputError(
            f"adapters: lora.{option}: no layer is named {', '.join(unmatched)}",
            remedy=_remedy(inner, option),
        )


def _is_named(name: str, wanted: str) -> bool:
    """Whether PEFT takes `wanted` for the layer `name`: the whole of it or its end."""
    return name == wanted or name.endswith(f".{wanted}")


def _require_trained_rows(model: nn.Module, options: LoRA) -> None:
    """Raise InputError where added embedding rows would stay random, and be others in every run.

    A tied head needs its own name too: PEFT trains a copy of the embeddings and leaves the head the frozen ones.
    """
    if not isinstance(model, HFModule) or model.random_rows == 0:
        return
    inner = model.transformer
    layers = (inner.get_input_embeddings(), inner.get_output_embeddings())
    names = [name for name, layer in inner.named_modules() if any(layer is wanted for wanted in layers)]
    saved = options.modules_to_save or []
    left = [name for name in names if not any(_is_named(name, want) for want in saved)]
    if left:
        ends = ", ".join(name.rpartition(".")[2] for name in names)
        raise InputError(
            f"adapters: lora would leave {model.random_rows} new rows of {', '.join(left)} random: "
            "they are frozen and not kept",
            remedy=f"set modules_to_save: [{ends}], or use the model's own tokenizer",
        )


def _require_full_precision(inner: nn.Module, options: LoRA) -> None:
    """Raise InputError where layers trained whole, which PEFT keeps in float32, would meet another precision."""
    if not options.modules_to_save:
        return
    other = {p.dtype for p in inner.parameters() if p.is_floating_point()} - {torch.float32}
    if other:
        kinds = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in other))
        raise InputError(
            f"adapters: lora.modules_to_save needs a model in float32, got {kinds}",
            remedy="set param_dtype: float32 in the model section",
        )


def _linear_layers(inner: nn.Module) -> Iterable[tuple[str, nn.Linear]]:
    return ((name, layer) for name, layer in inner.named_modules() if isinstance(layer, nn.Linear))


def _remedy(inner: nn.Module, option: str = "target_modules") -> str:
    """Name the layers that can be adapted, by the last part of their names."""
    kinds = [
        name
        for name, layer in inner.named_modules()
        if name and hasattr(layer, "weight") and layer.weight.ndim == _MATRIX
    ]
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in kinds))
    more = f" and {len(ends) - _SHOWN_NAMES} more" if len(ends) > _SHOWN_NAMES else ""
    return f"set {option}; this model's layers: {', '.join(ends[:_SHOWN_NAMES])}{more}"


def _adapts(inner: nn.Module, head: torch.Tensor) -> bool:
    """Whether the layer with this weight was adapted or is trained as a copy."""
    for module in inner.modules():
        if isinstance(module, BaseTunerLayer) and getattr(module.get_base_layer(), "weight", None) is head:
            return True
        if isinstance(module, ModulesToSaveWrapper) and any(
            p is head for p in module.original_module.parameters()
        ):
            return True
    return False


def _hub_name(model: nn.Module) -> str | None:
    """Return the base's hub id, for PEFT's own loaders; any other source has no name that they could look up."""
    source = str(getattr(model, "source", ""))
    name, at, _ = source.partition("@")
    return name if at else None


def _digest(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Return a hex digest of names, types, shapes and values; None where the tensors have no values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if tensor.device.type == "meta":
            return None
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: object) -> object:
    """Return a value that JSON can hold; sets in a fixed order."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
