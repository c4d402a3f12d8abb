"""Reading `codex-plugin.json`: what a distribution says of its plugins, so that nobody has to import them to know.

One rule: it is believed only where it is whole and fits the distribution that it came with. Its values are named
tuples, as those of `metadata` are: a listing reads them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from codex_kernel.file_record import (
    FILE_NAME,
    Recorded,
    UnfitError,
    bytes_of,
    direct_url_of,
    is_editable,
    static_file_of,
)
from codex_kernel.metadata import Entry, normal, parse_entry_points

SCHEMA_VERSION = 1


class PluginDescription(NamedTuple):
    """What is known of a plugin.

    `hooks` are those it implements, `options` the JSON Schema of its section (empty for a command), `plugin_api` the
    version of the hooks that it was made for, None where nobody says. `static`: read from its distribution's file;
    otherwise the plugin was imported.
    """

    kind: str
    name: str
    target: str
    summary: str
    hooks: tuple[str, ...]
    capabilities: tuple[str, ...]
    options: Mapping[str, Any]
    plugin_api: tuple[int, int] | None
    static: bool


Found = dict[tuple[str, str], PluginDescription]


def look_up(entry: Entry) -> Found | str | None:
    """Return what the file of the entry's distribution holds, why it is not believed, or None where there is none.

    It is read once for all plugins of a distribution, and again once it, or what it is held against, has changed.
    """
    metadata = entry.folder
    listed = _listed(metadata, _stamp(metadata, "RECORD"))
    if listed is None or is_editable(direct_url_of(metadata)):
        return None
    found: Found | str
    if isinstance(listed, str):
        found = listed
    else:
        stamps = _stamp(metadata, "entry_points.txt"), _stamp(os.path.dirname(metadata), listed.path)  # noqa: PTH120
        found = _believed(metadata, normal(entry.distribution), listed, stamps)
    if isinstance(found, str):
        return f"the {FILE_NAME} of {entry.distribution} {entry.version} is not used: {found}"
    return found


def read(entry: Entry) -> PluginDescription | None:
    """Return what the distribution's file says of a plugin, without importing it.

    None: there is no such file, `fault` says what is wrong with it, or the installation is editable, so that its code
    may be newer than its file.
    """
    found = look_up(entry)
    if isinstance(found, str) or found is None:
        return None
    described = found.get((entry.kind, entry.name))
    if described is None or described.target != entry.target:
        return None
    return described if described.summary else described._replace(summary=entry.distribution_summary)


def fault(entry: Entry) -> str:
    """Say why the file of the plugin's distribution is not believed; "" where it is, and where there is none."""
    found = look_up(entry)
    return found if isinstance(found, str) else ""


_Stamp = tuple[int, int, int] | None


def _stamp(folder: str, name: str) -> _Stamp:
    """Return what is another one once a file has changed; None where it is not there."""
    try:
        about = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 - as fast as it gets
    except (OSError, ValueError):
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


@functools.lru_cache(maxsize=256)
def _listed(metadata: str, _record: _Stamp) -> Recorded | str | None:
    """Return where the record has the file, or why that is not believed."""
    try:
        return static_file_of(metadata)
    except UnfitError as reason:
        return str(reason)


@functools.lru_cache(maxsize=256)
def _believed(
    metadata: str, distribution: str, listed: Recorded, _stamps: tuple[_Stamp, _Stamp]
) -> Found | str:
    """Return what the file holds, or why it is not believed."""
    try:
        found = _parse(bytes_of(os.path.dirname(metadata), listed))  # noqa: PTH120
        _compare(metadata, distribution, found)
    except UnfitError as reason:
        return str(reason)
    return found.plugins


class _File(NamedTuple):
    """The content of a file."""

    distribution: str
    plugins: Found


def _parse(data: bytes) -> _File:
    """Read the text of a file; raise UnfitError where it is not what `build` makes."""
    import json

    try:
        content = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"it is not JSON: {error}") from error
    version = _take(content, "schema_version", int)
    if version != SCHEMA_VERSION:
        older = "an older one" if version < SCHEMA_VERSION else "a newer one"
        raise UnfitError(
            f"its schema_version is {version}, {older} than {SCHEMA_VERSION}, which this kernel reads"
        )
    api = _take(content, "plugin_api", list)
    if len(api) != 2 or any(type(number) is not int for number in api):  # noqa: PLR2004 - major and minor
        raise UnfitError(f"its plugin_api is {api!r}, not two whole numbers")
    described = [
        *(_plugin(row, (api[0], api[1])) for row in _take(content, "plugins", list)),
        *(_command(row, (api[0], api[1])) for row in _take(content, "commands", list)),
    ]
    return _File(_take(content, "distribution", str), {(one.kind, one.name): one for one in described})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _take(mapping: Any, key: str, kind: type) -> Any:
    """Return a value of the wanted type; a bool is no integer."""
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if type(value) is not kind:
        raise UnfitError(f"{key!r} is {'missing' if value is None else f'a {type(value).__name__}'}")
    return value


def _texts(row: Any, key: str) -> tuple[str, ...]:
    texts = _take(row, key, list)
    if not all(isinstance(text, str) for text in texts):
        raise UnfitError(f"{key!r} holds what is no text")
    return tuple(texts)


def _plugin(row: Any, api: tuple[int, int]) -> PluginDescription:
    options = _take(row, "options", dict)
    _take(options, "properties", dict)
    return PluginDescription(
        kind=_take(row, "kind", str),
        name=_take(row, "name", str),
        target=_take(row, "target", str),
        summary=_take(row, "summary", str),
        hooks=_texts(row, "hooks"),
        capabilities=_texts(row, "capabilities"),
        options=options,
        plugin_api=api,
        static=True,
    )


def _command(row: Any, api: tuple[int, int]) -> PluginDescription:
    name, target, described = (_take(row, key, str) for key in ("name", "target", "help"))
    return PluginDescription("command", name, target, described, (), (), {}, api, static=True)


def _compare(metadata: str, distribution: str, found: _File) -> None:
    """Raise UnfitError where the file speaks of other plugins than the entry points of its distribution."""
    if normal(found.distribution) != distribution:
        raise UnfitError(f"it is that of {found.distribution!r}")
    try:
        with open(f"{metadata}/entry_points.txt", encoding="utf-8") as file:  # noqa: PTH123
            text = file.read()
    except (OSError, UnicodeDecodeError):
        text = ""
    announced = {(kind, name): target for kind, name, target in parse_entry_points(text)}
    described = {key: one.target for key, one in found.plugins.items()}
    for kind, name in sorted(key for key, _target in announced.items() ^ described.items()):
        ours, theirs = described.get((kind, name), "nothing"), announced.get((kind, name), "nothing")
        raise UnfitError(f"{kind} {name!r} is {ours} there, and {theirs} among the entry points")
