"""Every way to train that the options offer, broken and resumed."""

import pytest
import torch
from toy_model import HeadedToy
from training import losses, model, training

from codex_kernel import EvaluateOptions
from codex_kernel.testing.trainer import tensor_bits
from codex_torch import weights

VARIANTS = {
    "sgd": {"optimizer": "sgd", "lr": 0.1},
    "adafactor": {"optimizer": "adafactor"},
    "muon": {"optimizer": "muon", "schedule": "wsd", "decay_steps": 3},
    "inverse-sqrt": {"schedule": "inverse-sqrt", "warmup_steps": 2},
    "linear": {"schedule": "linear"},
    "averaged": {"ema_decay": 0.9},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "recomputed": {"activation_checkpointing": True},
    "relaxed": {"determinism": "relaxed"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_broken_anywhere_it_ends_with_the_same_bits(tmp_path, name):
    """Resumed from a checkpoint in its middle, the run has the records and every bit of one without a break."""
    changes = {"evaluate": EvaluateOptions(every_steps=3), **VARIANTS[name]}
    whole = training(tmp_path / "whole", every_steps=1, **changes)
    result = whole.trainer.fit(None)
    for step in (1, 4, 7):
        again = training(tmp_path / str(step), **changes)
        assert again.trainer.fit(whole.checkpointer.states[step]) == result
        assert tensor_bits(again) == tensor_bits(whole)
        assert losses(again) == losses(whole)[step:]


@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns(tmp_path, name):
    """The loss falls well below where it began."""
    run = training(tmp_path, model(dropout=0.0), **{"max_steps": 60, "lr": 3e-2, **VARIANTS[name]})
    run.trainer.fit(None)
    assert losses(run)[-1] < 0.8 * losses(run)[0]


def test_recomputing_changes_no_bit(tmp_path):
    """Activation checkpointing gives the weights of the run without it, dropout included."""
    plain, recomputed = training(tmp_path / "a"), training(tmp_path / "b", activation_checkpointing=True)
    plain.trainer.fit(None)
    recomputed.trainer.fit(None)
    assert tensor_bits(plain) == tensor_bits(recomputed)


def test_the_average_is_what_is_evaluated_and_kept_as_the_model(tmp_path):
    """`model/` holds the averages, weights.safetensors the weights in training, and evaluation took the averages."""
    evaluate = EvaluateOptions(every_steps=4)
    module = HeadedToy()
    run = training(tmp_path / "averaged", module, evaluate=evaluate, ema_decay=0.9, lr=0.1)
    run.trainer.fit(None)
    state = run.checkpointer.states[8]
    kept, raw = state.tensors["model/model.safetensors"], state.tensors["weights.safetensors"]
    assert all(torch.equal(raw[n], p) for n, p in module.named_parameters()), (
        "the model goes on with its weights"
    )
    assert not torch.equal(raw["embed.weight"], kept["embed.weight"])

    twin = HeadedToy()
    weights.load(twin, state)
    alone = training(tmp_path / "alone", twin, evaluate=evaluate)
    from codex_torch import hardware, loop

    where = hardware.choose("cpu", "fp32", None, "strict", alone.run.report)
    evaluation = loop.evaluate(twin, alone.parts, 2, where, alone.run.report)
    said = [m["loss"] for split, _, m in run.records if split == "validation"][-1]
    assert evaluation.loss_sum / evaluation.tokens == said


def test_an_average_follows_from_the_weights_after_each_step(tmp_path):
    """It is decay · average + (1 - decay) · weights, the decay rising from 2/11 on; the weights are as without it."""
    with_average, without = (
        training(tmp_path / "a", every_steps=1, ema_decay=0.9),
        training(tmp_path / "b", every_steps=1),
    )
    with_average.trainer.fit(None)
    without.trainer.fit(None)
    steps = [
        with_average.checkpointer.states[s].tensors["weights.safetensors"]["norm.weight"] for s in range(1, 9)
    ]
    assert all(
        torch.equal(w, without.checkpointer.states[s].tensors["model/model.safetensors"]["norm.weight"])
        for s, w in enumerate(steps, start=1)
    )
    average = torch.ones_like(steps[0])
    for number, weight in enumerate(steps, start=1):
        decay = min(0.9, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weight
    kept = with_average.checkpointer.states[8].tensors["model/model.safetensors"]["norm.weight"]
    torch.testing.assert_close(kept, average)


def test_fp16_starts_with_a_scale_that_it_lowers(tmp_path):
    """An overflow costs no samples: the same step is taken again at half the scale, and the records say the scale."""
    run = training(tmp_path, model(dropout=0.0), precision="fp16", max_steps=4)
    run.trainer.fit(None)
    records = [m for split, _, m in run.records if split == "train"]
    assert [step for split, step, _ in run.records if split == "train"] == [1, 2, 3, 4]
    lowered = [fields["now"] for name, fields in run.run.report.events if name == "loss_scale_lowered"]
    assert records[-1]["loss_scale"] == (lowered or [65536.0])[-1]
    exact = training(tmp_path / "exact", model(dropout=0.0), max_steps=4)
    exact.trainer.fit(None)
    assert losses(run) == pytest.approx(losses(exact), rel=0.01)
