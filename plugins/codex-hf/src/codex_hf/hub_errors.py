"""What libraries say of a failure, said once, by codex.

One rule: a library is silent only while it is asked; its words are those of the error that codex shows.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from attrs import frozen

from codex_kernel import StorageError

# Where a library turns its progress bars off, and the variable by which a user asks for them all the same. Not those of
# huggingface_hub: they tell how long a download takes, which nobody else does.
_BARS = {"datasets": ("datasets.utils", "HF_DATASETS_DISABLE_PROGRESS_BARS")}

_lock = threading.Lock()
_silencing: Counter[str] = Counter()
_before: dict[str, _Voice] = {}


@contextmanager
def silenced(library: str) -> Iterator[None]:
    """Keep a library from logging, and `datasets` from drawing: a run tells how far it is, an error what was wrong.

    Several may hold it at once, and end in any order: generators do.
    """
    with _lock:
        if not _silencing[library]:
            _before[library] = _silence(library)
        _silencing[library] += 1
    try:
        yield
    finally:
        with _lock:
            _silencing[library] -= 1
            if not _silencing[library]:
                _restore(library, _before.pop(library))


@frozen
class _Voice:
    """How loud a library was: the level of its logger, and what drew its bars, where they are to come back."""

    level: int
    bars: Any


def _silence(library: str) -> _Voice:
    bars = _bars(library)  # first: its imports set the level
    logger = logging.getLogger(library)
    voice = _Voice(logger.level, bars)
    logger.setLevel(logging.CRITICAL + 1)
    if bars is not None:
        bars.disable_progress_bars()
    return voice


def _restore(library: str, voice: _Voice) -> None:
    logging.getLogger(library).setLevel(voice.level)
    if voice.bars is not None:
        voice.bars.enable_progress_bars()


def _bars(library: str) -> Any:
    """Return the module that turns a library's bars off and on; None where they are off, or the user's own wish."""
    if library not in _BARS:
        return None
    name, variable = _BARS[library]
    import_module(f"{name}.logging")  # which sets its level when it is imported
    module = import_module(name)
    return None if module.are_progress_bars_disabled() or variable in os.environ else module


@contextmanager
def asking_hub(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into a StorageError.

    what: the thing that is wanted, as in "cannot fetch ...".
    """
    # That of the HTTP library in use, which differs from version to version.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    import_module("huggingface_hub.utils.logging")  # which sets its level when it is imported
    with silenced("huggingface_hub"):
        try:
            yield
        # No answer, the answer is an error, it is offline, there is no such repository, or no place on the disk.
        except (HTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())  # it comes in several lines
            raise StorageError(f"cannot fetch {what}: {reason}", remedy=remedy) from error
