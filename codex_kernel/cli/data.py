"""`codex data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import define, field

from codex_kernel.cli.data_prune import prune
from codex_kernel.cli.manifests import (
    make_plan,
    manifest_arguments,
    override_options,
    skip_bad_option,
    with_skip_bad,
)
from codex_kernel.cli.places import cache_folder, runs_option
from codex_kernel.cli.progress import ProgressReporter
from codex_kernel.cli.terminal import counted, json_option, print_json, print_table, size, unicode

if TYPE_CHECKING:
    from codex_kernel.data.check import Checked, Lengths
    from codex_kernel.plan import Plan
    from codex_kernel.tokenizers import Place

LISTED = 20


@click.group()
def data() -> None:
    """Build, look at and check the data of a manifest.

    Documents are read, cleaned, split and encoded once; the tokens lie in the cache, where runs find them.
    """


data.add_command(prune)


# ── build ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@data.command("build", short_help="Encode the data of a manifest, and keep it for its runs.")
@manifest_arguments
@skip_bad_option
@json_option
def build(
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    skip_bad: int | None,
    as_json: bool,  # noqa: FBT001 - click passes by name
) -> None:
    """Encode the data of MANIFEST and keep the tokens in the cache, where its runs find them.

    What is there already is not built again. Relative paths of the manifest start here, as with `codex run`.
    """
    from codex_kernel.cli.data_views import print_counts
    from codex_kernel.prepared import built

    plan = make_plan(manifest, override_files, with_skip_bad(sets, skip_bad))
    report = Watched()
    with built(plan, _place(report)) as prepared:
        found = prepared.data.report
    reused = "data_built" not in report.events
    if as_json:
        print_json({"schema_version": 1, "reused": reused, "folder": str(prepared.folder), "data": found})
        return
    click.echo(
        unicode(f"{'reused' if reused else 'built'} {prepared.folder}, {size(_stored(prepared.folder))}")
    )
    print_counts(found)


def _stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@data.command(
    "show",
    short_help="Show blocks as the model sees them.",
    epilog="""
\b
Examples:
  codex data show manifest.yaml
  codex data show quickstart --split validation --blocks 1 --tokens
  codex data show manifest.yaml --block 17
""",
)
@click.argument("source")
@override_options
@click.option("--split", type=click.Choice(["train", "validation"]), default="train", show_default=True)
@click.option(
    "--blocks", type=click.IntRange(1), default=2, show_default=True, metavar="N", help="How many blocks."
)
@click.option(
    "--block",
    "numbers",
    type=click.IntRange(0),
    multiple=True,
    metavar="NUMBER",
    help="This block, counted from 0; repeatable. Else the first ones that are trained on.",
)
@click.option("--tokens", "each_token", is_flag=True, help="Show each token on a line of its own.")
@runs_option
@json_option
def show(  # noqa: PLR0913 - click passes each option by name
    source: str,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    split: str,
    blocks: int,
    numbers: tuple[int, ...],
    each_token: bool,  # noqa: FBT001
    runs: Path,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Show blocks of SOURCE as the model sees them: a manifest, a run, or the key of a token store.

    What is only read, never trained, is dim on a terminal and stands in ⟦ ⟧ elsewhere: prompts, and the first token of
    each piece, which nothing foretells. Without --block the blocks come in the order of training. A key alone names
    neither tokenizer nor order: its tokens are shown as numbers, and its blocks as they are stored.
    """
    from codex_kernel.cli.data_views import block_json, print_block
    from codex_kernel.data.show import shown
    from codex_kernel.errors import InputError
    from codex_kernel.prepared import opened

    with opened(source, _place(Watched(), runs, override_files, sets)) as found:
        chosen = found.data.train if split == "train" else found.data.validation
        if chosen is None:
            raise InputError(f"{source} has no validation split", remedy="data.validation_fraction is 0")
        if outside := [number for number in numbers if number >= len(chosen)]:
            raise InputError(
                f"there is no block {outside[0]:,}: the {split} split has {len(chosen):,}, from 0 on"
            )
        if not numbers and split == "train" and found.tokenizer is not None:
            numbers = tuple(found.data.samples(0, min(blocks, len(chosen))).tolist())
        views = shown(chosen, numbers or range(min(blocks, len(chosen))), found.tokenizer)
        if as_json:
            rows = [block_json(block) for block in views]
            print_json({"schema_version": 1, "split": split, "seq_len": chosen.seq_len, "blocks": rows})
            return
        for place, block in enumerate(views):
            if place:
                click.echo("")
            print_block(block, len(chosen), split, each_token=each_token, colour=sys.stdout.isatty())


