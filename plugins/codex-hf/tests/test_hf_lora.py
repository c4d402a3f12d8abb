"""Adapter `lora`: the base stays, the adapter is trained, kept in PEFT's format and opened by PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from codex_hf import loading
from codex_hf.causal_lm import HFCausalLM
from codex_hf.lora import LoRA
from codex_hf.lora_module import _without_version_warnings, adapt
from codex_kernel import (
    CheckpointState,
    GenerateRequest,
    HiddenStates,
    InputError,
    NoCheckpointError,
    PluginError,
)
from codex_kernel.testing import AdapterContract
from codex_kernel.testing.model import ModelContract, ToyTokenizer
from codex_kernel.testing.toys import make_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


class PlainModel(nn.Module):
    """A model that knows nothing of transformers: each token sees itself alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 48, bias=False)

    def hidden(self, input_ids_BT, position_ids_BT, document_ids_BT):
        x_BTD = self.embed(input_ids_BT)
        return x_BTD + self.down(torch.relu(self.up(x_BTD)))

    def head_weight(self):
        return self.head.weight

    def forward(self, *batch):
        return self.head(self.hidden(*batch))


def base_model(folder: Path, **changes: Any) -> Any:
    """Build a tiny transformers model."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    return HFCausalLM(config={**LLAMA, **changes}).codex_model(
        make_run(folder), ToyTokenizer(), materialize=True
    )


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a block of one document."""
    return torch.tensor([[1, 2, 3, 4]]), torch.arange(4)[None], torch.zeros(1, 4, dtype=torch.long)


