import numpy as np
import pytest
import torch
from torch import nn
from toy_model import HeadedToy, ToyTransformer
from training import model, options

from codex_kernel import InputError
from codex_kernel.testing.training import ToyBlocks
from codex_torch.loop import micro_batches
from codex_torch.loss import loss_sum
from codex_torch.optimizers import make_optimizers, state_numbers

NAMES = ("adamw", "sgd", "adafactor", "muon")
LR = {"adamw": 1e-2, "sgd": 0.1, "adafactor": 5e-2, "muon": 1e-2}


def batch_loss(module):
    """The mean loss of the same eight blocks."""
    batch = ToyBlocks(8).gather(np.arange(8))
    inputs = next(micro_batches(batch, 8, torch.device("cpu")))
    return loss_sum(module, *inputs) / int((batch.targets_BT >= 0).sum())


def train(module, optimizers, steps, lr):
    """Take that many steps as the loop does; return the losses."""
    losses = []
    for _ in range(steps):
        loss = batch_loss(module)
        loss.backward()
        losses.append(loss.item())
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return losses


def saved(module, optimizers):
    """What a checkpoint keeps of optimizers: plain tensors by the name of state and parameter."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        f"{key}/{names[id(parameter)]}": tensor.clone()
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, tensor in state.items()
    }


def load(module, optimizers, tensors):
    """Put back what `saved` gave, through torch's own load_state_dict."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for optimizer in optimizers:
        order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
        state = {}
        for full_name, tensor in tensors.items():
            key, name = full_name.split("/", maxsplit=1)
            if name in order:
                state.setdefault(order.index(name), {})[key] = tensor.clone()
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


@pytest.mark.parametrize("name", NAMES)
def test_each_one_learns(name):
    """Forty steps on one batch at least halve the loss."""
    module = model(dropout=0.0)
    optimizers = make_optimizers(module, options(optimizer=name))
    losses = train(module, optimizers, 40, LR[name])
    assert losses[-1] < losses[0] / 2, losses


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", [0, 3])
def test_a_state_that_was_put_back_goes_on_with_the_same_bits(name, before):
    """Saved before the first step or after some, weights and state are then those of a run without a break."""
    given, lr = options(optimizer=name), LR[name]
    module = model(dropout=0.0)
    optimizers = make_optimizers(module, given)
    train(module, optimizers, before, lr)
    tensors, weights = saved(module, optimizers), {k: v.clone() for k, v in module.state_dict().items()}
    train(module, optimizers, 3, lr)

    other = model(seed=1, dropout=0.0)
    other.load_state_dict(weights)
    resumed = make_optimizers(other, given)
    load(other, resumed, tensors)
    train(other, resumed, 3, lr)

    assert all(torch.equal(v, other.state_dict()[k]) for k, v in module.state_dict().items())
    one, two = saved(module, optimizers), saved(other, resumed)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def two_parameters():
    """A matrix and a vector, and a model that holds them."""
    torch.manual_seed(0)
    module = nn.Linear(3, 4)
    gradients = [{name: torch.randn_like(p) for name, p in module.named_parameters()} for _ in range(2)]
    return module, gradients


def stepped(module, gradients, given):
    """Take a step with each set of gradients."""
    (optimizer,) = make_optimizers(module, given)
    for step in gradients:
        for name, parameter in module.named_parameters():
            parameter.grad = step[name].clone()
        optimizer.step()


def test_adamw_is_the_published_update():
    """Two steps agree with Loshchilov and Hutter's update, written out; the bias does not decay."""
    module, gradients = two_parameters()
    expected = {name: p.detach().double() for name, p in module.named_parameters()}
    b1, b2, lr, eps = 0.8, 0.9, 0.1, 1e-8
    for name, value in expected.items():
        first = second = torch.zeros_like(value)
        decay = 0.5 if name == "weight" else 0.0
        for step, gradient in enumerate([g[name].double() for g in gradients], start=1):
            first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
            size = (first / (1 - b1**step)) / ((second / (1 - b2**step)).sqrt() + eps)
            value.mul_(1 - lr * decay).sub_(lr * size)
    stepped(module, gradients, options(lr=lr, betas=(b1, b2), weight_decay=0.5))
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_sgd_is_the_textbook_update(momentum):
    """Two steps agree with momentum written out; decay is added to the gradient of matrices."""
    module, gradients = two_parameters()
    expected = {name: p.detach().double() for name, p in module.named_parameters()}
    for name, value in expected.items():
        velocity = torch.zeros_like(value)
        decay = 0.5 if name == "weight" else 0.0
        for gradient in [g[name].double() for g in gradients]:
            velocity = momentum * velocity + gradient + decay * value
            value.sub_(0.1 * velocity)
    stepped(module, gradients, options(optimizer="sgd", lr=0.1, momentum=momentum, weight_decay=0.5))
    for name, parameter in module.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6)


