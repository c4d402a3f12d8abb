import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attrs import evolve
from toy_model import HeadedToy
from training import model, options, training

from codex_kernel.testing import hooks_of
from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch.plugin import EarlyStopping, LoopTrainer, LossSpike


def test_numbers_are_those_of_the_run(tmp_path):
    """Steps, tokens, parameters and the size of a checkpoint are foretold as they then are."""
    run = training(tmp_path, epochs=2)
    estimate = run.trainer.estimate(measure=False)
    result = run.trainer.fit(None)
    assert estimate.seconds_per_step is None
    assert estimate.steps == result.progress.step
    assert estimate.tokens == result.progress.tokens
    assert estimate.parameters == sum(p.numel() for p in run.parts.model.parameters())
    assert estimate.parameters == estimate.trainable_parameters
    tensors = run.checkpointer.states[result.progress.step].tensors
    names = ("model/model.safetensors", "optimizer.safetensors")
    real = sum(tensor.nbytes for name in names for tensor in tensors[name].values())
    assert estimate.checkpoint_bytes == pytest.approx(real, rel=0.05)


def test_frozen_parameters_need_no_moments(tmp_path):
    """Gradients and moments are those of the trained parameters alone."""
    module = model()
    module.layers[0].requires_grad_(requires_grad=False)
    estimate = training(tmp_path, module).trainer.estimate(measure=False)
    assert estimate.trainable_parameters < estimate.parameters
    assert estimate.memory_bytes["weights"] == estimate.parameters * 4
    assert estimate.memory_bytes["gradients"] == estimate.trainable_parameters * 4
    assert estimate.memory_bytes["optimizer"] == estimate.trainable_parameters * 8


@pytest.mark.parametrize("vocabulary", [32, 2000])
def test_shapes_are_enough(tmp_path, vocabulary):
    """A model without weights gives the estimate of one with them; attention keeps a little more on the meta device."""
    data = ToyData(train=ToyBlocks(10, seq_len=40))
    with torch.device("meta"):
        shapes = HeadedToy(vocabulary)
    changes = {"global_batch_size": 8, "micro_batch_size": 8}
    real = training(tmp_path / "real", HeadedToy(vocabulary), data, **changes).trainer.estimate(measure=False)
    meta = training(tmp_path / "meta", shapes, data, **changes).trainer.estimate(measure=False)
    assert meta.memory_bytes == pytest.approx(real.memory_bytes, rel=0.15)
    assert evolve(meta, memory_bytes={}) == evolve(real, memory_bytes={})
    assert set(meta.memory_bytes) == {"weights", "gradients", "optimizer", "activations", "logits"}


def test_twice_the_blocks_keep_twice_the_activations(tmp_path):
    """Activations and logits grow with the micro-batch; weights do not."""
    one, two = (
        training(tmp_path / str(size), micro_batch_size=size).trainer.estimate(measure=False).memory_bytes
        for size in (1, 2)
    )
    assert two["activations"] == pytest.approx(2 * one["activations"], rel=0.05)
    assert two["logits"] == 2 * one["logits"]
    assert two["weights"] == one["weights"]


def test_a_model_that_looks_at_values_is_said(tmp_path):
    """Where the forward pass needs weights that are not there, the parts that are not known are left out, with why."""

    class Looking(HeadedToy):
        def hidden(self, *inputs):
            raise AssertionError("not reached: few tokens")

        def forward(self, input_ids_BT, *rest):
            return super().forward(input_ids_BT, *rest) * float(input_ids_BT.sum().item() >= 0)

    with torch.device("meta"):
        shapes = Looking()
    estimate = training(tmp_path, shapes).trainer.estimate(measure=False)
    assert set(estimate.memory_bytes) == {"weights", "gradients", "optimizer"}
    assert "not known without the weights" in estimate.notes[0]


def test_measuring_leaves_no_trace(tmp_path):
    """Timed steps change neither the weights, nor the generators, nor the number of threads."""
    run = training(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.parts.model.state_dict().items()}
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    trainer = LoopTrainer(evolve(run.trainer.options, threads=threads + 1), run.run, run.parts)
    estimate = trainer.estimate(measure=True)
    assert estimate.seconds_per_step > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads
    assert run.parts.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in run.parts.model.state_dict().items())
    assert run.run.report.events == []
    assert all(parameter.grad is None for parameter in run.parts.model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "adafactor"},
        {"optimizer": "muon"},
        {"ema_decay": 0.9},
        {"optimizer": "sgd", "ema_decay": 0.9},
    ],
)
def test_the_checkpoint_is_as_large_as_foretold(tmp_path, changes):
    """Whatever the optimizer and the average keep, the estimate counts what is then written."""
    run = training(tmp_path, **changes)
    estimate = run.trainer.estimate(measure=False)
    run.trainer.fit(None)
    files = run.checkpointer.states[8].tensors
    names = [name for name in files if name != "rng.safetensors"]
    real = {name: sum(tensor.nbytes for tensor in files[name].values()) for name in names}
    steps = sum(t.nbytes for key, t in files["optimizer.safetensors"].items() if key.startswith("step/"))
    assert estimate.checkpoint_bytes == sum(real.values()) - steps
    assert estimate.memory_bytes["optimizer"] == real["optimizer.safetensors"] - steps
    trained = estimate.trainable_parameters * 4
    assert estimate.memory_bytes.get("average", 0) == (trained if "ema_decay" in changes else 0)


