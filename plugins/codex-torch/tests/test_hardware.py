import ctypes
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from torch import nn
from training import model, options

from codex_kernel.testing import RecordingReporter
from codex_torch import hardware
from codex_torch.hardware import Hardware, explain, peak_memory_bytes
from codex_torch.optimizers import make_optimizers

CPU = torch.device("cpu")
STRICT = Hardware(CPU, "fp32", deterministic=True)


def switches():
    """Every switch of torch that strict determinism touches."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize(("asked", "strict"), [("auto", True), ("strict", True), ("relaxed", False)])
def test_auto_is_strict_on_the_cpu(asked, strict):
    """`auto` promises the same bits where that costs next to nothing."""
    assert hardware.choose("cpu", "fp32", None, asked, RecordingReporter()).deterministic is strict


def test_strict_switches_everything_on_and_back():
    """In the block torch takes deterministic algorithms alone; after it, also an exception's, all is as before."""
    before = switches()
    assert before[0] is False
    with suppress(KeyError), STRICT.deterministic_algorithms():
        assert switches() == (True, False, False, True, False, ":4096:8")
        raise KeyError
    assert switches() == before


def test_settings_of_the_user_come_back(monkeypatch):
    """What was set before the block is set after it; a workspace that was chosen stays even in it."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = switches()
        with STRICT.deterministic_algorithms():
            assert switches()[1] is False
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)


def test_relaxed_touches_nothing():
    """Without determinism no switch of torch is changed."""
    before = switches()
    with Hardware(CPU, "fp32").deterministic_algorithms():
        assert switches() == before


def test_an_operation_without_a_deterministic_algorithm_is_explained():
    """The error names the operation and how to go on; other errors are none of its business."""
    with STRICT.deterministic_algorithms(), pytest.raises(RuntimeError) as caught:
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    error = explain(caught.value)
    assert error.message.startswith("the model needs put_, which has no deterministic algorithm")
    assert error.remedy.startswith("set trainer.determinism: relaxed")
    assert explain(RuntimeError("shapes differ")) is None
    assert explain(ValueError("use_deterministic_algorithms")) is None


def test_what_would_void_the_bits_is_written_down():
    """The event of a strict run names what must stay as it is; that of a relaxed one says that all is void."""
    report = RecordingReporter()
    hardware.choose("cpu", "fp32", None, "strict", report)
    hardware.choose("cpu", "fp32", None, "relaxed", report)
    (_, strict), (_, relaxed) = report.events
    assert strict["determinism"] == "strict"
    for word in ("torch", "processor", "threads", "micro_batch_size", "compile"):
        assert any(word in line for line in strict["void_by"])
    assert relaxed["determinism"] == "relaxed"
    assert "every run" in relaxed["void_by"][0]


def test_determinism_is_part_of_the_numerics():
    """A checkpoint says whether the bits were promised."""
    assert STRICT.numerics()["determinism"] == "strict"
    assert Hardware(CPU, "fp32").numerics()["determinism"] == "relaxed"


@pytest.mark.parametrize("units", [{"avx512_fp16": True}, {"avx512_fp16": True, "avx512_bf16": True}, {}])
def test_auto_never_takes_fp16(monkeypatch, units):
    """fp16 has a range so small that it is only ever taken when asked for."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert hardware.choose("cpu", "auto", None, "auto", RecordingReporter()).precision != "fp16"


@pytest.mark.parametrize(("units", "warned"), [({}, True), ({"avx512_fp16": True}, False)])
def test_fp16_without_a_unit_for_it_is_done_with_a_warning(monkeypatch, units, warned):
    """What was asked for is done; that it is slow is said."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    report = RecordingReporter()
    assert hardware.choose("cpu", "fp16", None, "auto", report).precision == "fp16"
    assert any("precision fp16 is slow" in line for line in report.warnings) is warned


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_scaler_works_for_fp16_alone(precision):
    """In fp32 and bf16 it hands the loss on as it is, and has no state."""
    scaler = Hardware(CPU, precision).scaler()
    loss = torch.ones(())
    assert (scaler.scale(loss) is loss) == (precision != "fp16")
    assert bool(scaler.state_dict()) == (precision == "fp16")


def test_a_step_in_fp16_updates_fp32_weights():
    """Under autocast the products are fp16 and the weights stay fp32; scaled gradients come back to their size."""
    where = Hardware(CPU, "fp16")
    module, scaler = model(), where.scaler()
    (optimizer,) = make_optimizers(module, options(precision="fp16"))
    ids = torch.arange(12)[None]
    with where.autocast():
        logits_BTV = module(ids, ids, torch.zeros_like(ids))
        assert logits_BTV.dtype == torch.float16
        loss = nn.functional.cross_entropy(logits_BTV[0].float(), ids[0])
    before = module.embed.weight.detach().clone()
    scaler.scale(loss).backward()
    scaled = module.embed.weight.grad.norm().item()
    scaler.unscale_(optimizer)
    assert module.embed.weight.grad.norm().item() == pytest.approx(scaled / scaler.get_scale(), rel=1e-5)
    scaler.step(optimizer)
    scaler.update()
    assert module.embed.weight.dtype == torch.float32
    assert not torch.equal(before, module.embed.weight)


def test_the_peak_of_memory_is_in_bytes_and_grows():
    """A process that touches 64 MB more has a peak that is 64 MB higher, and stays there."""
    code = (
        "import torch; from codex_torch.hardware import peak_memory_bytes as peak; cpu = torch.device('cpu')\n"
        "before = peak(cpu); block = torch.ones(16 * 2**20); held = peak(cpu); del block\n"
        "print(held - before, peak(cpu) - before)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert 60 * 2**20 < int(out[0]) < 90 * 2**20
    assert int(out[1]) > 60 * 2**20


def test_the_peak_of_a_process_is_not_that_of_its_parent():
    """A process that a large one started begins at its own size."""
    held = ctypes.create_string_buffer(b"x" * (400 * 2**20))
    code = "import torch; from codex_torch.hardware import peak_memory_bytes as peak; print(peak(torch.device('cpu')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    own = peak_memory_bytes(CPU)
    assert len(held) <= own
    assert int(out) < own
