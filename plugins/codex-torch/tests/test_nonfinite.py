import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from training import losses, model, training, weights_of

from codex_kernel import EvaluateOptions, NonFiniteError
from codex_kernel.testing.trainer import tensor_bits
from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch import faults
from codex_torch.plugin import LossSpike

STEPS, BAD = 12, 9
"""Steps of a run, and the one whose first block is poisoned; it comes once, since no block comes twice in these."""


def toy_data() -> ToyData:
    """More blocks than the run takes."""
    return ToyData(train=ToyBlocks(60))


class Poisoned(nn.Module):
    """Spoils its logits whenever it is given one certain block."""

    def __init__(self, block_T: np.ndarray, spoil: float) -> None:
        super().__init__()
        self.inner, self.spoil = model(dropout=0.1), spoil
        self.block_T = torch.from_numpy(block_T)

    def forward(self, input_ids_BT, position_ids_BT, document_ids_BT):
        logits_BTV = self.inner(input_ids_BT, position_ids_BT, document_ids_BT)
        poisoned_B = (input_ids_BT == self.block_T).all(-1)
        return logits_BTV * torch.where(poisoned_B, self.spoil, 1.0)[:, None, None]


def poison() -> int:
    """The poisoned block."""
    return int(toy_data().samples(4 * (BAD - 1), 1)[0])


def poisoned(tmp_path, spoil=math.nan, **changes):
    """A run that meets the block once."""
    data = toy_data()
    module = Poisoned(data.train.gather([poison()]).input_ids_BT[0], spoil)
    return training(tmp_path, module, data, **({"max_steps": STEPS} | changes))


def records_of(run) -> list[str]:
    """The records as text, for NaN equals nothing."""
    return [repr(record) for record in run.records]


def test_a_step_that_is_left_out_changes_no_weight(tmp_path):
    """`skip`: the weights of before go on, the step counts, and the samples are written down."""
    run = poisoned(tmp_path, on_nonfinite="skip", every_steps=1)
    assert run.trainer.fit(None).progress.step == STEPS
    states = run.checkpointer.states
    before, after = (states[step].tensors["model/model.safetensors"] for step in (BAD - 1, BAD))
    assert all(torch.equal(before[name], after[name]) for name in before)
    (nonfinite,) = [fields for name, fields in run.run.report.events if name == "nonfinite"]
    assert (nonfinite["step"], nonfinite["action"]) == (BAD, "skip")
    assert poison() in nonfinite["sample_ids"]
    assert f"step {BAD} is left out" in run.run.report.warnings[0]
    records = {step: metrics for split, step, metrics in run.records if split == "train"}
    assert "skipped_steps" not in records[BAD - 1]
    assert math.isnan(records[BAD]["loss"]), "a step without a loss does not claim one"
    assert records[STEPS]["skipped_steps"] == 1
    assert math.isfinite(records[STEPS]["loss"])


def test_a_skip_does_not_spoil_the_mean_of_its_window(tmp_path):
    """A record over several steps has the mean of those that were applied."""
    each = poisoned(tmp_path / "each", on_nonfinite="skip")
    window = poisoned(tmp_path / "window", on_nonfinite="skip", log_every=STEPS)
    each.trainer.fit(None)
    window.trainer.fit(None)
    applied = [loss for loss in losses(each)[1:] if math.isfinite(loss)]
    assert len(applied) == STEPS - 2
    assert losses(window)[-1] == pytest.approx(sum(applied) / len(applied), rel=0.05)


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("spoil", [math.nan, 1e6], ids=["nonfinite", "spike"])
def test_a_run_that_met_a_fault_can_be_resumed_anywhere(tmp_path, policy, spoil):
    """From any checkpoint, before the fault or after it, the run ends with the same records and bits."""
    options = {"on_nonfinite": policy, "loss_spike": LossSpike(window=8), "every_steps": 2}
    whole = poisoned(tmp_path / "whole", spoil, **options)
    result = whole.trainer.fit(None)
    assert [fields["step"] for name, fields in whole.run.report.events if name == "nonfinite"] == [BAD]
    for step in (2, 6, 8, 10):
        again = poisoned(tmp_path / str(step), spoil, **options)
        for kept, all_of_them in (
            (again.checkpointer.states, whole.checkpointer.states),
            (again.checkpointer.metrics, whole.checkpointer.metrics),
        ):
            kept.update({s: value for s, value in all_of_them.items() if s <= step})
        again.run.report.records[:] = whole.run.report.records
        assert again.trainer.fit(whole.checkpointer.states[step]).progress == result.progress
        assert tensor_bits(again) == tensor_bits(whole), f"from step {step}"
        assert records_of(again) == records_of(whole), f"from step {step}"


def test_a_rollback_goes_past_the_samples(tmp_path):
    """`rollback`: back to the newest checkpoint, past what came since; no step is lost and none is there twice."""
    run = poisoned(tmp_path, on_nonfinite="rollback", every_steps=3)
    result = run.trainer.fit(None)
    assert [s for split, s, _ in run.records if split == "train"] == list(range(1, STEPS + 1))
    assert (result.progress.step, result.progress.samples) == (STEPS, 4 * STEPS)
    assert "back to step 6, past these samples" in run.run.report.warnings[0]
    saved = run.checkpointer.states[STEPS].values["trainer.json"]
    assert saved["passed_over"] == 4 * (BAD - 6)
    assert saved["position"] == 4 * STEPS + saved["passed_over"]
    assert all(math.isfinite(loss) for loss in losses(run))


