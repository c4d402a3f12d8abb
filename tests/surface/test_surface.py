"""Names that others rely on: they change by a decision, never by the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.surface.surface import STORED, differences, read, surface, write

ROOT = Path(__file__).resolve().parents[2]


def test_the_names_that_others_rely_on_are_the_stored_ones():
    """Public names, hooks, groups, commands and their options, manifest keys, events, files and exit codes."""
    assert differences(read(), surface()) == [], (
        "on purpose? python tests/surface/renew.py, and a line in CHANGELOG.md"
    )


def test_every_group_has_names():
    """No group is empty: a reader that finds nothing would hold nothing."""
    assert [group for group, names in read().items() if not names] == []


@pytest.mark.parametrize(
    ("now", "line"),
    [
        ({"hooks": {"a": ["run"]}}, "hooks: b is gone"),
        ({"hooks": {"a": ["run"], "b": [], "c": []}}, "hooks: c is new"),
        ({"hooks": {"a": ["run", "x"], "b": []}}, "hooks: a was ['run'], is ['run', 'x']"),
        ({"hooks": {"a": ["run"], "b": []}, "events": {"e": True}}, "events: e is new"),
        ({}, "hooks: a is gone"),
    ],
)
def test_a_change_is_said_by_name(now, line):
    """What was added, is gone or has changed has a line of its own."""
    assert line in differences({"hooks": {"a": ["run"], "b": []}}, now)


def test_what_is_stored_is_read_back(tmp_path, monkeypatch):
    """The file is JSON, with a line for each name, so that a change is one line of a diff."""
    monkeypatch.setattr("tests.surface.surface.STORED", tmp_path / "surface.json")
    found = {"hooks": {"a": ["run"], "b": []}, "exit codes": {"InputError": 2}}
    write(found)
    assert read() == found
    assert '    "a": ["run"],\n    "b": []\n' in (tmp_path / "surface.json").read_text()


def test_the_exit_codes_are_those_of_the_help():
    """`codex --help` tells each code."""
    codes = {str(code) for code in json.loads(STORED.read_text())["exit codes"].values()}
    text = " ".join((ROOT / "codex_kernel" / "cli" / "__init__.py").read_text(encoding="utf-8").split())
    told = re.search(r"Exit codes: (.*?)\.", text)
    assert told is not None
    assert {part.strip().split(" ")[0] for part in told[1].split(",")} == {"0", *codes}
