"""Runs the tests of every plugin distribution of the index against the kernel of this checkout.

    python .github/ecosystem.py [NAME...] [--source NAME=FOLDER]... [--here] [--json]

Each distribution gets an environment of its own: the kernel of the checkout, the distribution from its sources with
the extra `test`, then `codex plugins check` of what it registers, and its tests. Sources are a folder of this checkout,
a folder that `--source` names, or else the source distribution from the package registry. `--here` installs nothing and
uses the environment that runs this. Exits 1 where a distribution failed.

One rule: nothing is known of a distribution but what the index and its own metadata say.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "codex_kernel" / "known_plugins.json"
LAST_LINES = 15


class Verdict(NamedTuple):
    """What became of a distribution; `said` holds the last lines of the step that failed."""

    distribution: str
    step: str
    passed: bool
    said: str


class Failed(Exception):  # noqa: N818 - it is no error of this program
    """A step that failed, and the end of what it said."""


def run(step: str, *words: object, cwd: Path, python: Path) -> str:
    """Run a program; raise Failed with the end of its output where it fails."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])}
    done = subprocess.run(  # noqa: S603 - programs of the environment that was just made
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(step, "\n".join(done.stdout.splitlines()[-LAST_LINES:]))
    return done.stdout


def distributions() -> list[str]:
    """Return the distributions of the index, but the kernel itself."""
    index = json.loads(INDEX.read_text(encoding="utf-8"))
    found = {entry["distribution"] for names in index.values() for entry in names.values()}
    return sorted(found - {"codex-kernel"})


def sources_of(name: str, given: dict[str, Path], scratch: Path, python: Path) -> Path:
    """Return the folder with the sources of a distribution, fetched where it is not at hand."""
    at_hand = [given[name]] if name in given else [ROOT / "plugins" / name]
    for folder in at_hand:
        if (folder / "pyproject.toml").is_file():
            return folder
    if name in given:
        raise Failed("sources", f"{given[name]} has no pyproject.toml")
    options = "download --no-deps --no-binary :all: --dest".split()  # noqa: SIM905 - it reads best as it is typed
    run("sources", python, "-m", "pip", *options, scratch / "sdist", name, cwd=scratch, python=python)
    (archive,) = (scratch / "sdist").iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(scratch / "sources", filter="data")
    (folder,) = (scratch / "sources").iterdir()
    return folder


def entry_points(folder: Path) -> list[str]:
    """Return `kind:name` of the plugins that a project registers."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project.get("entry-points", {})
    kinds = {
        group: group.removeprefix("codex.").removesuffix("s")
        for group in groups
        if group.startswith("codex.")
    }
    return [f"{kind}:{name}" for group, kind in kinds.items() for name in groups[group]]


def judge(name: str, given: dict[str, Path], *, here: bool) -> Verdict:
    """Install a distribution, check its plugins and run its tests."""
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        python = Path(sys.executable)
        try:
            if not here:
                venv.create(scratch / "venv", with_pip=True)
                python = scratch / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
            folder = sources_of(name, given, scratch, python)
            if not here:
                install = [python, *"-m pip install --quiet -c".split(), ROOT / "constraints.txt"]  # noqa: SIM905
                wanted = [f"{ROOT}[testing]", f"{folder}[test]", "pytest-timeout"]
                run("install", *install, *wanted, cwd=scratch, python=python)
            names = entry_points(folder)
            run("check", python, "-m", "codex_kernel", "plugins", "check", *names, cwd=scratch, python=python)
            said = run("tests", python, "-m", "pytest", "-q", "tests", cwd=folder, python=python)
        except Failed as failure:
            step, last = failure.args
            return Verdict(name, step, passed=False, said=last)
    return Verdict(name, "tests", passed=True, said=said.strip().splitlines()[-1])


def main() -> int:
    """Judge the distributions one by one, and say what became of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="distributions; none: all of the index")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--here", action="store_true", help="use this environment, install nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    given = {
        name: Path(folder).resolve() for name, _, folder in (text.partition("=") for text in arguments.source)
    }
    verdicts = []
    for name in dict.fromkeys(arguments.names or [*distributions(), *given]):
        verdict = judge(name, given, here=arguments.here)
        verdicts.append(verdict)
        if not arguments.json:
            print(f"{name:<28} {'passed' if verdict.passed else f'FAILED in {verdict.step}'}", flush=True)
            print("\n".join(f"    {line}" for line in verdict.said.splitlines()), flush=True)
    if arguments.json:
        print(json.dumps({"schema_version": 1, "distributions": [verdict._asdict() for verdict in verdicts]}))
    return int(not all(verdict.passed for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
