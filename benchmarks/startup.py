"""How long `codex` takes to say something, as a multiple of `python -c pass` in the same run.

    python benchmarks/startup.py [--rounds 15] [--check]

The commands take turns, so that a busy moment hits all of them; what counts is the median of the ratios of a round.
`--check` exits 1 where a limit is passed.

`--help` and `plugins list` are measured among 130 distributions, and the latter among 430 too: what one more costs.
What plugins cost that are installed and not used: `--help` with all distributions of this environment, and with all
but the plugins. `validate` checks a manifest of plugins from static manifests alone, as wheels bring them. `run` is
measured up to the moment at which it imports something heavy for the first time, which is numpy, and up to that of
torch: a stand-in for the package lies on the path.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

EXTRA, MANY = 130, 430
SITE = Path(sysconfig.get_path("purelib"))
CODEX = [sys.executable, "-m", "codex_kernel"]
MANIFEST = """\
name: measured
dataset: {type: text-files, paths: [text.txt]}
tokenizer: bytes
data: {seq_len: 64, validation_fraction: 0}
model: {type: hf-causal-lm, config: {model_type: llama, hidden_size: 32}}
adapters: [{type: lora, r: 4}]
trainer: {type: torch, max_steps: 10}
loggers: [console, mlflow, sysmon]
"""


@frozen
class Case:
    """Something to start: its command, environment and folder; `until` reads another time than that of the process."""

    command: list[str]
    environment: dict[str, str]
    folder: Path
    until: Callable[[float], float] | None = None

    def seconds(self) -> float:
        """Return the wall time of one process, or the time until the moment that `until` tells."""
        began = time.perf_counter()
        wall = time.time()
        done = subprocess.run(  # noqa: S603 - our own commands
            self.command, env=self.environment, cwd=self.folder, check=False, capture_output=True, text=True
        )
        took = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{self.command}: exit code {done.returncode}\n{done.stderr}")
        return took if self.until is None else self.until(wall)


def environment(*paths: Path) -> dict[str, str]:
    """Return the environment of a command: these folders on the path, and bytecode, which an installed command has."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "CODEX_PLUGINS", "CODEX_PLUGIN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    cache = str(Path(tempfile.gettempdir()) / "codex-startup-cache")
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, paths)), "CODEX_CACHE": cache}


def add_distributions(folder: Path, count: int) -> Path:
    """Put metadata of that many distributions, each with an entry point of another tool, into a folder."""
    folder.mkdir()
    for number in range(count):
        metadata = folder / f"extra_{number}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: extra-{number}\nVersion: 1.0\n\n" + "text\n" * 50
        )
        (metadata / "entry_points.txt").write_text(
            f"[console_scripts]\nextra-{number} = extra_{number}:main\n"
        )
    return folder


