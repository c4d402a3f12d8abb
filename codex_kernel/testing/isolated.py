"""A catalog that holds what a test adds and what the kernel itself brings, and nothing that happens to be installed.

One rule: processes that the test starts see the same catalog, by the variables that `codex` itself reads.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import define, field, frozen

from codex_kernel.catalog import Catalog
from codex_kernel.errors import PluginError
from codex_kernel.metadata import GROUPS, Entry

DISTRIBUTION = "added-by-the-test"
_numbers = itertools.count(1)
_local: dict[str, type] = {}


@frozen
class _Metadata:
    """What a distribution says of itself beside its plugins."""

    version: str = "1.0"
    requires: str = "codex-kernel"
    modules: tuple[str, ...] = ()


@define(eq=False)
class IsolatedCatalog:
    """The plugins that can be found; `folder` is the place where they are as if installed, on the path of modules."""

    folder: Path
    _plugins: dict[str, dict[str, dict[str, str]]] = field(init=False, factory=dict)
    _metadata: dict[str, _Metadata] = field(init=False, factory=dict)

    def add(
        self, kind: str, name: str, plugin: type | object | str, *, distribution: str = DISTRIBUTION
    ) -> None:
        """Make a plugin findable: `type: name` in a manifest, for a section of that kind.

        plugin: its class (of a command, the click command), or its target as an entry point has it, `module:Class`.
        A class defined within a function is found in this process alone.
        """
        target = plugin if isinstance(plugin, str) else self._lead_to(plugin)
        self._plugins.setdefault(distribution, {}).setdefault(kind, {})[name] = target
        self._metadata.setdefault(distribution, _Metadata())
        self._write(distribution)

    def add_distribution(
        self,
        name: str,
        plugins: Mapping[str, Mapping[str, str]],
        *,
        version: str = "1.0",
        requires: str = "codex-kernel",
        modules: Mapping[str, str] | None = None,
    ) -> Path:
        """Put a distribution there as an installer would, and return the folder of its metadata.

        plugins: kind → name → target. requires: its requirement of codex-kernel, such as `codex-kernel>=0.1,<0.2`.
        modules: name of a module → its source text.
        """
        found = self._plugins.setdefault(name, {})
        for kind, targets in plugins.items():
            found.setdefault(kind, {}).update(targets)
        texts = modules or {}
        if name in self._metadata and self._metadata[name].version != version:
            shutil.rmtree(
                self._place(name)
            )  # another version takes the place of the one before, as when installed
        self._metadata[name] = _Metadata(version, requires, tuple(texts))
        for module, text in texts.items():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{module}.py").write_text(text, encoding="utf-8")
        return self._write(name)

    def has(self, kind: str, name: str) -> bool:
        """Say whether the test has added such a plugin."""
        return any(name in kinds.get(kind, {}) for kinds in self._plugins.values())

    def _place(self, name: str) -> Path:
        return self.folder / f"{name.replace('-', '_')}-{self._metadata[name].version}.dist-info"

    def _write(self, name: str) -> Path:
        unknown = self._plugins[name].keys() - GROUPS.keys()
        if unknown:
            raise ValueError(f"there is no kind {unknown.pop()!r} of plugins, only {', '.join(GROUPS)}")
        metadata, about = self._place(name), self._metadata[name]
        metadata.mkdir(parents=True, exist_ok=True)
        head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {about.version}\nSummary: {name}\n"
        (metadata / "METADATA").write_text(f"{head}Requires-Dist: {about.requires}\n", encoding="utf-8")
        groups = [
            f"[{GROUPS[kind]}]\n" + "".join(f"{plugin} = {target}\n" for plugin, target in targets.items())
            for kind, targets in self._plugins[name].items()
        ]
        (metadata / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
        rows = [f"{path.relative_to(self.folder).as_posix()},," for path in (metadata / "METADATA",)]
        rows += [f"{module}.py,," for module in about.modules]
        (metadata / "RECORD").write_text("\n".join(rows) + "\n", encoding="utf-8")
        importlib.invalidate_caches()
        os.environ["CODEX_PLUGINS"] = ",".join(self._plugins)
        return metadata

    def _lead_to(self, plugin: Any) -> str:
        """Write a module that leads to the class, wherever it is defined, and return the class's target in it."""
        if not (isinstance(plugin, type) or hasattr(plugin, "callback")):
            raise TypeError(f"expected a plugin's class, a click command or 'module:Class', got {plugin!r}")
        stub = f"codex_added_{next(_numbers)}"
        owner = plugin if isinstance(plugin, type) else plugin.callback
        name = owner.__qualname__ if isinstance(plugin, type) else plugin.callback.__name__
        file = getattr(sys.modules.get(owner.__module__), "__file__", None) or ""
        _local[stub] = plugin
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{stub}.py").write_text(
            f"from codex_kernel.testing.isolated import added\n\n"
            f"Plugin = added({stub!r}, {owner.__module__!r}, {name!r}, {file!r})\n",
            encoding="utf-8",
        )
        return f"{stub}:Plugin"


def added(stub: str, module: str, name: str, file: str) -> Any:
    """Return the class that a test added: as it is in the test's process, else imported by name or from its file."""
    if stub in _local:
        return _local[stub]
    if "<locals>" in name:
        raise ImportError(
            f"{module} defines {name} within a function: put it at the top, where others can import it"
        )
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        spec = importlib.util.spec_from_file_location(module, file)
        if spec is None or spec.loader is None:
            raise
        found = sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    for part in name.split("."):
        found = getattr(found, part)
    return found


_active: list[IsolatedCatalog] = []


def active() -> IsolatedCatalog | None:
    """Return the isolated catalog that holds now; None: there is none."""
    return _active[-1] if _active else None


@contextmanager
def isolated(folder: Path) -> Iterator[IsolatedCatalog]:
    """Give a catalog in `folder` which is all that there is, until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    catalog = IsolatedCatalog(folder)
    paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = {"CODEX_PLUGINS": "", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    before = set(sys.modules)
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        mock.patch.object(Catalog, "find", _finding(catalog, Catalog.find)),
    ):
        os.environ.pop("CODEX_PLUGIN_PATH", None)
        _active.append(catalog)
        try:
            yield catalog
        finally:
            _active.remove(catalog)
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
                    del sys.modules[name]


def _finding(catalog: IsolatedCatalog, find: Any) -> Any:
    """Return `Catalog.find` with an error that says why a plugin is not found here."""

    def find_here(self: Catalog, kind: str, name: str, distribution: str | None = None) -> Entry:
        try:
            entry: Entry = find(self, kind, name, distribution)
        except PluginError as error:
            if catalog.has(kind, name):
                raise
            raise PluginError(
                f"the {kind} {name!r} is not in the test's isolated catalog, whatever is installed",
                remedy=f"codex_catalog.add({kind!r}, {name!r}, …) adds it",
            ) from error
        return entry

    return find_here
