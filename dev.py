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
    sys.exit("dev.py needs Python 3.11 or newer, this is {}.{}: run it with a newer one".format(*sys.version_info))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "dev-stamp"
LOCK = ROOT / "requirements.lock"
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
EDITABLE = [word for path in PROJECTS for word in ("-e", f"./{path.relative_to(ROOT).as_posix()}")]
GROUPS = ["--group", "test", "--group", "lint"]
REMEDY = "needs the network once (proxy: HTTPS_PROXY); to start afresh delete .venv; without uv: DEV_INSTALLER=pip"
LOCK_HEADER = "# Written by `python3 dev.py lock`; used as a constraint, every hash is verified.\n"

TEST = ["pytest"]
LINT = [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]]
JOBS = {"demo": [["codex", "run", "examples/quickstart.yaml"]], "test": [TEST], "check": [*LINT, TEST]}


def say(text: str) -> None:
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


def run(command: list, **options) -> None:
    """Run one step of the installation, or end with the command that failed and a remedy."""
    if subprocess.run(list(map(str, command)), cwd=ROOT, stdin=subprocess.DEVNULL, **options).returncode:
        sys.exit(f"dev.py: failed: {' '.join(map(str, command))}\ndev.py: it {REMEDY}")


def fingerprint() -> str:
    """Name the state that .venv must have: the locked versions and what the projects declare."""
    files = [LOCK, ROOT / "constraints.txt", *(path / "pyproject.toml" for path in PROJECTS)]
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
        sys.exit("dev.py: this Python cannot make environments: install its venv package (Debian: python3-venv)")


def install_uv() -> dict:
    """Install the one uv that the lock names, and return the environment to run it in."""
    lines = LOCK.read_text().split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith("uv=="))
    last = next(number for number in range(first, len(lines)) if not lines[number].endswith("\\"))
    (VENV / "uv.txt").write_text("\n".join(lines[first : last + 1]))
    run([PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", VENV / "uv.txt"])
    return {"UV_FIND_LINKS": pip_find_links(), "UV_PYTHON_DOWNLOADS": "never", **os.environ}


def sync() -> None:
    """Bring .venv to the locked state; costs nothing when it is there already."""
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint():
        return
    make_venv()
    say("installing the locked packages (1.7 GB on disk; 20 seconds with a warm cache, minutes without)")
    if os.environ.get("DEV_INSTALLER") == "pip":
        pip = [PYTHON, "-m", "pip", "install", "--progress-bar", "off"]
        run([*pip, "--no-deps", "--require-hashes", "-r", LOCK])
        run([*pip, "-r", "constraints.txt"])
        run([*pip, "--no-deps", "--no-build-isolation", *EDITABLE])
    else:
        environment = install_uv()
        locked = ["-c", LOCK, "-c", "constraints.txt", "--build-constraints", LOCK]
        run([BIN / "uv", "pip", "install", "--python", PYTHON, *locked, *EDITABLE, *GROUPS], env=environment)
    STAMP.write_text(fingerprint())


def lock(arguments: list) -> None:
    """Resolve the kernel, every plugin, the groups and the build tools for all systems and Pythons at once."""
    make_venv()
    environment = {**install_uv(), "UV_FIND_LINKS": ""}  # no wheel of this machine alone
    command = [BIN / "uv", "--config-file", "lock.toml", "pip", "compile", "-", *GROUPS, "-c", "constraints.txt"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-package", "torch"]
    command += ["--no-header", "--no-annotate", "--quiet", "-o", LOCK, *arguments]
    inputs = "hatchling\neditables\nuv\n" + "".join(f"-e ./{path.relative_to(ROOT)}\n" for path in PROJECTS)
    if subprocess.run(command, cwd=ROOT, env=environment, input=inputs, text=True, stdout=subprocess.DEVNULL).returncode:
        sys.exit("dev.py: no solution; the lines above say which requirements disagree")
    lines = LOCK.read_text().splitlines(keepends=True)
    LOCK.write_text(LOCK_HEADER + "".join(line for line in lines if not line.startswith(("-", "#"))))


def job_environment(job: str) -> dict:
    """Put .venv first on PATH; on few or shared cores torch's threads must neither spin nor multiply."""
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "VIRTUAL_ENV": str(VENV)}
    environment["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])
    return {**environment, "OMP_NUM_THREADS": "1"} if job in {"test", "check"} else environment


def perform(commands: list, environment: dict) -> None:
    """Run every command, also after one that failed; a single command takes this process over."""
    if len(commands) == 1 and os.name == "posix":  # so that Ctrl-C and SIGTERM reach the run itself, which saves
        os.execvpe(commands[0][0], commands[0], environment)
    failed = []
    for command in commands:
        say(" ".join(command))
        if subprocess.run([shutil.which(command[0], path=environment["PATH"]), *command[1:]], env=environment).returncode:
            failed.append(" ".join(command))
    if failed:
        sys.exit(f"dev.py: failed: {'; '.join(failed)}")


def main(job: str = "", *arguments: str) -> None:
    if job not in {*JOBS, "sync", "exec", "lock"} or (job == "exec" and not arguments):
        sys.exit(__doc__)
    if sys.stdin is None:  # closed: the first file opened later would become the standard input of a child
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    os.chdir(ROOT)
    if job == "lock":
        lock(list(arguments))
        return
    sync()
    if job == "exec":
        perform([list(arguments)], job_environment(job))
    elif job in JOBS:
        *others, last = JOBS[job]
        perform([*others, [*last, *arguments]], job_environment(job))


if __name__ == "__main__":
    main(*sys.argv[1:])
