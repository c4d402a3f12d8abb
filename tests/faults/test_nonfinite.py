"""A loss that is not a number: it never reaches the weights, and never stands in a log as if it were one."""

from __future__ import annotations

import pytest

from tests.faults.commands import AtForward
from tests.faults.comparison import (
    check_checkpoints_whole,
    checkpoints,
    events,
    newest_step,
    records,
    strict_json,
)
from tests.faults.subjects import STEPS, forward_of
from tests.faults.trials import check_goes_on

NONFINITE = 5
BAD_STEP = 11
NAN = AtForward(forward_of(BAD_STEP, 2), "nan")


def test_a_loss_that_is_not_finite_ends_the_run_with_healthy_weights(server, subject, tmp_path):
    """Exit 5, samples named, logs of valid JSON, the checkpoint before it whole; and from there on the same bits."""
    workplace = subject.workplace(tmp_path / "work")
    ended = server.codex(workplace, *subject.arguments(), at_forward=NAN)
    assert ended.code == NONFINITE, ended.said
    assert f"step {BAD_STEP}" in ended.err
    outcome = strict_json((workplace.run / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"], outcome["steps"]) == ("failed", NONFINITE, BAD_STEP - 1)
    assert records(workplace.run / "metrics.ndjson")[-1]["step"] == BAD_STEP - 1
    (event,) = events(workplace.run, "nonfinite")
    assert (event["step"], bool(event["sample_ids"])) == (BAD_STEP, True)
    check_checkpoints_whole(subject, workplace.run)
    assert newest_step(workplace.run) == 8
    check_goes_on(server, subject, workplace, "after NaN")


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_run_that_may_go_on_has_every_step_once_and_finite_weights(server, full, tmp_path, policy):
    """With skip and rollback it completes: each step is in the metrics once, and no NaN is in the weights."""
    import numpy as np

    workplace = full.workplace(tmp_path / "work")
    arguments = [*full.arguments(), "--set", f"trainer.on_nonfinite={policy}"]
    ended = server.codex(workplace, *arguments, at_forward=NAN)
    assert ended.code == 0, ended.said
    trained = [r["step"] for r in records(workplace.run / "metrics.ndjson") if r["split"] == "train"]
    assert trained == sorted(set(trained))
    assert trained[-1] == STEPS
    assert events(workplace.run, "nonfinite")
    file = checkpoints(workplace.run)[STEPS] / "model" / "model.safetensors"
    data = file.read_bytes()
    floats = np.frombuffer(data[8 + int.from_bytes(data[:8], "little") :], np.float32)
    assert np.isfinite(floats).all()
