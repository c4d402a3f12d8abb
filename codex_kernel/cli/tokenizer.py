"""`codex tokenizer`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from codex_kernel.cli.manifests import override_options
from codex_kernel.cli.terminal import counted, json_option, print_json, size, unicode
from codex_kernel.cli.tokenizer_opened import opened_tokenizers, place_of, tokenizer_options
from codex_kernel.errors import InputError

if TYPE_CHECKING:
    from codex_kernel.token_rows import Row
    from codex_kernel.tokenizers import Opened
    from codex_kernel.tokens import NamedText, Side

SIDES = click.Choice(["left", "right"])
CHUNK_IDS = 1 << 16


@click.group()
def tokenizer() -> None:
    """Train, use and compare tokenizers.

    TOKENIZER is a manifest (whose tokenizer is trained on its data where it must be), a run, a folder that
    `codex tokenizer train` wrote, or the name of an installed one with its options: bytes, spm:path=code.model.
    """


# ── train ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@tokenizer.command(
    short_help="Train the tokenizer of a manifest into a folder.",
    epilog="""
\b
Examples:
  codex tokenizer train manifest.yaml --output tokenizer
  codex tokenizer train manifest.yaml --output small --set tokenizer.vocab_size=2048
""",
)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), help="New folder for the tokenizer."
)
@override_options
@json_option
def train(
    manifest: Path,
    output: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,  # noqa: FBT001 - click passes by name
) -> None:
    """Train the tokenizer of MANIFEST on its training split, and write it into a new folder, whole or not at all.

    codex-tokenizer.json in it tells what it was made of: plugin, options, digest of the texts, fingerprint.
    """
    from codex_kernel import tokenizers
    from codex_kernel.cli.progress import ProgressReporter

    with place_of(Path("runs"), override_files, sets, ProgressReporter()) as place:
        record = tokenizers.train(manifest, output, place)
    if as_json:
        print_json({"schema_version": 1, "output": str(output), **record})
        return
    corpus = record["corpus"]
    click.echo(
        f"{unicode(output)}: {record['plugin']}, {record['vocab_size']:,} tokens, trained on "
        f"{counted(corpus['texts'], 'text')} ({size(corpus['bytes'])})"
    )
    click.echo(f"fingerprint {record['fingerprint']}")


# ── encode and decode ─────────────────────────────────────────────────────────────────────────────────────────────


def _pad_length(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> int | Literal["longest"] | None:
    """Read N or `longest`."""
    if text is None or text == "longest":
        return text  # type: ignore[return-value] # mypy does not narrow a str to a literal
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise click.BadParameter(f"expected a number of tokens or longest, got {text!r}")
    return int(text)


@tokenizer.command(
    short_help="Print the ids of texts.",
    epilog="""
\b
Examples:
  codex tokenizer encode bytes setup.py
  echo "def f(x):" | codex tokenizer encode quickstart --json
  codex tokenizer encode tokenizer prompts.txt --lines --truncate 512 --truncate-side left
""",
)
@click.argument("name", metavar="TOKENIZER")
@click.argument("files", nargs=-1, type=click.Path(allow_dash=True))
@click.option("--lines", is_flag=True, help="Take each line for a text, without its newline, not each file.")
@click.option("--specials", is_flag=True, help="Let special tokens that a text spells be their ids.")
@click.option(
    "--truncate",
    type=click.IntRange(0),
    metavar="N",
    help="Keep N tokens of each text; what is cut off is counted.",
)
@click.option(
    "--truncate-side", type=SIDES, default="right", show_default=True, help="Which side is cut off."
)
@click.option(
    "--pad", callback=_pad_length, metavar="N|longest", help="Fill texts up to N tokens, or to the longest."
)
@click.option("--pad-side", type=SIDES, default="right", show_default=True, help="Which side is filled.")
@click.option("--multiple-of", type=click.IntRange(1), metavar="N", help="Fill up to a multiple of N tokens.")
@tokenizer_options
def encode(  # noqa: PLR0913 - click passes each option by name
    name: str,
    files: tuple[str, ...],
    lines: bool,  # noqa: FBT001
    specials: bool,  # noqa: FBT001
    truncate: int | None,
    truncate_side: Side,
    pad: int | Literal["longest"] | None,
    pad_side: Side,
    multiple_of: int | None,
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print the ids of FILES (or of standard input), a text a line; --json adds where each token lies in its text."""
    if multiple_of is not None and pad is None:
        raise click.UsageError("--multiple-of is for padding: add --pad longest, or --pad N")

    from codex_kernel.cli.texts import STDIN, texts
    from codex_kernel.token_rows import Layout, rows

    layout = Layout(specials, as_json, truncate, truncate_side, pad, pad_side, multiple_of)
    with opened_tokenizers([name], runs, override_files, sets) as [one]:
        found = rows(one.tokenizer, texts(files or [STDIN], lines=lines), layout)
        if as_json:
            about = {"schema_version": 1, "tokenizer": name, "fingerprint": one.fingerprint}
            print_json({**about, "texts": [row.as_json(one.tokenizer) for row in found]})
        else:
            _print_ids(found)