def test_a_rollback_needs_a_checkpoint(tmp_path):
    """Without one the run ends with exit code 5 and says what is missing."""
    with pytest.raises(NonFiniteError, match="there is no checkpoint to go back to") as caught:
        poisoned(tmp_path, on_nonfinite="rollback").trainer.fit(None)
    assert caught.value.exit_code == 5


class Broken(nn.Module):
    """Is healthy for some calls and spoiled ever after."""

    def __init__(self, healthy: int) -> None:
        super().__init__()
        self.inner, self.left = model(dropout=0.0), healthy

    def forward(self, *inputs):
        self.left -= 1
        return self.inner(*inputs) * (1 if self.left >= 0 else math.nan)


def test_a_run_that_only_leaves_out_steps_ends(tmp_path):
    """Ten in a row are not the samples' fault: exit code 5, and the weights are those of the last good step."""
    module = Broken(healthy=4)
    run = training(tmp_path, module, on_nonfinite="skip", max_steps=50, every_steps=1)
    with pytest.raises(NonFiniteError, match=f"{faults.SKIPS_IN_A_ROW} steps in a row"):
        run.trainer.fit(None)
    saved = run.checkpointer.states[2].tensors["model/model.safetensors"]
    assert all(torch.equal(saved[f"inner.{name}"], w) for name, w in weights_of(module.inner).items())


def test_a_run_that_only_goes_back_ends(tmp_path):
    """After three rollbacks to one checkpoint the run ends with exit code 5."""
    run = training(tmp_path, Broken(healthy=8), on_nonfinite="rollback", max_steps=50, every_steps=2)
    with pytest.raises(NonFiniteError, match="after 3 rollbacks to step 4"):
        run.trainer.fit(None)


def test_a_spike_is_a_fault_only_where_it_is_asked_for(tmp_path):
    """A huge finite loss goes through unless `loss_spike` is set; then `stop` ends the run before the update."""
    poisoned(tmp_path / "plain", 1e6).trainer.fit(None)
    with pytest.raises(NonFiniteError, match=r"the loss \d+\.\d+ is a spike at step"):
        poisoned(tmp_path / "guarded", 1e6, loss_spike=LossSpike(window=8)).trainer.fit(None)


class Normed(nn.Module):
    """Has running means, and is spoiled in one of its training calls."""

    def __init__(self, bad_call: int) -> None:
        super().__init__()
        self.inner, self.norm, self.left = model(dropout=0.0), nn.BatchNorm1d(32), bad_call

    def forward(self, *inputs):
        logits_BTV = self.inner(*inputs)
        self.left -= self.training
        logits_BTV = logits_BTV * (math.nan if self.left == 0 and self.training else 1)
        return self.norm(logits_BTV.reshape(-1, 32)).reshape(logits_BTV.shape)


def test_a_step_that_is_left_out_leaves_running_means_alone(tmp_path):
    """What the forward pass wrote into the buffers is undone with the step; later evaluations are finite."""
    run = training(
        tmp_path, Normed(5), on_nonfinite="skip", every_steps=1, evaluate=EvaluateOptions(every_steps=3)
    )
    run.trainer.fit(None)
    before, after, last = (run.checkpointer.states[s].tensors["model/model.safetensors"] for s in (2, 3, 8))
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(after[name], before[name]), "step 3 was left out"
        assert not torch.equal(last[name], before[name])
    assert all(math.isfinite(m["loss"]) for split, _, m in run.records if split == "validation")


@pytest.mark.parametrize("spoil", [math.nan, 1e4], ids=["nonfinite", "spike"])
def test_a_fault_of_the_samples_leaves_the_scale_of_fp16_alone(tmp_path, spoil):
    """Only a gradient that is infinite under a finite loss is the scale's fault."""
    run = poisoned(tmp_path, spoil, on_nonfinite="skip", loss_spike=LossSpike(window=8), precision="fp16")
    run.trainer.fit(None)
    found = [fields["step"] for name, fields in run.run.report.events if name == "nonfinite"]
    assert found == [BAD]
    lowered = [fields for name, fields in run.run.report.events if name == "loss_scale_lowered"]
    assert all(fields["now"] < fields["was"] for fields in lowered)
    scales = [metrics["loss_scale"] for split, _, metrics in run.records if split == "train"]
    assert scales[-1] == (lowered[-1]["now"] if lowered else 65536.0)


def test_a_checkpoint_after_a_step_without_a_loss_is_json(tmp_path):
    """NaN and infinity come back as what they were, out of values that any reader of JSON takes."""
    run = poisoned(tmp_path / "run", on_nonfinite="skip", every_steps=1)
    run.trainer.fit(None)
    state = run.checkpointer.states[BAD]
    json.dumps(state.values, allow_nan=False)
    again = poisoned(tmp_path / "again", on_nonfinite="skip", max_steps=STEPS, log_every=100)
    assert again.trainer.fit(state).progress.step == STEPS
    assert state.values["trainer.json"]["metrics"]["train/loss"] == "nan"
