"""Changes to a manifest from the command line: `--set trainer.lr=3e-4` and `--override-file FILE`.

One rule: an override is a piece of manifest written elsewhere: read by the same reader, held to the same types, refused
where it has no place. Trees are never changed, each function returns a new one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from codex_kernel.errors import ManifestError, Problem
from codex_kernel.yaml_reader import MAX_DEPTH, Node, child_path, read_file, read_value, shown

SECTIONS = ("dataset", "tokenizer", "model", "trainer", "checkpointer")
"""The keys that name one plugin each."""
SECTION_LISTS = (("cleaners",), ("adapters",), ("loggers",), ("evaluate", "metrics"))
"""Where lists of plugins stand."""
SOURCES = ("dataset", "sources")
"""Where a dataset that is made of others has their sections, by name."""
KERNEL_KEYS = ("type", "on_error")
"""The keys of a plugin's section that are the kernel's; all others are the plugin's options."""

Steps = tuple[str | int, ...]
"""The way from the top to a value: keys of mappings and indices of lists."""


@frozen
class Override:
    """One `--set`: the value goes to the end of the steps; `text` is what the user wrote, its place in errors."""

    steps: Steps
    value: Node
    text: str


def parse_set(text: str) -> Override:
    """Read `a.b=value`, `a.0.b=value`, `a[0].b=value` or `a["odd.key"]=value`; the value is YAML.

    Digits are the index of an item; a key of digits stands in brackets and quotes.
    Raises ManifestError whose place is the text itself.
    """
    where = f"--set {text if len(text) <= _SHOWN else text[: _SHOWN - 1] + '…'}".replace("\n", "\\n")
    steps, rest = _parse_steps(text, where)
    value = read_value(rest[1:], where)
    if value is None:
        key = text[: len(text) - len(rest)]
        hint = f"write {key}=null for none, {key}=\"''\" for empty text"
        hint = "put text with # in quotes" if "#" in rest else hint
        raise _fault(where, "the value is missing", hint)
    return Override(steps, value, where)


def apply(root: Node, overrides: Sequence[Override], problems: list[Problem] | None = None) -> Node:
    """Return the tree with the overrides in it, the last one winning.

    Mappings on the way are made, items of lists are not; a plugin written short (`tokenizer: bytes`) becomes a mapping.
    Where a section gets another `type`, the options that it had before all overrides go: they were another plugin's.
    Overrides that have no place are left out and added to `problems`, or raised as ManifestError where that is None.
    """
    found: list[Problem] = []
    root = _forget_replaced_plugins(root, overrides)
    for override in overrides:
        try:
            root = _put(root, (), override.steps, override)
        except ManifestError as error:
            found.extend(error.problems)
    if found and problems is None:
        raise ManifestError(found)
    if problems is not None:
        problems.extend(found)
    return root


def from_file(path: Path) -> Node:
    """Read an override file, a manifest of which any part may be missing. Raises ManifestError."""
    return read_file(path)


def merge(root: Node, override: Node) -> Node:
    """Return the tree with an override file's laid over it: mappings merge, lists and scalars replace.

    Where a section gets another `type`, its other options go.
    """
    return _merge(root, override, ())


# ── the text of --set ─────────────────────────────────────────────────────────────────────────────────────────────

_SHOWN = 80  # characters of a line
_STEP = re.compile(
    r'\[(?P<index>[^\]"]*)\]'  # [0]
    r'|\["(?P<quoted>(?:[^"\\]|\\.)*)"\]'  # ["odd.key"]
    r'|\.?(?P<name>[^.\[\]="]*)'  # name, .name
)
_NAME = re.compile(r"_?[A-Za-z0-9][A-Za-z0-9_-]*")
_INDEX = re.compile(r"[0-9]{1,9}")


def _parse_steps(text: str, where: str) -> tuple[Steps, str]:
    """Return the steps before the `=`, and the rest of the text from there on."""
    if "=" not in text:
        raise _fault(where, "expected key=value", "such as --set trainer.lr=3e-4")
    steps: list[str | int] = []
    rest = text
    while not rest.startswith("=") or not steps:
        match = _STEP.match(rest)
        if match is None or len(steps) == MAX_DEPTH or (rest[:1] == "." and not steps):
            raise _fault(where, "expected a key such as trainer.lr or loggers[0].every")
        steps.append(_parse_step(match, where))
        if not match[0]:
            raise _fault(where, f"expected = or a dot, got {rest[:1]!r}")
        rest = rest[match.end() :]
    return tuple(steps), rest


def _parse_step(match: re.Match[str], where: str) -> str | int:
    if match["quoted"] is not None:
        return re.sub(r"\\(.)", r"\1", match["quoted"])
    digits = match["name"] if match["index"] is None else match["index"]
    if _INDEX.fullmatch(digits):
        return int(digits)
    if match["index"] is not None:
        raise _fault(where, f"expected an index such as [0], got [{match['index'][:20]}]")
    if not _NAME.fullmatch(match["name"]):
        got = f"got {match['name'][:40]!r}" if match["name"] else "got nothing"
        raise _fault(where, f"expected the name of an option, {got}")
    return match["name"]