def _print_ids(rows: Iterable[Row]) -> None:
    """Print a line for each text as it comes; say in the end what was cut off."""
    count = cut = dropped = 0
    for row in rows:
        count, cut, dropped = count + 1, cut + bool(row.dropped), dropped + row.dropped
        for start in range(0, len(row.ids), CHUNK_IDS):  # a text may be very long
            part = " ".join(map(str, row.ids[start : start + CHUNK_IDS]))
            click.echo(part if start == 0 else f" {part}", nl=False)
        click.echo()
    if cut:
        click.echo(
            f"warning: {cut:,} of {counted(count, 'text')} cut, {counted(dropped, 'token')} dropped", err=True
        )


@tokenizer.command(
    short_help="Print the texts of ids.",
    epilog="""
\b
Examples:
  codex tokenizer encode bytes setup.py | codex tokenizer decode bytes
  echo "100 101 102" | codex tokenizer decode bytes
""",
)
@click.argument("name", metavar="TOKENIZER")
@click.argument("file", default="-", type=click.Path(allow_dash=True))
@click.option("--lines", is_flag=True, help="Put a newline after each text.")
@click.option("--specials", is_flag=True, help="Spell special tokens out; else they stand for no text.")
@tokenizer_options
def decode(  # noqa: PLR0913 - click passes each option by name
    name: str,
    file: str,
    lines: bool,  # noqa: FBT001
    specials: bool,  # noqa: FBT001
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print the texts of the ids in FILE (or standard input), a sequence a line, one after the other as they are."""
    from codex_kernel.cli.texts import sequences, write
    from codex_kernel.tokens import decode_with_specials

    with opened_tokenizers([name], runs, override_files, sets) as [one]:
        read = one.tokenizer.decode
        if specials:
            read = lambda ids: decode_with_specials(one.tokenizer, ids)  # noqa: E731 - one of two readings
        found = ((ids, read(ids)) for ids in sequences(file))
        if as_json:
            rows = [{"ids": ids, "text": text} for ids, text in found]
            print_json(
                {"schema_version": 1, "tokenizer": name, "fingerprint": one.fingerprint, "texts": rows}
            )
        else:
            write(f"{text}\n" if lines else text for _, text in found)


# ── stats and compare ─────────────────────────────────────────────────────────────────────────────────────────────


@tokenizer.command(
    short_help="Measure a tokenizer on a corpus.",
    epilog="""
\b
Examples:
  codex tokenizer stats manifest.yaml               its tokenizer on its own training texts
  codex tokenizer stats tokenizer src/*.py
  cat prompts.txt | codex tokenizer stats bytes - --lines
""",
)
@click.argument("name", metavar="TOKENIZER")
@click.argument("files", nargs=-1, type=click.Path(allow_dash=True))
@click.option("--lines", is_flag=True, help="Take each line for a text, without its newline, not each file.")
@tokenizer_options
def stats(  # noqa: PLR0913 - click passes each option by name
    name: str,
    files: tuple[str, ...],
    lines: bool,  # noqa: FBT001
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Measure TOKENIZER on FILES, on the training texts of its manifest or run, or on standard input.

    Bytes a token (the more, the shorter the sequences), tokens a word (fertility), what it cannot spell, what it never
    uses, its longest tokens, and whether every text comes back. Exit code 1: one does not.
    """
    _measure([name], files, runs, override_files, sets, lines=lines, as_json=as_json)


@tokenizer.command(
    short_help="Measure tokenizers side by side.",
    epilog="""
\b
Examples:
  codex tokenizer compare bytes tokenizer src/*.py
  codex tokenizer compare small.yaml large.yaml           on the training texts of the first
  cat src/*.py | codex tokenizer compare bytes quickstart -
""",
)
@click.argument("names", nargs=-1, required=True, metavar="TOKENIZER TOKENIZER [TOKENIZER…] [FILES]…")
@click.option("--lines", is_flag=True, help="Take each line for a text, without its newline, not each file.")
@tokenizer_options
def compare(  # noqa: PLR0913 - click passes each option by name
    names: tuple[str, ...],
    lines: bool,  # noqa: FBT001
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Measure tokenizers on the same texts: FILES, the training texts of a manifest or run, or standard input.

    The first argument that names no tokenizer (a .yaml file is a manifest) begins the FILES. Exit code 1: a text does
    not come back.
    """
    from codex_kernel.tokenizers import is_tokenizer

    count = next((n for n, name in enumerate(names) if not is_tokenizer(name, runs)), len(names))
    if count < 2:  # noqa: PLR2004 - one is not compared
        wrong = "" if count == len(names) else f"; {names[count]!r} names none"
        raise InputError(
            f"expected two tokenizers or more to compare, got {count}{wrong}",
            remedy="a manifest, a run, a folder of `codex tokenizer train`, or a name of `codex plugins list`",
        )
    _measure(names[:count], names[count:], runs, override_files, sets, lines=lines, as_json=as_json)


def _measure(  # noqa: PLR0913 - what both commands are given
    names: Sequence[str],
    files: Sequence[str],
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    *,
    lines: bool,
    as_json: bool,
) -> None:
    """Go through the texts once, each tokenizer after the other on every batch, and print what was found."""
    from codex_kernel.cli.progress import ProgressReporter
    from codex_kernel.cli.tokenizer_views import loses_text, print_measures, print_measures_json
    from codex_kernel.token_statistics import Corpus, Tally
    from codex_kernel.tokens import batches

    report = ProgressReporter()
    with opened_tokenizers(names, runs, override_files, sets, report) as found:
        corpus, tallies = Corpus(), [Tally(one.tokenizer) for one in found]
        for batch in batches(_texts(found, files, lines=lines)):
            corpus.add(batch)
            for tally in tallies:
                tally.add(batch)
        report.close()
        if not corpus.bytes:
            raise InputError("there is no text to measure on", remedy="name files, or pipe a text in")
        if as_json:
            print_measures_json(found, corpus, tallies)
        else:
            print_measures(found, corpus, tallies)
    lost = [(one.name, tally) for one, tally in zip(found, tallies, strict=True) if tally.lost]
    if lost:
        raise loses_text(*lost[0])


def _texts(found: Sequence[Opened], files: Sequence[str], *, lines: bool) -> Iterator[NamedText]:
    """Give the texts to measure on; those of a manifest where no files are named."""
    from codex_kernel.cli.texts import STDIN, texts

    own = next((one.texts for one in found if one.texts is not None), None)
    if files or own is None:
        yield from texts(files or [STDIN], lines=lines)
        return
    for number, text in enumerate(own, 1):
        if not lines:
            yield f"training text {number:,}", text
            continue
        for place, line in enumerate(text.split("\n"), 1):
            yield f"training text {number:,}:{place}", line


# ── fingerprint ───────────────────────────────────────────────────────────────────────────────────────────────────


@tokenizer.command(short_help="Print the fingerprint of a tokenizer.")
@click.argument("name", metavar="TOKENIZER")
@tokenizer_options
def fingerprint(
    name: str,
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print the digest of all that decides which ids a text gets: the same digest, the same ids.

    It is in data.json of every run. Of a run, or a folder of `codex tokenizer train`, it is compared with what was
    written down, and a difference is an error.
    """
    from codex_kernel.interfaces import SpecialTokens

    with opened_tokenizers([name], runs, override_files, sets) as [one]:
        if not as_json:
            click.echo(one.fingerprint)
            return
        found, entry = one.tokenizer, one.made_by.entry
        specials = found if isinstance(found, SpecialTokens) else None
        print_json(
            {
                "schema_version": 1,
                "tokenizer": name,
                "fingerprint": one.fingerprint,
                "plugin": entry.name,
                "distribution": entry.distribution,
                "version": entry.version,
                "vocab_size": found.vocab_size,
                "eos_id": found.eos_id,
                "pad_id": specials.pad_id if specials else None,
                "special_tokens": dict(specials.special_tokens) if specials else None,
            }
        )
