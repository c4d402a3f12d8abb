"""Calls of native code that looks for no signal, made so that Ctrl-C ends them.

One rule: what the call is fed with is made in the thread that signals reach; the call itself runs in another one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from attrs import define, field

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.1
_AHEAD = 4
_END = object()
_ABANDONED = object()


class AbandonedError(Exception):
    """Raised in the work where nobody waits for it any more."""


@define(eq=False)
class _Work(Generic[Item, Result]):
    """Work in a thread of its own, and what it came to."""

    call: Callable[[Iterator[Item]], Result]
    items: queue.Queue[object] = field(factory=lambda: queue.Queue(_AHEAD))
    results: list[Result] = field(factory=list)
    failures: list[BaseException] = field(factory=list)

    def run(self) -> None:
        try:
            self.results.append(self.call(self._given()))
        except BaseException as failure:  # noqa: BLE001 - it is raised where the work is waited for
            self.failures.append(failure)

    def _given(self) -> Iterator[Item]:
        while (item := self.items.get()) is not _END:
            if item is _ABANDONED:
                raise AbandonedError
            yield item  # type: ignore[misc]

    def abandon(self) -> None:
        """Let the work find no further item, so that it ends where it asks for one."""
        abandoned = False
        while not abandoned:
            with suppress(queue.Empty):
                self.items.get_nowait()
            with suppress(queue.Full):
                self.items.put_nowait(_ABANDONED)
                abandoned = True


def interruptible(
    work: Callable[[Iterator[Item]], Result],
    items: Iterable[Item],
    waiting: Callable[[float], None] | None = None,
) -> Result:
    """Return `work(items)`: the items are made here, and the work runs in a thread, with a few of them in advance.

    waiting: is told about ten times a second how many seconds the work has gone on after the last item.
    Raises what the work or the items raise. An exception here, such as that of a signal, does not wait for the work:
    it gets no further item, and its thread ends with the process at the latest.
    """
    doing = _Work(work)
    thread = threading.Thread(target=doing.run, name="interruptible", daemon=True)
    thread.start()
    try:
        for item in items:
            if not _put(doing.items, item, thread):
                break
        _put(doing.items, _END, thread)
        begun = time.monotonic()
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            if waiting is not None:
                waiting(time.monotonic() - begun)
    except BaseException:
        doing.abandon()
        raise
    if doing.failures:
        raise doing.failures[0]
    return doing.results[0]


def _put(items: queue.Queue[object], item: object, thread: threading.Thread) -> bool:
    """Hand an item over; False where the work has ended before."""
    while thread.is_alive():
        try:
            items.put(item, timeout=_LOOK_SECONDS)
        except queue.Full:
            continue
        return True
    return False
