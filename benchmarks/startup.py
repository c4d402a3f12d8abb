"""How long `codex` takes to say something, as a multiple of `python -c pass` in the same run.

    python benchmarks/startup.py [--rounds 15] [--extra 300] [--check]

With `--extra N` as many more distributions lie on the path. `--check` exits 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {
    ("--version",): 2.5,
    ("--help",): 7.0,
    ("plugins", "list", "--json"): 7.0,
}


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Return the wall time of one process."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own commands
    return time.perf_counter() - began


def add_distributions(folder: Path, count: int) -> None:
    """Put metadata of that many distributions, each with an entry point of another tool, into the folder."""
    for number in range(count):
        metadata = folder / f"extra_{number}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: extra-{number}\nVersion: 1.0\n\n" + "text\n" * 50
        )
        (metadata / "entry_points.txt").write_text(
            f"[console_scripts]\nextra-{number} = extra_{number}:main\n"
        )


def measure(rounds: int, extra: int) -> dict[tuple[str, ...], float]:
    """Return the median ratio of each command, the commands interleaved so that a busy moment hits all of them."""
    codex = Path(sys.executable).parent / "codex"
    with tempfile.TemporaryDirectory() as name:
        add_distributions(Path(name), extra)
        # An installed command has its bytecode; without it every start would compile the sources anew.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPATH"] = name
        commands = {(): [sys.executable, "-c", "pass"]} | {words: [str(codex), *words] for words in LIMITS}
        for command in commands.values():  # compiles bytecode, warms the file cache
            seconds(command, environment)
        ratios: dict[tuple[str, ...], list[float]] = {words: [] for words in LIMITS}
        for _ in range(rounds):
            times = {words: seconds(command, environment) for words, command in commands.items()}
            for words in LIMITS:
                ratios[words].append(times[words] / times[()])
        return {words: statistics.median(values) for words, values in ratios.items()}


def main() -> int:
    """Print the ratios beside their limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--extra", type=int, default=300, help="further distributions on the path")
    parser.add_argument("--check", action="store_true", help="exit 1 where a limit is passed")
    arguments = parser.parse_args()
    late = False
    print(
        f"times python -c pass, median of {arguments.rounds} rounds, {arguments.extra} more distributions on the path"
    )
    for words, ratio in measure(arguments.rounds, arguments.extra).items():
        limit = LIMITS[words]
        late |= ratio > limit
        print(f"  codex {' '.join(words):<24} {ratio:5.2f}x  (limit {limit}x)")
    return int(late and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
