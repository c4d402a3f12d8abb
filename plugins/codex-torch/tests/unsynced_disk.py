"""A disk that loses what was not synced: every file operation below a folder is written down as it is done.

One rule: after a power cut what was synced is there, and of the rest any subset: data of a file that was not synced may
be missing, half or whole; a name (made, renamed or removed) in a folder that was not synced may have it or not. That is
weaker than any file system in use, so what holds here holds there. Reading is not written down.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from attrs import define, field

Survives = Literal["nothing", "half", "all"]


class PowerCut(BaseException):
    """The machine is off: nothing that the program still wants to do is done."""


@define(eq=False)
class Node:
    """A file with its bytes, or a folder with its names."""

    names: dict[str, Node] | None = None
    data: bytearray = field(factory=bytearray)

    def copied(self, known: dict[Node, Node]) -> Node:
        """A copy of all that is below; `known` maps what was to what it became."""
        copy = known[self] = Node(None if self.names is None else {}, bytearray(self.data))
        if self.names is not None:
            copy.names = {name: node.copied(known) for name, node in self.names.items()}
        return copy


@define(eq=False)
class Change:
    """One operation: of a folder (`name` is made, or gone where `node` is None) or of a file (`data` at `offset`)."""

    of: Node
    name: str = ""
    node: Node | None = None
    was: str = ""
    offset: int = 0
    data: bytes = b""
    synced: bool = False

    def apply(self, now: dict[Node, Node], survives: Survives) -> None:
        """Do it again, or a part of it."""
        target = now.setdefault(self.of, Node(None if self.of.names is None else {}))
        if survives == "nothing":
            return
        if target.names is None:
            data = self.data if survives == "all" else self.data[: len(self.data) // 2]
            target.data.extend(bytes(max(0, self.offset - len(target.data))))
            target.data[self.offset : self.offset + len(data)] = data
            return
        target.names.pop(self.was, None)
        if self.node is None:
            target.names.pop(self.name, None)
        else:
            kind = None if self.node.names is None else {}
            target.names[self.name] = now.setdefault(self.node, Node(kind))


@define(eq=False)
class UnsyncedDisk:
    """The disk below `root`.

    `ignored` is what a sync is kept from: of files, of folders. `cut_in` and `full_in` count down operations to a power
    cut and to a full disk; None: neither comes.
    """

    root: Path
    ignored: frozenset[Literal["files", "folders"]] = frozenset()
    cut_in: int | None = None
    full_in: int | None = None
    off: bool = False
    changes: list[Change] = field(factory=list)
    _now: Node = field(init=False)
    _on_disk: dict[Node, Node] = field(init=False)
    _open: dict[int, list[Any]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Bring everything to disk, as a system does by itself after some seconds."""
        self._now, self._on_disk = read_tree(self.root), {}
        self._now.copied(self._on_disk)
        self.changes.clear()

    def cut_power(self, survives: Callable[[Change], Survives], root: Path) -> UnsyncedDisk:
        """Write what is left to another folder, and return the disk there; this one is done with."""
        for change in self.changes:
            change.apply(self._on_disk, "all" if change.synced else survives(change))
        write_tree(self._on_disk[self._now], root)
        return UnsyncedDisk(root, self.ignored)

    # ── the operations ────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Stand between the program and its operating system."""
        wrapped = {
            "open": self._open_file,
            "close": self._close,
            "write": self._write,
            "fsync": self._fsync,
            "mkdir": self._mkdir,
            "rename": self._rename,
            "unlink": self._unlink,
            "rmdir": self._unlink,
            "scandir": self._scandir,
        }
        originals = {name: getattr(os, name) for name in wrapped}
        try:
            for name, call in wrapped.items():
                setattr(os, name, self._with(originals[name], call))
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    def _with(self, original: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: call(original, *args, **kwargs)

    def _count(self, *, needs_room: bool = False) -> None:
        """Let an operation pass, or the power go, or the disk be full."""
        if self.off:
            raise PowerCut
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in < 0:
                self.off = True
                raise PowerCut
        if needs_room and self.full_in is not None:
            self.full_in -= 1
            if self.full_in < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _find(self, path: Any, dir_fd: int | None) -> tuple[Node, str] | None:
        """The folder that a path is in, and its name there; None where that is not on this disk."""
        if dir_fd is not None:
            known = self._open.get(dir_fd)
            return None if known is None else (known[0], os.fspath(path))
        path = Path(path)
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        folder = self._now
        for part in path.relative_to(self.root).parts[:-1]:
            assert folder.names is not None
            folder = folder.names[part]
        return folder, path.name

    def _open_file(self, original: Any, path: Any, flags: int, *args: Any, dir_fd: int | None = None) -> int:
        place = self._find(path, dir_fd)
        makes = place is not None and flags & os.O_CREAT and place[1] not in place[0].names
        if makes:
            self._count(needs_room=True)
        descriptor: int = original(path, flags, *args, dir_fd=dir_fd)
        if place is None:
            if dir_fd is None and Path(path) == self.root:
                self._open[descriptor] = [self._now, 0]
            return descriptor
        folder, name = place
        if makes:
            self._name(Change(folder, name, Node()))
        self._open[descriptor] = [folder.names[name], 0]
        return descriptor

    def _close(self, original: Any, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        original(descriptor)

    def _write(self, original: Any, descriptor: int, data: Any) -> int:
        known = self._open.get(descriptor)
        if known is None:
            return original(descriptor, data)
        self._count(needs_room=True)
        written = original(descriptor, data)
        self.changes.append(Change(known[0], offset=known[1], data=bytes(data[:written])))
        known[1] += written
        return written

    def _fsync(self, original: Any, descriptor: int) -> None:
        known = self._open.get(descriptor)
        if known is None:
            original(descriptor)
            return
        self._count()
        if ("files" if known[0].names is None else "folders") not in self.ignored:
            for change in self.changes:
                change.synced = change.synced or change.of is known[0]

    def _mkdir(self, original: Any, path: Any, *args: Any, dir_fd: int | None = None) -> None:
        place = self._find(path, dir_fd)
        if place is not None:
            self._count(needs_room=True)
        original(path, *args, dir_fd=dir_fd)
        if place is not None:
            self._name(Change(*place, Node({})))

    def _rename(self, original: Any, source: Any, target: Any) -> None:
        before, after = self._find(source, None), self._find(target, None)
        if before is None or after is None:
            original(source, target)
            return
        assert before[0] is after[0], "a rename within one folder"
        self._count()
        original(source, target)
        self._name(Change(before[0], after[1], before[0].names[before[1]], was=before[1]))

    def _unlink(self, original: Any, path: Any, *, dir_fd: int | None = None) -> None:
        place = self._find(path, dir_fd)
        if place is not None:
            self._count()
        original(path, dir_fd=dir_fd)
        if place is not None:
            self._name(Change(*place))

    @contextmanager
    def _scandir(self, original: Any, path: Any) -> Iterator[Iterator[os.DirEntry[str]]]:
        """In an order that is the same wherever it runs."""
        with original(path) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name))

    def _name(self, change: Change) -> None:
        self.changes.append(change)
        change.apply(_Same(), "all")


class _Same(dict[Node, Node]):
    """Every node stands for itself."""

    def setdefault(self, key: Node, default: Any = None) -> Node:
        return key


def read_tree(path: Path) -> Node:
    """What is in a folder."""
    if path.is_dir():
        return Node({child.name: read_tree(child) for child in sorted(path.iterdir())})
    return Node(None, bytearray(path.read_bytes()))


def write_tree(node: Node, path: Path) -> None:
    """Put it into a folder that does not exist yet."""
    if node.names is None:
        path.write_bytes(node.data)
        return
    path.mkdir()
    for name, child in node.names.items():
        write_tree(child, path / name)


assert shutil.rmtree.avoids_symlink_attacks, "deletions go through the operations above"
