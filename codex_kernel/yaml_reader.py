"""YAML text to a tree of values that know their place.

One rule: the text means what it says by the core rules of YAML 1.2, with nothing guessed, dropped or executed; every
fault has a line and a column, and no input takes long or exhausts memory.

The tree is built from PyYAML's events, never by its loaders: those resolve by YAML 1.1 (`no` is false, `1e-4` is text)
and keep the last of duplicate keys without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from attrs import define, evolve, field, frozen

from codex_kernel.errors import ManifestError, Problem
from codex_kernel.yaml_scalars import ScalarError, resolve, written
from codex_kernel.yaml_text import decode, read_bytes

MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_ALIASED_NODES = 10_000

Value: TypeAlias = "bool | int | float | str | list[Node] | dict[str, Node] | None"
_Locate: TypeAlias = Callable[[Any], str]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML may be built without libyaml


@frozen
class Node:
    """A value of the text.

    `where` is `file:line:column` of the value, `key_where` that of its key (empty outside of a mapping). Trees share
    the nodes that an alias stands for, so lists and mappings are never changed in place.
    """

    value: Value
    where: str
    key_where: str = ""

    @property
    def place(self) -> str:
        """Position of the key where there is one, else of the value."""
        return self.key_where or self.where


def read(data: bytes, source: str) -> Node:
    """Read one document, a mapping; `source` names it in positions. Raises ManifestError with all faults found."""
    text = decode(data, source)
    root = _compose(text, lambda mark: f"{source}:{mark.line + 1}:{mark.column + 1}").root
    if root is None:
        raise ManifestError([Problem(source, "", "expected a mapping, got an empty file")])
    if not isinstance(root.value, dict):
        raise ManifestError([Problem(root.where, "$", f"expected a mapping of sections, got {shown(root)}")])
    return root


def read_file(path: Path) -> Node:
    """Read a file of at most 1 MiB as `read` does; raise ManifestError also where it cannot be read."""
    return read(read_bytes(path), str(path))


def read_value(text: str, where: str) -> Node | None:
    """Read any one value, all of whose parts stand at `where`; None where the text has none. Raises ManifestError."""
    text = decode(text.encode("utf-8", "surrogatepass"), where, located=False)
    composer = _compose(text, lambda _mark: where)
    if composer.root is not None and text[composer.end :].strip():
        hint = "put text with # in quotes"
        raise ManifestError([Problem(where, "", "what follows the value would be lost as a comment", hint)])
    return composer.root


def plain(node: Node) -> Any:
    """Return the tree as dicts, lists and scalars."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def child_path(path: str, key: str | int) -> str:
    """Return the path of a child: `$.a`, `$.a[0]`, `$.a["odd key"]`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if re.fullmatch(r"_?[A-Za-z][A-Za-z0-9_-]*", key):
        return f"{path}.{key}"
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'{path}["{quoted}"]'


def find(root: Node, path: str) -> Node:
    """Return the node at a path such as `$.loggers[0].every`, or the nearest one above it that exists."""
    node = root
    for name, quoted, index in re.findall(r'\.([\w-]+)|\["((?:[^"\\]|\\.)*)"\]|\[(\d+)\]', path):
        key = name or re.sub(r"\\(.)", r"\1", quoted)
        if isinstance(node.value, dict) and not index and key in node.value:
            node = node.value[key]
        elif isinstance(node.value, list) and index and int(index) < len(node.value):
            node = node.value[int(index)]
        else:
            break
    return node


def shown(node: Node) -> str:
    """Return a value as a message shows it: short, scalars as they are written in YAML."""
    value = node.value
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = written(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"  # noqa: PLR2004 - about half a line


def in_file_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort problems by file, line and column; those without a line come first, in the order given."""

    def key(problem: Problem) -> tuple[str, int, int]:
        match = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where, re.DOTALL)
        return (match[1], int(match[2]), int(match[3])) if match else ("", 0, 0)

    return sorted(problems, key=key)


# ── text to nodes ─────────────────────────────────────────────────────────────────────────────────────────────────


def _compose(text: str, locate: _Locate) -> _Composer:
    """Take in the one document of the text; raise ManifestError with all that is wrong with it."""
    composer = _Composer(locate)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
    except yaml.YAMLError as error:
        composer.problems.append(_syntax_problem(error, text, locate))
    except _Stop:
        pass
    if composer.problems:
        raise ManifestError(composer.problems)
    return composer


class _Stop(Exception):  # noqa: N818 - it ends the reading, the problem is in the list
    """Reading on would be of no use."""


@define(eq=False)
class _Open:
    """A list or mapping whose end is still to come; `key` is None while a mapping waits for one."""

    node: Node
    anchor: str | None
    key: _Key | None = None
    size: int = 1
    height: int = 1


@frozen
class _Key:
    """A key of a mapping; `name` is None where the key was refused, and its value is read and dropped."""

    name: str | None
    where: str


@frozen
class _Anchored:
    """What an anchor stands for: None while it is still open; `size` in nodes, `height` in levels."""

    where: str
    node: Node | None = None
    size: int = 0
    height: int = 0


