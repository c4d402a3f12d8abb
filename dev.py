#!/usr/bin/env python3
"""Every job of this repository from a bare Python: no make, no installed tool, no activated environment.

    python3 dev.py demo [ARG...]    the quick start; arguments go to `codex run`
    python3 dev.py test [ARG...]    the tests; arguments go to pytest
    python3 dev.py check [ARG...]   all that must pass: ruff, mypy, import contracts, tests
    python3 dev.py sync             only make or renew .venv
    python3 dev.py exec CMD...      any command inside .venv
    python3 dev.py lock [ARG...]    rewrite requirements.lock; arguments go to `uv pip compile`, say --upgrade

The rule: nothing is installed outside .venv, and nothing enters it unless requirements.lock holds its hash
(but for torch: see constraints.txt). DEV_INSTALLER=pip installs the same without uv, several times slower.
"""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        "dev.py needs Python 3.11 or newer, this is {}.{}: run it with a newer one".format(*sys.version_info)
    )

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "dev-stamp"
LOCK = ROOT / "requirements.lock"
TORCH = ROOT / "constraints.txt"

PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
EDITABLES = [word for path in PROJECTS for word in ("-e", path.relative_to(ROOT).as_posix())]
GROUPS = "--group test --group lint".split()

LINT = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]]
# Two at a time, for most tests wait for programs that they start; `-n 0` runs them in one process, as a debugger wants.
TEST = ["pytest", "-n", "2", "--dist", "loadfile"]
JOBS = {"demo": [["codex", "run", "examples/quickstart.yaml"]], "test": [TEST], "check": [*LINT, TEST]}


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


def install(*command: object, environment: dict[str, str] | None = None) -> None:
    """Run one step of the installation, or end with the command that failed and a remedy."""
    words = [str(word) for word in command]
    if subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, env=environment).returncode:
        say(f"failed: {' '.join(words)}")
        sys.exit("dev.py: it needs the network once (HTTPS_PROXY); or delete .venv, or try DEV_INSTALLER=pip")


def fingerprint() -> str:
    """Name the state that .venv must have: the locked versions and what the projects declare."""
    files = [LOCK, TORCH, *(path / "pyproject.toml" for path in PROJECTS)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def pip_find_links() -> str:
    """Return the wheel folders that pip is told to look into; uv does not read pip's settings."""
    listing = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = (line.partition("=") for line in listing.splitlines())
    found = [ast.literal_eval(value) for key, _, value in settings if key.endswith(".find-links")]
    return ",".join(dict.fromkeys(" ".join(found).split()))


def make_venv() -> None:
    """Create .venv with pip, also over one that is broken or has no pip."""
    if PYTHON.exists() and not subprocess.run([PYTHON, "-m", "pip", "-V"], capture_output=True).returncode:
        return
    say(f"creating {VENV.name} with Python {sys.version.split()[0]}")
    try:
        venv.create(VENV, clear=True, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        sys.exit("dev.py: this Python makes no environments: install its venv package (Debian: python3-venv)")


def install_uv() -> dict[str, str]:
    """Install the one uv that the lock names, and return the environment to run it in."""
    lines = LOCK.read_text().split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith("uv=="))
    last = next(number for number in range(first, len(lines)) if not lines[number].endswith("\\"))
    only_uv = VENV / "uv.txt"
    only_uv.write_text("\n".join(lines[first : last + 1]))
    install(PYTHON, *"-m pip install --quiet --no-deps --require-hashes -r".split(), only_uv)
    return {"UV_FIND_LINKS": pip_find_links(), "UV_PYTHON_DOWNLOADS": "never", **os.environ}


def sync() -> None:
    """Bring .venv to the locked state; cheap when it is there already."""
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint():
        return
    make_venv()
    say("installing the locked packages (1.7 GB on disk; 20 seconds with a warm cache, minutes without)")
    if os.environ.get("DEV_INSTALLER") == "pip":
        pip = [PYTHON, *"-m pip install --progress-bar off".split()]
        install(*pip, "--no-deps", "--require-hashes", "-r", LOCK)
        install(*pip, "-r", TORCH)
        install(*pip, "--no-deps", "--no-build-isolation", *EDITABLES)
    else:
        environment = install_uv()
        locked = ["-c", LOCK, "-c", TORCH, "--build-constraints", LOCK]
        uv = [BIN / "uv", *"pip install --python".split(), PYTHON]
        install(*uv, *locked, *EDITABLES, *GROUPS, environment=environment)
    STAMP.write_text(fingerprint())


def lock(*arguments: str) -> None:
    """Resolve the kernel, every plugin, the groups and the build tools for all systems and Pythons at once."""
    make_venv()
    environment = {**install_uv(), "UV_FIND_LINKS": ""}  # else a wheel that only this machine has gets in
    options = "--universal --python-version 3.11 --generate-hashes --no-emit-package torch --no-header --no-annotate"
    uv = [str(BIN / "uv"), *"--config-file lock.toml --quiet pip compile -".split(), *options.split()]
    command = [*uv, *GROUPS, "-c", str(TORCH), "-o", str(LOCK), *arguments]
    wanted = "\n".join(["hatchling", "editables", "uv", *(f"-e {path}" for path in EDITABLES[1::2])])
    if subprocess.run(command, cwd=ROOT, env=environment, input=wanted.encode()).returncode:
        sys.exit("dev.py: no solution; the lines above say which requirements disagree")
    pins = [line for line in LOCK.read_text().splitlines() if not line.startswith(("-e", "#"))]
    header = "# Written by `python3 dev.py lock`, used as a constraint; every hash is verified."
    LOCK.write_text("\n".join([header, *pins, ""]))


def job_environment(job: str) -> dict[str, str]:
    """Put .venv first on PATH; on few or shared cores torch's threads must neither spin nor multiply."""
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "VIRTUAL_ENV": str(VENV)}
    # Many processes import torch here; without bytecode each would compile it anew, which takes several times as long.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    return {**environment, "OMP_NUM_THREADS": "1"} if job in {"test", "check"} else environment


def perform(commands: list[list[str]], environment: dict[str, str]) -> None:
    """Run every command, also after one that failed; a single one takes this process over."""
    failed = []
    for name, *arguments in commands:
        words = " ".join([name, *arguments])
        say(words)
        program = shutil.which(name, path=environment["PATH"]) or sys.exit(
            f"dev.py: there is no command {name}"
        )
        if len(commands) == 1 and os.name == "posix":
            # Ctrl-C and SIGTERM then reach the run itself, which saves a checkpoint.
            os.execve(program, [name, *arguments], environment)
        if subprocess.run([program, *arguments], env=environment).returncode:
            failed.append(words)
    if failed:
        sys.exit("\n".join(f"dev.py: failed: {words}" for words in failed))


def main(job: str = "", *arguments: str) -> None:
    if job not in {*JOBS, "sync", "exec", "lock"} or (job == "exec" and not arguments):
        sys.exit(__doc__)
    if sys.stdin is None:  # closed: the next file opened would become the standard input of the job
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)  # noqa: FBT003 - it has no name
    os.chdir(ROOT)
    if job == "lock":
        lock(*arguments)
        return
    sync()
    if job == "exec":
        perform([list(arguments)], job_environment(job))
    elif job in JOBS:
        *others, last = JOBS[job]
        perform([*others, [*last, *arguments]], job_environment(job))


if __name__ == "__main__":
    main(*sys.argv[1:])
