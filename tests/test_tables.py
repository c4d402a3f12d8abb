"""How tables and sentences fit the width of a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from codex_kernel.cli.tables import LONG, READABLE, SHORT, folded, hanging, paragraphs, table
from tests.command import Workplace, toy_workplace

WORDS = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=30).filter(
    lambda word: cell_len(word) <= LONG
)
SENTENCES = st.lists(WORDS, max_size=12).map(" ".join)
SUMMARY = "Lines of a table that say what a plugin does, in a sentence of some length."


def plain(text: str) -> str:
    """Return what a terminal shows, without its colours."""
    return re.sub("\x1b\\[[0-9;]*m", "", text)


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    rows=st.lists(st.tuples(WORDS, SENTENCES, SENTENCES), min_size=1, max_size=4),
    room=st.integers(1, 200),
)
def test_a_table_fits_and_breaks_no_word(rows: list[tuple[str, str, str]], room: int) -> None:
    """Every word stands whole in a line of the table, and no line is wider than the terminal."""
    made = table(("kind", "name", "summary"), rows, (), room)
    if made is None:
        made = paragraphs(("kind", "name", "summary"), rows, room)
    else:
        assert max(cell_len(line) for line in plain(made).splitlines()) <= room
    words = plain(made).split()
    assert all(word in words for row in rows for cell in row for word in cell.split())


def test_the_longest_text_folds_and_names_do_not() -> None:
    """At 80 columns a table has room for a sentence of several lines."""
    row = ("checkpointer", "safetensors", "codex-kernel 0.1.0", SUMMARY)
    made = table(("kind", "name", "distribution", "summary"), [row], (), 80)
    assert made is not None
    _, first, *rest = plain(made).splitlines()
    assert first.startswith("checkpointer  safetensors  codex-kernel 0.1.0  Lines of a table")
    assert rest
    assert {len(line) - len(line.lstrip()) for line in rest} == {47}


def test_a_terminal_with_no_room_for_a_sentence_gets_paragraphs() -> None:
    """Each row is a paragraph; a cell that is empty is left out."""
    row = ("checkpointer", "safetensors", "", SUMMARY)
    columns = ("kind", "name", "remark", "summary")
    assert table(columns, [row], (), 40) is None
    assert paragraphs(columns, [row, ("kind", "other", "", "Short.")], 40) == (
        "kind     checkpointer\n"
        "name     safetensors\n"
        "summary  Lines of a table that say what\n"
        "         a plugin does, in a sentence of\n"
        "         some length.\n"
        "\n"
        "kind     kind\n"
        "name     other\n"
        "summary  Short."
    )


def test_numbers_and_short_texts_never_fold() -> None:
    """A table of them alone is a table, or paragraphs."""
    row = ("1" * SHORT, "a b " * (SHORT // 4))
    made = table(("steps", "words"), [row], ("steps",), 2 * SHORT + 2)
    assert made is not None
    assert len(made.splitlines()) == 2
    assert table(("steps", "words"), [row], ("steps",), 2 * SHORT - 2) is None


def test_no_cell_is_markup() -> None:
    """What a plugin says is shown as it stands."""
    made = table(("name",), [("[bold]x[/bold] :smile:",)], (), 80)
    assert made is not None
    assert "[bold]x[/bold] :smile:" in made


# ── sentences ─────────────────────────────────────────────────────────────────────────────────────────────────────


@given(SENTENCES, st.integers(0, 80))
def test_a_folded_text_has_its_words_in_order(text: str, width: int) -> None:
    """A line is wider than it may be only where it is a single word."""
    lines = folded(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(cell_len(line) <= width or " " not in line for line in lines)


def test_a_path_stays_whole() -> None:
    """It can be copied, although the terminal is narrower."""
    path = "/a/long/path/" * 6
    assert path in folded(f"it lies in {path} now", 20)


def test_a_sentence_hangs_behind_its_lead_or_below_it() -> None:
    """Below it where fewer columns are left than a sentence can be read in; bars of a tree go on."""
    assert hanging("lead  ", "a b", 9) == "lead  a b"
    assert (
        hanging("lead  ", "word " * 8, 6 + READABLE) == "lead  word word word word\n      word word word word"
    )
    assert hanging("lead  ", "word " * 8, 26, "│ ").splitlines()[1] == "│     word word word word"
    assert (
        hanging("lead of some length  ", "words that go on", 30)
        == "lead of some length\n    words that go on"
    )
    assert hanging("        ", "words that go on", 10) == "    words\n    that\n    go on"


# ── the commands ──────────────────────────────────────────────────────────────────────────────────────────────────


def on_terminal(workplace: Workplace, columns: int, *arguments: str) -> str:
    """Return what a command shows on a terminal of this width."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = workplace.environment()
    environment.pop("COLUMNS", None)
    with subprocess.Popen(
        [sys.executable, "-m", "codex_kernel", *arguments],
        cwd=workplace.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(end)
        shown = b""
        try:
            while data := os.read(terminal, 65536):
                shown += data
        except OSError:  # how a terminal says that nobody writes any more
            pass
        process.wait(60)
    os.close(terminal)
    return plain(shown.decode().replace("\r", ""))


@pytest.mark.parametrize(
    "line", ["list", "search toy", "show console", "check console", "tree", "tree toy.yaml", "doctor"]
)
@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_breaks_no_word(tmp_path: Path, line: str, columns: int) -> None:
    """Whatever is shown in a pipe is shown on a terminal, and a line goes beyond its edge for a single word alone."""
    workplace = toy_workplace(tmp_path)
    shown = on_terminal(workplace, columns, "plugins", *line.split())
    for text in shown.splitlines():
        assert len(text) <= columns or len(text.split()[-1]) > READABLE, shown
    words = set(shown.split())
    wanted = {
        "show": "codex_kernel.builtin.console:ConsoleLogger",
        "check": "console",
        "doctor": "distributions",
    }
    assert wanted.get(line.split(maxsplit=1)[0], "codex-toys") in words
    for summary in ("evaluations,", "completion,") if line == "list" else ():
        assert summary in words
