"""Model `hf-causal-lm`: from a configuration or a folder, isolated documents, transformers' own file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from codex_hf import loading
from codex_hf.causal_lm import HFCausalLM
from codex_kernel import (
    CheckpointState,
    GenerateRequest,
    HiddenStates,
    InputError,
    NoCheckpointError,
    PretrainedFormat,
)
from codex_kernel.testing.model import ModelContract, ToyTokenizer
from codex_kernel.testing.toys import make_run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GEMMA2 = {
    **{name: value for name, value in LLAMA.items() if name != "model_type"},
    "model_type": "gemma2",
    "num_key_value_heads": 4,
    "head_dim": 8,
    "final_logit_softcapping": 30.0,
    "sliding_window": 3,
}
MIXTRAL = {
    **LLAMA,
    "model_type": "mixtral",
    "num_local_experts": 2,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


MISTRAL = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 4, "sliding_window": 3}
ARCHITECTURES = [
    pytest.param(LLAMA, "sdpa", id="llama"),
    pytest.param(LLAMA, "eager", id="llama-eager"),
    pytest.param(GPT2, "sdpa", id="gpt2"),
    pytest.param(GPT2, "eager", id="gpt2-eager"),
    pytest.param(MISTRAL, "sdpa", id="mistral-with-windows"),
    pytest.param(GEMMA2, "eager", id="gemma2-with-windows-and-a-cap"),
    pytest.param(MIXTRAL, "sdpa", id="mixtral-with-experts"),
]


def build(folder: Path, *, materialize: bool = True, tokenizer: Any = None, **options: Any) -> Any:
    """Build a model as the kernel does."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    with torch.device("cpu" if materialize else "meta"):
        return HFCausalLM(**options).codex_model(make_run(folder), tokenizer or ToyTokenizer(), materialize)


def pretrained(folder: Path, **changes: Any) -> Path:
    """Write a tiny pretrained model with transformers' own save_pretrained."""
    model = build(folder, config={**LLAMA, **changes}).transformer
    with loading.quiet():
        model.save_pretrained(folder / "pretrained")
    return folder / "pretrained"


def publish(model: Any, folder: Path) -> Path:
    """Write a model as a checkpointer does."""
    folder.mkdir()
    save_file(dict(model.weights()), folder / model.weights_file)
    for name, content in model.config_files().items():
        (folder / name).write_bytes(content)
    return folder


