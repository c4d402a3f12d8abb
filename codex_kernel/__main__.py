"""The command `codex`, also as `python -m codex_kernel`.

One rule: what every call pays for stays here and stays small; `--version` imports nothing but the version.
"""

from __future__ import annotations

import io
import os
import sys

_OF_SIGNALS = 128
_GRACE_SECONDS = 5.0
_PATIENCE_SECONDS = 30.0


def main() -> None:
    """Run the command line and exit with its code."""
    _open_closed_streams()
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from codex_kernel._version import __version__

        try:
            sys.stdout.write(f"codex {__version__}\n")
            sys.stdout.flush()
        except OSError:  # the long way says why
            pass
        else:
            return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path is printed as the bytes that it has
    # OpenMP threads that spin while they wait make a step many times slower as soon as the cores are shared. The
    # library reads this when it is loaded, so it must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from codex_kernel.cli import main as run_command
    from codex_kernel.collector import hold_back

    hold_back()
    code = run_command(arguments)
    threads = _threads_that_go_on()
    if code > _OF_SIGNALS:
        _end_within(_GRACE_SECONDS, code)
    elif threads:
        _end_within(_PATIENCE_SECONDS, code, f"ended, although {threads} of a plugin or a library went on")
    sys.exit(code)


def _threads_that_go_on() -> str:
    """Name the threads that the interpreter waits for at its end."""
    threading = sys.modules.get("threading")
    if threading is None:
        return ""
    here = threading.main_thread()
    names = [
        repr(thread.name) for thread in threading.enumerate() if not thread.daemon and thread is not here
    ]
    return f"the thread{'' if len(names) == 1 else 's'} {', '.join(names)}" if names else ""


def _end_within(seconds: float, code: int, warning: str = "") -> None:
    """Let this process end by then, whatever its threads and exit handlers still wait for.

    A signal may have broken into a library anywhere: say, where it had started a thread and not yet noted that there
    is one to be ended. What codex writes is closed by now.
    """
    import contextlib
    import threading
    import time

    def end() -> None:
        time.sleep(seconds)
        if warning:
            with contextlib.suppress(OSError, ValueError):  # nobody listens
                sys.stderr.write(f"warning: {warning}\n")
                sys.stderr.flush()
        os._exit(code)

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    threading.Thread(target=end, name="codex-end", daemon=True).start()


def _open_closed_streams() -> None:
    """Open /dev/null where a standard stream is closed, or the next file that is opened would take its number.

    Talk would then go into that file; and Python leaves None in `sys`, which no code expects. Not by pathlib, whose
    import would cost `--version` more than all the rest.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003 - as the standard streams are
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