# ── validate ──────────────────────────────────────────────────────────────────────────────────────────────────────


@data.command("validate", short_help="Read all records and name every bad one.")
@manifest_arguments
@skip_bad_option
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=LISTED,
    show_default=True,
    help="How many of each kind are named.",
)
@click.option(
    "--encode", is_flag=True, help="Encode too, and name documents that are too long or train nothing."
)
@json_option
def validate(  # noqa: PLR0913 - click passes each option by name
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    skip_bad: int | None,
    limit: int,
    encode: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Read all records of MANIFEST's dataset and name every bad one; no tokens are kept.

    Exit code 2: more records are bad than data.skip_bad allows, or two documents have one id.
    """
    from codex_kernel.prepared import checked, measured

    plan = make_plan(manifest, override_files, with_skip_bad(sets, skip_bad))
    place = _place(Watched())
    found = checked(plan, place, limit)
    fault = _fault(found, plan.data.skip_bad)
    lengths = measured(plan, place, limit) if encode and fault is None else None
    if as_json:
        _print_checked_json(found, lengths, fault)
    else:
        _print_checked(found, lengths, plan.data.seq_len)
    if fault:
        raise fault


def _fault(found: Checked, skip_bad: int) -> Exception | None:
    """Return what keeps a run from using the dataset."""
    from codex_kernel.errors import InputError

    if found.bad > skip_bad:
        return InputError(
            f"{counted(found.bad, 'record')} cannot be used, data.skip_bad is {skip_bad:,}",
            remedy=f"mend what is named above, or skip and count: --skip-bad {found.bad}",
        )
    if found.repeated_ids:
        return InputError(
            f"documents that have the id of one before them: {found.repeated_ids:,}",
            remedy="give each document an id of its own; for files, look for one that is named twice",
        )
    if not found.documents - found.empty:
        return InputError("the dataset has no text", remedy="look at what `dataset` names")
    return None


def _print_checked_json(found: Checked, lengths: Lengths | None, fault: Exception | None) -> None:
    from attrs import asdict

    measured = None if lengths is None else asdict(lengths)
    print_json({"schema_version": 1, "usable": fault is None, **asdict(found), "lengths": measured})


def _print_checked(found: Checked, lengths: Lengths | None, seq_len: int) -> None:
    from codex_kernel.cli.data_views import print_named

    click.echo(f"{counted(found.documents, 'document')}, {size(found.bytes)}")
    for title, names in (("languages", found.languages), ("sources", found.sources)):
        if set(names) - {""}:
            shares = ", ".join(f"{name or 'not known'} {count:,}" for name, count in names.items())
            click.echo(unicode(f"{title}: {shares}"))
    print_named("cannot be read", found.bad, found.bad_listed)
    print_named("have the id of one before", found.repeated_ids, found.repeated_ids_listed)
    print_named("repeat the content of one before", found.duplicates, found.duplicates_listed)
    print_named("empty", found.empty, found.empty_listed)
    if lengths is not None:
        mean = lengths.tokens / max(1, lengths.documents)
        click.echo(
            f"{counted(lengths.documents, 'document')} after cleaning, {counted(lengths.tokens, 'token')}, "
            f"mean {mean:,.0f}, longest {lengths.longest:,}"
        )
        print_named(f"longer than data.seq_len ({seq_len:,})", lengths.overlong, lengths.overlong_listed)
        print_named("without a token to train", lengths.without_target, lengths.without_target_listed)


# ── stats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@data.command("stats", short_help="Count documents, tokens, lengths, languages, duplicates.")
@click.argument("source")
@override_options
@runs_option
@json_option
def stats(
    source: str,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    runs: Path,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Count what SOURCE is trained on: a manifest, a run, or the key of a token store.

    The data of a manifest is built where it is not kept yet. Languages and lengths of documents are known as long as
    the cleaned documents lie in the cache too.
    """
    from attrs import asdict

    from codex_kernel.data import statistics
    from codex_kernel.prepared import opened

    report = Watched()
    with opened(source, _place(report, runs, override_files, sets)) as found:
        splits = statistics.of_store(found.data)
        corpus = found.corpus(cache_folder())
        numbers = None if corpus is None else statistics.of_corpus(corpus, report)
        about = found.data.report
    if as_json:
        documents = None if numbers is None else asdict(numbers)
        print_json({"schema_version": 1, "data": about, "splits": splits, "documents": documents})
        return
    _print_stats(about, splits, numbers)


def _print_stats(about: Any, splits: dict[str, Any], numbers: Any) -> None:
    from codex_kernel.cli.data_views import print_counts, print_shares

    print_counts(about)
    click.echo("")
    rows = [
        (
            name,
            f"{split['filled']:.2%}",
            f"{split['bytes_per_token']:.2f}",
            *(f"{split['piece_tokens'].get(column, 0):,}" for column in _SPREAD),
        )
        for name, split in splits.items()
    ]
    columns = ("split", "filled", "bytes/token", *_SPREAD)
    click.echo("tokens of a document, or of the piece of one that packing makes")
    print_table(columns, rows, right=columns[1:])
    for name, split in splits.items():
        if set(split["sources"]) - {""}:
            click.echo("")
            shares = [
                (source or "(not known)", f"{one['tokens']:,}", f"{one['blocks']:,}")
                for source, one in split["sources"].items()
            ]
            print_table((f"source ({name})", "tokens", "blocks"), shares, right=("tokens", "blocks"))
    if numbers is None:
        click.echo("note: the documents themselves are no longer in the cache", err=True)
        return
    click.echo("")
    click.echo("bytes of a document, after cleaning")
    print_table(
        _SPREAD, [tuple(f"{numbers.document_bytes.get(column, 0):,}" for column in _SPREAD)], right=_SPREAD
    )
    for title, shares_ in (("language", numbers.languages), ("source", numbers.sources)):
        if set(shares_) - {""}:
            click.echo("")
            print_shares(title, shares_)


_SPREAD = ("min", "p5", "p25", "p50", "p75", "p95", "p99", "max", "mean")


# ── what they share ───────────────────────────────────────────────────────────────────────────────────────────────


@define(eq=False)
class Watched(ProgressReporter):
    """A reporter that remembers which events there were."""

    events: set[str] = field(factory=set)

    def event(self, name: str, **fields: Any) -> None:  # noqa: ARG002 - a reporter's signature
        """Remember the event."""
        self.events.add(name)


def _place(
    report: Watched,
    runs: Path = Path("runs"),
    override_files: tuple[Path, ...] = (),
    sets: tuple[str, ...] = (),
) -> Place:
    """Say where data is looked for; what a run or a store has cannot be overridden."""
    from codex_kernel.tokenizers import Place

    def read_run(path: Path) -> Plan:
        if override_files or sets:
            raise click.UsageError("--set and --override-file go over a manifest; a run has its data already")
        return make_plan(path, (), ())

    return Place(
        base=Path.cwd(),
        cache=cache_folder(),
        runs=runs,
        report=report,
        read_plan=lambda path: make_plan(path, override_files, sets),
        read_run=read_run,
    )
