"""What libraries say of a failure, said once, by codex.

One rule: a library is silent only while it is asked; its words are those of the error that codex shows.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module

from codex_kernel import StorageError

_BARS_VARIABLE = "HF_DATASETS_DISABLE_PROGRESS_BARS"
"""By this a user says whether `datasets` draws bars."""

_lock = threading.Lock()
_silencing: Counter[str] = Counter()
_undone: dict[str, ExitStack] = {}
"""What gives a silenced library its voice back."""


@contextmanager
def silenced(library: str) -> Iterator[None]:
    """Keep a library from logging, and `datasets` from drawing: a run tells how far it is, an error what was wrong.

    The bars of huggingface_hub stay: they tell how long a download takes, which nobody else does. Several may hold a
    library at once, and end in any order: generators do.
    """
    with _lock:
        if not _silencing[library]:
            _undone[library] = _silence(library)
        _silencing[library] += 1
    try:
        yield
    finally:
        with _lock:
            _silencing[library] -= 1
            if not _silencing[library]:
                _undone.pop(library).close()


def _silence(library: str) -> ExitStack:
    """Silence a library; return what undoes it when it is closed."""
    import_module(f"{library}.utils.logging")  # which sets the level when it is imported
    logger = logging.getLogger(library)
    undo = ExitStack()
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.CRITICAL + 1)
    if library == "datasets":
        from datasets import utils

        if _BARS_VARIABLE not in os.environ and not utils.are_progress_bars_disabled():
            utils.disable_progress_bars()
            undo.callback(utils.enable_progress_bars)
    return undo


@contextmanager
def asking_hub(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into a StorageError.

    what: the thing that is wanted, as in "cannot fetch ...".
    """
    # That of the HTTP library in use, which differs from version to version.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    with silenced("huggingface_hub"):
        try:
            yield
        # No answer, the answer is an error, it is offline, there is no such repository, or no place on the disk.
        except (HTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())  # it comes in several lines
            raise StorageError(f"cannot fetch {what}: {reason}", remedy=remedy) from error
