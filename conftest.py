"""What every test runs under: one thread, no network, and nothing left behind for the next test."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

# Before any test imports torch or a Hugging Face library, and for the programs that tests start.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

# As in an active environment, however pytest was started: lines that tell how to install something depend on it.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

# Whoever starts the tests under nohup, or in the background of a script, ignores these signals, and so would the
# programs that tests start and then stop.
for _number, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# No deadline: a busy machine is not a fault. In CI the same examples every time: a red run is a change of the code.
hypothesis.settings.register_profile(
    "codex",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("codex")

# pytest sets the first for each test; torch the second, and what `datasets` imports the third, when they are imported.
_EXPECTED_CHANGES = {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK"}


def _surroundings() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name not in _EXPECTED_CHANGES}
    return {**variables, "the working directory": str(Path.cwd())}


@pytest.fixture(autouse=True)
def _leave_no_trace():
    """Fail a test that leaves another environment or working directory behind, and put both back."""
    before = _surroundings()
    yield
    after = _surroundings()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed:
        if name == "the working directory":
            os.chdir(before[name])
        elif name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    if changed:
        pytest.fail(f"the test changed {', '.join(changed)} and did not put it back (monkeypatch does)")
