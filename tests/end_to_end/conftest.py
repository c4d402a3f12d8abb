"""What the end-to-end tests share: one cache, and one finished quick start to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Workplace
from tests.end_to_end.examples import QUICKSTART, SHORT_QUICKSTART


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Return a cache of this test session, so that the corpus is encoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workplace(tmp_path, cache) -> Workplace:
    """Make an empty folder to run commands in."""
    return Workplace(tmp_path, {"CODEX_CACHE": str(cache)})


@pytest.fixture(scope="session")
def finished(tmp_path_factory, cache) -> Path:
    """Return the folder of a quick start that ran to its end in one go; its output lies beside it."""
    workplace = Workplace(tmp_path_factory.mktemp("finished"), {"CODEX_CACHE": str(cache)})
    said = workplace.codex("run", QUICKSTART, "--run-dir", "whole", *SHORT_QUICKSTART)
    assert said.code == 0, said.err
    workplace.write("out.txt", said.out)
    workplace.write("err.txt", said.err)
    return workplace.folder / "whole"