def add_command(folder: Path) -> Path:
    """Put a distribution with a command into a folder, as its wheel would lie there."""
    metadata = folder / "codex_wave-1.0.dist-info"
    metadata.mkdir(parents=True)
    described = {"name": "wave", "target": "codex_wave:wave", "help": "Wave a hand."}
    static = {"schema_version": 1, "distribution": "codex-wave", "plugin_api": [1, 1], "plugins": []}
    files = {
        "codex_wave.py": 'import click\n\n\n@click.command()\ndef wave():\n    """Wave a hand."""\n',
        "codex_wave.codex-plugin.json": json.dumps({**static, "commands": [described]}),
        f"{metadata.name}/METADATA": "Metadata-Version: 2.4\nName: codex-wave\nVersion: 1.0\n",
        f"{metadata.name}/entry_points.txt": "[codex.commands]\nwave = codex_wave:wave\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (metadata / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    return folder


def is_plugin(path: Path) -> bool:
    """Say whether a file of site-packages belongs to a plugin distribution of this repository."""
    name = path.name.removeprefix("_")
    return name.startswith("codex_") and not name.startswith("codex_kernel")


def copy_of_site(folder: Path, *, plugins: bool) -> Path:
    """Make a folder of links to what is installed, with or without the plugins, as wheels would be."""
    folder.mkdir()
    for path in SITE.iterdir():
        if "codex" not in path.name and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    root = Path(__file__).resolve().parents[1]
    sources = [(root / "codex_kernel", next(SITE.glob("codex_kernel-*.dist-info")))]
    if plugins:
        for metadata in filter(is_plugin, SITE.glob("codex_*.dist-info")):
            package = metadata.name.partition("-")[0]
            sources.append((root / "plugins" / package.replace("_", "-") / "src" / package, metadata))
    for package, metadata in sources:
        (folder / package.name).symlink_to(package)
        installed = folder / metadata.name
        shutil.copytree(metadata, installed, ignore=shutil.ignore_patterns("direct_url.json"))
        files = [f"{package.name}/{path.name}" for path in package.iterdir() if path.is_file()]
        (installed / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    return folder


def stand_in(folder: Path, package: str) -> Path:
    """Make a package that tells when it is imported, and ends the process."""
    (folder / package).mkdir(parents=True)
    code = "import os, sys, time\nopen('imported', 'w').write(repr(time.time()))\nos._exit(0)\n"
    (folder / package / "__init__.py").write_text(code)
    return folder


def cases(folder: Path) -> dict[str, Case]:
    """Return what is started, by name."""
    few, many = add_distributions(folder / "few", EXTRA), add_distributions(folder / "many", MANY)
    whole, bare = (copy_of_site(folder / name, plugins=name == "whole") for name in ("whole", "bare"))
    (folder / "text.txt").write_text("some text\n" * 100)
    (folder / "m.yaml").write_text(MANIFEST)
    without_site = [sys.executable, "-S", "-m", "codex_kernel"]
    list_ = ["plugins", "list", "--json"]

    def imported(wall: float) -> float:
        return float((folder / "imported").read_text()) - wall

    return {
        "pass": Case([sys.executable, "-c", "pass"], environment(), folder),
        "--version": Case([*CODEX, "--version"], environment(few), folder),
        "--help": Case([*CODEX, "--help"], environment(few), folder),
        "--help, command": Case(
            [*CODEX, "--help"], environment(few, add_command(folder / "command")), folder
        ),
        "--help, with plugins": Case([*without_site, "--help"], environment(whole), folder),
        "--help, without plugins": Case([*without_site, "--help"], environment(bare), folder),
        "list": Case([*CODEX, *list_], environment(few), folder),
        "list, many": Case([*CODEX, *list_], environment(many), folder),
        "validate": Case([*without_site, "validate", "m.yaml"], environment(whole), folder),
        **{
            f"run, {package}": Case(
                [*without_site, "run", "m.yaml", "--set", "adapters=[]", "--set", "loggers=[console]"],
                environment(stand_in(folder / f"for-{package}", package), whole),
                folder,
                imported,
            )
            for package in ("numpy", "torch")
        },
    }


@frozen
class Row:
    """One thing that was measured, and its limit."""

    what: str
    value: float
    limit: float
    unit: str


def measure(rounds: int) -> list[Row]:
    """Return what was measured: medians of ratios to `python -c pass`."""
    with tempfile.TemporaryDirectory() as name:
        started = cases(Path(name))
        for case in started.values():  # compiles bytecode, warms the file cache
            case.seconds()
        times: dict[str, list[float]] = {key: [] for key in started}
        for _ in range(rounds):
            for key, case in started.items():
                times[key].append(case.seconds())
    base = times["pass"]

    def ratio(key: str, minus: str | None = None) -> float:
        less = times[minus] if minus else [0.0] * rounds
        return statistics.median((t - u) / b for t, u, b in zip(times[key], less, base, strict=True))

    growth = statistics.median(b - a for a, b in zip(times["list"], times["list, many"], strict=True))
    return [
        Row("codex --version", ratio("--version"), 2.5, "x"),
        Row(f"codex --help, {EXTRA} more distributions", ratio("--help"), 5.0, "x"),
        Row("the same, with a command of a plugin", ratio("--help, command"), 5.0, "x"),
        Row(
            "what installed plugins add to --help",
            ratio("--help, with plugins", "--help, without plugins"),
            0.3,
            "x",
        ),
        Row(f"codex plugins list --json, {EXTRA} more distributions", ratio("list"), 5.0, "x"),
        Row("one more distribution", growth * 1000 / (MANY - EXTRA), 0.03, "ms"),
        Row("codex validate, static manifests", ratio("validate"), 15.0, "x"),
        Row("codex run, until the first heavy import", ratio("run, numpy"), 20.0, "x"),
        Row("the same", statistics.median(times["run, numpy"]) * 1000, 300.0, "ms"),
        Row("codex run, until torch is imported, numpy before it", ratio("run, torch"), 25.0, "x"),
    ]


def main() -> int:
    """Print what was measured beside its limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--check", action="store_true", help="exit 1 where a limit is passed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    if arguments.json:
        print(
            json.dumps([{"what": r.what, "value": r.value, "limit": r.limit, "unit": r.unit} for r in rows])
        )
    else:
        print(f"times python -c pass, median of {arguments.rounds} rounds")
        for row in rows:
            mark = "" if row.value <= row.limit else "  over the limit"
            print(f"  {row.what:<58} {row.value:7.2f} {row.unit:<2} (limit {row.limit:g}){mark}")
    return int(arguments.check and any(row.value > row.limit for row in rows))


if __name__ == "__main__":
    sys.exit(main())
