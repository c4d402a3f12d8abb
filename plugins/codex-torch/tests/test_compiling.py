import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_model import HeadedToy
from training import losses, model, training

from codex_kernel import EvaluateOptions, InputError
from codex_kernel.testing import RecordingReporter
from codex_kernel.testing.trainer import tensor_bits
from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch import compiling
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
from codex_kernel import EvaluateOptions, InputError
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
        '#!/bin/sh\n[ "$1" = --version ] && echo "g++ (GCC) 13.3.0" && exit 0\n'
        'echo "In file included from x.cpp:1:\nx.cpp:1:1: error: no luck today" >&2\nexit 1\n'
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


class Changing(torch.nn.Module):
    """A model that is another one at each call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.slow  # torch's compiler is imported
def test_a_model_that_changes_with_every_step_is_not_silently_left_uncompiled(monkeypatch):
    """Where there is no end to compiling, that is an error with the reason, not a slow run."""
    monkeypatch.setenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "")  # torch's compiler sets it
    monkeypatch.setattr(compiling, "RECOMPILATIONS", 2)
    module = Changing()
    compile_model(module, RecordingReporter())

    def steps():
        for _ in range(9):
            module(torch.ones(3))

    with pytest.raises(Exception, match="fail_on_recompile_limit_hit") as caught:
        steps()
    assert "recompile limit exceeded" in explain(caught.value).message
    assert 1 < module.calls < 6


@pytest.mark.slow  # two minutes: forward and backward are compiled for each shape
@pytest.mark.parametrize("vocabulary", [32, 1024])
def test_a_compiled_run_learns_as_an_eager_one_and_resumes_with_the_same_bits(
    monkeypatch, tmp_path, vocabulary
):
    """Without dropout the losses agree to 1e-4, through forward and through `hidden`; a resumed run has every bit.

    The last micro-batch of a step is short, and so is that of the evaluation.
    """
    monkeypatch.setenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "")  # torch's compiler sets it

    def run(name, **changes):
        torch._dynamo.reset()  # as in a new process
        torch.manual_seed(0)
        module = HeadedToy(vocabulary, dropout=changes.pop("dropout", 0.0))
        # With two blocks there are more tokens than in a chunk of the loss.
        data = ToyData(train=ToyBlocks(10, seq_len=160), validation=ToyBlocks(3, seq_len=160))
        changes |= {"global_batch_size": 3, "every_steps": 1, "evaluate": EvaluateOptions(every_steps=3)}
        return training(tmp_path / name, module, data, **changes)

    compiled = run("compiled", compile=True)
    compiled.trainer.fit(None)
    eager = run("eager")
    eager.trainer.fit(None)
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-4)

    whole = run("whole", compile=True, dropout=0.1)
    whole.trainer.fit(None)
    for step in (3, 5):
        resumed = run(f"resumed {step}", compile=True, dropout=0.1)
        resumed.trainer.fit(whole.checkpointer.states[step])
        assert tensor_bits(resumed) == tensor_bits(whole)
        assert losses(resumed) == losses(whole)[step:]
