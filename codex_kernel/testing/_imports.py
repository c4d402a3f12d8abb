"""What importing a module does, seen from a process of its own.

One rule: the module is imported as the kernel would, in a fresh interpreter, and nothing of it reaches this one.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from attrs import frozen

_PROGRAM = """\
import contextlib, importlib, importlib.util, io, json, os, random, signal, sys, threading

name, file, command = sys.argv[1:]

def load():
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not file or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def ask_for_help(module):
    from click.testing import CliRunner
    values = [value for value in vars(module).values() if hasattr(value, "callback")]
    named = [value for value in values if getattr(value, "name", None) == command]
    if not named:
        raise LookupError(f"{name} has no command that is called {command!r}")
    for value in named:
        CliRunner().invoke(value, ["--help"], catch_exceptions=False)

def surroundings():
    return {
        "variables of the environment": dict(os.environ),
        "the working folder": os.getcwd(),
        "the random generator": repr(random.getstate()),
        "handlers of signals": {str(number): repr(signal.getsignal(number)) for number in (2, 15)},
        "threads": threading.active_count(),
        "the path of modules": list(sys.path),
    }

before, printed = surroundings(), io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    module = load()
    if command:
        ask_for_help(module)
after = surroundings()
changed = [what for what in before if before[what] != after[what]]
if printed.getvalue():
    changed.append(f"what is printed: {printed.getvalue().strip()[:80]!r}")
print(json.dumps({"loaded": sorted(sys.modules), "changed": changed}))
sys.stdout.flush()
os._exit(0)  # a thread that the module started would be waited for
"""


@frozen
class Imported:
    """What an import loaded (names of modules), and what else it changed, in words."""

    loaded: frozenset[str]
    changed: Sequence[str]


@functools.cache
def imported(module: str, command: str = "") -> Imported:
    """Import a module in a process of its own, by its name, else from its file; fail where it cannot be imported.

    command: the name of a command that is asked for its help there.
    """
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(  # noqa: S603 - this interpreter, and a program that stands above
        [sys.executable, "-c", _PROGRAM, module, file, command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{module} cannot be imported: {ran.stderr.strip()[-600:]}"
    told = json.loads(ran.stdout.splitlines()[-1])
    return Imported(frozenset(told["loaded"]), tuple(told["changed"]))


def check_light(module: str, heavy: Sequence[str]) -> None:
    """Fail where importing a module loads one of the heavy libraries."""
    found = sorted(imported(module).loaded & set(heavy))
    assert not found, f"importing {module} loads {', '.join(found)}: import it where it is used"


def check_help(module: str, command: str, heavy: Sequence[str]) -> None:
    """Fail where the --help of a module's command loads one of the heavy libraries."""
    found = sorted(imported(module, command).loaded & set(heavy))
    assert not found, f"{command} --help loads {', '.join(found)}: import it where the work is done"


def check_without_effect(module: str) -> None:
    """Fail where importing a module changes anything beside what is imported."""
    changed = imported(module).changed
    assert not changed, f"importing {module} changes {', '.join(changed)}"
