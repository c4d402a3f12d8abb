"""Reading files that may be compressed: `.gz` and `.zst`, as a stream and within limits.

One rule: a file is what its name says, and what it unpacks to is bounded: by the user's limit, and by what is still
believable for its size. An archive of several files (zip, tar) is refused, never taken for one of them.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from codex_kernel import InputError, PluginError
from codex_kernel.builtin.files import FoundFile

_CHUNK_BYTES = 1 << 16
_BELIEVABLE_BYTES = 1 << 26
_BELIEVABLE_RATIO = 250  # text packs 3 to 20 times smaller, very uniform records up to 100 times
_ZSTD_WINDOW_LOG = 27  # 128 MiB of memory: what zstd itself allows without being asked
_ARCHIVES = {
    ".zip": "zip archive",
    ".tar": "tar archive",
    ".tgz": "tar archive",
    ".7z": "7z archive",
    ".rar": "rar archive",
    ".bz2": "bzip2 file",
    ".xz": "xz file",
    ".lz4": "lz4 file",
    ".z": "compress file",
}
_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip"}


class ArchiveError(InputError):
    """A compressed file is damaged, too large or of a kind that is not read; `problem` is the sentence without it."""

    def __init__(self, name: str, problem: str, *, remedy: str) -> None:
        super().__init__(f"{name}: {problem}", remedy=remedy)
        self.problem = problem


def plain_name(name: str) -> str:
    """Return the name of what is in a compressed file: `rows.jsonl` for `rows.jsonl.gz`; other names as they are."""
    return name[: -len(_suffix(name))] if _suffix(name) in _CODECS else name


def open_file(file: FoundFile, max_uncompressed_bytes: int) -> BinaryIO:
    """Open a file to read the bytes that it holds, unpacked where its name ends in .gz or .zst.

    Raises OSError where it cannot be opened, ArchiveError here or on reading where it is damaged, unpacks to more than
    `max_uncompressed_bytes` or to far more than its size lets one expect, or is an archive of several files.
    """
    refuse_archive(file.name)
    raw = file.path.open("rb")
    codec = _CODECS.get(_suffix(file.name))
    if codec is None:
        try:
            _refuse_misnamed(file.name, raw.peek(4)[:4])
        except BaseException:
            raw.close()
            raise
        return raw
    unpacked = _Unpacked(raw, file.name, codec, max_uncompressed_bytes)
    return cast("BinaryIO", io.BufferedReader(unpacked, _CHUNK_BYTES))


def refuse_archive(name: str) -> None:
    """Raise ArchiveError where the name is that of an archive of several files, or of a compression not read."""
    lower = name.lower()
    kind = "tar archive" if plain_name(lower).endswith(".tar") else _ARCHIVES.get(_suffix(name))
    if kind is None:
        return
    several = kind.endswith("archive")
    raise ArchiveError(
        name,
        f"is a {kind}, which is not read",
        remedy="unpack it, and name the folder"
        if several
        else "unpack it, or compress it with gzip or zstd instead",
    )


def compression_problems(files: Iterable[FoundFile]) -> list[str]:
    """Name what would stop the reading of these files: archives, and .zst without the library for it."""
    problems, packed = [], []
    for file in files:
        try:
            refuse_archive(file.name)
        except ArchiveError as error:
            problems.append(f"{error.message}; {error.remedy}")
        if _suffix(file.name) == ".zst":
            packed.append(file.name)
    if packed and not _zstd_is_there():
        problems.append(f"{packed[0]}: {_NO_ZSTD}; {_GET_ZSTD}")
    return problems


# ── the codecs ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Gzip:
    """One member of a gzip file, by the words that zstd's decompressor uses."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._left = b""

    @property
    def needs_input(self) -> bool:
        return not self._left

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        unpacked = self._member.decompress(self._left + data, max_length)
        self._left = self._member.unconsumed_tail
        return unpacked


def _gzip() -> Any:
    return _Gzip()


_NO_ZSTD = "a .zst file needs the package backports.zstd, which is not installed"
_GET_ZSTD = "pip install 'codex-kernel[zstd]'"


