from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training import model

from codex_torch.averaging import Average


def averaged(decay=0.9, values=(1.0, 2.0)):
    """Two parameters and the average of them."""
    parameters = {"a": nn.Parameter(torch.full((2,), values[0])), "b": nn.Parameter(torch.tensor(values[1]))}
    return parameters, Average.of(parameters, decay)


def walk(parameters, by):
    """Change all parameters as an optimizer step would."""
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(by)


def test_it_begins_as_a_copy():
    """Before the first update the average is the weights, in memory of its own."""
    parameters, average = averaged()
    walk(parameters, 5.0)
    assert average.tensors()["a"].tolist() == [1.0, 1.0]
    assert average.updates == 0
    assert not average.tensors()["a"].requires_grad


@given(st.lists(st.floats(-3, 3), max_size=30), st.floats(0.01, 0.999))
def test_it_is_the_textbook_average(steps, decay):
    """After each step it is d·average + (1-d)·weight, d being the decay or, early on, (1+n)/(10+n)."""
    parameters, average = averaged(decay)
    weight, expected = 1.0, 1.0
    for n, by in enumerate(steps, start=1):
        walk(parameters, by)
        weight += by
        average.update()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * weight
    assert average.tensors()["a"].tolist() == pytest.approx([expected] * 2, abs=1e-4)
    assert average.updates == len(steps)


def test_a_state_that_was_put_back_goes_on_with_the_same_bits():
    """The averages and the number of updates are all there is to it."""
    torch.manual_seed(0)
    parameters = dict(model().named_parameters())
    average = Average.of(parameters, 0.99)
    for _ in range(3):
        walk(parameters, 0.1)
        average.update()
    kept = {name: tensor.clone() for name, tensor in average.tensors().items()}
    updates = average.updates
    weights = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
    walk(parameters, 0.1)
    average.update()

    resumed = Average.of(weights, 0.99)
    walk(weights, 7.0)
    resumed.load(kept, updates)
    walk(weights, -7.0)
    for name, parameter in weights.items():
        parameter.data = parameters[name].detach()
    resumed.update()
    assert resumed.updates == average.updates == 4
    assert all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in average.tensors().items())


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"a": torch.zeros(2)}, "other parameters: b"),
        ({"a": torch.zeros(2), "b": torch.zeros(()), "c": torch.zeros(1)}, "other parameters: c"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, r"average of b has shape \[3\], expected \[\]"),
    ],
)
def test_a_state_of_other_parameters_is_refused(tensors, match):
    """Nothing changes where a name or a shape is not as it was."""
    _, average = averaged()
    with pytest.raises(ValueError, match=match):
        average.load(tensors, 9)
    assert average.tensors()["a"].tolist() == [1.0, 1.0]
    assert average.updates == 0


def test_in_the_block_the_parameters_are_the_averages():
    """The same parameters, tied ones too, have the averaged values for a while, and their own ones afterwards."""
    module = model()
    module.eval()
    parameters = dict(module.named_parameters())
    average = Average.of(parameters, 0.9)
    ids = torch.arange(6)[None]
    inputs = (ids, ids, torch.zeros_like(ids))
    before = module(*inputs)
    walk(parameters, 0.3)
    after = module(*inputs)
    assert not torch.equal(before, after)
    places = {name: parameter.data_ptr() for name, parameter in parameters.items()}
    with average.swapped():
        assert torch.equal(module(*inputs), before)
        assert module.head.weight is module.embed.weight
    assert torch.equal(module(*inputs), after)
    assert {name: parameter.data_ptr() for name, parameter in parameters.items()} == places


def test_an_exception_puts_the_parameters_back():
    """A stop in the middle of an evaluation does not leave averages to be trained on."""
    parameters, average = averaged()
    walk(parameters, 5.0)

    with suppress(KeyError), average.swapped():
        raise KeyError
    assert parameters["a"].tolist() == [6.0, 6.0]
    assert average.tensors()["a"].tolist() == [1.0, 1.0]


def test_what_was_taken_in_the_block_keeps_the_averages():
    """Weights for a checkpoint may be taken in the block and written after it."""
    parameters, average = averaged()
    walk(parameters, 5.0)
    with average.swapped():
        taken = parameters["a"].detach()
    assert taken.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("act", [Average.update, Average.tensors, lambda average: average.load({}, 1)])
def test_in_the_block_there_is_no_average_to_act_on(act):
    """What would take the weights for the averages is refused."""
    _, average = averaged()
    with average.swapped(), pytest.raises(RuntimeError, match="in the place of the parameters"):
        act(average)


def test_training_goes_on_after_the_block():
    """Gradients reach the parameters as before, and the average follows."""
    parameters, average = averaged()
    with average.swapped():
        pass
    (parameters["a"].sum() * 2).backward()
    assert parameters["a"].grad.tolist() == [2.0, 2.0]
