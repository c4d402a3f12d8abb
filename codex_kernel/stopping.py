"""Signals: a run that is asked to stop finishes its step, saves, and says how to go on.

One rule: the first signal is a request, the second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from attrs import define, field

from codex_kernel.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@define(eq=False)
class SignalStop:
    """The stop request of a run.

    Before `deferring` is set, while the parts are built, there is nothing to save and a signal ends the run at once;
    `remedy` then says how to begin again.
    """

    deferring: bool = False
    remedy: str | None = None
    signal_number: int | None = field(init=False, default=None)
    _holding: bool = field(init=False, default=False)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals until the block ends, then give them back to their former handlers.

        A signal that is ignored stays so: nohup, or a script that started the run with `&`, has asked for that.
        """
        wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._handle) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def insisting(self) -> Iterator[None]:
        """Let a stop that came before the first step end the block, whatever a library has made of its exception."""
        try:
            yield
        except Exception as error:
            if self.signal_number is None or self.deferring or isinstance(error, StoppedError):
                raise
            raise self._stopped(self.signal_number) from error

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Let a signal wait until the block ends: what is in it must not end half way, as the start of a thread."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.signal_number is not None and not self.deferring:
            raise self._stopped(self.signal_number)

    def _stopped(self, number: int) -> StoppedError:
        text = f"stopped by {signal.Signals(number).name} before the first step"
        return StoppedError(text, signal_number=number, remedy=self.remedy)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal_number is not None:
            os._exit(128 + number)  # asked twice: no clean-up, the checkpoints on disk are whole
        self.signal_number = number
        if self._holding:
            return
        if not self.deferring:
            raise self._stopped(number)
        # os.write, since a signal handler must not wait for a lock that the interrupted code may hold.
        with suppress(OSError):  # the terminal may be what has gone
            os.write(2, f"\n{name}: finishing the step and saving; once more stops at once\n".encode())
