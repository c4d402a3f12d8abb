"""`codex generate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from codex_kernel.cli.manifests import make_plan
from codex_kernel.cli.places import cache_folder, runs_option
from codex_kernel.cli.terminal import json_option, print_json, read_prompt


@click.command(
    epilog="""
\b
Examples:
  codex generate runs/quickstart/20260101-120000-ab12 --prompt "def "
  codex generate 20260101-120000-ab12 --prompt "class Graph" --temperature 0 --max-new-tokens 64
  git show HEAD:setup.py | codex generate quickstart --prompt -
"""
)
@click.argument("run")
@click.option("--prompt", required=True, metavar="TEXT", help="Text to go on from; - reads standard input.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.8,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option("--top-k", type=click.IntRange(1), help="Sample among this many likeliest tokens.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Sample among the likeliest up to this mass."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed gives the same text."
)
@runs_option
@json_option
def generate(  # noqa: PLR0913 - click passes each option by name
    run: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    runs: Path,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Continue a prompt with the model of RUN (a run folder, or its id), from its newest checkpoint."""
    from codex_kernel import runfolder
    from codex_kernel.cli.quiet import TerminalReporter
    from codex_kernel.interfaces import GenerateRequest

    folder = runfolder.find(runs, run)
    text = read_prompt(prompt)
    plan = make_plan(folder.begun(), (), ())

    from codex_kernel import continuing

    request = GenerateRequest(text, max_new_tokens, temperature, top_k, top_p, seed, plan.data.seq_len)
    pieces = continuing.generate(plan, folder, cache_folder(), TerminalReporter(), request)
    if as_json:
        print_json({"schema_version": 1, "run": str(folder.path), "prompt": text, "text": "".join(pieces)})
        return
    sys.stdout.write(text)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