def block(*documents: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pack documents into one block."""
    tokens = [token for document in documents for token in document]
    positions = [at for document in documents for at in range(len(document))]
    numbers = [number for number, document in enumerate(documents) for _ in document]
    return torch.tensor([tokens]), torch.tensor([positions]), torch.tensor([numbers])


class TestLlamaFromConfig(ModelContract):
    def make(self, folder):
        return [HFCausalLM(config=LLAMA)]


class TestGPT2FromConfig(ModelContract):
    def make(self, folder):
        return [HFCausalLM(config={**GPT2, "resid_pdrop": 0.1})]


class TestGemma2WithWindowsAndASoftCap(ModelContract):
    def make(self, folder):
        return [HFCausalLM(config=GEMMA2, attention="eager")]


class TestPretrained(ModelContract):
    def make(self, folder):
        return [HFCausalLM(path=pretrained(folder))]


@pytest.mark.parametrize(("config", "attention"), ARCHITECTURES)
def test_packed_logits_equal_separate_logits(tmp_path, config, attention):
    """Each packed document has the logits that it has alone, to 1e-5, in every architecture and attention."""
    model = build(tmp_path, config=config, attention=attention).eval()
    documents = [[5, 6, 7, 8, 9], [1], [11, 12, 13, 14], [2, 3]]
    with torch.no_grad():
        packed = model(*block(*documents))[0]
        alone = torch.cat([model(*block(document))[0] for document in documents])
    assert (packed - alone).abs().max() < 1e-5


def test_a_row_of_one_document_needs_no_mask(tmp_path, monkeypatch):
    """A block that is one document is computed causally without a mask; a packed one has a mask."""
    masks = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **options):
        masks.append(attn_mask)
        return original(*args, attn_mask=attn_mask, **options)

    model = build(tmp_path, config=LLAMA)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model(*block([1, 2, 3, 4]))
    assert masks == [None, None]
    model(*block([1, 2], [3, 4]))
    assert all(mask is not None for mask in masks[2:])


def test_only_a_plain_head_is_claimed(tmp_path):
    """Llama gives hidden states and head; Gemma 2, which caps its logits, and Phi, whose head has a bias, do not."""
    phi = {**LLAMA, "model_type": "phi", "tie_word_embeddings": False}
    assert isinstance(build(tmp_path, config=LLAMA), HiddenStates)
    assert isinstance(build(tmp_path, config=LLAMA, materialize=False), HiddenStates)
    assert not isinstance(build(tmp_path, config=GEMMA2, attention="eager"), HiddenStates)
    assert not isinstance(build(tmp_path, config=GEMMA2, attention="eager", materialize=False), HiddenStates)
    assert not isinstance(build(tmp_path, config=phi), HiddenStates)


def test_a_recurrent_architecture_is_refused(tmp_path):
    """Mamba carries its state from one packed document into the next: that is an error, not a leak."""
    mamba = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    with pytest.raises(InputError, match="mamba models let a packed document see the one before"):
        build(tmp_path, config=mamba, attention="eager")
    with pytest.raises(InputError, match="mamba models have no sdpa attention"):
        build(tmp_path, config=mamba)


def test_an_unknown_key_is_named_with_the_nearest(tmp_path):
    """An unknown key, which transformers would keep silently, is an error with a suggestion."""
    with pytest.raises(
        InputError, match=r"config.num_hiden_layers: llama has no such key; did you mean num_hidden_layers\?"
    ):
        build(tmp_path, config={**LLAMA, "num_hiden_layers": 3})


def test_an_unknown_architecture_is_named_with_the_nearest(tmp_path):
    """A model_type that is no causal language model of transformers is an error with a suggestion."""
    with pytest.raises(InputError, match=r"no causal language model 'lama'; did you mean llama\?"):
        build(tmp_path, config={**LLAMA, "model_type": "lama"})


def test_a_bad_value_is_explained(tmp_path):
    """A configuration that transformers' own checks refuse is an error with its reason."""
    with pytest.raises(InputError, match="not a multiple of the number of attention heads"):
        build(tmp_path, config={**LLAMA, "num_attention_heads": 5})


@pytest.mark.parametrize(
    "key", ["auto_map", "trust_remote_code", "_attn_implementation_internal", "_attn_implementation"]
)
def test_keys_that_run_code_are_refused(tmp_path, key):
    """Keys that make transformers run other code are refused in the manifest, in overrides and in config.json."""
    with pytest.raises(ValueError, match=f"{key} is refused"):
        HFCausalLM(config={**LLAMA, key: True})
    with pytest.raises(ValueError, match=f"{key} is refused"):
        HFCausalLM(path=Path("x"), overrides={key: True})
    folder = pretrained(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "inner": {key: "x"}}))
    with pytest.raises(InputError, match=f"asks for code from elsewhere or for internals: inner.{key}"):
        build(tmp_path, path=folder)


def test_the_vocabulary_comes_from_the_tokenizer(tmp_path):
    """Without vocab_size the tokenizer decides; a larger one is kept; a smaller one is an error."""
    assert build(tmp_path, config=LLAMA).transformer.config.vocab_size == 48
    assert build(tmp_path, config={**LLAMA, "vocab_size": 64}).transformer.config.vocab_size == 64
    with pytest.raises(InputError, match="expected at least 48, the tokenizer's tokens, got 40"):
        build(tmp_path, config={**LLAMA, "vocab_size": 40})


def test_the_special_ids_are_the_tokenizers(tmp_path):
    """A new model ends with the tokenizer's end of text, not with that of the architecture's first model."""
    config = build(tmp_path, config=LLAMA).transformer.config
    assert (config.eos_token_id, config.bos_token_id, config.pad_token_id) == (0, None, None)


