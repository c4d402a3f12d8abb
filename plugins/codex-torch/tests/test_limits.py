import itertools
import math

import pytest
from attrs import evolve
from torch import nn
from training import losses, model, options, training

from codex_kernel import EvaluateOptions, InputError
from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch import loop
from codex_torch.plugin import EarlyStopping, LossSpike


@pytest.fixture
def ticking(monkeypatch):
    """Let every look at the clock take a second."""
    seconds = itertools.count()
    monkeypatch.setattr(loop, "clock", lambda: float(next(seconds)))


def test_a_run_ends_with_its_time(tmp_path, ticking):
    """`max_minutes` ends the run after the step under way, evaluated, saved and completed."""
    run = training(tmp_path, max_steps=100, max_minutes=0.5)
    result = run.trainer.fit(None)
    assert 1 < result.progress.step < 20
    assert result.stop_reason == f"max_minutes 0.5 reached after step {result.progress.step}"
    assert result.signal_number is None
    assert list(run.checkpointer.states) == [result.progress.step]
    assert run.records[-1][0] == "validation"


def test_time_goes_on_counting_when_a_run_is_resumed(tmp_path, ticking):
    """The minutes are those of all its parts; with more of them it goes on where it was."""
    first = training(tmp_path, max_steps=100, max_minutes=0.5)
    step = first.trainer.fit(None).progress.step
    same = training(tmp_path / "same", max_steps=100, max_minutes=0.5)
    assert same.trainer.fit(first.checkpointer.states[step]).progress.step == step
    longer = training(tmp_path / "longer", max_steps=100, max_minutes=1.0)
    assert longer.trainer.fit(first.checkpointer.states[step]).progress.step > step


def test_time_may_be_the_only_limit(tmp_path, ticking):
    """With a schedule that has no end the number of steps need not be known."""
    run = training(tmp_path, max_steps=None, max_minutes=0.5, schedule="constant")
    result = run.trainer.fit(None)
    assert result.progress.step > 1
    assert result.progress.total_steps is None
    assert {metrics["lr"] for split, _, metrics in run.records if split == "train"} == {1e-2}


def test_a_schedule_that_ends_needs_its_end():
    """A cosine over minutes would be another curve on every machine."""
    with pytest.raises(InputError, match="cosine goes down to an end that max_minutes does not tell"):
        options(max_steps=None, max_minutes=1.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"momentum": 0.9}, "momentum is set, but optimizer adamw has none"),
        ({"optimizer": "sgd", "betas": (0.9, 0.9)}, "betas is set, but optimizer sgd has none"),
        ({"decay_steps": 3}, "decay_steps is set, but schedule cosine has none"),
        ({"schedule": "inverse-sqrt"}, "warmup_steps is 0"),
    ],
)
def test_an_option_that_nothing_reads_is_an_error(changes, said):
    """No option is silently without effect."""
    with pytest.raises(InputError, match=said):
        options(**changes)


def test_a_run_ends_when_it_no_longer_improves(tmp_path):
    """`early_stopping` ends the run, completed and saved, with a word on what was best."""
    evaluate = EvaluateOptions(every_steps=2)
    run = training(
        tmp_path, evaluate=evaluate, max_steps=200, lr=1e-6, early_stopping=EarlyStopping(2, min_delta=1.0)
    )
    result = run.trainer.fit(None)
    assert result.progress.step == 6, "the first evaluation is the best, and two do not improve on it by 1.0"
    assert "validation/loss" in result.stop_reason
    assert list(run.checkpointer.states) == [6]
    again = training(
        tmp_path / "again",
        evaluate=evaluate,
        max_steps=200,
        lr=1e-6,
        early_stopping=EarlyStopping(2, min_delta=1.0),
    )
    assert again.trainer.fit(run.checkpointer.states[6]) == result


def test_early_stopping_is_resumed_with_what_it_has_counted(tmp_path):
    """Broken between two evaluations, the run ends at the same step."""
    changes = {
        "evaluate": EvaluateOptions(every_steps=2),
        "max_steps": 200,
        "lr": 1e-6,
        "early_stopping": EarlyStopping(3, min_delta=1.0),
    }
    whole = training(tmp_path / "whole", every_steps=1, **changes)
    result = whole.trainer.fit(None)
    assert result.progress.step == 8
    for step in (1, 3, 4, 7):
        again = training(tmp_path / str(step), **changes)
        assert again.trainer.fit(whole.checkpointer.states[step]) == result
        assert losses(again)[-1] == losses(whole)[-1]


def test_early_stopping_needs_something_to_stop_by(tmp_path):
    """Without evaluations on the way, or with a metric that they do not give, it is an error before the first step."""
    data = ToyData(validation=None)
    with pytest.raises(InputError, match="early_stopping needs evaluations"):
        training(tmp_path, data=data, early_stopping=EarlyStopping(1)).trainer.fit(None)
    run = training(
        tmp_path,
        evaluate=EvaluateOptions(every_steps=1),
        early_stopping=EarlyStopping(1, metric="validation/los"),
    )
    with pytest.raises(InputError, match=r"validation/los.*validation/loss"):
        run.trainer.fit(None)
    assert run.records == []
    with pytest.raises(InputError, match=r"evaluate\.every_steps is null"):
        training(tmp_path / "never", early_stopping=EarlyStopping(1)).trainer.fit(None)


