"""Native code is called so that Ctrl-C ends it."""

import _thread
import threading

import pytest

from codex_kernel import interruptible
from codex_kernel.native_calls import AbandonedError


def test_the_result_is_that_of_the_work():
    """The items come in their order, however many there are, and the answer is the work's."""
    assert interruptible(list, iter(range(100))) == list(range(100))
    assert interruptible(lambda items: next(items, "none"), []) == "none"


def test_work_may_leave_items_over():
    """Work that ends before its items do is not waited for with further ones."""
    assert interruptible(next, iter(range(100))) == 0


def test_items_are_made_where_the_caller_is():
    """The thread of the work makes no item."""
    makers = interruptible(list, (threading.get_ident() for _ in range(3)))
    assert set(makers) == {threading.get_ident()}


def test_what_the_work_raises_is_raised():
    """An error of the work comes out as it is, and no further item is made for it."""
    made = []

    def work(items):
        next(items)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        interruptible(work, (made.append(n) or n for n in range(1_000_000)))
    assert len(made) < 1_000_000


def test_what_the_items_raise_is_raised_and_ends_the_work():
    """An error of the items comes out as it is; the work is told that nobody waits."""
    seen, ended = [], threading.Event()

    def work(items):
        try:
            seen.extend(items)
        except AbandonedError:
            ended.set()
            raise

    def items():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        interruptible(work, items())
    assert ended.wait(60)


@pytest.mark.parametrize("fed", [True, False])
def test_an_interrupt_does_not_wait_for_the_work(fed):
    """Ctrl-C comes through while the work looks for nothing, be it fed still or left alone."""
    hold = threading.Event()

    def work(items):
        if not fed:
            list(items)
        _thread.interrupt_main()
        hold.wait()

    with pytest.raises(KeyboardInterrupt):
        interruptible(work, range(1000 if fed else 3))
    hold.set()


def test_who_waits_is_told_for_how_long():
    """After the last item the caller hears now and then how long the work goes on."""
    told, enough = [], threading.Event()

    def work(items):
        list(items)
        assert enough.wait(60)

    def waiting(seconds):
        told.append(seconds)
        if len(told) == 3:
            enough.set()

    interruptible(work, [1], waiting)
    assert told == sorted(told)
    assert len(told) >= 3
