"""What one installed plugin is worth: judged in a process of its own, which `codex_kernel.plugin_check` starts.

One rule: the plugin may do anything to this process. What is known is written to the report at once, and the process
ends without asking the plugin's leave.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from codex_kernel.catalog import Entry
from codex_kernel.errors import PluginError, in_words
from codex_kernel.loading import HEAVY, check_hooks, load, load_command
from codex_kernel.option_types import Option, is_made_of_sources, options_of

if TYPE_CHECKING:
    from codex_kernel.static_file import PluginDescription

BEGIN, END = "codex: import begins", "codex: import ends"
"""Lines on standard error: what `-X importtime` says between them is the plugin's."""

_FILE_BYTES = 2**28  # a plugin that prints for ever must not fill the disk


def main(request: Mapping[str, Any]) -> NoReturn:
    """Judge the plugin of a request, write the report, and end the process before anything of the plugin's can."""
    _limit()
    entry = Entry(**request["entry"])
    with Path(request["report"]).open("a", encoding="utf-8") as report:
        try:
            verdict = judge(entry, report)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the plugin's doing
            verdict = {"faults": [in_words(error)], "remedy": None}
        _tell(report, done=verdict)
    os._exit(0)


def judge(entry: Entry, report: IO[str]) -> dict[str, Any]:
    """Return what is known of a plugin after its import: faults, warnings, seconds, memory, description."""
    found: dict[str, Any] = {"faults": [], "warnings": [], "remedy": None}
    before = set(sys.modules)
    _tell(report, phase="while it was imported")
    with _timed(found), _noted(found):
        plugin = type(load_command(entry)) if entry.kind == "command" else load(entry)
    found["peak_memory_bytes"] = _peak_memory_bytes()
    if found["faults"]:
        return found
    found["warnings"] += _heavy(before)
    if entry.kind != "command":
        _judge_class(entry, plugin, report, found)
    _tell(report, phase="while it was described")
    if not found["faults"]:
        with _noted(found):
            _describe(entry, found)
    found["warnings"] += _threads()
    return found


def _judge_class(entry: Entry, plugin: type, report: IO[str], found: dict[str, Any]) -> None:
    """Add what is wrong with the hooks and options of a plugin's class."""
    _tell(report, phase="while its hooks were looked at")
    with _noted(found):
        check_hooks(entry, plugin)
    _tell(report, phase="while its options were read")
    with _noted(found):
        for option in options_of(plugin):
            found["faults"] += _out_of_bounds(option)
        if entry.kind == "dataset":
            is_made_of_sources(plugin)


def _describe(entry: Entry, found: dict[str, Any]) -> None:
    """Describe the plugin from its code, and say whether its static manifest says the same."""
    from codex_kernel import static_file, static_manifest

    described = _plain(static_manifest.imported(entry))
    found["description"] = described
    static = static_file.read(entry)
    found["static"] = "absent" if static is None else "fresh"
    if fault := static_file.fault(entry):
        found["warnings"].append(f"its static manifest is not believed: {fault}")
    if static is None:
        return
    other = {name for name, value in _plain(static).items() if value != described[name]}
    if other := other - {"plugin_api", "static"}:
        found["static"] = "stale"
        found["faults"].append(f"its static manifest has other {', '.join(sorted(other))} than its code")
        found["remedy"] = "build the distribution again: codex plugins build-manifest"


def _plain(description: PluginDescription) -> dict[str, Any]:
    """Return a description as JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(description._asdict()))
    return plain


@contextlib.contextmanager
def _noted(found: dict[str, Any]) -> Iterator[None]:
    """Keep what a check raises as a fault."""
    try:
        yield
    except PluginError as error:
        found["faults"].append(error.message)
        found["remedy"] = found["remedy"] or error.remedy
    except BaseException as error:  # noqa: BLE001 - a property, a factory or a metaclass may raise anything
        found["faults"].append(in_words(error))


@contextlib.contextmanager
def _timed(found: dict[str, Any]) -> Iterator[None]:
    """Note the seconds, and mark the place in the lines of `-X importtime`."""
    _mark(BEGIN)
    began = time.perf_counter()
    try:
        yield
    finally:
        found["import_seconds"] = time.perf_counter() - began
        _mark(END)


def _mark(place: str) -> None:
    with contextlib.suppress(OSError):  # the plugin has closed it
        os.write(2, f"\n{place}\n".encode())


def _heavy(before: set[str]) -> list[str]:
    came = [name for name in HEAVY if name in sys.modules and name not in before]
    if not came:
        return []
    return [f"imports {', '.join(came)} at the top of its module; import it in the function that uses it"]


def _threads() -> list[str]:
    """Say which threads Python would wait for at its end; those of an executor end by themselves."""
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    ending = getattr(sys.modules.get("concurrent.futures.thread"), "_threads_queues", ())
    names = [
        repr(thread.name)
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread() and thread not in ending
    ]
    if not names:
        return []
    which = f"a thread ({names[0]})" if len(names) == 1 else f"{len(names)} threads"
    keeps = "keeps" if len(names) == 1 else "keep"
    return [f"starts {which} while it is imported, which {keeps} every command from ending"]


def _out_of_bounds(option: Option) -> list[str]:
    """Say where the default of an option is not within the option's own bounds."""
    number = option.default
    if isinstance(number, bool) or not isinstance(number, int | float):
        return []
    bounds = option.bounds
    inside = (
        number > bounds.get("gt", float("-inf")) or ("gt" not in bounds),
        number >= bounds.get("ge", float("-inf")),
        number < bounds.get("lt", float("inf")) or ("lt" not in bounds),
        number <= bounds.get("le", float("inf")),
    )
    return [] if all(inside) else [f"the default of option {option.name!r}, {number}, is out of its bounds"]


def _peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had; None where the system does not say.

    Not by getrusage, which counts what the process was before it became Python, too.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):  # not Linux
        pass
    return None


def _limit() -> None:
    """Let a crash leave no core file, and endless output end."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))


def _tell(report: IO[str], **line: Any) -> None:
    report.write(json.dumps(line, default=str) + "\n")
    report.flush()
