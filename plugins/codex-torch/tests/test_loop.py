import math
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import evolve
from torch import nn
from toy_model import ToyTransformer
from training import losses, model, options, training, weights_of

from codex_kernel import IGNORE_INDEX, EvaluateOptions, InputError, NonFiniteError, PluginError
from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch.loop import micro_batches
from codex_torch.loss import loss_sum


def updated(tmp_path: Path, **changes):
    """The weights after two steps of eight blocks; no dropout, so that only the split into micro-batches differs."""
    module = model(dropout=0.0)
    training(tmp_path, module, global_batch_size=8, **({"max_steps": 2} | changes)).trainer.fit(None)
    return weights_of(module)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4])
def test_any_split_into_micro_batches_gives_the_same_update(tmp_path, micro_batch_size):
    """8×1, 4×2, 3+3+2 and 2×4 blocks, of unequal numbers of targets, give the weights of 1×8 to 1e-6."""
    whole = updated(tmp_path, micro_batch_size=8)
    split = updated(tmp_path, micro_batch_size=micro_batch_size)
    for name, weight in whole.items():
        torch.testing.assert_close(split[name], weight, atol=1e-6, rtol=1e-6)


def test_a_short_last_step_is_weighted_by_its_own_targets(tmp_path):
    """An epoch that does not divide ends with a short step, split or not with the same update."""
    whole, split = (updated(tmp_path, max_steps=None, epochs=1, micro_batch_size=size) for size in (8, 3))
    for name, weight in whole.items():
        torch.testing.assert_close(split[name], weight, atol=1e-6, rtol=1e-6)


def test_an_epoch_sees_every_block_once(tmp_path):
    """One epoch of ten blocks by four takes three steps, the last of two blocks, and counts every target."""
    run = training(tmp_path, epochs=1)
    progress = run.trainer.fit(None).progress
    assert (progress.step, progress.samples, progress.epoch) == (3, 10, 1.0)
    assert progress.tokens == ToyData().train.target_tokens


def test_it_overfits_one_batch(tmp_path):
    """The same four blocks over and over are learnt by heart."""
    data = ToyData(train=ToyBlocks(4), validation=None)
    run = training(tmp_path, model(dropout=0.0, width=32), data, max_steps=150, schedule="constant")
    run.trainer.fit(None)
    assert losses(run)[-1] < 0.05


def test_validation_falls_on_new_documents(tmp_path):
    """What is learnt holds for blocks that were never trained on."""
    run = training(
        tmp_path, data=ToyData(train=ToyBlocks(40)), evaluate=EvaluateOptions(every_steps=50), max_steps=100
    )
    run.trainer.fit(None)
    validation = [metrics["loss"] for split, _, metrics in run.records if split == "validation"]
    assert validation[-1] < 0.7 * math.log(32)


def test_the_reported_loss_is_the_mean_of_its_window(tmp_path):
    """A record every fourth step has the loss over all targets of the four; the first step has one of its own."""
    each, fourth = training(tmp_path), training(tmp_path, log_every=4)
    each.trainer.fit(None)
    fourth.trainer.fit(None)
    batches = [each.parts.data.train.gather(each.parts.data.samples(4 * step, 4)) for step in range(8)]
    targets = np.array([(batch.targets_BT != IGNORE_INDEX).sum() for batch in batches])
    expected = [
        np.average(losses(each)[start:end], weights=targets[start:end])
        for start, end in ((0, 1), (1, 4), (4, 8))
    ]
    assert losses(fourth) == pytest.approx(expected)


def test_each_record_says_how_the_step_went(tmp_path):
    """Loss, learning rate, gradient norm, throughput, step time and memory, by these names."""
    run = training(tmp_path, log_every=3)
    run.trainer.fit(None)
    for split, _, metrics in run.run.report.records:
        if split == "train":
            assert set(metrics) == {
                "loss",
                "lr",
                "grad_norm",
                "tokens_per_second",
                "step_seconds",
                "peak_memory_bytes",
            }
            assert metrics["tokens_per_second"] > 0
            assert metrics["peak_memory_bytes"] > 1e7


