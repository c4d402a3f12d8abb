"""`codex plugins tree`.

One rule: it reads metadata, the manifest and the records of a run; no plugin is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from codex_kernel.cli.places import runs_option
from codex_kernel.cli.terminal import json_option, print_behind, print_json, unicode
from codex_kernel.errors import PluginError

if TYPE_CHECKING:
    from codex_kernel.catalog import Catalog
    from codex_kernel.cli.plugins_used import Used


@frozen
class Node:
    """A line of the tree, and the lines below it."""

    label: str
    detail: str = ""
    below: tuple[Node, ...] = ()


@click.command()
@click.argument("manifest_or_run", required=False, metavar="[MANIFEST|RUN]")
@runs_option
@json_option
def tree(manifest_or_run: str | None, runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Show the installed plugins by kind, or those that fill the sections of a MANIFEST or of a RUN.

    An adapter stands above what it wraps, the outermost first; a mixture above its sources. Of a run, what it recorded
    is shown, and where something else is installed now. Exit code 7: a section's plugin cannot be used.
    """
    from codex_kernel.catalog import Catalog
    from codex_kernel.cli import plugins_used

    catalog = Catalog.scan()
    if manifest_or_run is None:
        _show_all(catalog, as_json=as_json)
        return
    file = Path(manifest_or_run)
    is_manifest = file.is_file() or file.suffix in {".yaml", ".yml"}
    if is_manifest:
        used = plugins_used.by_manifest(file, catalog)
    else:
        used = plugins_used.by_run(runs, manifest_or_run, catalog)
    if as_json:
        rows = [one.as_json() for one in used.everyone()]
        print_json({"schema_version": 1, "name": used.name, "of": used.what, "plugins": rows})
    else:
        _print(_root(used.what, used.name, used.sections))
    missing = [one for one in used.everyone() if one.fault and is_manifest]
    if missing:
        raise PluginError(f"{missing[0].path}: {missing[0].fault}", remedy=missing[0].remedy)


# ── all that is installed ─────────────────────────────────────────────────────────────────────────────────────────


def _show_all(catalog: Catalog, *, as_json: bool) -> None:
    from codex_kernel.cli.plugins_origin import origin
    from codex_kernel.metadata import GROUPS

    kinds = [kind for kind in GROUPS if any(entry.kind == kind for entry in catalog.entries)]
    by_kind = {kind: [entry for entry in catalog.entries if entry.kind == kind] for kind in kinds}
    if as_json:
        rows = [
            {
                "kind": kind,
                "plugins": [
                    {
                        "name": entry.name,
                        "distribution": entry.distribution,
                        "version": entry.version,
                        "origin": origin(entry),
                        "status": entry.status,
                    }
                    for entry in entries
                ],
            }
            for kind, entries in by_kind.items()
        ]
        print_json({"schema_version": 1, "kinds": rows})
        return
    if not kinds:
        click.echo("no plugin is installed", err=True)
        return
    for kind, entries in by_kind.items():
        below = tuple(
            Node(entry.name, _detail(entry.distribution, entry.version, origin(entry), _status(entry.status)))
            for entry in entries
        )
        _print(Node(kind, below=below))


def _status(status: str) -> str:
    return "" if status == "ok" else status


def _detail(distribution: str, version: str, origin: str, remark: str) -> str:
    return "  ".join(filter(None, (f"{distribution} {version}", origin, remark)))


# ── what a manifest or a run uses ─────────────────────────────────────────────────────────────────────────────────


def _root(what: str, name: str, sections: Sequence[Used]) -> Node:
    """Return the tree of the sections: the adapters around the model, the others one beside the other."""
    adapters = [one for one in sections if one.kind == "adapter"]
    lists = ("cleaner", "metric", "logger")
    below: list[Node] = []
    for kind in dict.fromkeys(one.kind for one in sections if one.kind != "adapter"):
        nodes = [_node(one) for one in sections if one.kind == kind]
        if kind == "model":
            nodes = [_wrapped(nodes[0], adapters)]
        title = f"{kind}s" if kind in lists else kind
        below.append(Node(title, below=tuple(nodes)))
    return Node(f"{what}: {name}", below=tuple(below))


def _wrapped(model: Node, adapters: Iterable[Used]) -> Node:
    """Put each adapter above what it wraps."""
    node = model
    for adapter in adapters:
        node = Node(f"{adapter.type} (adapter)", adapter.detail, (node,))
    return node


def _node(one: Used) -> Node:
    sources = tuple(Node(f"{name}: {inner.type}", inner.detail) for name, inner in one.sources.items())
    return Node(one.type, one.detail, sources)


# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _print(node: Node) -> None:
    """Print a tree, what is told of its plugins in a column."""
    lines = list(_lines(node, "", ""))
    width = max((len(text) for text, detail, _ in lines if detail), default=0)
    for text, detail, under in lines:
        if detail:
            print_behind(f"{text:<{width}}  ", detail, under)
        else:
            click.echo(unicode(text))


def _lines(node: Node, lead: str, lead_below: str) -> Iterator[tuple[str, str, str]]:
    """Yield what stands before a node and its label, what is told of it, and what stands below it."""
    yield f"{lead}{node.label}", node.detail, f"{lead_below}{'│' if node.below else ' '}   "
    for index, child in enumerate(node.below, 1):
        last = index == len(node.below)
        yield from _lines(
            child, f"{lead_below}{'└── ' if last else '├── '}", f"{lead_below}{'    ' if last else '│   '}"
        )
