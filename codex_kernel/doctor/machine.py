"""What is wrong with the machine and the settings: places, disk, memory, threads, GPU, encodings, variables.

One rule: it reads what the system tells, and judges by pure functions; nothing heavy is imported, torch least of all.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from codex_kernel.doctor.findings import Finding

GIB = 2**30
LOW_DISK_BYTES = GIB
NO_DISK_BYTES = 100 * 2**20
LOW_MEMORY_BYTES = GIB
_CGROUP = Path("/sys/fs/cgroup")

VARIABLES = {
    "CODEX_CACHE": "where what can be made again is kept",
    "CODEX_PLUGINS": "only the plugins of these distributions can be used",
    "CODEX_PLUGIN_PATH": "plugins of these folders are used, too",
}
"""What codex itself reads."""


def python() -> Iterator[Finding]:
    """Yield what there is to say of the interpreter."""
    version = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if platform.python_implementation() != "CPython":
        yield Finding("warning", "python", f"{version}: codex is made for CPython", "use CPython")
    elif sys.prefix == sys.base_prefix:
        message = f"{version}, in no virtual environment: other programs change what is installed here"
        yield Finding("note", "python", message, "an environment of its own: python -m venv")
    else:
        yield Finding("ok", "python", version)
    ours = Path(sys.executable).with_name("codex")
    first = shutil.which("codex")
    if first and ours.exists() and Path(first).resolve() != ours.resolve():
        message = f"the first `codex` on PATH is {first}, not {ours}"
        yield Finding("warning", "python", message, "call codex-kernel, or python -m codex_kernel")


# ── places ────────────────────────────────────────────────────────────────────────────────────────────────────────


def place(subject: str, folder: Path) -> Finding:
    """Say whether a folder, or the nearest one above it that is there, can be written to and has room."""
    there = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    where = str(folder) if there == folder else f"{folder}, to be made in {there},"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"codex")
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        message = f"{where} cannot be written to: {error.strerror}"
        return Finding("problem", subject, message, f"make {there} writable, or choose another place")
    return room(subject, where, free)


def room(subject: str, where: str, free_bytes: int) -> Finding:
    """Judge the free space of a place."""
    message = f"{where} can be written to, {free_bytes / GIB:.1f} GiB free"
    if free_bytes < NO_DISK_BYTES:
        return Finding("problem", subject, message, "make room: codex data prune, codex checkpoints prune")
    if free_bytes < LOW_DISK_BYTES:
        return Finding("warning", subject, message, "make room: codex data prune, codex checkpoints prune")
    return Finding("ok", subject, message)


# ── memory and threads ────────────────────────────────────────────────────────────────────────────────────────────


def memory() -> Finding:
    """Judge the memory that is left, within the limit that a container has."""
    available, total = _meminfo("MemAvailable"), _meminfo("MemTotal")
    return judge_memory(
        available, total, _number(_CGROUP / "memory.max", _CGROUP / "memory/memory.limit_in_bytes")
    )


def judge_memory(available: int | None, total: int | None, limit: int | None) -> Finding:
    """Judge bytes of memory; None: not known, or no limit."""
    if available is None or total is None:
        return Finding("note", "memory", "this system does not tell how much there is", "codex plan says")
    capped = limit is not None and limit < total
    left = min(available, limit) if limit is not None else available
    message = f"{left / GIB:.1f} GiB left of {total / GIB:.1f} GiB"
    if capped and limit is not None:
        message += f", and no more than {limit / GIB:.1f} GiB in this container"
    if left < LOW_MEMORY_BYTES:
        return Finding("warning", "memory", message, "end other programs; codex plan says what a run needs")
    return Finding("ok", "memory", message)


def _meminfo(name: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):  # not Linux
        pass
    return None


def _number(*files: Path) -> int | None:
    """Return the number in the first of the files that is there; None for `max`."""
    for file in files:
        try:
            return int(file.read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            continue
    return None


def threads(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Judge the threads that libraries will start by the cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield from judge_threads(usable, _quota(), variables)


def _quota() -> float | None:
    """Return how many cores' time a container has; None: no limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="utf-8").split()[:2]
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def judge_threads(usable: int, quota: float | None, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Judge OMP_NUM_THREADS and OMP_WAIT_POLICY; `quota` is in cores."""
    cores = usable if quota is None else max(1, min(usable, math.ceil(quota)))
    has = f"{cores} of {usable} cores' time may be used" if cores < usable else f"{cores} cores may be used"
    wanted = variables.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    remedy = f"export OMP_NUM_THREADS={cores}"
    slow = "threads that wait for one another make a step many times slower"
    if wanted and not (wanted.isascii() and wanted.isdigit() and int(wanted)):
        yield Finding("warning", "threads", f"OMP_NUM_THREADS is {wanted!r}, expected a number", remedy)
    elif wanted and int(wanted) > cores:
        yield Finding("warning", "threads", f"OMP_NUM_THREADS is {wanted}, and {has}: {slow}", remedy)
    elif not wanted and cores < usable:
        message = f"{has}, and libraries start {usable} threads: {slow}"
        yield Finding("warning", "threads", message, remedy)
    else:
        set_to = f"OMP_NUM_THREADS is {wanted}" if wanted else "OMP_NUM_THREADS is not set"
        yield Finding("ok", "threads", f"{has}, {set_to}")
    if variables.get("OMP_WAIT_POLICY", "").lower() == "active":
        message = "OMP_WAIT_POLICY is ACTIVE: on cores that others use, too, a step takes many times longer"
        yield Finding("warning", "threads", message, "unset OMP_WAIT_POLICY: codex sets it to PASSIVE")


# ── GPU ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def gpu(torch: str | None, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the GPUs that the driver tells of; `torch` is the installed version, None where there is none."""
    has_driver = Path("/proc/driver/nvidia").exists()
    yield from judge_gpus(_nvidia_smi(), torch, variables, has_driver=has_driver)


def _nvidia_smi() -> list[str] | None:
    """Return a line for each GPU; None where there is no such program, or it fails."""
    query = ("--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader")
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own program
            [program, *query], capture_output=True, check=False, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]


