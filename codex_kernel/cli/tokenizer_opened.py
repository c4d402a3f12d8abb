"""Opening the tokenizers that a command line names, whatever they are.

One rule: what is set over a manifest is an error where there is no manifest: nothing that was written goes unread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from codex_kernel.cli.manifests import make_plan, override_options
from codex_kernel.cli.places import cache_folder, runs_option
from codex_kernel.cli.terminal import json_option

if TYPE_CHECKING:
    from codex_kernel.cli.progress import ProgressReporter
    from codex_kernel.tokenizers import Opened, Place

F = TypeVar("F", bound=Callable[..., object])


def tokenizer_options(function: F) -> F:
    """Give a command what says where tokenizers are, and how its answer is printed."""
    return runs_option(override_options(json_option(function)))


@contextmanager
def place_of(
    runs: Path, override_files: tuple[Path, ...], sets: tuple[str, ...], report: ProgressReporter
) -> Iterator[Place]:
    """Say where tokenizers are looked for; how far the work is, is said until it is done."""
    from codex_kernel.tokenizers import Place

    try:
        yield Place(
            base=Path.cwd(),
            cache=cache_folder(),
            runs=runs,
            report=report,
            read_plan=lambda path: make_plan(path, override_files, sets),
            read_run=lambda path: make_plan(path, (), ()),
        )
    finally:
        report.close()


@contextmanager
def opened_tokenizers(
    names: Iterable[str],
    runs: Path,
    override_files: tuple[Path, ...],
    sets: tuple[str, ...],
    report: ProgressReporter | None = None,
) -> Iterator[list[Opened]]:
    """Open tokenizers for as long as they are used."""
    from codex_kernel.cli.progress import ProgressReporter
    from codex_kernel.tokenizers import opened

    names = list(names)
    if (override_files or sets) and not any(Path(name).is_file() for name in names):
        raise click.UsageError(f"--set and --override-file change a manifest, and {' '.join(names)} is none")
    with ExitStack() as stack:
        with place_of(runs, override_files, sets, report or ProgressReporter()) as place:
            found = [stack.enter_context(opened(name, place)) for name in names]
        yield found
