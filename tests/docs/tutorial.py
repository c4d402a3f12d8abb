"""Plays a page of the documentation as a reader would: writes its files, runs its commands, compares what they print.

One rule: what a page shows is what happens. A fenced block with `title=NAME` is a file. A `console` block holds
commands (`$ `) and their output, standard error included; numbers, sizes and run ids are compared by their form, `…`
stands for any text, alone on a line for any lines, and `^C` is pressed where it stands. `exit=N` is the exit code of
the block's last command. A command without output shown may print anything.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import frozen

_FENCE = re.compile(r"^```(\w+)([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PIECE = re.compile(r"(…|\d{8}-\d{6}-[0-9a-f]{4}|\d[\d,.]*|[KMG]iB| +)")


@frozen
class Block:
    """A fenced block: its language, the settings of its first line, its text."""

    language: str
    settings: Mapping[str, str]
    text: str


@frozen
class Command:
    """A command line, the output that the page shows (lines), and the exit code that it should have."""

    line: str
    shown: list[str]
    code: int


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for language, rest, text in _FENCE.findall(page):
        yield Block(language, dict(word.split("=", 1) for word in rest.split()), text)


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block; one may go on over lines that end with a backslash."""
    found: list[Command] = []
    goes_on = False
    for line in block.text.splitlines():
        if goes_on:
            last = found.pop()
            found.append(Command(f"{last.line.removesuffix(chr(92))}{line.strip()}", [], 0))
        elif line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), [], 0))
        else:
            found[-1].shown.append(line)
        goes_on = found[-1].line.endswith("\\")
    if found:
        found[-1] = Command(found[-1].line, found[-1].shown, int(block.settings.get("exit", 0)))
    return found


def pattern(shown: list[str]) -> str:
    """Return the regular expression that output must match to be what the page shows."""
    return "".join(r"(?:.*\n)*?" if line.strip() == "…" else _line(line) + r" *\n" for line in shown)


def _line(line: str) -> str:
    pieces = _PIECE.split(line.strip())
    return " *" + "".join(_form(piece) for piece in pieces)


def _form(piece: str) -> str:
    if piece == "…":
        return ".*"
    if re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", piece):
        return r"\d{8}-\d{6}-[0-9a-f]{4}"
    if piece.endswith("iB"):
        return r"(?:[KMG]i)?B"
    if piece[:1].isdigit():
        return r"\d[\d,.]*" + (r"\." if piece.endswith(".") else "")
    return " +" if piece.isspace() else re.escape(piece)


def play(
    page: Path, folder: Path, environment: Mapping[str, str], *, shorten: Callable[[str], str] = str
) -> None:
    """Do what the page says, in `folder`; `shorten` may change a command so that it takes less time."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if title := block.settings.get("title"):
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.language == "console":
            for command in commands(block):
                _do(command, shorten(command.line), folder, environment)


def _do(command: Command, line: str, folder: Path, environment: Mapping[str, str]) -> None:
    process = subprocess.Popen(
        ["bash", "-c", line],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    printed = ""
    shown = command.shown
    if "^C" in shown:
        before = list(itertools.takewhile(lambda text: text != "^C", shown))
        for text in process.stdout:
            printed += text
            if re.fullmatch(pattern(before), printed):
                break
        os.killpg(process.pid, signal.SIGINT)
        shown = [text for text in shown if text != "^C"]
    printed += process.communicate()[0]
    assert process.returncode == command.code, f"{line}\nended with {process.returncode}\n{printed}"
    if shown:
        assert re.fullmatch(pattern(shown), printed), (
            f"{line}\nprinted\n{printed}\nthe page shows\n{chr(10).join(shown)}"
        )
