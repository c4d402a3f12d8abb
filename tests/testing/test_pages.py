"""The pages of the test kit: what they show runs, and what they say of the kit is what it says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import codex_kernel.testing as kit
from codex_kernel.testing import described
from codex_kernel.testing.described import ORDER, checks_of, renewed
from tests.docs.tutorial import blocks, play

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference" / "testing.md"


@pytest.fixture
def environment(tmp_path_factory):
    """An environment whose `python` is ours, as a reader's."""
    place = tmp_path_factory.mktemp("bin")
    (place / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (place / "python").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CODEX", "PYTEST"))}
    return {**kept, "PATH": os.pathsep.join([str(place), os.environ["PATH"]]), "COLUMNS": "100"}


def test_the_guide_does_what_it_shows(tmp_path, environment):
    """Every block of the how-to page is written or run, as a reader would, and prints what the page shows."""
    play(DOCS / "how-to" / "test-a-plugin.md", tmp_path, environment)


def test_the_reference_says_what_the_kit_says():
    """Each contract, method, check and fixture stands on the page in the words of its docstring.

    `python -m codex_kernel.testing.described docs/reference/testing.md` brings it up to date.
    """
    page = REFERENCE.read_text(encoding="utf-8")
    assert renewed(page) == page


def test_the_reference_has_every_public_name():
    """No name of the kit is left out."""
    page = REFERENCE.read_text(encoding="utf-8")
    assert [name for name in kit.__all__ if f"`{name}" not in page and f"### {name}\n" not in page] == []


def test_every_contract_has_its_place():
    """The page has all contracts, each once, and the sentence of each check."""
    contracts = {name for name in kit.__all__ if name.endswith("Contract")}
    assert sorted(ORDER) == sorted(contracts)
    page = described.contracts()
    for name in ORDER:
        for check in checks_of(getattr(kit, name)):
            assert f"- `{check}`: " in page


def test_the_fixtures_have_their_place():
    """All four are described."""
    page = described.fixtures()
    assert all(
        f"### {name}\n" in page for name in ("codex_catalog", "codex_run", "toy_corpus", "toy_manifest")
    )


def test_the_example_of_a_whole_run_passes(tmp_path):
    """The last example of the reference is a test, and passes."""
    example = [
        block.text for block in blocks(REFERENCE.read_text(encoding="utf-8")) if "def test_" in block.text
    ]
    assert len(example) == 1
    (tmp_path / "test_example.py").write_text(example[0])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
