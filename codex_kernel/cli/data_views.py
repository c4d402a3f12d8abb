"""How `codex data` shows blocks, faults and numbers.

One rule: what cannot be printed is shown as an escape, so that no text of a dataset commands the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.terminal import counted, print_table, size, unicode

if TYPE_CHECKING:
    from codex_kernel.data.show import Block, Piece, Stretch

READ = ("⟦", "⟧")
"""Stand around what is only read, where there is no colour to tell it."""


# ── blocks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def print_block(block: Block, of: int, split: str, *, each_token: bool, colour: bool) -> None:
    """Print one block: a line about it, and each document under a line of its own."""
    facts = [counted(block.tokens, "token"), f"{block.targets:,} trained"]
    if block.padding:
        facts.append(f"{block.padding:,} padding")
    click.echo(
        click.style(f"{split}, block {block.number:,} of {of:,}: {', '.join(facts)}", bold=True), color=colour
    )
    for piece in block.pieces:
        click.echo(click.style(_piece_line(piece), fg="cyan"), color=colour)
        if each_token:
            for line in _token_lines(piece):
                click.echo(line, color=colour)
        else:
            text = "".join(_stretch(stretch, colour=colour) for stretch in piece.stretches)
            click.echo(text, nl=not text.endswith("\n"), color=colour)


def _piece_line(piece: Piece) -> str:
    notes = [counted(len(piece.ids), "token")]
    if piece.goes_on_from_before:
        notes.append("goes on from before")
    if piece.goes_on_after:
        notes.append("goes on in the next block")
    return f"-- document {piece.document + 1}: {', '.join(notes)}"


def _stretch(stretch: Stretch, *, colour: bool) -> str:
    text = f"{' '.join(map(str, stretch.ids))} " if stretch.text is None else printable(stretch.text)
    if stretch.mark == "special":
        text = click.style(text, fg="magenta", dim=not stretch.trained)
    elif stretch.mark == "trained":
        return text
    else:
        text = click.style(text, dim=True)
    return text if stretch.trained or colour else f"{READ[0]}{text}{READ[1]}"


def _token_lines(piece: Piece) -> Iterator[str]:
    """Give a line for each token: its slot, its id, whether it is trained, its text."""
    for place, (token, trained) in enumerate(zip(piece.ids, piece.trained, strict=True)):
        text = "" if piece.texts is None else repr(piece.texts[place])
        mark = "trained" if trained else "read"
        yield unicode(f"{piece.start + place:>8,} {token:>8} {mark:<8} {text}").rstrip()


def block_json(block: Block) -> dict[str, Any]:
    """Return a block as a JSON object."""
    return {
        "number": block.number,
        "tokens": block.tokens,
        "targets": block.targets,
        "padding": block.padding,
        "next_id": block.next_id,
        "documents": [
            {
                "document": piece.document,
                "start": piece.start,
                "ids": list(piece.ids),
                "trained": list(piece.trained),
                "goes_on_from_before": piece.goes_on_from_before,
                "goes_on_after": piece.goes_on_after,
                "text": [
                    {"mark": stretch.mark, "trained": stretch.trained, "text": stretch.text}
                    for stretch in piece.stretches
                ],
            }
            for piece in block.pieces
        ],
    }


def printable(text: str) -> str:
    """Return text with everything escaped that is neither printable nor a line break or tab."""
    if text.isprintable():
        return text
    return "".join(
        one if one in "\n\t" or one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


# ── counts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def print_counts(report: Mapping[str, Any]) -> None:
    """Print what became of the documents, by the report of a token store."""
    rows = [("documents", f"{report['documents']:,}")]
    rows += [
        (words, f"{report[name]:,}")
        for name, words in (
            ("documents_bad", "skipped, cannot be read"),
            ("documents_empty", "empty"),
            ("duplicates", "duplicates"),
            ("duplicates_dropped", "duplicates dropped"),
            ("validation_also_in_train", "of validation, in train too"),
        )
        if report[name]
    ]
    for step in report["cleaning"]:
        done = f"{step['dropped']:,} dropped, {step['changed']:,} changed"
        rows.append((f"cleaned by {step['type']}", done))
        rows += [(f"  {name}", f"{count:,}") for name, count in step["counts"].items()]
    print_rows(rows)
    for name, split in report["splits"].items():
        click.echo(name)
        print_rows(list(_split_rows(split)))


def _split_rows(split: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    lost = split["documents_dropped"] + split["documents_without_target"]
    of = f" of {split['documents'] + lost:,}" if lost else ""
    groups = counted(split["groups"], "group")
    yield "documents", f"{split['documents']:,}{of} in {groups}, {size(split['bytes'])}"
    yield "tokens", f"{split['tokens']:,}, {split['target_tokens']:,} trained"
    yield "blocks", f"{split['blocks']:,}, {split['padding_slots']:,} slots padded"
    for name, words in (
        ("documents_split", "split over blocks"),
        ("documents_overlong", "longer than a block"),
        ("documents_truncated", "  cut"),
        ("documents_dropped", "  dropped"),
        ("tokens_dropped", "  tokens lost"),
        ("documents_without_target", "dropped, nothing trained"),
        ("documents_rearranged", "fill-in-the-middle"),
        ("blocks_without_targets", "blocks that train nothing"),
    ):
        if split[name]:
            yield words, f"{split[name]:,}"


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values."""
    for name, value in rows:
        click.echo(unicode(f"  {name:<28} {value}"))


def print_named(title: str, count: int, listed: Sequence[str]) -> None:
    """Print a count and the first of what is counted; nothing where there is none."""
    if not count:
        return
    click.echo(f"{title}: {count:,}")
    for line in listed:
        click.echo(f"  {printable(unicode(line))}")
    if count > len(listed) and listed:
        click.echo(f"  … and {count - len(listed):,} more")


def print_shares(title: str, shares: Mapping[str, tuple[int, int]]) -> None:
    """Print documents and bytes by name; nothing where there is only one without a name."""
    if set(shares) <= {""}:
        return
    rows = [
        (name or "(not known)", f"{documents:,}", size(count)) for name, (documents, count) in shares.items()
    ]
    print_table((title, "documents", "size"), rows, right=("documents", "size"))