def test_a_larger_tokenizer_needs_resizing(tmp_path):
    """A pretrained model with too few embedding rows is an error, unless resizing is asked for."""
    folder, larger = pretrained(tmp_path), ToyTokenizer(vocab_size=60)
    with pytest.raises(InputError, match="the tokenizer has 60 tokens and the model 48 embedding rows"):
        build(tmp_path, path=folder, tokenizer=larger)
    model = build(tmp_path, path=folder, tokenizer=larger, resize_embeddings=True)
    assert model(*block([59, 1])).shape[-1] == 60


def test_an_override_cuts_layers_and_is_recorded(tmp_path):
    """num_hidden_layers cuts a pretrained model; the layers kept are its first, those left out are an event."""
    run, folder = make_run(tmp_path), pretrained(tmp_path)
    whole = HFCausalLM(path=folder).codex_model(run, ToyTokenizer(), materialize=True)
    cut = HFCausalLM(path=folder, overrides={"num_hidden_layers": 1}).codex_model(
        run, ToyTokenizer(), materialize=True
    )
    assert all(torch.equal(tensor, whole.weights()[name]) for name, tensor in cut.weights().items())
    assert json.loads(cut.config_files()["config.json"])["num_hidden_layers"] == 1
    assert [name for name, _ in run.report.events] == ["weights_left_out"]


@pytest.mark.parametrize("overrides", [{"num_hidden_layers": 3}, {"intermediate_size": 32}])
def test_an_override_must_not_make_random_weights(tmp_path, overrides):
    """An override that the stored weights cannot fill is an error."""
    with pytest.raises(InputError, match="they would be random"):
        build(tmp_path, path=pretrained(tmp_path), overrides=overrides)


