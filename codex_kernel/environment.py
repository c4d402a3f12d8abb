"""What a run ran on and with: hardware, packages, git, seeds; for `environment.json`.

One rule: it reads, and changes nothing; of the environment variables only those named here are kept, never a secret.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_kernel._version import __version__
from codex_kernel.errors import InputError

KEPT_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_OFFLINE", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY", "PYTHONHASHSEED", "PYTORCH_CUDA_ALLOC_CONF", "RANK", "TOKENIZERS_PARALLELISM", "TORCH_LOGS",
    "WORLD_SIZE",
)  # fmt: skip
"""Variables that can change speed or results; none of them holds a secret."""


def describe(command: Sequence[str], seed: int, base: Path) -> dict[str, Any]:
    """Return the environment as a JSON object."""
    return {
        "schema": 1,
        "codex": __version__,
        "command": list(command),
        "seed": seed,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "hardware": hardware(),
        "git": git(base),
        "variables": {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
        "packages": packages(),
    }


def check_alone() -> None:
    """Raise InputError where a launcher has started this process as one of several.

    Each of them would train the whole run by itself, as if the others were not there.
    """
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "?")
    if size.strip() not in {"", "1"}:
        raise InputError(
            f"codex trains a run in one process, this is process {rank} of {size} (RANK, WORLD_SIZE)",
            remedy="start codex without torchrun, or unset WORLD_SIZE if it was left behind",
        )


def hardware() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, and the memory in bytes."""
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": pages * page_size,
        "gpus": _gpus(),
    }


def _processor() -> str:
    """Return the processor's name as the kernel of the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return platform.processor()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1) if match else platform.processor()


def _gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs as the driver lists them; plugins know more of them."""
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        match = re.search(
            r"^Model:\s*(.+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
        names.append(match.group(1).strip() if match else file.parent.name)
    return names


def packages(path: Sequence[str] | None = None) -> dict[str, str]:
    """Return name → version of the installed distributions, from the names of their metadata folders."""
    found: dict[str, str] = {}
    for folder in sys.path if path is None else path:
        directory = Path(folder or ".")
        if directory.is_dir():
            for info in directory.glob("*.dist-info"):
                name, _, version = info.stem.partition("-")
                found.setdefault(name.replace("_", "-").lower(), version)
    return dict(sorted(found.items()))


def git(folder: Path) -> dict[str, Any] | None:
    """Return commit, branch, dirty flag and hash of the difference of a repository; None: `folder` is in none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    difference = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv") or ""
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard") or ""
    remote = _git(folder, "config", "--get", "remote.origin.url")
    return {
        "commit": commit.strip(),
        "branch": (_git(folder, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "dirty": bool(difference or untracked.strip()),
        "diff_sha256": hashlib.sha256(difference.encode()).hexdigest() if difference else None,
        "untracked_files": len(untracked.splitlines()),
        "remote": without_credentials(remote.strip()) if remote else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None where there is no git, no repository, or no answer within ten seconds."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, and arguments of our own
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's git
            capture_output=True, check=False, timeout=10, stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


_PLAIN_HOST = re.compile(r"localhost|[\w-]+(\.[\w-]+)+")
_KEPT_FRAGMENT = re.compile(r"(?:subdirectory|egg)=[\w./+-]+")


def without_credentials(url: str) -> str:
    """Return a URL without user, password, query and fragment, all of which may hold a secret.

    A password may have a `/` or an `@` of its own, so all before the last @ goes, unless the address begins with what
    can only be a host. The user `git` stays, and of the fragment the part of a repository that is meant.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:  # a path, or `git@host:path`
        user, _, host = url.rpartition("@")
        return host if ":" in user and not url.startswith(("/", ".")) else url
    kept = [part for part in url.rpartition("#")[2].split("&") if _KEPT_FRAGMENT.fullmatch(part)]
    first = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if first and not _PLAIN_HOST.fullmatch(first):
        user, _, host = rest.rpartition("@")
        rest = f"git@{host}" if user == "git" else host
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{rest}{'#' if kept else ''}{'&'.join(kept)}"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Return nested settings flat: `{"trainer": {"lr": 1}}` becomes `{"trainer.lr": 1}`; list items by their index."""
    result: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}  # noqa: PLW2901 - a list is keyed by index
        if isinstance(value, dict) and value:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