def disturbed(model: nn.Module) -> nn.Module:
    """Change what is trainable, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def publish(model: Any, folder: Path) -> Path:
    """Write an adapter as a checkpointer does."""
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in model.weights().items()}, folder / model.weights_file
    )
    for name, content in model.config_files().items():
        (folder / name).write_bytes(content)
    return folder


class TestLoRAOnAllLinearLayers(ModelContract):
    def make(self, folder):
        return [HFCausalLM(config=LLAMA), LoRA(r=4, target_modules="all-linear")]


class TestDoRAOnPEFTsChoice(ModelContract):
    def make(self, folder):
        return [HFCausalLM(config=LLAMA), LoRA(r=4, dora=True, rslora=True, dropout=0.1, init="gaussian")]


class TestLoRAAsAnAdapter(AdapterContract):
    """Over a transformers model."""

    def make(self, folder):
        return LoRA(r=4, target_modules="all-linear")

    def base(self, folder):
        return HFCausalLM(config=LLAMA)

    def broken(self, folder):
        yield LoRA(target_modules=["no_such_layer"])


class TestLoRAOnAnyModule(AdapterContract):
    """Over a module that knows nothing of transformers."""

    def make(self, folder):
        return LoRA(r=4, target_modules=["query", "value"])


def test_the_base_is_frozen_and_adapters_are_float32(tmp_path):
    """Only adapters are trainable, float32 over a bfloat16 base, and the event says how many."""
    run = make_run(tmp_path)
    base = HFCausalLM(config=LLAMA, param_dtype="bfloat16").codex_model(run, ToyTokenizer(), materialize=True)
    model = adapt(base, LoRA(r=4, target_modules=["q_proj"]), run)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    assert sum(p.numel() for p in trainable.values()) == 2 * 4 * (32 + 32)
    assert run.report.events[-1][1]["trainable_parameters"] == 512


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": r".*layers\.0\..*(up|down)_proj"},
    ],
    ids=["list", "dora", "modules-to-save", "expression"],
)
def test_peft_opens_the_checkpoint(tmp_path, options):
    """PeftModel.from_pretrained opens what is kept, over the same base, with equal logits."""
    model = disturbed(adapt(base_model(tmp_path), LoRA(r=4, **options), make_run(tmp_path)))
    folder = publish(model, tmp_path / "model")
    with loading.quiet(), _without_version_warnings():
        opened = peft.PeftModel.from_pretrained(base_model(tmp_path).transformer, folder).eval()
    with torch.no_grad():
        logits = opened(input_ids=batch()[0], use_cache=False).logits
        assert torch.equal(logits, model(*batch()))


def test_the_adapter_alone_is_kept(tmp_path):
    """The file holds the adapter's tensors under PEFT's names, and nothing of the base."""
    model = adapt(base_model(tmp_path), LoRA(r=4, target_modules=["q_proj"]), make_run(tmp_path))
    assert sorted(model.weights()) == [
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight"
        for layer in (0, 1)
        for part in ("A", "B")
    ]


def test_the_base_is_named_by_its_digest(tmp_path):
    """The files name the base by a digest of its tensors, which another base does not have."""
    options, run = LoRA(target_modules=["q_proj"]), make_run(tmp_path)
    one, same = (adapt(base_model(tmp_path), options, run).config_files() for _ in range(2))
    other = adapt(base_model(tmp_path, initializer_range=0.5), options, run).config_files()
    assert one == same
    assert json.loads(one["base_model.json"])["sha256"] != json.loads(other["base_model.json"])["sha256"]


def test_generation_needs_the_base_that_was_trained_on(tmp_path):
    """An adapter generates over its own base, and over another one it is an error."""
    options, run, plugin = LoRA(target_modules=["q_proj"]), make_run(tmp_path), HFCausalLM(config=LLAMA)
    model = disturbed(adapt(base_model(tmp_path), options, run))
    state = CheckpointState(
        tensors={"model/adapter_model.safetensors": dict(model.weights())},
        values={f"model/{name}": json.loads(text) for name, text in model.config_files().items()},
    )
    request = GenerateRequest("abc", 5, 0.0, None, None, seed=1, context_tokens=64)
    same = adapt(base_model(tmp_path), options, run)
    assert list(plugin.codex_generate(same, ToyTokenizer(eos_id=-1), state, request))
    assert all(torch.equal(tensor, model.weights()[name]) for name, tensor in same.weights().items())
    other = adapt(base_model(tmp_path, initializer_range=0.5), options, run)
    with pytest.raises(NoCheckpointError, match="trained on another base"):
        plugin.codex_generate(other, ToyTokenizer(), state, request)
    assert plugin.codex_generate(PlainModel(), ToyTokenizer(), state, request) is None


def test_a_target_that_matches_nothing_names_the_layers(tmp_path):
    """Each name that matches no layer is an error with the layers there are, even where another name matches."""
    with pytest.raises(InputError, match="no layer is named c_attn") as caught:
        adapt(base_model(tmp_path), LoRA(target_modules=["q_proj", "c_attn"]), make_run(tmp_path))
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head" in str(
        caught.value.remedy
    )
    for wrong in ("no_such.*", "("):
        with pytest.raises(InputError, match="target_modules"):
            adapt(base_model(tmp_path), LoRA(target_modules=wrong), make_run(tmp_path))
    with pytest.raises(InputError, match="modules_to_save: no layer is named head"):
        adapt(base_model(tmp_path), LoRA(modules_to_save=["head"]), make_run(tmp_path))
    with pytest.raises(InputError, match="exclude_modules: no layer is named o_porj") as caught:
        adapt(base_model(tmp_path), LoRA(exclude_modules=["o_porj"]), make_run(tmp_path))
    assert str(caught.value.remedy).startswith("set exclude_modules; ")


def test_nothing_left_to_adapt_is_an_error(tmp_path):
    """Targets that are all excluded are an error."""
    with pytest.raises(InputError, match="lora cannot be applied"):
        adapt(
            base_model(tmp_path),
            LoRA(target_modules=["q_proj"], exclude_modules=["q_proj"]),
            make_run(tmp_path),
        )
    with pytest.raises(ValueError, match="got an empty list"):
        LoRA(target_modules=[])


def test_two_loras_are_refused(tmp_path):
    """Adapting an adapted model is an error."""
    model = adapt(base_model(tmp_path), LoRA(), make_run(tmp_path))
    with pytest.raises(InputError, match="has adapters already"):
        adapt(model, LoRA(), make_run(tmp_path))


def test_any_module_can_be_adapted(tmp_path):
    """A plain torch module is adapted too; all-linear leaves its head alone, which stays usable."""
    torch.manual_seed(3)
    plain = PlainModel()
    before = plain(*batch())
    model = adapt(plain, LoRA(r=4, target_modules="all-linear"), make_run(tmp_path))
    assert isinstance(model, HiddenStates)
    assert torch.equal(model(*batch()), before)
    assert {name.split(".")[2] for name in model.weights()} == {"up", "down"}
    disturbed(model)
    folder = publish(model, tmp_path / "model")
    torch.manual_seed(3)
    opened = peft.PeftModel.from_pretrained(PlainModel(), folder).eval()
    assert torch.equal(opened(*batch()), model(*batch()))


def test_a_plain_module_needs_targets(tmp_path):
    """PEFT has no choice of layers for an unknown module, and a model that is no module cannot be adapted."""
    with pytest.raises(InputError, match="needs target_modules"):
        adapt(PlainModel(), LoRA(), make_run(tmp_path))
    with pytest.raises(PluginError, match=r"needs a torch\.nn\.Module"):
        adapt(object(), LoRA(), make_run(tmp_path))


@pytest.mark.parametrize(
    "options", [{"target_modules": ["head"]}, {"target_modules": ["up"], "modules_to_save": ["head"]}]
)
def test_an_adapted_head_is_not_claimed(tmp_path, options):
    """A head that is adapted or trained whole is more than its weight, so hidden states are not offered."""
    assert not isinstance(adapt(PlainModel(), LoRA(**options), make_run(tmp_path)), HiddenStates)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("tied", [True, False])
def test_new_embedding_rows_must_be_trained(tmp_path, tied):
    """Rows that resize_embeddings added are trained and kept, or the run does not start."""
    run = make_run(tmp_path)
    small = base_model(tmp_path, tie_word_embeddings=tied)
    with loading.quiet():
        small.transformer.save_pretrained(tmp_path / "small")

    def resized() -> Any:
        plugin = HFCausalLM(path=Path("small"), resize_embeddings=True)
        return plugin.codex_model(run, ToyTokenizer(vocab_size=60), materialize=True)

    for saved, left in ((None, "model.embed_tokens, lm_head"), (["embed_tokens"], "lm_head")):
        with pytest.raises(InputError, match=f"12 new rows of {left} random") as caught:
            adapt(resized(), LoRA(target_modules=["q_proj"], modules_to_save=saved), run)
        assert "modules_to_save: [embed_tokens, lm_head]" in str(caught.value.remedy)
    options = LoRA(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    model = adapt(resized(), options, run)
    kept = [name for name, tensor in model.weights().items() if tensor.shape[0] == 60]
    assert len(kept) == 2
    assert adapt(small, LoRA(target_modules=["q_proj"]), run).weights()


def test_layers_trained_whole_need_float32(tmp_path):
    """Over a bfloat16 base, modules_to_save is refused with the option that mends it."""
    run = make_run(tmp_path)
    base = HFCausalLM(config=LLAMA, param_dtype="bfloat16").codex_model(run, ToyTokenizer(), materialize=True)
    with pytest.raises(InputError, match="needs a model in float32, got bfloat16") as caught:
        adapt(base, LoRA(target_modules=["q_proj"], modules_to_save=["lm_head"]), run)
    assert "param_dtype: float32" in str(caught.value.remedy)
