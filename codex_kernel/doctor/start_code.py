"""Code that runs whenever Python starts, before codex: lines in .pth files, `sitecustomize`, `usercustomize`.

One rule: all of it is told; that a distribution's record has a file says where it came from, not that it is harmless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from codex_kernel.doctor.findings import Finding
from codex_kernel.doctor.packages import entries
from codex_kernel.file_record import record_of

_CODE = re.compile(r"^import[ \t].*", re.MULTILINE)
_OF_VIRTUALENV = ("_virtualenv.pth", "import _virtualenv")


def start_code(folders: Sequence[str]) -> Iterator[Finding]:
    """Yield the .pth files that run code whenever Python starts, each with the distribution that it belongs to."""
    for folder in dict.fromkeys(folders):
        for file in entries(Path(folder)):
            if file.suffix != ".pth":
                continue
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                yield Finding(
                    "warning", "start code", f"{file} cannot be read: {error.strerror}", "look at it"
                )
                continue
            if code := _CODE.findall(text):
                yield _judged(file, code)


def _judged(file: Path, code: Sequence[str]) -> Finding:
    shown = code[0] if len(code[0]) <= 60 else f"{code[0][:60]}…"  # noqa: PLR2004 - enough to know it again
    message = f"{file} runs code whenever Python starts: {shown}"
    owner = _owner(file)
    if owner is None and (file.name, code[0].strip()) == _OF_VIRTUALENV and len(code) == 1:
        owner = "virtualenv"
    if owner is not None:
        return Finding("note", "start code", message, f"it came with {owner}: nothing to do if you trust it")
    remedy = "no distribution has it: read it, and delete it unless you know who put it there"
    return Finding("warning", "start code", message, remedy)


def _owner(file: Path) -> str | None:
    """Return the distribution whose record lists a file beside its metadata; None where none does."""
    for metadata in entries(file.parent):
        if metadata.suffix != ".dist-info":
            continue
        if any(listed.path == file.name for listed in record_of(metadata) or ()):
            return metadata.stem.partition("-")[0].replace("_", "-")
    return None


def folders() -> list[str]:
    """Return the folders whose .pth files Python reads."""
    import site

    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*site.getsitepackages(), *user]


def modules() -> Iterator[Finding]:
    """Yield the modules that Python imports at its start where they are there."""
    from importlib.util import find_spec

    for name in ("sitecustomize", "usercustomize"):
        spec = find_spec(name)  # of a name without a dot: nothing is imported
        if spec is not None and spec.origin:
            message = f"{spec.origin} runs whenever Python starts"
            yield Finding("note", "start code", message, "nothing to do if you know it")
