import copy
import json
import random

import numpy as np
import pytest
import torch
from attrs import evolve, frozen
from torch import nn
from training import losses, model, training

from codex_kernel import CheckpointState, InputError
from codex_kernel.testing import RecordingReporter
from codex_kernel.testing.trainer import bits_of_state
from codex_kernel.testing.training import ToyData, ToyTokenizer
from codex_torch import rng, weights
from codex_torch.plugin import LoopTrainer


def test_the_generators_come_back(tmp_path):
    """After a restore, Python, numpy and torch draw the numbers that followed the capture."""

    def draw():
        return random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()  # noqa: NPY002 - the generator that is kept

    rng.seed_all(3)
    draw()
    state = rng.capture()
    first = draw()
    rng.restore(state)
    assert draw() == first


def test_a_block_may_draw_and_leave_no_trace():
    """`undisturbed` puts every generator back, also after an error."""
    rng.seed_all(3)
    expected = torch.randn(2).tolist()
    rng.seed_all(3)
    with pytest.raises(ZeroDivisionError), rng.undisturbed():
        torch.randn(100 // int(torch.randn(1) > 100))
    assert torch.randn(2).tolist() == expected


def test_a_log_window_across_the_break_is_whole(tmp_path):
    """A record whose steps were done before and after the break has the loss of all of them."""
    whole = training(tmp_path / "whole", log_every=4)
    whole.trainer.fit(None)
    broken = training(tmp_path / "broken", log_every=4, every_steps=6)
    broken.trainer.fit(None)
    resumed = training(tmp_path / "resumed", log_every=4)
    resumed.trainer.fit(broken.checkpointer.states[6])
    assert losses(resumed)[-1] == losses(whole)[-1]


def test_a_state_can_be_used_twice(tmp_path):
    """Going on from a state does not change it."""
    first = training(tmp_path, every_steps=4)
    first.trainer.fit(None)
    state = first.checkpointer.states[4]
    before = bits_of_state(state)
    for name in ("a", "b"):
        again = training(tmp_path / name)
        again.trainer.fit(state)
        assert bits_of_state(again.checkpointer.states[8]) == bits_of_state(first.checkpointer.states[8])
    assert bits_of_state(state) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 2e-2}, "lr was 0.01, is 0.02"),
        ({"max_steps": 9}, "steps was 8, is 9; samples was 32, is 36"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"betas": (0.8, 0.9)}, r"betas was \[0.9, 0.95\], is \[0.8, 0.9\]"),
    ],
)
def test_options_that_change_the_curve_are_refused(tmp_path, changes, said):
    """A run goes on with the options that it began with, or says which ones differ."""
    first = training(tmp_path)
    first.trainer.fit(None)
    with pytest.raises(InputError, match=f"other settings: {said}"):
        training(tmp_path / "again", **changes).trainer.fit(first.checkpointer.states[8])


def test_a_change_of_the_last_bits_is_said(tmp_path):
    """Another micro-batch size gives the same update but for rounding: a warning."""
    first = training(tmp_path, every_steps=4)
    first.trainer.fit(None)
    again = training(tmp_path / "again", micro_batch_size=4)
    again.trainer.fit(first.checkpointer.states[4])
    (warning,) = again.run.report.warnings
    assert "micro_batch_size was 2, is 4" in warning


def test_another_tokenizer_is_refused(tmp_path):
    """A tokenizer that makes other ids of a text cannot go on with the same embedding."""

    @frozen
    class Saved(ToyTokenizer):
        digest: str = "aaaa"

        def save(self, folder):
            pass

        def fingerprint(self):
            return self.digest

    def with_tokenizer(name, digest):
        run = training(tmp_path / name)
        return LoopTrainer(
            run.trainer.options, run.run, evolve(run.parts, tokenizer=Saved(digest=digest))
        ), run

    trainer, run = with_tokenizer("first", "aaaa")
    trainer.fit(None)
    with pytest.raises(InputError, match=r"the tokenizer is not what .* was aaaa, it is bbbb"):
        with_tokenizer("second", "bbbb")[0].fit(run.checkpointer.states[8])


def test_another_model_is_refused(tmp_path):
    """Weights of another shape or under other names are named, and so are parameters that were not trained."""
    first = training(tmp_path)
    first.trainer.fit(None)
    state = first.checkpointer.states[8]
    with pytest.raises(InputError, match=r"model.safetensors does not fit the model: .* has shape"):
        training(tmp_path / "wide", model(width=32)).trainer.fit(state)
    with pytest.raises(InputError, match=r"does not fit the model: it lacks layers\.2\."):
        training(tmp_path / "deep", model(layers=3)).trainer.fit(state)
    half = model()
    half.layers[0].requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match=r"trained layers\.0\..*, which this run does not train"):
        training(tmp_path / "half", half).trainer.fit(state)


def with_unused() -> nn.Module:
    """A model with a trainable parameter that its forward pass never reads."""
    module = model()
    module.unused = nn.Linear(2, 2, bias=False)
    return module


def test_a_parameter_without_a_gradient_does_not_spoil_the_checkpoint(tmp_path):
    """A parameter that never got a gradient has no optimizer state, and the run goes on with the same bits."""
    first = training(tmp_path, with_unused(), every_steps=4)
    first.trainer.fit(None)
    again = training(tmp_path / "again", with_unused())
    again.trainer.fit(first.checkpointer.states[4])
    assert bits_of_state(again.checkpointer.states[8]) == bits_of_state(first.checkpointer.states[8])