def test_muon_moves_a_matrix_by_about_the_rms_of_adamw():
    """An update of muon has 0.2 of lr as its root mean square, whatever the gradient, so one lr fits both."""
    torch.manual_seed(0)
    module = nn.Linear(32, 64, bias=False)
    (optimizer,) = make_optimizers(module, options(optimizer="muon", lr=0.1, weight_decay=0.0))
    before = module.weight.detach().clone()
    module.weight.grad = 1e-3 * torch.randn_like(module.weight)
    optimizer.step()
    change = (module.weight.detach() - before).square().mean().sqrt().item()
    assert 0.5 < change / (0.1 * 0.2) < 1.5


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_comes_later_is_taken(name):
    """A parameter may have no gradient in the first steps, as an expert that no token reached."""
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    optimizers = make_optimizers(module, options(optimizer=name))
    before = module[1].weight.detach().clone()
    for reached in (module[:1], module):
        for layer in reached:
            for parameter in layer.parameters():
                parameter.grad = torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert not torch.equal(module[1].weight, before)
    assert torch.isfinite(module[1].weight).all()


def names_of(module, optimizer):
    """The names of an optimizer's parameters."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(p)] for group in optimizer.param_groups for p in group["params"]}


class Untied(ToyTransformer):
    """A head of its own, and no way to ask for it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 32, bias=False)


class UntiedHeaded(HeadedToy):
    """A head of its own that is larger than the embedding."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 40, bias=False)


@pytest.mark.parametrize(
    ("kind", "head"),
    [(ToyTransformer, set()), (HeadedToy, set()), (Untied, {"head.weight"}), (UntiedHeaded, {"head.weight"})],
)
def test_muon_takes_the_matrices_between_embeddings_and_head(kind, head):
    """Embeddings, the head (tied or not, asked for or told by its rows) and vectors are AdamW's; all are someone's."""
    module = kind()
    muon, adamw = make_optimizers(module, options(optimizer="muon"))
    assert (type(muon).__name__, type(adamw).__name__) == ("Muon", "AdamW")
    inner = ("qkv.weight", "out.weight", "feed.0.weight", "feed.2.weight")
    assert names_of(module, muon) == {f"layers.{i}.{name}" for i in range(2) for name in inner}
    rest = {"embed.weight", "positions.weight", "norm.weight", "norm.bias"} | head
    assert rest <= names_of(module, adamw)
    everything = {name for name, _ in module.named_parameters()}
    assert names_of(module, muon) | names_of(module, adamw) == everything


def test_muon_alone_where_nothing_else_is_trained():
    """Low-rank matrices without biases need no second optimizer."""
    module = model()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("qkv" in name)
    (optimizer,) = make_optimizers(module, options(optimizer="muon"))
    assert names_of(module, optimizer) == {"layers.0.qkv.weight", "layers.1.qkv.weight"}


def test_muon_without_a_matrix_is_refused():
    """Training embeddings alone is not muon's work, and is not done by another optimizer unasked."""
    module = model()
    module.requires_grad_(requires_grad=False)
    module.embed.weight.requires_grad_()
    with pytest.raises(InputError, match="no trained matrix") as caught:
        make_optimizers(module, options(optimizer="muon"))
    assert caught.value.remedy == "use optimizer: adamw"


@pytest.mark.parametrize("name", NAMES)
def test_only_matrices_decay(name):
    """Norms and biases keep their size where there is no gradient to speak of."""
    module = model()
    for optimizer in make_optimizers(module, options(optimizer=name, weight_decay=0.5)):
        for group in optimizer.param_groups:
            assert {group["weight_decay"]} == {0.5 if p.ndim >= 2 else 0.0 for p in group["params"]}


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_are_left_alone(name):
    """What requires no gradient is in no optimizer."""
    module = model()
    module.layers[0].requires_grad_(requires_grad=False)
    optimizers = make_optimizers(module, options(optimizer=name))
    names = set().union(*(names_of(module, optimizer) for optimizer in optimizers))
    assert names == {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "changes", [*({"optimizer": name} for name in NAMES), {"optimizer": "sgd", "momentum": 0.0}]
)
def test_the_state_is_as_large_as_foretold(changes):
    """The numbers counted from shapes on the meta device are those of the state after a step."""
    with torch.device("meta"):
        foretold = state_numbers(make_optimizers(ToyTransformer(), options(**changes)))
    module = model()
    optimizers = make_optimizers(module, options(**changes))
    train(module, optimizers, 1, 1e-3)
    real = {key: tensor for key, tensor in saved(module, optimizers).items() if not key.startswith("step/")}
    assert foretold == sum(tensor.numel() for tensor in real.values())
    assert (foretold > 0) == (changes.get("momentum") != 0.0)
