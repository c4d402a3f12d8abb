"""Reading `codex-plugin.json`: what a distribution says of its plugins, so that nobody has to import them to know.

One rule: it is believed only where it is whole and fits the distribution that it came with. Its values are named
tuples, as those of `metadata` are: a listing reads them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from codex_kernel.metadata import Entry, normal, parse_entry_points
from codex_kernel.plugin_project import FILE_NAME

SCHEMA_VERSION = 1
MAX_BYTES = 4 * 2**20


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


class _Unfit(Exception):  # noqa: N818 - it never leaves this module
    """The file cannot be believed; the text says why."""


def look_up(entry: Entry) -> Found | str | None:
    """Return what the file of the entry's distribution holds, why it is not believed, or None where there is none."""
    try:
        record = (entry.metadata / "RECORD").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # not every installer writes one; a folder of sources has none
        return None
    if FILE_NAME not in record or _is_editable(entry.metadata):
        return None
    try:
        listed = [line for line in map(_record_line, record.splitlines()) if line[0].endswith(FILE_NAME)]
        if len(listed) != 1:
            raise (
                _Unfit(f"its record lists {len(listed)} of them")
                if listed
                else _Unfit("its record is damaged")
            )
        found = _parse(_bytes_of(entry.metadata.parent, *listed[0]))
        _compare(entry, found)
    except _Unfit as reason:
        return f"the {FILE_NAME} of {entry.distribution} {entry.version} is not used: {reason}"
    return found.plugins


def _is_editable(metadata: Path) -> bool:
    """Say whether the code lies where its author works on it."""
    try:
        text = (metadata / "direct_url.json").read_bytes()
    except OSError:
        return False
    return b'"editable":true' in b"".join(text.split())


def _record_line(line: str) -> tuple[str, str, str]:
    """Return path, hash and size of a line of RECORD, each "" where it is not there."""
    path, digest, size = line.rsplit(",", 2) if line.count(",") > 1 else (line, "", "")
    return path.strip('"').replace('""', '"'), digest, size


def _bytes_of(folder: Path, path: str, digest: str, size: str) -> bytes:
    """Return the content of a file of a distribution, which must be the one that was installed."""
    if os.path.isabs(path) or ".." in path.split("/"):  # noqa: PTH117 - text of a record
        raise _Unfit(f"its record places it at {path}, outside of the installation")
    try:
        with open(folder / path, "rb") as file:  # noqa: PTH123 - as fast as it gets
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _Unfit(f"it cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _Unfit(f"it is larger than {MAX_BYTES // 2**20} MiB")
    if (size and size != str(len(data))) or (digest and digest != _digest(digest.partition("=")[0], data)):
        raise _Unfit("it is not the file that was installed")
    return data


def _digest(algorithm: str, data: bytes) -> str:
    """Return a hash as RECORD writes it."""
    import base64
    import hashlib

    try:
        made = hashlib.new(algorithm, data).digest()
    except (ValueError, TypeError) as error:
        raise _Unfit(f"its record has a hash of the unknown kind {algorithm!r}") from error
    return f"{algorithm}={base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


class _File(NamedTuple):
    """The content of a file."""

    distribution: str
    plugins: Found


@functools.lru_cache(maxsize=256)
def _parse(data: bytes) -> _File:
    """Read the text of a file; raise _Unfit where it is not what `build` makes."""
    import json

    try:
        content = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _Unfit(f"it is not JSON: {error}") from error
    version = _take(content, "schema_version", int)
    if version != SCHEMA_VERSION:
        older = "an older one" if version < SCHEMA_VERSION else "a newer one"
        raise _Unfit(
            f"its schema_version is {version}, {older} than {SCHEMA_VERSION}, which this kernel reads"
        )
    api = _take(content, "plugin_api", list)
    if len(api) != 2 or any(type(number) is not int for number in api):  # noqa: PLR2004 - major and minor
        raise _Unfit(f"its plugin_api is {api!r}, not two whole numbers")
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
        raise _Unfit(f"{key!r} is {'missing' if value is None else f'a {type(value).__name__}'}")
    return value


def _texts(row: Any, key: str) -> tuple[str, ...]:
    texts = _take(row, key, list)
    if not all(isinstance(text, str) for text in texts):
        raise _Unfit(f"{key!r} holds what is no text")
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


def _compare(entry: Entry, found: _File) -> None:
    """Raise _Unfit where the file speaks of other plugins than the entry points of its distribution."""
    if normal(found.distribution) != normal(entry.distribution):
        raise _Unfit(f"it is that of {found.distribution!r}")
    try:
        text = (entry.metadata / "entry_points.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    announced = {(kind, name): target for kind, name, target in parse_entry_points(text)}
    described = {key: one.target for key, one in found.plugins.items()}
    for kind, name in sorted(key for key, _target in announced.items() ^ described.items()):
        ours, theirs = described.get((kind, name), "nothing"), announced.get((kind, name), "nothing")
        raise _Unfit(f"{kind} {name!r} is {ours} there, and {theirs} among the entry points")
