"""Fixtures for tests of plugins; loaded only where a test suite asks for them.

    pytest_plugins = ["codex_kernel.testing.pytest_plugin"]    in the conftest.py at the root, or
    pytest -p codex_kernel.testing.pytest_plugin

One rule: what a fixture makes lies in the test's own folder and is gone, or switched off, when the test is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_kernel.interfaces import Document, RunContext
from codex_kernel.testing.isolated import IsolatedCatalog, isolated
from codex_kernel.testing.toys import make_run


@pytest.fixture
def codex_catalog(tmp_path: Path) -> Iterator[IsolatedCatalog]:
    """Within the test nothing that happens to be installed is found but the kernel's own plugins and what it adds.

    `.add(kind, name, cls_or_target)` and `.add_distribution(name, plugins)` make plugins findable, here and in the
    processes that the test starts; a manifest that names any other gets an error that says so.
    """
    with isolated(tmp_path / "codex-site") as catalog:
        yield catalog


@pytest.fixture
def codex_run(tmp_path: Path) -> RunContext:
    """A run to call hooks with; its folder, cache and base lie in the test's folder, its reporter keeps all it is told.

    `run.report` is a `RecordingReporter`; setting `run.stop.signal_number` asks the run to stop.
    """
    return make_run(tmp_path / "codex-run")


@pytest.fixture
def toy_corpus() -> list[Document]:
    """Sixty small Python functions, no two alike, each a document and a group of its own."""
    from codex_kernel.testing.toy_plugins import toy_corpus as documents

    return documents()


@pytest.fixture
def toy_manifest() -> Callable[..., str]:
    """Give the function `toy_manifest(**sections)`: a manifest of toys, but for the sections that are given."""
    from codex_kernel.testing.runs import toy_manifest as manifest

    text: Callable[..., Any] = manifest
    return text
