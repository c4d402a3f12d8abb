"""The tutorials and how-to pages, played as a reader would."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.docs.tutorial import Block, commands, pattern, play

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIALS = DOCS / "tutorial"

SHORT = """\
tokenizer: {vocab_size: 512}
data: {seq_len: 64}
model: {config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2,
  num_key_value_heads: 2}}
trainer: {max_steps: 300, warmup_steps: 2, global_batch_size: 4, micro_batch_size: 4, log_every: 10}
checkpointer: {every_steps: 100}
evaluate: {every_steps: 100, max_blocks: 4}
"""
PROGRAMS = {"codex": "codex_kernel", "pip": "pip", "pytest": "pytest"}
"""Commands and the modules that they are; `python` is that of the environment."""


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with a Python of its own, which sees ours and into which pip may install."""
    venv, home = folder / "venv", folder / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    site = next(venv.glob("lib/*/site-packages"))
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, module in PROGRAMS.items():
        script = venv / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
        script.chmod(0o755)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CODEX", "PIP_"))}
    return {
        **kept,
        "PATH": os.pathsep.join([str(venv / "bin"), os.environ["PATH"]]),
        "HOME": str(home),
        "CODEX_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # sic: pip takes it for `build_isolation`
        "PIP_NO_INDEX": "1",
        "TERM": "dumb",
    }


def shortened(line: str) -> str:
    """Let the commands of the first run use a smaller model and fewer steps."""
    for command in ("run", "plan"):
        line = line.replace(
            f"codex {command} manifest.yaml", f"codex {command} manifest.yaml --override-file ../short.yaml"
        )
    return line


@pytest.mark.slow
def test_the_first_run_is_as_the_tutorial_shows(tmp_path):
    """From `codex init` to a generated text, every command of the page does and prints what the page shows."""
    (tmp_path / "short.yaml").write_text(SHORT)
    (tmp_path / "work").mkdir()
    play(TUTORIALS / "first-run.md", tmp_path / "work", environment(tmp_path), shorten=shortened)


@pytest.mark.slow
def test_the_first_plugin_is_as_the_tutorial_shows(tmp_path):
    """A plugin is written, installed, listed, used, tested and removed exactly as the page says."""
    (tmp_path / "work").mkdir()
    play(TUTORIALS / "first-plugin.md", tmp_path / "work", environment(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "own-data",
        "mixture",
        "tokenizers",
        "code-tokenizers",
        "chat",
        "cleaning",
        "look-at-data",
        "lora",
        "probe",
        "stop-and-resume",
        "checkpoints",
        "verify-resume",
        "track",
    ],
)
def test_a_how_to_is_as_the_page_shows(tmp_path, name):
    """Every file of the page is written, every command runs and prints what the page shows."""
    (tmp_path / "work").mkdir()
    play(DOCS / "how-to" / f"{name}.md", tmp_path / "work", environment(tmp_path))


def test_output_is_compared_by_form():
    """Numbers, run ids and alignment may differ; words may not."""
    import re

    shown = pattern(["run 20260101-120000-ab12", "loss   5.32  (…)", "…", "done in 10 s"])
    assert re.fullmatch(shown, "run 20270101-120000-0000\n loss 14.1 (step 3)\na\nb\ndone in 1 s\n")
    assert not re.fullmatch(shown, "run 20270101-120000-0000\nlass 14.1 (step 3)\ndone in 1 s\n")


def test_a_command_has_the_output_below_it():
    """A block is cut at its prompts; `exit=` belongs to the last command."""
    first, last = commands(Block("console", {"exit": "2"}, "$ a \\\n  b\n$ c\nx\ny\n"))
    assert (first.line, first.shown, first.code) == ("a b", [], 0)
    assert (last.line, last.shown, last.code) == ("c", ["x", "y"], 2)