def test_a_larger_limit_is_another_curve_unless_it_is_allowed(tmp_path):
    """`allowed_changes` lets a run go on with another number of steps, and says so."""
    first = training(tmp_path)
    first.trainer.fit(None)
    with pytest.raises(InputError, match=r"steps was 8, is 12.*") as caught:
        training(tmp_path / "refused", max_steps=12).trainer.fit(first.checkpointer.states[8])
    assert "--allow-change trainer.max_steps" in caught.value.remedy
    run = training(tmp_path / "allowed", max_steps=12)
    run.trainer.run = evolve(run.run, allowed_changes=frozenset({"trainer.max_steps"}))
    assert run.trainer.fit(first.checkpointer.states[8]).progress.step == 12
    assert "the curve is not that of a run without a break: steps was 8, is 12" in run.run.report.warnings[0]
    assert all(math.isfinite(loss) for loss in losses(run))


def test_an_option_inside_another_is_allowed_by_its_own_key(tmp_path):
    """The manifest names `trainer.loss_spike.sigmas`; the checkpoint holds `loss_spike` as a whole."""
    first = training(tmp_path, max_steps=4, loss_spike=LossSpike(sigmas=6.0))
    first.trainer.fit(None)
    for key, fits in (("trainer.loss_spike.sigmas", True), ("trainer.loss", False)):
        run = training(tmp_path / key, max_steps=4, loss_spike=LossSpike(sigmas=7.0))
        run.trainer.run = evolve(run.run, allowed_changes=frozenset({key}))
        if fits:
            assert run.trainer.fit(first.checkpointer.states[4]).progress.step == 4
            continue
        with pytest.raises(InputError, match=r"loss_spike was .* is .*"):
            run.trainer.fit(first.checkpointer.states[4])


def test_a_run_that_no_longer_improves_records_its_last_steps(tmp_path):
    """Its end is known only after an evaluation; what came since the last record is not lost."""
    run = training(
        tmp_path,
        evaluate=EvaluateOptions(every_steps=3),
        max_steps=200,
        lr=1e-6,
        log_every=4,
        early_stopping=EarlyStopping(1, min_delta=1.0),
    )
    result = run.trainer.fit(None)
    steps = [step for split, step, _ in run.records if split == "train"]
    assert (result.progress.step, steps) == (6, [1, 4, 6])
    assert result.metrics["train/loss"] == losses(run)[-1]
    assert run.checkpointer.metrics[6]["train/loss"] == losses(run)[-1]


def went_on(tmp_path, before, now, keys):
    """The result and the run with changed options, from the second step of one with the former ones."""
    first = training(tmp_path / "first", every_steps=2, **before)
    first.trainer.fit(None)
    run = training(tmp_path / "second", **now)
    run.trainer.run = evolve(run.run, allowed_changes=frozenset(keys))
    return run.trainer.fit(first.checkpointer.states[2]), run


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_a_run_goes_on_with_another_batch_to_its_own_end(tmp_path, batch):
    """Epochs end with their blocks, `max_steps` with its steps; the total that is shown is where the run ends."""
    for limit in ({"epochs": 2.0}, {"max_steps": 6}):
        result, _ = went_on(
            tmp_path / str(limit), limit, limit | {"global_batch_size": batch}, {"trainer.global_batch_size"}
        )
        progress = result.progress
        assert progress.step == progress.total_steps
        if "epochs" in limit:
            assert progress.samples == 20
        else:
            assert (progress.step, progress.samples) == (6, 2 * 4 + 4 * batch)


NAMES = ("adamw", "sgd", "adafactor", "muon")


@pytest.mark.parametrize(("before", "now"), [(a, b) for a in NAMES for b in NAMES if a != b])
def test_another_optimizer_begins_anew(tmp_path, before, now):
    """It has no use for what the former one has kept: nothing of that is taken over, and the run says so."""
    _, run = went_on(tmp_path, {"optimizer": before}, {"optimizer": now}, {"trainer.optimizer"})
    alone = training(tmp_path / "alone", optimizer=now)
    alone.trainer.fit(None)
    kept, own = (r.checkpointer.states[8].tensors["optimizer.safetensors"] for r in (run, alone))
    assert kept.keys() == own.keys()
    assert f"the optimizer begins anew: {now}" in " ".join(run.run.report.warnings)


class SpoiledOnce(nn.Module):
    """Gives NaN in one of its calls."""

    def __init__(self, call=0):
        super().__init__()
        self.inner, self.left = model(dropout=0.0), call

    def forward(self, *inputs):
        self.left -= 1
        return self.inner(*inputs) * (math.nan if self.left == 0 else 1)


def test_a_rollback_to_another_optimizers_checkpoint_begins_anew_too(tmp_path):
    """The moments since the resume are forgotten, and what the run said when it went on is not said again."""
    data, common = ToyData(train=ToyBlocks(40)), {"on_nonfinite": "rollback", "max_steps": 4}
    first = training(tmp_path / "first", SpoiledOnce(), data, optimizer="sgd", every_steps=2, **common)
    first.trainer.fit(None)
    first.checkpointer.states.pop(4)
    # Two micro-batches a step: the fourth step is spoiled.
    run = training(tmp_path / "second", SpoiledOnce(call=3), data, **common)
    run.checkpointer.states.update(first.checkpointer.states)
    run.checkpointer.metrics.update(first.checkpointer.metrics)
    run.trainer.run = evolve(run.run, allowed_changes=frozenset({"trainer.optimizer"}))
    assert run.trainer.fit(first.checkpointer.states[2]).progress.step == 4
    steps = run.checkpointer.states[4].tensors["optimizer.safetensors"]
    assert {float(value) for name, value in steps.items() if name.startswith("step/")} == {2.0}
    said = [warning.partition(":")[0] for warning in run.run.report.warnings]
    assert len(said) == len(set(said))
    assert any("back to step 2" in warning for warning in run.run.report.warnings)
