"""The probes on real models of transformers, with and without PEFT's adapters, and on the quick start."""

from __future__ import annotations

import json

import pytest

from tests.command import Workplace
from tests.end_to_end.examples import QUICKSTART

MANIFEST = """\
name: probed
dataset: {type: python-source, distributions: [pluggy]}
tokenizer: {type: hf-bpe, vocab_size: 512}
data: {seq_len: 64, validation_fraction: 0}
model:
  type: hf-causal-lm
  config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2}
adapters: [{type: lora, r: 4, dropout: 0.1}]
trainer: {type: torch, max_steps: 20, global_batch_size: 4, precision: fp32}
"""
GPT2 = "model={type: hf-causal-lm, config: {model_type: gpt2, n_embd: 32, n_layer: 2, n_head: 2, n_positions: 64}}"


def probed(workplace: Workplace, manifest: object, *sets: str) -> dict[str, dict[str, object]]:
    """What the probes say of a manifest, by name."""
    said = workplace.codex("plan", str(manifest), "--probe", "--no-measure", "--json", *sets)
    assert said.code == 0, said.out + said.err
    return {probe["name"]: probe for probe in json.loads(said.out)["probes"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sets", [(), ("adapters=[]",), ("adapters=[]", GPT2), ("model.param_dtype=bfloat16",)]
)
def test_models_of_transformers_pass_all(workplace: Workplace, sets: tuple[str, ...]) -> None:
    """Llama with LoRA (its first gradient is zero), Llama and GPT-2 as a whole, LoRA over a base in bf16."""
    workplace.write("probed.yaml", MANIFEST)
    found = probed(workplace, "probed.yaml", *(word for given in sets for word in ("--set", given)))
    assert [name for name, probe in found.items() if probe["passed"] is not True] == []
    assert "of a packed block" in str(found["packing"]["detail"])


@pytest.mark.slow
def test_the_quick_start_passes_all(workplace: Workplace) -> None:
    """The starter manifest is free of what the probes look for."""
    found = probed(workplace, QUICKSTART)
    assert [name for name, probe in found.items() if probe["passed"] is not True] == []
    assert "the model 1,024 rows" in str(found["vocabulary"]["detail"])