def judge_gpus(
    gpus: Sequence[str] | None, torch: str | None, variables: Mapping[str, str], *, has_driver: bool
) -> Iterator[Finding]:
    """Judge the GPUs of a machine by what torch and the variables make of them."""
    if not gpus:
        if has_driver:
            message = "the NVIDIA driver is loaded, and nvidia-smi tells of no GPU"
            yield Finding("warning", "gpu", message, "look at what nvidia-smi says by itself")
        else:
            yield Finding("ok", "gpu", "no NVIDIA GPU: training is on the processor")
        return
    for line in gpus:
        cells = [cell.strip() for cell in line.split(",")]
        name, rest = cells[0], cells[1:]
        words = ("memory", "free", "driver")
        told = ", ".join(f"{word} {cell}" for word, cell in zip(words, rest, strict=False))
        yield Finding("ok", "gpu", f"{name} ({told})" if told else name)
    if torch and "+cpu" in torch:
        message = f"torch {torch} is built for processors alone: the GPU is not used"
        yield Finding("warning", "gpu", message, "install torch for CUDA: pytorch.org/get-started")
    if variables.get("CUDA_VISIBLE_DEVICES", "0").strip() in {"", "-1"}:
        message = "CUDA_VISIBLE_DEVICES hides every GPU"
        yield Finding("note", "gpu", message, "unset CUDA_VISIBLE_DEVICES to train on it")


# ── encodings and variables ───────────────────────────────────────────────────────────────────────────────────────


def encodings() -> Iterator[Finding]:
    """Yield the encodings of this process that are not UTF-8."""
    import locale

    found = {
        "of file names": sys.getfilesystemencoding(),
        "of files": locale.getpreferredencoding(do_setlocale=False),
        "of output": getattr(sys.stdout, "encoding", None) or "utf-8",
    }
    yield judge_encodings(found)


def judge_encodings(found: Mapping[str, str]) -> Finding:
    """Judge encodings by what they are of."""
    other = {what: name for what, name in found.items() if name.lower().replace("-", "") != "utf8"}
    if not other:
        return Finding("ok", "encoding", "UTF-8 everywhere")
    message = ", ".join(f"the encoding {what} is {name}" for what, name in other.items())
    return Finding("warning", "encoding", f"{message}, not UTF-8", "export PYTHONUTF8=1, or LANG=C.UTF-8")


def variables(found: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the variables that change what codex does; the value of one that codex does not know is not shown."""
    from codex_kernel.option_types import did_you_mean

    for name in sorted(name for name in found if name.startswith("CODEX_")):
        if name in VARIABLES:
            message = f"{name} is {found[name]!r}: {VARIABLES[name]}"
            yield Finding("note", "variables", message, f"unset {name} if that is not meant")
        else:
            near = did_you_mean(name, VARIABLES)
            yield Finding(
                "warning", "variables", f"codex does not know {name}", near or f"unset {shlex.quote(name)}"
            )
    if path := found.get("PYTHONPATH"):
        message = f"PYTHONPATH is {path!r}: what lies there hides what is installed"
        yield Finding("note", "variables", message, "unset PYTHONPATH if that is not meant")
    if found.get("PYTHONOPTIMIZE"):
        message = "PYTHONOPTIMIZE is set: plugins that check by assert do not check"
        yield Finding("warning", "variables", message, "unset PYTHONOPTIMIZE")