def _zstd_is_there() -> bool:
    if sys.version_info >= (3, 14):
        return find_spec("compression.zstd") is not None
    return find_spec("backports") is not None and find_spec("backports.zstd") is not None


def _zstd_library() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise PluginError(_NO_ZSTD, remedy=_GET_ZSTD) from error
    return zstd


def _zstd() -> Any:
    zstd = _zstd_library()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_CODECS: dict[str, Callable[[], Any]] = {".gz": _gzip, ".zst": _zstd}


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _refuse_misnamed(name: str, head: bytes) -> None:
    """Raise ArchiveError where a file is compressed and its name does not say so."""
    for magic, suffix in _MAGIC.items():
        if head.startswith(magic):
            raise ArchiveError(
                name,
                f"begins like a {suffix} file, and its name does not say so",
                remedy=f"call it {name}{suffix}" if suffix in _CODECS else "unpack it",
            )


class _Unpacked(io.RawIOBase):
    """The bytes in a compressed file, member after member, as they are asked for."""

    def __init__(self, raw: BinaryIO, name: str, codec: Callable[[], Any], limit: int) -> None:
        super().__init__()
        self._raw = raw
        self._name = name
        self._codec = codec
        self._limit = limit
        self._read = 0  # bytes taken from the file
        self._given = 0  # bytes unpacked
        self._pending = b""  # taken already, and not yet unpacked
        self._member_at = 0
        self._fresh = True
        try:
            self._member = codec()
        except BaseException:
            raw.close()
            raise

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        unpacked = b""
        while not unpacked:
            if self._member.eof and not self._next_member():
                return 0
            unpacked = self._some(len(buffer))
        self._given += len(unpacked)
        self._check_size()
        buffer[: len(unpacked)] = unpacked
        return len(unpacked)

    def _some(self, count: int) -> bytes:
        """Unpack up to `count` bytes; perhaps none, while the file has more."""
        packed, self._pending = self._pending, b""
        hungry = not packed and self._member.needs_input
        if hungry:
            packed = self._take()
        try:
            unpacked: bytes = self._member.decompress(packed, count)
        except Exception as error:
            if not isinstance(error, zlib.error) and type(error).__name__ != "ZstdError":
                raise
            raise self._damaged(
                f"has something else behind its data, at byte {self._member_at:,}: {error}"
                if self._fresh and self._member_at
                else f"is damaged before byte {self._read:,}: {error}"
            ) from error
        if hungry and not packed and not unpacked and not self._member.eof:
            raise self._damaged(f"is cut off: it ends at byte {self._read:,} in the middle of its data")
        self._fresh = False
        return unpacked

    def _take(self) -> bytes:
        packed = self._raw.read(_CHUNK_BYTES)
        self._read += len(packed)
        return packed

    def _next_member(self) -> bool:
        """Begin with the next member; False where the file has ended."""
        rest = self._member.unused_data or self._take()
        if isinstance(self._member, _Gzip):  # zeros may fill the last block of a tape
            while rest and not rest.strip(b"\0"):
                rest = self._take()
        if not rest:
            return False
        self._member = self._codec()
        self._member_at, self._fresh, self._pending = self._read - len(rest), True, rest
        return True

    def _check_size(self) -> None:
        if self._given > self._limit:
            raise ArchiveError(
                self._name,
                f"unpacks to more than {self._limit:,} bytes",
                remedy="raise the option max_uncompressed_bytes, if it shall be that large",
            )
        if self._given > max(_BELIEVABLE_BYTES, _BELIEVABLE_RATIO * self._read):
            raise ArchiveError(
                self._name,
                f"unpacks to over {_BELIEVABLE_RATIO} times its size: {self._given:,} bytes of the first "
                f"{self._read:,}",
                remedy="unpack it yourself, if it is no trap",
            )

    def _damaged(self, problem: str) -> ArchiveError:
        return ArchiveError(
            self._name, problem, remedy="fetch or pack it again; what was read before it may be right"
        )