def test_half_precision_weights_are_trained_and_kept_in_fp32(tmp_path):
    """A model in bf16 is counted as it will be in training."""
    half = training(tmp_path / "half", model().bfloat16()).trainer.estimate(measure=False)
    full = training(tmp_path / "full").trainer.estimate(measure=False)
    assert half.checkpoint_bytes == full.checkpoint_bytes
    for part in ("weights", "gradients", "optimizer"):
        assert half.memory_bytes[part] == full.memory_bytes[part]


@pytest.mark.parametrize("kind", ["real", "meta"])
def test_recomputed_activations_are_those_of_one_layer_and_the_inputs_of_all(tmp_path, kind):
    """With activation checkpointing a deep model keeps little more than a shallow one; the model stays as it was."""

    def activations(layers, *, recomputed):
        with torch.device("meta" if kind == "meta" else "cpu"):
            module = HeadedToy(layers=layers)
        folder = tmp_path / f"{layers} {recomputed}"
        run = training(folder, module, activation_checkpointing=recomputed)
        count = run.trainer.estimate(measure=False).memory_bytes["activations"]
        assert {type(layer).__mro__[1] for layer in module.layers} == {torch.nn.Module}
        return count

    one, many = (activations(layers, recomputed=False) for layers in (2, 12))
    layer = (many - one) / 10
    input_of_a_layer = 2 * 12 * 16 * 4
    shallow, deep = (activations(layers, recomputed=True) for layers in (2, 12))
    assert deep - shallow == 10 * input_of_a_layer
    assert shallow == pytest.approx(one - layer + 2 * input_of_a_layer, rel=0.1)
    assert deep < many / 3


def test_a_run_that_a_clock_ends_has_no_number_of_steps(tmp_path):
    """Steps and tokens are not known; measured, there is a note of about how many steps fit in."""
    run = training(tmp_path)
    timed = evolve(run.trainer.options, max_steps=None, max_minutes=30.0, schedule="constant")
    trainer = LoopTrainer(timed, run.run, run.parts)
    estimate = trainer.estimate(measure=False)
    assert (estimate.steps, estimate.tokens, estimate.notes) == (None, None, [])
    measured = trainer.estimate(measure=True)
    assert measured.seconds_per_step > 0
    assert f"max_minutes 30 are about {1800 / measured.seconds_per_step:.0f} steps" in measured.notes


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "inverse-sqrt", "warmup_steps": 3},
        {"schedule": "wsd", "decay_steps": 50},
        {"early_stopping": EarlyStopping(1)},
        {"precision": "fp16"},
        {"activation_checkpointing": True, "ema_decay": 0.9, "optimizer": "muon"},
        {"loss_spike": LossSpike(), "on_nonfinite": "skip"},
    ],
)
def test_steps_are_timed_with_any_options(tmp_path, changes):
    """A few steps run whatever the schedule, the optimizer and the guards."""
    assert training(tmp_path, **changes).trainer.estimate(measure=True).seconds_per_step > 0


MEASURE = """
import sys, torch
sys.path.insert(0, {here!r})
torch.set_num_threads(1)
from pathlib import Path
from attrs import evolve
from codex_torch.estimate import _NoCheckpoints
from codex_torch.plugin import LoopTrainer
from toy_model import HeadedToy, ToyTransformer
from training import training
from codex_kernel.testing.training import ToyBlocks, ToyData

def peak():
    # Not ru_maxrss: a process begins with the peak of the one that started it, which here is a long test run.
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

training(Path({folder!r}) / "warm").trainer.fit(None)  # what torch itself takes
before = peak()
kind, vocabulary, width = {kind}, {vocabulary}, 256
data = ToyData(train=ToyBlocks(16, seq_len=64), validation=None)
run = training(Path({folder!r}) / "run", kind(vocabulary, width=width, layers=4), data, max_steps=2,
               global_batch_size=16, micro_batch_size=16)
LoopTrainer(run.trainer.options, run.run, evolve(run.parts, checkpointer=_NoCheckpoints())).fit(None)
used = peak() - before
print(sum(run.trainer.estimate(measure=False).memory_bytes.values()), used)
"""


@pytest.mark.parametrize(("kind", "vocabulary"), [("ToyTransformer", 4000), ("HeadedToy", 20000)])
def test_memory_is_of_the_order_that_is_then_used(tmp_path, kind, vocabulary):
    """The sum of the parts is within a factor of 1.6 of the growth of a process that trains."""
    code = MEASURE.format(
        here=str(Path(__file__).parent), folder=str(tmp_path), kind=kind, vocabulary=vocabulary
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    estimated, used = map(int, out.stdout.split())
    assert used / 1.6 < estimated < used * 1.6, (estimated, used)


def test_a_plan_goes_by_the_hooks(tmp_path):
    """The trainer that the hook gives can estimate."""
    run = training(tmp_path)
    trainer = hooks_of(options()).codex_trainer(run=run.run, parts=run.parts)
    assert trainer.estimate(measure=False).steps == 8
