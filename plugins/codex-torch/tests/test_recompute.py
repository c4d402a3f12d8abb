import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from toy_model import HeadedToy, ToyLayer
from training import model

from codex_kernel import InputError
from codex_torch.recompute import layers_of, recompute_activations, recomputing

IDS_BT = torch.arange(24).reshape(2, 12) % 32
POSITIONS_BT = torch.arange(12).repeat(2, 1)
DOCUMENTS_BT = torch.zeros_like(IDS_BT)


def passes(module, seed=3):
    """The loss, the gradients, what the generator draws next, and the bytes kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    torch.manual_seed(seed)
    module.zero_grad(set_to_none=True)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits_BTV = module(IDS_BT, POSITIONS_BT, DOCUMENTS_BT)
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), IDS_BT.flatten())
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, torch.rand(1), bytes_kept


def assert_same_bits(one, other):
    """Loss, every gradient and the next random number are equal."""
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert torch.equal(one[2], other[2])


@pytest.mark.parametrize("kind", [None, HeadedToy])
def test_it_changes_no_bit_and_keeps_less(kind):
    """With dropout on, loss, gradients and the random numbers that follow are the same; the memory is not."""
    module = model(layers=4) if kind is None else kind(layers=4)
    plain = passes(module)
    assert recompute_activations(module) == 4
    recomputed = passes(module)
    assert_same_bits(plain, recomputed)
    assert recomputed[3] < plain[3] / 2


def test_names_stay_as_they_are():
    """state_dict, parameters, types and the module's text know nothing of it."""
    module = model()
    names, text = list(module.state_dict()), str(module)
    recompute_activations(module)
    assert list(module.state_dict()) == names
    assert str(module) == text
    assert all(isinstance(layer, ToyLayer) for layer in module.layers)


def test_doing_it_again_changes_nothing():
    """A layer that is recomputed is not recomputed twice."""
    module = model()
    assert recompute_activations(module) == recompute_activations(module) == 2
    assert type(module.layers[0]).__mro__[2] is ToyLayer


def test_a_copy_is_a_model_of_its_own():
    """A copy recomputes its own layers, not those of the model that it was copied from."""
    module = model(dropout=0.0)
    recompute_activations(module)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    module.zero_grad(set_to_none=True)
    loss, gradients, *_ = passes(other)
    assert torch.isfinite(loss)
    assert gradients.keys() == {name for name, _ in other.named_parameters()}
    assert all(parameter.grad is None for parameter in module.parameters())


def test_outside_of_training_nothing_is_computed_twice():
    """In evaluation and without gradients a layer runs as ever."""
    module = model()
    calls = []
    module.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    recompute_activations(module)
    module.eval()
    module(IDS_BT, POSITIONS_BT, DOCUMENTS_BT).sum().backward()
    module.train()
    with torch.no_grad():
        module(IDS_BT, POSITIONS_BT, DOCUMENTS_BT)
    assert len(calls) == 2
    module(IDS_BT, POSITIONS_BT, DOCUMENTS_BT).sum().backward()
    assert len(calls) == 4


def test_it_can_be_undone():
    """After the block the layers are of their own class again, also after an exception."""
    module = model()
    with pytest.raises(KeyError), recomputing(module):
        raise KeyError
    assert {type(layer) for layer in module.layers} == {ToyLayer}
    recompute_activations(module)
    with recomputing(module):
        pass
    assert type(module.layers[0]) is not ToyLayer


def test_a_layer_may_take_keywords_and_things_that_are_no_tensors():
    """Arguments by name, None, numbers and tuples reach the layer as they are, and gradients come back through them."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, *, scale, rotary, cache=None, flag=True):
            assert cache is None
            assert flag == "yes"
            return self.linear(x) * scale + rotary[0], None

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleDict({"h": nn.ModuleList([Layer(), Layer()])})

        def forward(self, x, rotary):
            for layer in self.blocks["h"]:
                x, _ = layer(x, scale=0.5, rotary=(rotary, 1), flag="yes")
            return x

    torch.manual_seed(0)
    module, results = Model(), []
    for _ in range(2):
        x, rotary = torch.ones(2, 4, requires_grad=True), torch.ones(2, 4, requires_grad=True)
        module.zero_grad()
        module(x, rotary).square().sum().backward()
        results.append([x.grad, rotary.grad, *(p.grad.clone() for p in module.parameters())])
        recompute_activations(module)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_layers_are_those_of_the_outermost_lists():
    """Experts within a layer are part of it; layers of several types are all taken; what has no parameters is not."""

    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    module = nn.Module()
    module.decoder = nn.ModuleList([Expert(), nn.Linear(2, 2), nn.Identity(), Expert()])
    module.heads = nn.ModuleList([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)])
    module.one = nn.ModuleList([nn.Linear(2, 2)])
    assert layers_of(module) == [module.decoder[0], module.decoder[1], module.decoder[3]]


def test_a_layer_that_is_used_twice_is_one_layer():
    """Shared layers are counted once."""
    layer = nn.Linear(2, 2)
    assert recompute_activations(nn.ModuleList([layer, layer])) == 1


def test_a_model_without_layers_is_refused():
    """Nothing to recompute is said, with what to do."""
    with pytest.raises(InputError, match=r"Sequential has no nn\.ModuleList of two or more layers") as caught:
        recompute_activations(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert "trainer.activation_checkpointing to false" in caught.value.remedy
