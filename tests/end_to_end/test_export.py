"""An exported checkpoint, opened by the libraries that its model belongs to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.command import Workplace
from tests.end_to_end.examples import newest_checkpoint

pytestmark = pytest.mark.slow

BASE = """\
name: base
dataset: {type: python-source, distributions: [attrs]}
tokenizer: {type: hf-bpe, vocab_size: 512}
data: {seq_len: 32, validation_fraction: 0}
model:
  type: hf-causal-lm
  config: {model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
trainer: {type: torch, max_steps: 4, global_batch_size: 2, precision: fp32}
checkpointer: {type: safetensors, every_steps: 2}
loggers: []
"""
TUNED = """\
name: tuned
dataset: {type: python-source, distributions: [pluggy]}
tokenizer: {type: hf, path: base}
data: {seq_len: 32, validation_fraction: 0}
model: {type: hf-causal-lm, path: base}
adapters: [{type: lora, r: 2, alpha: 4, target_modules: [q_proj]}]
trainer: {type: torch, max_steps: 2, global_batch_size: 2, precision: fp32}
loggers: []
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    """Make a folder with the export `base`, and `adapter`, that of a LoRA run over it."""
    made = Workplace(tmp_path_factory.mktemp("export"))
    for name, text, folder in (("base", BASE, "base"), ("tuned", TUNED, "adapter")):
        made.write(f"{name}.yaml", text)
        said = made.codex("run", f"{name}.yaml", "--run-dir", f"run-{name}")
        assert said.code == 0, said.err
        said = made.codex("checkpoints", "export", f"run-{name}", "--to", folder)
        assert said.code == 0, said.err
    return made


def test_transformers_opens_model_and_tokenizer(workplace):
    """AutoModelForCausalLM and AutoTokenizer take the folder as it is; the weights are those of the checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = workplace.folder / "base"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    saved = load_file(newest_checkpoint(workplace.folder / "run-base") / "model" / "model.safetensors")
    held = model.state_dict()
    assert saved
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())
    ids = tokenizer("def f(x):\n", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "def f(x):\n"
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, ids.shape[1] + 3)


def test_an_earlier_step_has_its_own_weights(workplace):
    """STEP chooses the checkpoint."""
    said = workplace.codex("checkpoints", "export", "run-base", "2", "--to", "second")
    assert said.code == 0, said.err
    second, last = (load_file(workplace.folder / name / "model.safetensors") for name in ("second", "base"))
    assert second.keys() == last.keys()
    assert any(not torch.equal(second[name], last[name]) for name in last)


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft asks for it
def test_peft_opens_an_adapter(workplace):
    """Of a run with LoRA the folder is the adapter, which goes on the exported base."""
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(workplace.folder / "base")
    adapted = PeftModel.from_pretrained(base, workplace.folder / "adapter")
    saved = load_file(workplace.folder / "adapter" / "adapter_model.safetensors")
    held = get_peft_model_state_dict(adapted)
    assert held.keys() == saved.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())


def test_the_record_names_every_file_with_its_digest(workplace):
    """codex-export.json has all files beside it, the tokenizer's too."""
    folder: Path = workplace.folder / "base"
    record = json.loads((folder / "codex-export.json").read_text())
    assert record["files"].keys() == {path.name for path in folder.iterdir()} - {"codex-export.json"}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= record["files"].keys()
    for name, about in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == about["sha256"]
    assert (record["step"], record["name"]) == (4, "base")
