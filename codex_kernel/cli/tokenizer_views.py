"""What `codex tokenizer stats` and `compare` print.

One rule: a number is the same in the table and in the JSON object, only rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.terminal import counted, print_json, print_table, size, unicode

if TYPE_CHECKING:
    from codex_kernel.errors import CodexError
    from codex_kernel.token_statistics import Corpus, Tally
    from codex_kernel.tokenizers import Opened

PIECE_WIDTH = 40


def print_measures_json(found: Sequence[Opened], corpus: Corpus, tallies: Sequence[Tally]) -> None:
    """Print what each tokenizer made of the corpus, for programs."""
    from attrs import asdict

    from codex_kernel.token_statistics import as_json

    rows = [
        {"tokenizer": one.name, "plugin": str(one.made_by.entry), "fingerprint": one.fingerprint}
        | as_json(corpus, tally)
        for one, tally in zip(found, tallies, strict=True)
    ]
    print_json({"schema_version": 1, "corpus": asdict(corpus), "tokenizers": rows})


def print_measures(found: Sequence[Opened], corpus: Corpus, tallies: Sequence[Tally]) -> None:
    """Print what each tokenizer made of the corpus, for people: a column each."""
    from codex_kernel.token_statistics import as_json

    click.echo(f"{counted(corpus.texts, 'text')}, {size(corpus.bytes)}, {counted(corpus.words, 'word')}")
    measures = [as_json(corpus, tally) for tally in tallies]
    lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("vocabulary", lambda one: f"{one['vocab_size']:,}"),
        ("tokens", lambda one: f"{one['tokens']:,}"),
        ("bytes a token", lambda one: _number(one["bytes_per_token"])),
        ("tokens a word", lambda one: _number(one["tokens_per_word"])),
        ("unknown", lambda one: _percent(one["unknown_rate"], "no such token")),
        ("never used", lambda one: f"{one['unused_tokens']:,} ({_percent(one['unused_share'], '')})"),
        ("texts lost", lambda one: f"{one['texts_lost']:,}"),
    ]
    names = [unicode(one.name) for one in found]
    print_table(("", *names), [(label, *map(show, measures)) for label, show in lines], right=names)
    for name, one in zip(names, measures, strict=True):
        longest = "  ".join(_piece(token["text"]) for token in one["longest_tokens"])
        click.echo(f"longest of {name}: {longest}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{100 * value:.2f} %"


def _piece(text: str) -> str:
    """Show a token's text on one line, its white space written out."""
    shown = repr(text)
    return unicode(
        shown if len(shown) <= PIECE_WIDTH else f"{shown[: PIECE_WIDTH - 1]}… ({len(text)} characters)"
    )


def loses_text(name: str, tally: Tally) -> CodexError:
    """Say that texts do not come back from a tokenizer, and where the first of them begins to differ."""
    from codex_kernel.errors import CodexError

    loss = tally.first_loss
    where = (
        ""
        if loss is None
        else f"; {loss.name}, character {loss.character:,}: {loss.expected!r} → {loss.got!r}"
    )
    return CodexError(f"{name} does not give back {counted(tally.lost, 'text')}{where}")
