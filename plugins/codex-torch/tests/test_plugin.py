import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from training import model, options, training

from codex_kernel import InputError, KeepBest
from codex_kernel.testing import RecordingReporter, hooks_of, make_run
from codex_torch import hardware
from codex_torch.checkpointer import SafetensorsCheckpointer
from codex_torch.plugin import TorchTrainer


def test_nothing_heavy_is_imported_with_the_plugins():
    """The manifest's plugins are known without torch, numpy or safetensors, and so is what is wrong with them."""
    code = (
        "import sys, pathlib; from codex_torch.plugin import TorchTrainer;"
        "from codex_torch.checkpointer import SafetensorsCheckpointer;"
        "problems = list(TorchTrainer(epochs=1).codex_preflight());"
        "print(problems, [n for n in ('torch', 'numpy', 'safetensors') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] []"


@pytest.mark.parametrize(
    ("given", "found"), [({}, "none of them"), ({"max_steps": 3, "epochs": 1.0}, "max_steps and epochs")]
)
def test_exactly_one_limit_is_given(given, found):
    """No limit and two limits are both refused, with what was found."""
    with pytest.raises(InputError, match=f"exactly one of max_steps, epochs, max_tokens, got {found}"):
        TorchTrainer(**given)


def test_a_micro_batch_is_not_larger_than_the_step():
    """More blocks at once than a step has are refused."""
    with pytest.raises(InputError, match="micro_batch_size <= global_batch_size 4, got 8"):
        options(micro_batch_size=8, global_batch_size=4)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "meta", "CPU"])
def test_an_unknown_device_is_refused(device):
    """Only auto, cpu and cuda devices are known."""
    with pytest.raises(InputError, match="expected device auto, cpu, cuda or cuda:N"):
        options(device=device)


@pytest.mark.parametrize("changes", [{"lr": 0.0}, {"betas": (0.9, 1.0)}, {"keep": 0}, {"warmup_steps": -1}])
def test_numbers_out_of_bounds_are_refused(changes):
    """Each option has its bounds."""
    with pytest.raises((ValueError, TypeError)):
        options(**changes)


def test_cuda_that_is_not_there_is_an_error():
    """A device that was asked for is never replaced by another one."""
    if torch.cuda.is_available():
        with pytest.raises(InputError, match=f"'cuda:{torch.cuda.device_count()}'"):
            hardware.choose(f"cuda:{torch.cuda.device_count()}", "fp32", None, "auto", RecordingReporter())
    else:
        with pytest.raises(InputError, match=r"'cuda', but torch .* sees 0 CUDA devices"):
            hardware.choose("cuda", "fp32", None, "auto", RecordingReporter())


def test_what_auto_chose_is_reported():
    """Device, precision and threads are written down."""
    report = RecordingReporter()
    chosen = hardware.choose("auto", "auto", None, "auto", report)
    ((name, fields),) = report.events
    assert name == "hardware"
    assert fields["device"] == str(chosen.device)
    assert fields["precision"] == chosen.precision
    assert fields["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(("units", "precision"), [({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")])
def test_auto_takes_bf16_where_the_processor_has_it(monkeypatch, units, precision):
    """`auto` goes by the processor's units, and is quiet about it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    report = RecordingReporter()
    assert hardware.choose("cpu", "auto", None, "auto", report).precision == precision
    assert report.warnings == []


def test_bf16_without_a_unit_for_it_is_done_with_a_warning(monkeypatch):
    """What was asked for is done; that it is slow is said."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    report = RecordingReporter()
    assert hardware.choose("cpu", "bf16", None, "auto", report).precision == "bf16"
    assert "precision bf16 is slow" in report.warnings[0]


class DrawingModel:
    """A model plugin whose weights are drawn at random."""

    from codex_kernel import hookimpl

    @hookimpl
    def codex_model(self):
        return nn.Linear(4, 4)


def test_weights_follow_from_the_seed_of_the_run(tmp_path):
    """The generators are seeded before the model is built, whatever was drawn before."""
    run = make_run(tmp_path)
    hooks = hooks_of(DrawingModel(), options())
    first, second = (hooks.codex_model(run=run, tokenizer=None, materialize=True).weight for _ in range(2))
    assert torch.equal(first, second)


def test_where_shapes_are_enough_no_weights_are_made(tmp_path):
    """A plan builds its model on the meta device; whether the trainer comes before or after the model."""
    for plugins in ([DrawingModel(), options()], [options(), DrawingModel()]):
        built = hooks_of(*plugins).codex_model(run=make_run(tmp_path), tokenizer=None, materialize=False)
        assert built.weight.is_meta
    assert not torch.zeros(1).is_meta


def test_keep_best_is_an_option():
    """The rule of the kernel is a section of the checkpointer's."""
    checkpointer = SafetensorsCheckpointer(keep_best=KeepBest("validation/loss", count=3))
    assert checkpointer.keep_best.mode == "min"


def test_a_checkpoint_names_what_made_it(tmp_path):
    """trainer.json has the fingerprints, the options that decide the curve, and what decides the last bits."""
    run = training(tmp_path, model())
    run.trainer.fit(None)
    values = json.loads(json.dumps(run.checkpointer.states[8].values["trainer.json"]))
    assert (values["step"], values["position"]) == (8, 32)
    assert values["fingerprints"] == {"data": run.parts.data.fingerprint}
    assert values["curve"]["lr"] == 1e-2
    assert values["curve"]["seed"] == run.run.seed
    assert values["numerics"]["torch"] == torch.__version__
