"""How far long work is, as commands tell it on standard error."""

import sys

import pytest

from codex_kernel.cli.progress import PIPE_SECONDS, ProgressReporter, progress


class Clock:
    """A clock that the test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_pipe_gets_a_line_now_and_then(capsys):
    """Work is named when it begins; how far it is follows after a while, and not more often."""
    clock = Clock()
    reporter = ProgressReporter(clock=clock)
    for second in range(3 * int(PIPE_SECONDS)):
        clock.seconds = float(second)
        reporter.activity("encode", second, 180, "documents")
    reporter.activity("digest", 0, 5, "texts")
    assert capsys.readouterr().err.splitlines() == [
        "encode …",
        "encode: 30 of 180 documents, 17 %, 2 min 30 s left",
        "encode: 60 of 180 documents, 33 %, 2 min 0 s left",
        "digest …",
    ]


def test_a_terminal_gets_one_line_for_each_piece_of_work(capsys, monkeypatch):
    """The line is written over until the work is done; a warning has a line of its own."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    reporter = ProgressReporter(clock=Clock())
    reporter.activity("encode", 1, 2, "documents")
    reporter.warning("cut")
    reporter.activity("encode", 2, 2, "documents")
    assert capsys.readouterr().err.splitlines() == [
        "",
        "\x1b[Kencode: 1 of 2 documents, 50 %, 0 s left",
        "warning: cut",
        "",
        "\x1b[Kencode: 2 of 2 documents, 100 %",
    ]


@pytest.mark.parametrize(
    ("done", "total", "seconds", "line"),
    [
        (0, None, 5, "work …"),
        (1, None, 5, "work …"),
        (1200, None, 5, "work: 1,200 documents"),
        (0, 1, 5, "work …"),
        (1, 1, 5, "work: 5 s"),
        (1, 4, 10, "work: 1 of 4 documents, 25 %, 30 s left"),
        (0, 0, 0, "work: 0 of 0 documents"),
    ],
)
def test_only_what_is_known_is_said(done, total, seconds, line):
    """No number where nothing is counted yet, no time left where the whole is not known."""
    assert progress("work", done, total, "documents", seconds) == line
