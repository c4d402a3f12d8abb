import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_model import HeadedToy
from training import losses, model, training

from codex_kernel import InputError
from codex_kernel.testing import RecordingReporter
from codex_kernel.testing.trainer import tensor_bits
from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch.compiling import compile_model, explain

# torch's compiler warns of torch itself when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_names_stay_and_hidden_is_compiled_too():
    """Parameters keep their names; both ways into the model are compiled, which the user is warned about."""
    module, report = HeadedToy(), RecordingReporter()
    names, plain = list(module.state_dict()), module.hidden
    compile_model(module, report)
    assert list(module.state_dict()) == names
    assert module.hidden != plain
    assert module._compiled_call_impl is not None
    assert "the first step takes up to minutes longer" in report.warnings[0]


@pytest.mark.parametrize(
    ("threads", "strict", "warned"), [(1, False, False), (2, False, True), (2, True, False)]
)
def test_several_threads_without_determinism_are_warned_about(monkeypatch, threads, strict, warned):
    """What would not repeat bit by bit is said."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: strict)
    report = RecordingReporter()
    compile_model(model(), report)
    assert any("does not repeat bit by bit" in line for line in report.warnings) is warned


def test_a_compiler_that_is_not_there_is_said_before_the_first_step(monkeypatch):
    """The error names the compiler that was looked for, and both ways out; the model stays as it is."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    module = model()
    with pytest.raises(
        InputError, match=r"needs a C\+\+ compiler, and no-such-compiler is not found"
    ) as caught:
        compile_model(module, RecordingReporter())
    assert "install " in caught.value.remedy
    assert "trainer.compile: false" in caught.value.remedy
    assert module._compiled_call_impl is None


def test_other_errors_are_none_of_its_business():
    """An error of the model is not put down to the compiler."""
    assert explain(RuntimeError("shapes differ")) is None


BROKEN = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from training import training
from codex_kernel import InputError
try:
    training(Path({folder!r}), compile=True, max_steps=1).trainer.fit(None)
except InputError as error:
    print("message:", error.message)
    print("remedy:", error.remedy)
"""


@pytest.mark.slow  # half a minute: torch's compiler is imported anew
def test_a_compiler_that_fails_is_explained_by_its_first_error(tmp_path):
    """The first step ends with the compiler's own first error line and a remedy, not with a traceback of torch."""
    compiler = tmp_path / "broken-g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cpp:1:1: error: no luck today" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    code = BROKEN.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    env = os.environ | {"CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert "message: the model cannot be compiled: " in out
    assert "error: no luck today" in out
    assert "remedy: set trainer.compile: false" in out


@pytest.mark.slow  # a minute: forward and backward are compiled for each shape
@pytest.mark.parametrize("vocabulary", [32, 1024])
def test_a_compiled_run_learns_as_an_eager_one_and_resumes_with_the_same_bits(tmp_path, vocabulary):
    """Without dropout the losses agree to 1e-4, through forward and through `hidden`; a resumed run has every bit."""

    def run(name, **changes):
        torch.manual_seed(0)
        module = HeadedToy(vocabulary, dropout=changes.pop("dropout", 0.0))
        data = ToyData(train=ToyBlocks(10, seq_len=160))  # with 2 blocks more tokens than a chunk of the loss
        return training(tmp_path / name, module, data, every_steps=2, **changes)

    eager, compiled = run("eager"), run("compiled", compile=True)
    eager.trainer.fit(None)
    compiled.trainer.fit(None)
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-4)

    whole, resumed = (run(name, compile=True, dropout=0.1) for name in ("whole", "resumed"))
    whole.trainer.fit(None)
    resumed.trainer.fit(whole.checkpointer.states[4])
    assert tensor_bits(resumed) == tensor_bits(whole)
    assert losses(resumed) == losses(whole)[4:]
