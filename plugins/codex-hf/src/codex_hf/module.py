"""A transformers model behind codex's model protocols.

One rule: a document sees itself alone. transformers builds the masks (causal, block-diagonal, sliding windows where the
architecture has them) from position ids, which restart with each document; a row with a single document needs no
mask. That it holds is probed on each model that is built, since not every architecture does so.

Shapes: B blocks, T tokens, V vocabulary, D hidden width.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from codex_kernel import InputError

BASE_FILE = "base_model.json"
"""Beside an adapter: which base model it belongs to."""

# Keys of configurations that change logits after the head: Gemma's cap, Cohere's and Granite's scale, Falcon-H1's.
_HEAD_SCALES = re.compile(
    r"final_logit_softcapping|logits?_scal(e|ing)|lm_head_multiplier|output_multiplier_scale"
)


class HFModule(nn.Module):
    """A causal language model of transformers, kept under transformers' own names."""

    weights_file = "model.safetensors"

    def __init__(self, transformer: Any, source: str) -> None:
        super().__init__()
        self.transformer = transformer
        self.source = source
        """Where the weights came from, in words."""
        self.random_rows = 0
        """Embedding rows that were added to pretrained ones and hold random values."""
        self.positions: int | None = None
        """Most tokens of a block; None where the architecture names no bound."""

    def forward(
        self, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor, document_ids_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return `logits_BTV`; raise InputError where T is more than the model's positions."""
        self._require_positions(input_ids_BT)
        logits_BTV: torch.Tensor = self.transformer(
            **_inputs(input_ids_BT, position_ids_BT, document_ids_BT)
        ).logits
        return logits_BTV

    def _require_positions(self, input_ids_BT: torch.Tensor) -> None:
        tokens = input_ids_BT.shape[-1]
        if self.positions is not None and tokens > self.positions:
            raise InputError(
                f"data.seq_len {tokens} is more than the {self.positions} positions of the model",
                remedy="lower data.seq_len, or raise max_position_embeddings in model.config or model.overrides",
            )

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the tensors that save_pretrained would write: tied ones once."""
        tied = set(self.transformer.all_tied_weights_keys)
        return {name: tensor for name, tensor in self.transformer.state_dict().items() if name not in tied}

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take back what `weights()` gave; raise ValueError where a name or a shape differs."""
        copy_weights(self.weights(), weights)

    def config_files(self) -> Mapping[str, bytes]:
        """Return `config.json` and `generation_config.json`, for from_pretrained to open the folder."""
        config = copy.deepcopy(self.transformer.config)
        config.architectures = [type(self.transformer).__name__]
        config.dtype = str(self.transformer.dtype).removeprefix("torch.")
        files = {"config.json": config.to_json_string().encode()}
        if self.transformer.can_generate():
            generation: str = self.transformer.generation_config.to_json_string()
            files["generation_config.json"] = generation.encode()
        return files


class HFModuleWithHead(HFModule):
    """The same, for models whose logits are plainly `hidden @ weight.T`."""

    def hidden(
        self, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor, document_ids_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return `hidden_BTD`, what the head is applied to; raise InputError as `forward` does."""
        self._require_positions(input_ids_BT)
        hidden_BTD: torch.Tensor = self.transformer.base_model(
            **_inputs(input_ids_BT, position_ids_BT, document_ids_BT)
        ).last_hidden_state
        return hidden_BTD

    def head_weight(self) -> torch.Tensor:
        """Return `weight_VD`."""
        weight_VD: torch.Tensor = self.transformer.get_output_embeddings().weight
        return weight_VD


def wrap(transformer: Any, source: str) -> HFModule:
    """Wrap a transformers model; raise InputError where its architecture lets documents see one another."""
    module = _wrapped(transformer, source)
    # Set after the probes: their block of short documents may be longer than a tiny model has positions.
    module.positions = positions_of(transformer)
    return module


def positions_of(transformer: Any) -> int | None:
    """Return how many positions the configuration names; None where it names none."""
    positions = getattr(transformer.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _wrapped(transformer: Any, source: str) -> HFModule:
    plain = _says_plain_head(transformer)
    if transformer.device.type == "meta":
        return (HFModuleWithHead if plain else HFModule)(transformer, source)
    _require_isolation(HFModule(transformer, source))
    if plain and _has_plain_head(HFModuleWithHead(transformer, source)):
        return HFModuleWithHead(transformer, source)
    return HFModule(transformer, source)


def copy_weights(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors in place; raise ValueError, before anything is changed, where names or shapes differ."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or extra:
        raise ValueError(f"weights differ by name: missing {missing[:3]}, not expected {extra[:3]}")
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise ValueError(
                f"weight {name}: expected shape {tuple(tensor.shape)}, got {tuple(given[name].shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def _inputs(
    input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor, document_ids_BT: torch.Tensor
) -> dict[str, Any]:
    """Return the arguments that make transformers mask by document.

    Each padding token becomes a document of its own (position 0): it sees itself, so its row is finite. A mask or a
    cache would switch the masking by document off.
    """
    positions_BT = position_ids_BT.masked_fill(document_ids_BT < 0, 0)
    mask_B1TT = None
    if input_ids_BT.is_meta:
        # Where documents begin cannot be asked of shapes alone; a mask costs the same wherever they do.
        blocks, tokens = input_ids_BT.shape
        mask_B1TT = torch.ones(blocks, 1, tokens, tokens, dtype=torch.bool, device="meta")
    return {
        "input_ids": input_ids_BT,
        "position_ids": positions_BT,
        "attention_mask": mask_B1TT,
        "use_cache": False,
    }


# ── probes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _says_plain_head(transformer: Any) -> bool:
    head: Any = transformer.get_output_embeddings()
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        return False
    values = transformer.config.get_text_config(decoder=True).to_dict()
    return all(value in {None, 1} for name, value in values.items() if _HEAD_SCALES.fullmatch(name))


def _has_plain_head(module: HFModuleWithHead) -> bool:
    """Whether the logits really are `hidden @ weight.T`: an architecture may do more than its configuration says."""
    with _probing(module):
        probe = _probe(module, first_document=1)
        logits_BTV = module.hidden(*probe) @ module.head_weight().T
        return _close(logits_BTV, module(*probe))


def _require_isolation(module: HFModule) -> None:
    with _probing(module):
        one, other = (module(*_probe(module, first_document=start))[0, 4:] for start in (1, 5))
        if not _close(one, other):
            kind = module.transformer.config.model_type
            raise InputError(
                f"{kind} models let a packed document see the one before it, and codex packs documents",
                remedy="use an architecture with attention masks by position, such as llama, qwen3 or gpt2",
            )


def _probe(module: HFModule, first_document: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a block of two documents of four tokens, the first one starting with the token `first_document`."""
    vocab_size = module.transformer.get_input_embeddings().num_embeddings
    tokens = [*range(first_document, first_document + 4), *range(9, 13)]
    device = module.transformer.device
    input_ids_BT = torch.tensor([tokens], device=device) % vocab_size
    position_ids_BT = torch.arange(4, device=device).repeat(2)[None]
    document_ids_BT = torch.arange(2, device=device).repeat_interleave(4)[None]
    return input_ids_BT, position_ids_BT, document_ids_BT


@contextmanager
def _probing(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients, and back: dropout would consume random numbers."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two results are the same but for rounding in their precision."""
    tolerance = 1e-4 if one.dtype == torch.float32 else 3e-2
    scale = other.float().abs().max().clamp_min(1e-6)
    return bool(((one.float() - other.float()).abs().max() / scale) < tolerance)
