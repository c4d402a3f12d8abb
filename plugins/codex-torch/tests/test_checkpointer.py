import numpy as np
import pytest
import torch

from codex_kernel import CheckpointState, PluginError
from codex_kernel.testing import CheckpointArchiveContract, hooks_of, make_run
from codex_torch.checkpointer import SafetensorsCheckpointer


class TestInTheBackground(CheckpointArchiveContract):
    def make(self, *, every_steps, keep_last):
        return SafetensorsCheckpointer(every_steps=every_steps, keep_last=keep_last)

    def tensor(self, array):
        return torch.from_numpy(array)


class TestInTheTrainingThread(CheckpointArchiveContract):
    def make(self, *, every_steps, keep_last):
        return SafetensorsCheckpointer(every_steps=every_steps, keep_last=keep_last, asynchronous=False)

    def tensor(self, array):
        return torch.from_numpy(array)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("wait", [True, False])
def test_tensors_of_another_library_are_refused(tmp_path, asynchronous, wait):
    """A trainer without torch is told at its first save that this checkpointer is not for it."""
    plugin = SafetensorsCheckpointer(asynchronous=asynchronous)
    folder = tmp_path / "checkpoints"
    checkpointer = hooks_of(plugin).codex_checkpointer(run=make_run(tmp_path), folder=folder, read_only=False)
    state = CheckpointState(tensors={"model/counts.safetensors": {"counts": np.zeros(3)}}, values={})
    with pytest.raises(PluginError, match=r"keeps torch tensors, got numpy.ndarray for 'counts'") as caught:
        checkpointer.save(1, state, {}, wait=wait)
    assert "name another checkpointer" in caught.value.remedy
    checkpointer.close()
