"""The dataset `python-source`: Python files that are installed already, so nothing is downloaded.

One rule: a file of a distribution is used only where its bytes have the sha256 that the distribution's RECORD gives,
so a name and a version stand for the same text on every machine.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen

from codex_kernel import Document, InputError, RunContext, hookimpl, option
from codex_kernel.builtin.files import excluded

_STANDARD_LIBRARY = "stdlib"
_NOT_STANDARD = [
    "__pycache__",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "test",
    "turtledemo",
]


@frozen
class PythonSource:
    """Python source of installed distributions, checked against their hashes, or of the standard library."""

    distributions: list[str] = option(
        factory=list,
        help="Installed distributions, such as networkx==3.6.1 (a fixed version repeats everywhere).",
    )
    standard_library: bool = option(
        default=False,
        help="Whether to read the standard library of this Python (it differs between versions).",
    )
    exclude: list[str] = option(
        factory=lambda: ["tests", "test"],
        help="Globs to leave out: without a slash compared with each part of a path, else with the path.",
    )

    @hookimpl
    def codex_preflight(self) -> Iterable[str]:
        """Name distributions that are not installed as asked, and files of theirs that are missing."""
        problems = [] if self.distributions or self.standard_library else [_NOTHING]
        for requirement in self.distributions:
            try:
                files = _distribution_files(requirement, self.exclude)
            except InputError as error:
                problems.append(f"{error.message} ({error.remedy})" if error.remedy else error.message)
                continue
            missing = [file.name for file in files if not file.path.is_file()]
            if missing:
                problems.append(f"{requirement}: {len(missing)} of its files are missing, first {missing[0]}")
        return problems

    @hookimpl
    def codex_dataset(self, run: RunContext) -> Iterable[Document]:  # noqa: ARG002 - the hook's first argument
        """Look up the files now, and read and check them each time the documents are gone through."""
        if not self.distributions and not self.standard_library:
            raise InputError(f"dataset: {_NOTHING}")
        files = [file for name in self.distributions for file in _distribution_files(name, self.exclude)]
        if self.standard_library:
            files += _standard_library_files(self.exclude)
        return _Sources(tuple(sorted(files, key=lambda file: file.name)))


_NOTHING = "distributions: is empty and standard_library is false, expected one of them"


@frozen
class _SourceFile:
    """A file and the sha256 that it must have, as RECORD writes it; None: not known, as in the standard library."""

    name: str
    path: Path
    sha256: str | None


@frozen(eq=False)
class _Sources:
    files: tuple[_SourceFile, ...]

    def __iter__(self) -> Iterator[Document]:
        for file in self.files:
            yield Document(id=file.name, group=file.name, text=_text(file), language="python")


def _distribution_files(text: str, exclude: list[str]) -> list[_SourceFile]:
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise InputError(f"{text!r} is not the name of a distribution, such as networkx==3.6.1") from error
    try:
        installed = distribution(requirement.name)
    except PackageNotFoundError as error:
        raise InputError(
            f"{requirement.name} is not installed for {sys.executable}", remedy=f"pip install '{text}'"
        ) from error
    if not requirement.specifier.contains(installed.version, prereleases=True):
        raise InputError(
            f"{requirement.name} {installed.version} is installed, expected {text}",
            remedy=f"pip install '{text}'",
        )
    files = []
    # Not `installed.files`: since Python 3.12 it leaves out what is missing, and the data would be less without a word.
    for row in csv.reader((installed.read_text("RECORD") or "").splitlines()):
        name, digest, *_ = [*row, "", ""]
        if not name.endswith(".py") or name.startswith("../") or excluded(name, exclude):
            continue
        mode, _, sha256 = digest.partition("=")
        if mode != "sha256":
            raise InputError(
                f"{text}: its RECORD has no sha256 for {name}",
                remedy=f"install it again: pip install '{text}'",
            )
        files.append(_SourceFile(name, Path(str(installed.locate_file(name))), sha256))
    if not files:
        raise InputError(
            f"{text}: its RECORD names no Python file that is not excluded",
            remedy="an editable install has none: install the distribution itself",
        )
    return files


def _standard_library_files(exclude: list[str]) -> list[_SourceFile]:
    root = Path(sysconfig.get_path("stdlib"))
    tops = [path for path in root.iterdir() if path.name not in _NOT_STANDARD]
    paths = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*.py"))]
    names = [path.relative_to(root).as_posix() for path in paths if path.suffix == ".py" and path.is_file()]
    return [
        _SourceFile(f"{_STANDARD_LIBRARY}/{name}", root / name, None)
        for name in names
        if not excluded(f"{_STANDARD_LIBRARY}/{name}", [*exclude, "idle_test", "__pycache__"])
    ]


def _text(file: _SourceFile) -> str:
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise InputError(f"{file.name}: cannot be read: {error.strerror}") from error
    if file.sha256 is not None:
        found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        if found != file.sha256:
            raise InputError(
                f"{file.path}: sha256 {found}, expected {file.sha256}: it was changed after it was installed",
                remedy=f"install {file.name.split('/')[0]} again",
            )
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file.name}: byte {getattr(error, 'start', 0)}: not valid Python text: {error}",
            remedy="leave the file out with dataset.exclude",
        ) from error