def test_what_was_frozen_is_refused_where_this_run_trains_it(tmp_path):
    """The names of the trained parameters are compared."""
    frozen_part = with_unused()
    frozen_part.unused.requires_grad_(requires_grad=False)
    first = training(tmp_path, frozen_part)
    first.trainer.fit(None)
    with pytest.raises(InputError, match=r"did not train unused\.weight \(1 in all\)"):
        training(tmp_path / "again", with_unused()).trainer.fit(first.checkpointer.states[8])


def test_data_of_another_order_are_refused(tmp_path):
    """Both fingerprints are in the message."""
    first = training(tmp_path)
    first.trainer.fit(None)
    old, new = ToyData().fingerprint, ToyData(seed=5).fingerprint
    with pytest.raises(InputError, match=f"{old}, it is {new}"):
        training(tmp_path / "again", data=ToyData(seed=5)).trainer.fit(first.checkpointer.states[8])


def test_tied_weights_are_kept_once():
    """A tensor with two names is written under the first, and comes back under both."""
    source = model(1)
    saved = weights.saved(source).tensors["model/model.safetensors"]
    assert "embed.weight" in saved
    assert "head.weight" not in saved
    target = model(2)
    weights.load(target, CheckpointState({"model/model.safetensors": copy.deepcopy(saved)}, {}))
    assert torch.equal(target.head.weight, source.head.weight)
    assert target.head.weight is target.embed.weight


class LibraryModel(nn.Module):
    """A model that keeps its weights in a format of its own."""

    weights_file = "adapter.safetensors"

    def __init__(self):
        super().__init__()
        self.base, self.adapter = nn.Linear(3, 3), nn.Linear(3, 3)
        self.base.requires_grad_(requires_grad=False)

    def weights(self):
        return {"renamed": self.adapter.weight.detach()}

    def load_weights(self, given):
        if set(given) != {"renamed"}:
            raise ValueError(f"expected renamed, got {', '.join(given)}")
        with torch.no_grad():
            self.adapter.weight.copy_(given["renamed"])

    def config_files(self):
        return {"config.json": b'{"a": [1, 2]}', "README.md": b"# toy"}


def test_a_library_keeps_its_own_format():
    """Names, file and configuration are those of the model's library; JSON is kept as JSON."""
    source = LibraryModel()
    saved = weights.saved(source)
    assert set(saved.tensors) == {"model/adapter.safetensors"}
    assert saved.values == {"model/config.json": {"a": [1, 2]}}
    assert saved.files == {"model/README.md": b"# toy"}
    target = LibraryModel()
    weights.load(target, CheckpointState(saved.tensors, saved.values, saved.files))
    assert torch.equal(target.adapter.weight, source.adapter.weight)
    assert not torch.equal(target.base.weight, source.base.weight)


class AdaptedModel(LibraryModel):
    """A model whose checkpoint names the base model that it leaves out."""

    def __init__(self, base, rank=8):
        super().__init__()
        self.files = {"base_model.json": {"sha256": base}, "adapter.json": {"rank": rank}}

    def config_files(self):
        return {name: json.dumps(value).encode() for name, value in self.files.items()}


def test_an_adapter_is_not_resumed_over_another_base_model():
    """The base is named with what it was and is; any other difference in the small files is a warning."""
    saved = weights.saved(AdaptedModel("aa"))
    state, report = CheckpointState(saved.tensors, saved.values, saved.files), RecordingReporter()
    weights.check_config(AdaptedModel("aa"), state, report)
    assert report.warnings == []
    weights.check_config(AdaptedModel("aa", rank=4), state, report)
    assert report.warnings == [
        "the model's model/adapter.json differs from the checkpoint's: rank was 8, is 4"
    ]
    with pytest.raises(
        InputError, match=r"over another base model: it was {'sha256': 'aa'}, it is {'sha256': 'bb'}"
    ):
        weights.check_config(AdaptedModel("bb"), state, report)


def test_weights_of_another_library_are_refused():
    """A checkpoint without the model's file says which ones it has; one that does not fit says why."""
    with pytest.raises(
        InputError, match=r"has no model/adapter\.safetensors, it has model/model\.safetensors"
    ):
        weights.load(LibraryModel(), CheckpointState({"model/model.safetensors": {}}, {}))
    with pytest.raises(InputError, match="does not fit the model: expected renamed, got other"):
        weights.load(
            LibraryModel(), CheckpointState({"model/adapter.safetensors": {"other": torch.ones(1)}}, {})
        )


def test_weights_are_not_copied_until_they_are_saved():
    """Capturing a state holds the memory of the model once."""
    source = model()
    saved = weights.saved(source).tensors["model/model.safetensors"]
    assert saved["embed.weight"].data_ptr() == source.embed.weight.data_ptr()


def test_weights_may_lie_in_memory_as_they_like(tmp_path):
    """Transposed weights, and slices of larger tensors, are trained as any others and resumed with the same bits."""

    def placed(place):
        module = model()
        for layer in module.layers:
            layer.out.weight = nn.Parameter(place(layer.out.weight.detach()))
        return module

    places = {
        "plain": lambda weight: weight.clone(),
        "transposed": lambda weight: weight.t().contiguous().t(),
        "slice": lambda weight: torch.cat([weight, weight], dim=1)[:, : weight.shape[1]],
    }
    plain = training(tmp_path / "plain", placed(places["plain"]))
    plain.trainer.fit(None)
    for name in ("transposed", "slice"):
        whole = training(tmp_path / name, placed(places[name]), every_steps=4)
        whole.trainer.fit(None)
        assert bits_of_state(whole.checkpointer.states[8]) == bits_of_state(plain.checkpointer.states[8])
        again = training(tmp_path / f"{name} again", placed(places[name]))
        again.trainer.fit(whole.checkpointer.states[4])
        assert bits_of_state(again.checkpointer.states[8]) == bits_of_state(whole.checkpointer.states[8])
