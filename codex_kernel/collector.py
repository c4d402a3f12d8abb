"""Python's garbage collector while a run gets ready and while it trains.

One rule: it is held back while libraries are imported, and normal again before the first step.

Importing torch and transformers makes 600,000 objects; the collector would go through them again and again, a fifth of
the start. They live as long as the process, so a full collection in training would take 0.2 s to find none of them.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_WHILE_IMPORTING = (100_000, 50, 1000)
_settled = False


def hold_back() -> None:
    """Let the collector come by seldom: the process is about to import much and to throw away little.

    What is imported by now, the command line alone, is left out even of the last collection at the end of the process,
    nearly a tenth of the time of a short command.
    """
    gc.set_threshold(*_WHILE_IMPORTING)
    gc.freeze()


def settle() -> None:
    """Leave out of all collections what is there now, and collect as usual from here on.

    A training step makes cycles that hold tensors; they must go in time. So must what an earlier run of this process
    has left, which would else be kept for good.
    """
    global _settled  # noqa: PLW0603 - the collector is the process's own, too
    if _settled:
        gc.unfreeze()
        gc.collect()
    _settled = True
    gc.freeze()
    gc.set_threshold(*_USUAL)
