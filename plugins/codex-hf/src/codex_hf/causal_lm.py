"""Model `hf-causal-lm`: a causal language model of transformers, from a configuration or pretrained.

One rule: the manifest says all of it. The code is transformers' own (never the repository's), the weights are
safetensors, and the precision of the parameters is an option, not what a file happens to hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import frozen

from codex_hf.source import Source, pretrained_folder
from codex_kernel import (
    CheckpointState,
    GenerateRequest,
    InputError,
    Model,
    RunContext,
    TextPieces,
    Tokenizer,
    hookimpl,
    option,
)

if TYPE_CHECKING:
    from codex_hf.module import HFModule


@frozen
class HFCausalLM(Source):
    """A causal language model: `config` builds one from scratch, a source loads a pretrained one."""

    codex_capabilities: ClassVar[tuple[str, ...]] = ("gpu", "generate")

    config: dict[str, Any] | None = option(
        None,
        help="Configuration of a new model: model_type and keys of its transformers configuration class.",
    )
    overrides: dict[str, Any] = option(
        factory=dict,
        help="Keys of the pretrained configuration to replace, such as num_hidden_layers to cut it.",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] = option(
        "sdpa", help="How attention is computed; eager is the plain formula."
    )
    param_dtype: Literal["float32", "bfloat16"] = option(
        "float32", help="Precision of the parameters (the trainer's precision is that of the computation)."
    )
    resize_embeddings: bool = option(
        default=False,
        help="Add random embedding rows where the tokenizer has more tokens than a pretrained model.",
    )

    def __attrs_post_init__(self) -> None:
        """Refuse what transformers would swallow silently."""
        super().__attrs_post_init__()
        if self.given == (self.config is not None):
            raise ValueError(
                "expected either config (a new model) or one of path, hub_id and package (a pretrained one)"
            )
        if self.config is not None:
            _check_new(self.config)
            if self.overrides or self.resize_embeddings:
                raise ValueError(
                    "overrides and resize_embeddings belong to a pretrained model; write into config instead"
                )
        _check_no_code("overrides", self.overrides)

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Look that the files are there."""
        return [f"model.{problem}" for problem in self.problems(base)]

    @hookimpl
    def codex_model(self, run: RunContext, tokenizer: Tokenizer, materialize: bool) -> HFModule:  # noqa: FBT001 - pluggy passes by name
        """Build the model in training mode; without `materialize`, from its configuration alone."""
        import torch

        from codex_hf import loading
        from codex_hf.module import wrap

        dtype = getattr(torch, self.param_dtype)
        if self.config is not None:
            config = _new_config(self.config, tokenizer)
            return wrap(loading.from_config(config, dtype, self.attention), self.described())
        folder = pretrained_folder(self, run)
        config = loading.overridden_config(folder, self.overrides)
        if materialize:
            transformer = loading.from_folder(folder, config, dtype, self.attention, run.report)
        else:
            transformer = loading.from_config(config, dtype, self.attention)
        added = loading.fit_vocabulary(transformer, tokenizer.vocab_size, resize=self.resize_embeddings)
        module = wrap(transformer, self.described())
        module.random_rows = added
        return module

    @hookimpl
    def codex_generate(
        self, model: Model, tokenizer: Tokenizer, state: CheckpointState, request: GenerateRequest
    ) -> TextPieces | None:
        """Continue a prompt with transformers' key-value cache; None where another adapter hides the model."""
        from codex_hf.generation import generate, transformer_of

        transformer = transformer_of(model)
        return None if transformer is None else generate(model, transformer, tokenizer, state, request)


def _check_no_code(where: str, keys: Mapping[str, Any]) -> None:
    for name in keys:
        if str(name).startswith("_") or name in {"auto_map", "trust_remote_code", "custom_pipelines"}:
            raise ValueError(f"{where}: {name} is refused: it asks for code from elsewhere or for internals")


def _check_new(config: Mapping[str, Any]) -> None:
    if not isinstance(config.get("model_type"), str):
        raise ValueError(  # noqa: TRY004 - an error of a plugin's options is a ValueError
            "config: expected model_type, the name of a transformers architecture such as llama"
        )
    _check_no_code("config", config)


def _new_config(given: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
    """Return the configuration of a new model, with the tokenizer's numbers where the manifest gives none."""
    from codex_hf import loading

    kind = loading.config_class(given["model_type"])
    loading.check_keys(kind, given, "config")
    bad = list(loading.code_keys(given))
    if bad:
        raise InputError(
            f"config: {', '.join(bad)} is refused: it asks for code from elsewhere or for internals"
        )
    vocab_size = given.get("vocab_size", tokenizer.vocab_size)
    if not isinstance(vocab_size, int) or vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"config.vocab_size: expected at least {tokenizer.vocab_size}, the tokenizer's tokens, got {vocab_size}",
            remedy="leave vocab_size out: it is then taken from the tokenizer",
        )
    # A configuration class brings the special ids of the model it was written for.
    specials = {"eos_token_id": tokenizer.eos_id, "bos_token_id": None, "pad_token_id": None}
    return loading.make_config(kind, {**specials, **given, "vocab_size": vocab_size}, "config")
