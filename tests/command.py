"""The real command line in a process of its own, as a user has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import field, frozen

from tests.toys import TOY_MANIFEST, install_toys


@frozen
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@frozen
class Workplace:
    """A folder to work in, with the toy plugins (and whatever else is put into `site`) on the path."""

    folder: Path
    variables: Mapping[str, str] = field(factory=dict)

    @property
    def site(self) -> Path:
        """The folder of further distributions."""
        return self.folder / "site"

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: toys on the path, a cache of its own, a plain terminal."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("CODEX", "FORCE_COLOR"))
        }
        paths = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(paths),
            "CODEX_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            **self.variables,
        }

    def codex(self, *arguments: str | Path, stdin: str = "") -> Said:
        """Run `codex` with these arguments and return what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "codex_kernel", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Start `codex` and let it go on; whatever happens meanwhile, it is gone in the end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "codex_kernel", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def write(self, name: str, text: str | bytes) -> Path:
        """Put a file into the folder."""
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path


def toy_workplace(folder: Path) -> Workplace:
    """Make a workplace with the toy plugins and `toy.yaml`, a manifest that uses them."""
    workplace = Workplace(folder)
    install_toys(workplace.site)
    workplace.write("toy.yaml", TOY_MANIFEST)
    return workplace
