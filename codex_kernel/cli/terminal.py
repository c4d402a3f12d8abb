"""What commands share at the terminal: tables and JSON.

One rule: standard output is data, standard error is talk.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from codex_kernel.errors import InputError

json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")


_PIPE_COLUMNS = 200
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object for programs."""
    click.echo(unicode(json.dumps(value, indent=2, ensure_ascii=False)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table for people; a paragraph for each row where the terminal is too narrow for it.

    In a pipe it is as wide as it needs to be, up to 200 columns.
    """
    from codex_kernel.cli.tables import paragraphs, table

    room = terminal_columns() or _PIPE_COLUMNS
    safe = [[unicode(cell) for cell in row] for row in rows]
    click.echo(table(columns, safe, right, room) or paragraphs(columns, safe, room))


def print_behind(lead: str, text: str, under: str = "") -> None:
    """Print a sentence behind its lead; on a terminal it is folded under itself.

    under: what stands below the lead, at the beginning of each further line.
    """
    from codex_kernel.cli.tables import hanging

    room = terminal_columns()
    lead, text = unicode(lead), unicode(text)
    click.echo(f"{lead}{text}" if room is None else hanging(lead, text, room, under))


def terminal_columns() -> int | None:
    """Return the columns of the terminal that standard output is; None where it is none."""
    if not sys.stdout.isatty():
        return None
    from shutil import get_terminal_size  # it brings every compression of the standard library along

    return get_terminal_size().columns


def duration(seconds: float) -> str:
    """Return seconds in words: `47 s`, `2 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size(count: float) -> str:
    """Return bytes in words: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:  # noqa: PLR2004 - bytes of a KiB
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def counted(count: int, thing: str) -> str:
    """Return a number of things in words: `1 document`, `2,000 documents`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def agreed(count: int, *, yes: bool) -> bool:
    """Ask on a terminal; elsewhere a deletion needs --yes."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(
            "nothing was deleted: nobody is there to be asked", remedy="add --yes, or look first: --dry-run"
        )
    return click.confirm(f"Delete {'it' if count == 1 else f'these {count}'} for good?", err=True)


def read_prompt(text: str) -> str:
    """Return the prompt itself, or standard input for `-`."""
    if text != "-":
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _not_utf8(f"got {text!r}") from None
        return text
    try:
        prompt = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8").read()
    except UnicodeDecodeError as error:
        raise _not_utf8(
            f"byte {error.start + 1} of standard input is 0x{error.object[error.start]:02x}"
        ) from None
    if not prompt:
        raise InputError(
            "standard input has no prompt",
            remedy='pass --prompt TEXT, or pipe it: echo "def " | codex generate …',
        )
    return prompt


def unicode(text: object) -> str:
    r"""Return text that can be written anywhere: of a path, a byte that is not UTF-8 becomes `\udcxx`, as in JSON."""
    return plain(text).encode(errors="backslashreplace").decode()


def plain(text: object) -> str:
    r"""Return text that a terminal shows and does not obey: a control character becomes `\u001b`, as in JSON.

    Lines and tabs stay. Whatever a plugin says goes through this before it is shown.
    """
    return str(text).translate(_ESCAPED)


def _not_utf8(got: str) -> InputError:
    return InputError(f"the prompt is not UTF-8: {got}", remedy="convert it: iconv -t UTF-8")