def test_the_gradient_is_that_of_the_mean_over_the_targets_of_the_step(tmp_path):
    """The norm of the first step is that of the mean loss of its blocks, taken at once."""
    module = model(dropout=0.0)
    run = training(tmp_path, module, max_steps=1)
    batch = run.parts.data.train.gather(run.parts.data.samples(0, 4))
    inputs = next(micro_batches(batch, 4, torch.device("cpu")))
    targets = int((batch.targets_BT != IGNORE_INDEX).sum())
    gradients = torch.autograd.grad(loss_sum(module, *inputs) / targets, list(module.parameters()))
    run.trainer.fit(None)
    assert run.records[0][2]["grad_norm"] == pytest.approx(
        float(torch.nn.utils.get_total_norm(gradients)), rel=1e-5
    )


def test_evaluation_may_draw_at_random(tmp_path):
    """A model that draws numbers in evaluation as well trains with the same ones as if it had not been evaluated."""

    class Drawing(ToyTransformer):
        def forward(self, *inputs):
            return super().forward(*inputs) + 0.1 * torch.rand(()) * float(np.random.rand())  # noqa: NPY002

    often, never = (
        training(tmp_path / str(every), Drawing(), evaluate=EvaluateOptions(every_steps=every))
        for every in (1, None)
    )
    never.parts.model.load_state_dict(often.parts.model.state_dict())
    often.trainer.fit(None)
    never.trainer.fit(None)
    assert losses(often) == losses(never)


def test_gradients_are_clipped_to_their_norm(tmp_path):
    """A gradient of any size moves the weights as one of the highest norm would; the norm before that is reported."""
    run = training(tmp_path, max_steps=1, max_grad_norm=1e-3)
    run.trainer.fit(None)
    assert run.records[0][2]["grad_norm"] > 1e-3
    moments = run.checkpointer.states[1].tensors["optimizer.safetensors"]
    norm = math.sqrt(
        sum(float(t.square().sum()) for name, t in moments.items() if name.startswith("exp_avg/"))
    )
    assert norm == pytest.approx(1e-3 * (1 - 0.9), rel=1e-3)


def test_only_matrices_decay(tmp_path):
    """With a gradient of nothing and weight decay, vectors stay and matrices shrink."""

    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

        def forward(self, input_ids_BT, position_ids_BT, document_ids_BT):
            return torch.zeros(*input_ids_BT.shape, 32) + 0 * (self.matrix.sum() + self.vector.sum())

    module = Still()
    training(tmp_path, module, max_steps=1, weight_decay=0.5, schedule="constant").trainer.fit(None)
    assert float(module.vector.detach().sum()) == 2
    assert float(module.matrix.detach().sum()) == pytest.approx(4 * (1 - 0.5 * 1e-2))


def test_frozen_parameters_stay(tmp_path):
    """Parameters that require no gradient keep their bits and are not in the optimizer's state."""
    module = model()
    module.layers[0].requires_grad_(requires_grad=False)
    before = weights_of(module)
    run = training(tmp_path, module)
    run.trainer.fit(None)
    after = weights_of(module)
    frozen_names = [name for name in before if name.startswith("layers.0.")]
    assert all(torch.equal(before[name], after[name]) for name in frozen_names)
    assert not torch.equal(before["layers.1.out.weight"], after["layers.1.out.weight"])
    assert not any(
        "layers.0." in name for name in run.checkpointer.states[8].tensors["optimizer.safetensors"]
    )


def test_parameters_in_half_precision_are_trained_in_fp32(tmp_path):
    """A model that comes in bf16 gets fp32 weights, and the user is told."""
    module = model().to(torch.bfloat16)
    run = training(tmp_path, module)
    run.trainer.fit(None)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert any("bfloat16" in warning for warning in run.run.report.warnings)


def test_bf16_keeps_fp32_weights_and_learns(tmp_path):
    """In bf16 the weights and moments stay fp32, and the loss follows that of fp32."""
    exact, mixed = (
        training(tmp_path / name, model(dropout=0.0), precision=name) for name in ("fp32", "bf16")
    )
    exact.trainer.fit(None)
    mixed.trainer.fit(None)
    assert losses(mixed) != losses(exact)
    assert losses(mixed) == pytest.approx(losses(exact), rel=0.02)
    for tensors in mixed.checkpointer.states[8].tensors.values():
        assert all(tensor.dtype != torch.bfloat16 for tensor in tensors.values())


