"""The command `codex`, also as `python -m codex_kernel`.

One rule: what every call pays for stays here and stays small; `--version` imports nothing but the version.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from codex_kernel._version import __version__

        sys.stdout.write(f"codex {__version__}\n")
        return
    # OpenMP threads that spin while they wait make a step many times slower as soon as the cores are shared. The
    # library reads this when it is loaded, so it must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from codex_kernel.cli import main as run_command

    sys.exit(run_command(arguments))


if __name__ == "__main__":
    main()
