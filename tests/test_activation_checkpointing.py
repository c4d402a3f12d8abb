"""Activation checkpointing in models of other libraries: the same bits, less memory."""

import warnings

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from codex_torch.recompute import recompute_activations

IDS_BT = torch.arange(24).reshape(2, 12) % 32
POSITIONS_BT = torch.arange(12).repeat(2, 1)


def passes(module):
    """The loss, the gradients, what the generator draws next, and the bytes kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    torch.manual_seed(3)
    module.zero_grad(set_to_none=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_BTV = module(IDS_BT, position_ids=POSITIONS_BT, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), IDS_BT.flatten())
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss.backward()
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    return [loss.detach(), *gradients, torch.rand(1)], bytes_kept


def build(name):
    """A tiny model of the library, with dropout."""
    import transformers

    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=32, n_embd=16, n_layer=3, n_head=2, n_positions=16, resid_pdrop=0.1, attn_pdrop=0.1
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        attention_dropout=0.1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def adapt(transformer, name):
    """Put low-rank adapters with dropout into the model."""
    import peft

    target = {"gpt2": "c_attn", "llama": "q_proj"}[name]
    config = peft.LoraConfig(
        target_modules=[target], lora_dropout=0.1, init_lora_weights=False, fan_in_fan_out=name == "gpt2"
    )
    with warnings.catch_warnings():
        # peft asks transformers by a name that is to go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return peft.get_peft_model(transformer, config)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_bits_are_the_same_and_less_is_kept(name, adapted):
    """Llama and GPT-2, plain and with low-rank adapters, dropout on: recomputing changes the memory alone."""
    module = build(name)
    if adapted:
        module = adapt(module, name)
    module.train()
    plain, kept = passes(module)
    assert recompute_activations(module) == 3
    recomputed, kept_less = passes(module)
    assert len(plain) == len(recomputed) > 2
    assert all(torch.equal(one, other) for one, other in zip(plain, recomputed, strict=True))
    assert kept_less < kept / 2
