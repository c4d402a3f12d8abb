"""What libraries say of a failure, said once, by codex.

One rule: a library is silent only while it is asked; its words are those of the error that codex shows.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from codex_kernel import StorageError

_lock = threading.Lock()
_silencing: Counter[str] = Counter()
_levels: dict[str, int] = {}


@contextmanager
def silenced(library: str) -> Iterator[None]:
    """Keep a library from logging: of a failure it writes what its exception says too, and of each try to repeat it.

    Several may hold it at once, and end in any order: generators do.
    """
    logger = logging.getLogger(library)
    with _lock:
        if not _silencing[library]:
            _levels[library] = logger.level
            logger.setLevel(logging.CRITICAL + 1)
        _silencing[library] += 1
    try:
        yield
    finally:
        with _lock:
            _silencing[library] -= 1
            if not _silencing[library]:
                logger.setLevel(_levels.pop(library))


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
            raise StorageError(f"cannot fetch {what}: {error}", remedy=remedy) from error
