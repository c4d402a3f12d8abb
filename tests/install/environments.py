"""Environments as users make them: new, outside the checkout, with nothing in them but what was asked for.

One rule: no command here sees the checkout or the environment that runs the tests; uv, which is taken from there, only
fills the new ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from attrs import frozen

from dev import pip_find_links
from tests.command import Said

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
TORCH = ROOT / "constraints.txt"
UV = Path(sys.executable).parent / "uv"
_NEWEST_MINOR = 19


@frozen
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def active(self) -> dict[str, str]:
        """Return the variables of a shell in which it is active."""
        before = plain_variables()
        return {**before, "PATH": os.pathsep.join([str(self.folder / "bin"), before["PATH"]])}

    def run(self, *words: str | Path, cwd: Path, variables: Mapping[str, str] | None = None) -> Said:
        """Run a program of this environment in the folder `cwd` and return what it said."""
        name, *arguments = map(str, words)
        done = subprocess.run(
            [self.folder / "bin" / name, *arguments],
            cwd=cwd,
            env={**self.active(), "CODEX_CACHE": str(cwd / "cache"), **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def install(self, *words: str | Path) -> None:
        """Install what is named, in the versions of the lock, whose hashes are verified."""
        run_uv("pip", "install", "--python", self.python, "-c", LOCK, "-c", TORCH, *words)

    def holds(self, *modules: str) -> list[bool]:
        """Say of each module whether it can be found there."""
        program = "import sys, importlib.util as u; print(*(bool(u.find_spec(m)) for m in sys.argv[1:]))"
        done = self.run("python", "-c", program, *modules, cwd=self.folder)
        return [word == "True" for word in done.out.split()]


def make_environment(folder: Path, python: str | Path = sys.executable) -> Environment:
    """Make an environment of this Python, with nothing in it."""
    run_uv("venv", "--no-project", "--python", python, folder)
    return Environment(folder)


def build_wheels(project: Path, folder: Path) -> Path:
    """Build the source distribution of a project, and its wheel from that; return the wheel."""
    before = set(folder.glob("*.whl"))
    run_uv("build", "--build-constraints", LOCK, "--out-dir", folder, project)
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def run_uv(*words: str | Path) -> None:
    """Run uv; fail with what it said."""
    done = subprocess.run([UV, *words], env=plain_variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"uv {' '.join(map(str, words))}: {done.stderr}"


def plain_variables() -> dict[str, str]:
    """Return this process's environment variables without those that lead into its own environment."""
    dropped = ("CODEX", "PYTHON", "VIRTUAL_ENV", "UV_PROJECT", "UV_CONSTRAINT", "FORCE_COLOR", "COV_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {"UV_FIND_LINKS": _find_links(), "UV_PYTHON_DOWNLOADS": "never", **kept}


@cache
def _find_links() -> str:
    """Return pip's folders of wheels, where a CPU wheel of torch may stand; uv does not read pip's settings."""
    return pip_find_links()


def write_pins(path: Path) -> Path:
    """Write the versions of the lock without hashes: pip refuses folders where a constraint has a hash."""
    text = LOCK.read_text(encoding="utf-8")
    path.write_text("\n".join(re.findall(r"^[a-z0-9][^\n\\]*==[^\n\\]*", text, re.MULTILINE)) + "\n")
    return path


def find_pythons() -> dict[str, Path]:
    """Return every CPython from 3.11 on that this machine has, by its full version, the running one among them."""
    home = Path.home()
    patterns = {
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")): "versions/*/bin/python3",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")): "*/bin/python3",
    }
    candidates = [Path(sys.executable)]
    candidates += [path for root, pattern in patterns.items() for path in sorted(root.glob(pattern))]
    for folder in os.get_exec_path():
        if Path(folder).name != "shims":  # those of pyenv lead to the versions that are found above
            candidates += [Path(folder) / f"python3.{minor}" for minor in range(11, _NEWEST_MINOR + 1)]
    found: dict[str, Path] = {}
    for path in candidates:
        version = _version(path)
        if version is not None:
            found.setdefault(version, path)
    return found


def _version(path: Path) -> str | None:
    """Return the version of an interpreter; None where it is no CPython from 3.11 on, or does not run."""
    if not path.exists():
        return None
    program = (
        "import sys, platform as p; print(p.python_implementation(), p.python_version(), sys.version_info[1])"
    )
    try:
        done = subprocess.run(
            [path, "-I", "-c", program], capture_output=True, text=True, check=False, timeout=60
        )
    except OSError:
        return None
    said = re.fullmatch(r"CPython (3\.(\d+)\.\S+) \2\n", done.stdout)
    return said[1] if said and int(said[2]) >= 11 else None