class Spoiled(nn.Module):
    """Gives logits that are not finite for one block, from its first token on, after some calls."""

    def __init__(self, value: float, healthy_calls: int) -> None:
        super().__init__()
        self.inner, self.value, self.calls_left = model(dropout=0.0), value, healthy_calls

    def forward(self, input_ids_BT, position_ids_BT, document_ids_BT):
        logits_BTV = self.inner(input_ids_BT, position_ids_BT, document_ids_BT)
        self.calls_left -= 1
        return logits_BTV * self.value if self.calls_left < 0 else logits_BTV


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, value):
    """Step 3 fails with exit code 5, names the samples of the micro-batch, and leaves weights and checkpoint alone."""
    module = Spoiled(value, healthy_calls=5)
    run = training(tmp_path, module, every_steps=1)
    with pytest.raises(NonFiniteError) as caught:
        run.trainer.fit(None)
    assert caught.value.exit_code == 5
    ids = [
        int(i) for i in run.parts.data.samples(10, 2)
    ]  # two steps of four, then the second micro-batch of two
    assert f"step 3, samples {ids[0]}, {ids[1]};" in caught.value.message
    assert run.run.report.events[-1] == (
        "nonfinite",
        {"step": 3, "reason": caught.value.message.split(" at step")[0], "sample_ids": ids, "action": "stop"},
    )
    assert sorted(run.checkpointer.states) == [1, 2]
    saved = run.checkpointer.states[2].tensors["model/model.safetensors"]
    assert all(torch.equal(saved[f"inner.{name}"], w) for name, w in weights_of(module.inner).items())


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path):
    """A finite loss with an infinite gradient is found as well."""

    class Cliff(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor):
            return tensor

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    class OnTheCliff(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model()

        def forward(self, *inputs):
            return Cliff.apply(self.inner(*inputs))

    module = OnTheCliff()
    before = weights_of(module)
    with pytest.raises(NonFiniteError, match=r"norm of the gradient is (nan|inf).* at step 1"):
        training(tmp_path, module).trainer.fit(None)
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(module).items())


class Untargeted(ToyBlocks):
    """Blocks none of which has a target, though the split counts some."""

    def gather(self, sample_ids_B):
        batch = ToyBlocks.gather(self, sample_ids_B)
        return evolve(batch, targets_BT=np.full_like(batch.targets_BT, IGNORE_INDEX))


def test_a_step_without_a_target_is_an_error(tmp_path):
    """There is nothing to divide the loss by, and the samples are named."""
    data = ToyData(train=Untargeted(10), validation=None)
    with pytest.raises(InputError, match=r"no block of an optimizer step has a target: samples \d+, \d+"):
        training(tmp_path, data=data).trainer.fit(None)


def test_a_validation_split_without_a_target_is_an_error(tmp_path):
    """A perplexity of nothing is never reported."""
    data = ToyData(validation=Untargeted(3))
    with pytest.raises(InputError, match="validation split has no target"):
        training(tmp_path, data=data).trainer.fit(None)


def test_what_is_no_module_is_refused(tmp_path):
    """A model of another library gets an answer, not an AttributeError."""
    with pytest.raises(PluginError, match=r"needs a torch\.nn\.Module, got a str"):
        training(tmp_path, "model").trainer.fit(None)


def test_a_model_with_nothing_to_train_is_refused(tmp_path):
    """All parameters frozen is a mistake, not a run."""
    with pytest.raises(PluginError, match="no parameter that requires a gradient"):
        training(tmp_path, model().requires_grad_(requires_grad=False)).trainer.fit(None)


def test_a_run_that_ends_in_its_warm_up_says_so(tmp_path):
    """A run shortened below its warm-up still runs, with a warning."""
    run = training(tmp_path, warmup_steps=20)
    run.trainer.fit(None)
    assert run.run.report.warnings == ["the run ends in its warm-up: 8 steps, warmup_steps 20"]


def test_training_takes_the_threads_it_is_given(tmp_path):
    """`threads` is what torch computes with."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        training(tmp_path, threads=1).trainer.fit(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_options_have_no_hidden_limit():
    """The default micro-batch is at most eight blocks and never more than the step."""
    assert options(micro_batch_size=None, global_batch_size=64).blocks_at_once == 8
    assert options(micro_batch_size=None, global_batch_size=3).blocks_at_once == 3
