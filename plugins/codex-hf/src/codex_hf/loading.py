"""Building transformers models: from a configuration, or from a folder of safetensors.

One rule: transformers never gets to guess. Unknown keys, code from elsewhere, pickles, weights that would be missing
or left over, and tokens without an embedding are errors here, because there they are silence or a log line.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from codex_kernel import InputError, Reporter

CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines"})
_HARMLESS_PRIVATE_KEYS = frozenset(
    {"_name_or_path", "_model_name_or_path", "_attn_implementation_autoset", "_commit_hash"}
)
_LEGACY_ROPE_KEYS = frozenset({"rope_theta", "rope_scaling", "partial_rotary_factor"})
_OWN_KEYS = frozenset({"dtype", "torch_dtype", "attn_implementation"})


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and log lines off the terminal: a run reports through `run.report`."""
    from transformers.utils import logging as typed_logging

    logging: Any = typed_logging  # half of it has no types
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


# ── configurations ────────────────────────────────────────────────────────────────────────────────────────────────


def code_keys(config: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Name the keys, nested ones too, that make transformers run other code or change what it trusts."""
    for name, value in config.items():
        path = f"{where}.{name}" if where else str(name)
        private = str(name).startswith("_") and name not in _HARMLESS_PRIVATE_KEYS
        if private or name in CODE_KEYS:
            yield path
        elif isinstance(value, Mapping):
            yield from code_keys(value, path)


def config_class(model_type: object) -> Any:
    """Return transformers' configuration class; raise InputError with the nearest names where there is none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(
            f"model_type: transformers has no causal language model {model_type!r}"
            f"{_nearest(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
        )
    return CONFIG_MAPPING[str(model_type)]


def check_keys(kind: Any, keys: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a key that the configuration class does not have; transformers would keep it silently."""
    known = {field.name for field in fields(kind)} | set(kind.attribute_map) | {"model_type"}
    if "rope_parameters" in known:
        known |= _LEGACY_ROPE_KEYS
    for name in keys:
        if name in _OWN_KEYS:
            raise InputError(
                f"{where}.{name}: set it by the option param_dtype or attention of the model section"
            )
        if name not in known:
            raise InputError(f"{where}.{name}: {kind.model_type} has no such key{_nearest(name, known)}")


def _nearest(name: object, known: Any) -> str:
    close = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def make_config(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """Build a configuration; raise InputError with transformers' reason where a value is wrong."""
    try:
        with quiet():
            return kind.from_dict(dict(values))
    except Exception as error:  # its validators raise classes of their own, straight from Exception
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: transformers refuses these values: {reason}") from error


def stored_config(folder: Path) -> dict[str, Any]:
    """Read a folder's `config.json` as plain data; raise InputError where it is missing or would run code."""
    file = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds an adapter, not a model of its own", remedy="give the folder of the base model"
        )
    if not file.is_file():
        raise InputError(f"{folder} has no config.json", remedy="give a folder that save_pretrained wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected an object, got {type(config).__name__}")
    bad = list(code_keys(config))
    if bad:
        raise InputError(
            f"{file} asks for code from elsewhere or for internals: {', '.join(bad)}",
            remedy="remove these keys if the architecture is one of transformers' own; its code is never run",
        )
    return {name: value for name, value in config.items() if name not in _HARMLESS_PRIVATE_KEYS}


def overridden_config(folder: Path, overrides: Mapping[str, Any]) -> Any:
    """Return a folder's configuration with some keys replaced."""
    stored = stored_config(folder)
    kind = config_class(stored.get("model_type"))
    check_keys(kind, overrides, "overrides")
    values = {**stored, **overrides}
    layers = values.get("num_hidden_layers")
    if (
        isinstance(values.get("layer_types"), list)
        and isinstance(layers, int)
        and "layer_types" not in overrides
    ):
        # One entry a layer: a cut model keeps those of its layers.
        values["layer_types"] = values["layer_types"][:layers]
    return make_config(kind, values, str(folder / "config.json"))


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────


def from_config(config: Any, dtype: torch.dtype, attention: str) -> Any:
    """Build a model with random weights from torch's generator, or on the default device `meta` without any."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # its methods have no types
    _check_attention(config, attention)
    with quiet(), _explained(f"a {config.model_type} model of this configuration cannot be built"):
        model = auto.from_config(config, dtype=dtype, attn_implementation=attention, trust_remote_code=False)
    model.train()
    return model


def from_folder(folder: Path, config: Any, dtype: torch.dtype, attention: str, report: Reporter) -> Any:
    """Load a model; raise InputError where the folder's weights do not fill it."""
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # its methods have no types
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder} holds no safetensors file; pickled weights are never loaded",
            remedy="convert the weights with save_pretrained, in a place where running their code does no harm",
        )
    _check_attention(config, attention)
    with quiet(), _explained(f"the model of {folder} cannot be loaded"):
        model, info = auto.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_filled(folder, info, report)
    model.train()
    return model


def _check_attention(config: Any, attention: str) -> None:
    """Raise InputError where the architecture has no such attention; transformers says so in a paragraph."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if attention == "sdpa" and not kind._supports_sdpa:  # noqa: SLF001 - the only place where a model says it
        raise InputError(
            f"{config.model_type} models have no sdpa attention", remedy="set model.attention: eager"
        )


def _check_filled(folder: Path, info: Mapping[str, Any], report: Reporter) -> None:
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    for names, fault in ((missing, "are missing in"), (mismatched, "have another shape in")):
        if names:
            raise InputError(
                f"{len(names)} weights of the model {fault} {folder}, such as {names[0]}; they would be random",
                remedy="mend overrides: they may cut a model, not enlarge it",
            )
    unused = sorted(info["unexpected_keys"])
    if unused:
        report.event("weights_left_out", folder=str(folder), count=len(unused), first=unused[0])


def fit_vocabulary(model: Any, vocab_size: int, *, resize: bool) -> int:
    """Make sure that each token has an embedding row and return how many rows were added, with random values.

    Raises InputError where rows are missing and `resize` is off.
    """
    rows: int = model.get_input_embeddings().num_embeddings
    if rows >= vocab_size:
        return 0
    if not resize:
        raise InputError(
            f"the tokenizer has {vocab_size} tokens and the model {rows} embedding rows",
            remedy="use the model's own tokenizer, or set model.resize_embeddings: true to add random rows",
        )
    with quiet():
        model.resize_token_embeddings(vocab_size)
    return vocab_size - rows


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn transformers' and safetensors' complaints about the user's values into InputError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{what}: {reason[:500]}") from error