def _fault(where: str, message: str, hint: str | None = None, path: str = "") -> ManifestError:
    return ManifestError([Problem(where, path, message, hint)])


# ── putting a value into the tree ─────────────────────────────────────────────────────────────────────────────────


def _put(node: Node, done: Steps, steps: Steps, override: Override) -> Node:
    """Return the node that stands at `done`, with the value at the end of the remaining steps."""
    if not steps:
        return evolve(override.value, key_where=override.text)
    step, *rest = steps
    node = _expanded(node, done)
    if isinstance(node.value, list):
        index = _index(step, node.value, done, override)
        items = list(node.value)
        items[index] = _put(items[index], (*done, index), tuple(rest), override)
        return evolve(node, value=items)
    if isinstance(step, int) or not isinstance(node.value, dict | None):
        raise _no_place(node, done, step, override)
    children: dict[str, Node] = dict(node.value or {})
    child = children.get(step, Node(None, override.text, override.text))
    children[step] = _put(child, (*done, step), tuple(rest), override)
    return evolve(node, value=children)


def _index(step: str | int, items: list[Node], done: Steps, override: Override) -> int:
    if isinstance(step, str):
        message = f"expected the index of an item, got {step!r}"
        raise _fault(override.text, message, path=_path(done))
    if step >= len(items):
        message = f"there is no item {step}, the list has {len(items)}"
        raise _fault(override.text, message, "indices count from 0", _path(done))
    return step


def _no_place(node: Node, done: Steps, step: str | int, override: Override) -> ManifestError:
    if node.value is None and node.where == override.text:
        message, hint = f"the manifest has no such list, so it has no item {step}", "set the whole list"
    else:
        got = shown(node) if not isinstance(node.value, dict) else "a mapping, and no list"
        message, hint = f"the manifest has {got} here, so {step!r} has no place in it", None
    return _fault(override.text, message, hint, _path(done))


def _path(steps: Steps) -> str:
    path = "$"
    for step in steps:
        path = child_path(path, step)
    return path


# ── sections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_section(steps: Steps) -> bool:
    """Say whether a plugin's section stands there."""
    if not steps:
        return False
    *way, last = steps
    is_item = tuple(way) in SECTION_LISTS and isinstance(last, int)
    return is_item or tuple(way) == SOURCES or (not way and last in SECTIONS)


def _expanded(node: Node, steps: Steps) -> Node:
    """Write a section's short form, its plugin's name alone, as a mapping."""
    if isinstance(node.value, str) and _is_section(steps):
        return evolve(node, value={"type": Node(node.value, node.where, node.place)})
    return node


def _has_other_type(old: Node, new: Node | None) -> bool:
    """Say whether a section's new type is another plugin than its old one."""
    current = old.value.get("type") if isinstance(old.value, dict) else None
    if current is None or new is None or not isinstance(current.value, str) or not isinstance(new.value, str):
        return False
    return not is_same_plugin(current.value, new.value)


def is_same_plugin(one: str, other: str) -> bool:
    """Say whether two types name one plugin; `dist/name` may also be written `name`."""
    only_one_is_long = ("/" in one) != ("/" in other)
    return one == other or (only_one_is_long and one.rpartition("/")[2] == other.rpartition("/")[2])


def _without_options(node: Node) -> Node:
    children = node.value if isinstance(node.value, dict) else {}
    return evolve(node, value={key: child for key, child in children.items() if key in KERNEL_KEYS})


def _forget_replaced_plugins(root: Node, overrides: Sequence[Override]) -> Node:
    """Drop the options of the sections that end up with another type.

    Before any override is put in, so that none of the options that come with them is lost, whatever their order.
    """
    types = {override.steps[:-1]: override.value for override in overrides if override.steps[-1] == "type"}
    for steps, new in types.items():
        root = _forget(root, (), steps, new)
    return root


def _forget(node: Node, done: Steps, steps: Steps, new: Node) -> Node:
    if not steps:
        return _without_options(node) if _is_section(done) and _has_other_type(node, new) else node
    step, *rest = steps
    if isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
        items = list(node.value)
        items[step] = _forget(items[step], (*done, step), tuple(rest), new)
        return evolve(node, value=items)
    if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
        child = _forget(node.value[step], (*done, step), tuple(rest), new)
        return evolve(node, value={**node.value, step: child})
    return node


def _merge(old: Node, new: Node, steps: Steps) -> Node:
    if _is_section(steps) and isinstance(old.value, dict | str) and isinstance(new.value, dict | str):
        old, new = _expanded(old, steps), _expanded(new, steps)
    if not isinstance(old.value, dict) or not isinstance(new.value, dict):
        return new
    if _is_section(steps) and _has_other_type(old, new.value.get("type")):
        old = evolve(_without_options(old), where=new.where, key_where=new.key_where)
    children = dict(old.value) if isinstance(old.value, dict) else {}
    for key, child in new.value.items():
        children[key] = _merge(children[key], child, (*steps, key)) if key in children else child
    return evolve(old, value=children)