@define(eq=False)
class _Composer:
    """Takes the events of a document one by one; the open lists and mappings are a stack, not recursion."""

    locate: _Locate
    root: Node | None = None  # None as long as there is no whole document
    end: int = 0  # of the last value, in characters
    problems: list[Problem] = field(factory=list)
    open: list[_Open] = field(factory=list)
    anchors: dict[str, _Anchored] = field(factory=dict)
    nodes: int = 0
    aliased: int = 0
    documents: int = 0

    def take(self, event: Any) -> None:
        """Add one event to the tree."""
        if isinstance(event, _VALUE_ENDS) and event.start_mark.index != event.end_mark.index:
            self.end = event.end_mark.index  # the end of a list or mapping that is only indented has no width
        match event:
            case yaml.DocumentStartEvent():
                self._start_document(event)
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = self.open.pop()
                self._add(closed.node, closed.anchor, closed.size, closed.height)

    def _fault(self, where: str, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(where, "", message, hint))

    def _start_document(self, event: Any) -> None:
        self.documents += 1
        where = self.locate(event.start_mark)
        if self.documents > 1:
            self._fault(where, "expected one document, a second one starts here", "remove the line `---`")
            raise _Stop
        if event.version not in (None, (1, 2)):
            self._fault(where, "YAML is read by version 1.2, not by an older one", "remove the line `%YAML`")

    def _scalar(self, event: Any) -> None:
        where = self.locate(event.start_mark)
        self._prepare(event, where)
        is_plain = not event.style
        if is_plain and event.value == "<<" and self._awaits_key():
            self._fault(
                where,
                "merge keys (<<) are not allowed",
                "write the keys out, or use *alias for a whole value",
            )
            self.open[-1].key = _Key(None, where)
            return
        try:
            value = resolve(event.value) if is_plain else event.value
        except ScalarError as fault:
            self._fault(where, fault.message, fault.hint)
            value = "" if not self._awaits_key() else None
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            self._fault(where, "a string must not hold U+0000 or half a surrogate pair")
        self._add(Node(value, where), event.anchor, 1, 1)

    def _start(self, event: Any) -> None:
        where = self.locate(event.start_mark)
        self._prepare(event, where)
        if len(self.open) == MAX_DEPTH:
            self._fault(where, f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        value: Value = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.open.append(_Open(Node(value, where), event.anchor))

    def _prepare(self, event: Any, where: str) -> None:
        """Check what scalars, lists and mappings have in common: number, tag and anchor."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self._fault(where, f"more than {MAX_NODES} values")
            raise _Stop
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._fault(
                where, f"the tag {tag!r} is not allowed", "a value's form decides its type: remove the tag"
            )
        if event.anchor is not None:
            if event.anchor in self.anchors:
                first = self.anchors[event.anchor].where
                self._fault(where, f"duplicate anchor &{event.anchor}, first at {_line(first)}")
            self.anchors[event.anchor] = _Anchored(where)

    def _alias(self, event: Any) -> None:
        where = self.locate(event.start_mark)
        anchored = self.anchors.get(event.anchor)
        if anchored is None or anchored.node is None:
            what = "unknown alias" if anchored is None else "a value that holds itself: alias"
            hint = "put text that starts with * in quotes" if anchored is None else None
            self._fault(where, f"{what} *{event.anchor}", hint)
            self._add(Node("", where), None, 1, 1)
            return
        self.aliased += anchored.size
        if self.aliased > MAX_ALIASED_NODES:
            self._fault(where, f"aliases expand to more than {MAX_ALIASED_NODES} values")
            raise _Stop
        if len(self.open) + anchored.height > MAX_DEPTH + 1:
            self._fault(where, f"nested deeper than {MAX_DEPTH} levels by the alias *{event.anchor}")
            raise _Stop
        self._add(anchored.node, None, anchored.size, anchored.height)

    def _awaits_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].node.value, dict) and self.open[-1].key is None

    def _add(self, node: Node, anchor: str | None, size: int, height: int) -> None:
        """Put a whole node where it belongs: into the open list or mapping, as a key, or as the root."""
        if anchor is not None:
            self.anchors[anchor] = _Anchored(node.where, node, size, height)
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        parent.size += size
        parent.height = max(parent.height, height + 1)
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
        elif parent.key is None:
            parent.key = self._key(node, parent)
        elif isinstance(parent.node.value, dict):
            if parent.key.name is not None:
                parent.node.value[parent.key.name] = evolve(node, key_where=parent.key.where)
            parent.key = None

    def _key(self, node: Node, parent: _Open) -> _Key:
        if not isinstance(node.value, str):
            if not self.problems or self.problems[-1].where != node.where:  # a refused number is said already
                self._fault(
                    node.where, f"expected a string as key, got {shown(node)}", "put the key in quotes"
                )
            return _Key(None, node.where)
        if isinstance(parent.node.value, dict) and node.value in parent.node.value:
            first = parent.node.value[node.value].key_where
            self._fault(node.where, f"duplicate key {node.value!r}, first at {_line(first)}")
            return _Key(None, node.where)
        return _Key(node.value, node.where)


def _line(where: str) -> str:
    match = re.search(r":(\d+):\d+$", where)
    return f"line {match[1]}" if match else where


_VALUE_ENDS: Any = (yaml.ScalarEvent, yaml.AliasEvent, yaml.SequenceEndEvent, yaml.MappingEndEvent)
_START = yaml.Mark("", 0, 0, 0, None, 0)
_SYNTAX_HINTS = (
    ("mapping values are not allowed", "check the indentation, and put text with `: ` in quotes"),
    ("cannot start any token", "put text that starts with a special character in quotes"),
    ("unexpected end of stream", "a quote is not closed"),
)


def _syntax_problem(error: yaml.YAMLError, text: str, locate: _Locate) -> Problem:
    """Put libyaml's finding in the user's words."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None) or _START
    where = locate(mark)
    lines = re.split(r"\r\n|\r|\n", text)
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Problem(
            where, "", "YAML is indented by spaces, this line has a tab", "replace the tab by spaces"
        )
    message = " ".join(filter(None, (getattr(error, "problem", str(error)), getattr(error, "context", None))))
    hint = next((hint for words, hint in _SYNTAX_HINTS if words in message), None)
    return Problem(where, "", f"not valid YAML: {message}", hint)
