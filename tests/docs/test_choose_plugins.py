"""The page about choosing plugins, played as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.test_tutorials import environment
from tests.docs.tutorial import play

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "choose-plugins.md"


@pytest.mark.slow
def test_choosing_plugins_is_as_the_page_shows(tmp_path):
    """Allow-lists, requirements, locks, a plugin path and a bad plugin: every command prints what the page shows."""
    (tmp_path / "work").mkdir()
    play(PAGE, tmp_path / "work", environment(tmp_path))