def test_pickled_weights_are_never_loaded(tmp_path):
    """A folder with pytorch_model.bin alone is refused."""
    folder = pretrained(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are never loaded"):
        build(tmp_path, path=folder)


def test_an_adapter_folder_is_no_model(tmp_path):
    """A folder with an adapter in it is refused: transformers would load the adapter without a word."""
    folder = pretrained(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter"):
        build(tmp_path, path=folder)


@pytest.mark.parametrize("damage", ["{", "[]", None])
def test_a_damaged_config_is_named(tmp_path, damage):
    """A config.json that is missing, not JSON or no object is an error that names it."""
    folder = pretrained(tmp_path)
    (folder / "config.json").unlink() if damage is None else (folder / "config.json").write_text(damage)
    with pytest.raises(InputError, match=r"config\.json"):
        build(tmp_path, path=folder)


def test_damaged_weights_are_named(tmp_path):
    """A truncated safetensors file is an error that names the folder."""
    folder = pretrained(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be loaded"):
        build(tmp_path, path=folder)


def test_the_precision_is_the_manifests(tmp_path):
    """A bfloat16 folder gives float32 parameters unless the manifest says otherwise."""
    folder = pretrained(tmp_path)
    low = build(tmp_path, path=folder, param_dtype="bfloat16")
    assert {tensor.dtype for tensor in low.weights().values()} == {torch.bfloat16}
    published = publish(low, tmp_path / "low")
    assert json.loads((published / "config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in build(tmp_path, path=published).weights().values()} == {torch.float32}


def test_shapes_alone_read_no_weights(tmp_path):
    """Without materialize the weights file is not needed."""
    folder = pretrained(tmp_path)
    (folder / "model.safetensors").unlink()
    model = build(tmp_path, path=folder, materialize=False)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(("config", "attention"), ARCHITECTURES[:-1])
def test_shapes_alone_can_be_computed_with(tmp_path, config, attention):
    """A model built for its shapes gives logits of the right shape, so that a plan can count their memory."""
    model = build(tmp_path, config=config, attention=attention, materialize=False)
    batch = [tensor.to("meta") for tensor in block([1, 2, 3], [4, 5])]
    assert model(*batch).shape == (1, 5, 48)


@pytest.mark.parametrize(("config", "attention"), ARCHITECTURES)
def test_transformers_opens_the_checkpoint(tmp_path, config, attention):
    """AutoModelForCausalLM.from_pretrained opens what is kept, with equal logits and nothing missing."""
    model = build(tmp_path, config=config, attention=attention).eval()
    assert isinstance(model, PretrainedFormat)
    folder = publish(model, tmp_path / "model")
    with loading.quiet():
        opened, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, attn_implementation=attention
        )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        logits = opened.eval()(input_ids=torch.tensor([[1, 2, 3, 4]]), use_cache=False).logits
        assert torch.equal(logits, model(*block([1, 2, 3, 4])))


def test_tied_weights_are_kept_once(tmp_path):
    """The names kept are exactly those that save_pretrained writes."""
    from safetensors import safe_open

    folder = pretrained(tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert sorted(build(tmp_path, path=folder).weights()) == sorted(file.keys())


def request(prompt="abc", **changes: Any) -> GenerateRequest:
    """Ask for ten greedy tokens."""
    settings = {
        "max_new_tokens": 10,
        "temperature": 0.0,
        "top_k": None,
        "top_p": None,
        "seed": 1,
        "context_tokens": 64,
    }
    return GenerateRequest(prompt=prompt, **{**settings, **changes})


def generated(model: Any, asked: GenerateRequest) -> str:
    """Generate from the model's own weights, as from a checkpoint."""
    from codex_hf.generation import generate

    state = CheckpointState(tensors={"model/model.safetensors": dict(model.weights())}, values={})
    return "".join(generate(model, model.transformer, ToyTokenizer(eos_id=-1), state, asked))


@pytest.mark.parametrize("context_tokens", [64, 8])
@pytest.mark.parametrize(("config", "attention"), ARCHITECTURES)
def test_the_cache_changes_no_token(tmp_path, config, attention, context_tokens):
    """Greedy text with the cache is that of a loop that reads the last context_tokens again for each token."""
    model = build(tmp_path, config={**config, "initializer_range": 0.5}, attention=attention)
    tokenizer = ToyTokenizer(eos_id=-1)
    tokens = list(tokenizer.encode("abc"))
    model.eval()
    for _ in range(10):
        with torch.no_grad():
            tokens.append(int(model(*block(tokens[-context_tokens:]))[0, -1].argmax()))
    assert generated(model, request(context_tokens=context_tokens)) == tokenizer.decode(tokens[3:])


def test_sampling_follows_the_seed_and_the_limits(tmp_path):
    """Equal seeds give equal text, other seeds another; top_k 1 and a tiny top_p are the greedy text."""
    model = build(tmp_path, config={**LLAMA, "initializer_range": 0.3})
    warm = {"temperature": 1.5, "max_new_tokens": 20}
    assert generated(model, request(**warm)) == generated(model, request(**warm))
    assert generated(model, request(**warm)) != generated(model, request(**{**warm, "seed": 2}))
    greedy = generated(model, request(max_new_tokens=20))
    assert generated(model, request(**warm, top_k=1)) == greedy
    assert generated(model, request(**warm, top_p=1e-6)) == greedy


def test_generation_needs_the_models_own_checkpoint(tmp_path):
    """A checkpoint without the model's file, or of another model, is an error."""
    from codex_hf.generation import generate

    model = build(tmp_path, config=LLAMA)
    for tensors in ({"model/other.safetensors": {}}, {"model/model.safetensors": {"x": torch.zeros(1)}}):
        with pytest.raises(NoCheckpointError):
            generate(
                model,
                model.transformer,
                ToyTokenizer(),
                CheckpointState(tensors=tensors, values={}),
                request(),
            )


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_block_longer_than_the_positions_is_refused(tmp_path, config):
    """As many tokens as positions are computed; one more is an error, for logits, hidden states and shapes alone."""
    limit = list(range(40))
    for materialize in (True, False):
        model = build(tmp_path, config={**config, "max_position_embeddings": 40}, materialize=materialize)
        fits, longer = (
            [tensor.to(model.transformer.device) for tensor in block(tokens)]
            for tokens in (limit, [*limit, 1])
        )
        assert model(*fits).shape[1] == 40
        for call in (model, model.hidden):
            with pytest.raises(InputError, match=r"data\.seq_len 41 is more than the 40 positions"):
                call(*longer)


def test_few_positions_are_enough_for_the_probes(tmp_path):
    """A model with fewer positions than the probes' block has tokens can be built."""
    assert build(tmp_path, config={**LLAMA, "max_position_embeddings": 4}).positions == 4
