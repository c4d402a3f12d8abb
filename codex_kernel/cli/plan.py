"""`codex plan`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from codex_kernel.cli.manifests import make_plan, manifest_arguments
from codex_kernel.cli.terminal import cache_folder, duration, json_option, print_json, size

if TYPE_CHECKING:
    from codex_kernel.foretell import Foretold


@click.command()
@manifest_arguments
@click.option("--no-measure", is_flag=True, help="Time no steps and load no weights.")
@json_option
def plan(
    manifest: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    no_measure: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Foretell what MANIFEST needs: parameters, memory by part, steps, tokens, disk and time.

    The tokenizer and the data are really built (and kept in the cache); a few steps are timed on a throw-away model.
    """
    made = make_plan(manifest, override_files, sets)

    from codex_kernel.cli.quiet import TerminalReporter
    from codex_kernel.foretell import foretell

    foretold = foretell(made, Path.cwd(), cache_folder(), TerminalReporter(), measure=not no_measure)
    if as_json:
        print_json(foretold.as_json())
    else:
        _print(foretold)


def _print(foretold: Foretold) -> None:
    """Print the estimate for people."""
    estimate = foretold.estimate
    rows = [
        ("parameters", f"{estimate.parameters:,} ({estimate.trainable_parameters:,} trainable)"),
        ("vocabulary", f"{foretold.vocab_size:,}"),
        ("steps", f"{estimate.steps:,}"),
        ("tokens", f"{estimate.tokens:,}"),
        ("checkpoint disk", size(estimate.checkpoint_bytes)),
    ]
    if estimate.seconds_per_step is None:
        rows.append(("time", "not measured"))
    else:
        whole = duration(estimate.seconds_per_step * estimate.steps)
        rows.append(("time", f"about {whole} ({estimate.seconds_per_step:.3f} s a step, without evaluation)"))
    _section("run", rows)
    total = sum(estimate.memory_bytes.values())
    _section(
        "memory",
        [*((part, size(count)) for part, count in estimate.memory_bytes.items()), ("in all", size(total))],
    )
    _section("data", list(_data_rows(foretold.data)))
    for note in estimate.notes:
        click.echo(f"note: {note}")


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    click.echo(title)
    for name, value in rows:
        click.echo(f"  {name:<28} {value}")


def _data_rows(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what becomes of the documents: how many, and what is cut, dropped or padded."""
    yield "documents", f"{data['documents']:,} ({data['duplicates_dropped']:,} duplicates dropped)"
    for name, split in data["splits"].items():
        yield (
            name,
            f"{split['documents']:,} documents, {split['tokens']:,} tokens in {split['blocks']:,} blocks",
        )
        cut, dropped = split["documents_split"], split["documents_dropped"]
        yield (
            "",
            f"{cut:,} documents cut over blocks, {dropped:,} dropped, {split['padding_slots']:,} places padded",
        )
