import threading

import numpy as np
import pytest
import torch

from codex_kernel.testing.training import ToyBlocks, ToyData
from codex_torch.prefetch import Prefetch

CPU = torch.device("cpu")


class Noting:
    """Toy data that notes which thread read which samples."""

    def __init__(self):
        self.data, self.reads = ToyData(), []

    @property
    def train(self):
        return self

    def samples(self, start, count):
        return self.data.samples(start, count)

    def gather(self, ids):
        self.reads.append((threading.current_thread().name.split("_")[0], ids.tolist()))
        if 99 in ids:
            raise OSError("gone")
        return self.data.train.gather(ids)


def same(batch, position, count):
    """Say whether a batch holds these samples of the order."""
    expected = ToyData().train.gather(ToyData().samples(position, count))
    return np.array_equal(batch.input_ids_BT, expected.input_ids_BT) and np.array_equal(
        batch.sample_ids_B, expected.sample_ids_B
    )


def test_batches_are_those_of_the_order():
    """Step after step, the last one shorter, every batch is the one that would have been read at once."""
    batches = Prefetch(ToyData(), CPU, ahead=True)
    for position, count, following in [(0, 3, 3), (3, 3, 3), (6, 3, 1), (9, 1, 0)]:
        assert same(batches.take(position, count, following), position, count)


def test_a_foreseen_batch_is_read_by_the_thread():
    """The first batch is read by who asks, the next ones were read meanwhile, each once."""
    data = Noting()
    batches = Prefetch(data, CPU, ahead=True)
    for step in range(3):
        batches.take(2 * step, 2, 2 if step < 2 else 0)
    assert [thread for thread, _ in data.reads] == ["MainThread", "codex-prefetch", "codex-prefetch"]


def test_a_batch_that_was_not_foreseen_is_read_at_once():
    """The same samples again, or others after a rollback, are read as they are asked for."""
    batches = Prefetch(ToyData(), CPU, ahead=True)
    for position, count in [(0, 2), (0, 2), (8, 2), (2, 3)]:
        assert same(batches.take(position, count, 2), position, count)


def test_on_a_cpu_nothing_is_read_ahead():
    """Without `ahead` every batch is read by who asks for it."""
    data = Noting()
    batches = Prefetch(data, CPU, ahead=False)
    assert same(batches.take(0, 2, 2), 0, 2)
    assert same(batches.take(2, 2, 2), 2, 2)
    assert {thread for thread, _ in data.reads} == {"MainThread"}


def test_an_error_of_reading_reaches_the_step_that_asks():
    """What goes wrong in the thread is raised where the batch is taken."""

    class Failing(Noting):
        def samples(self, start, count):
            return np.array([99]) if start else super().samples(start, count)

    batches = Prefetch(Failing(), CPU, ahead=True)
    batches.take(0, 1, 1)
    with pytest.raises(OSError, match="gone"):
        batches.take(1, 1, 1)


def test_the_thread_ends_with_it():
    """Nothing is left of it once the run lets it go."""
    before = set(threading.enumerate())
    batches = Prefetch(ToyData(ToyBlocks(10)), CPU, ahead=True)
    batches.take(0, 2, 2)
    (thread,) = set(threading.enumerate()) - before
    batches.take(2, 2, 0)
    del batches
    thread.join(30)
    assert not thread.is_alive()
