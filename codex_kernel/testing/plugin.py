"""The contract that plugins of every kind keep: what the kernel relies on before a run has begun.

Each contract of a kind has these checks too. What it needs beyond its `make` may be given by `broken`.

One rule: it knows the plugin as its manifest section does: a class with options and hooks. It needs pytest.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import pickle
import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs

from codex_kernel.errors import CodexError, Problem
from codex_kernel.hooks import Hooks
from codex_kernel.loading import HEAVY, HOOK_OF_KIND
from codex_kernel.option_types import Option, bare, options_of
from codex_kernel.options import Sources
from codex_kernel.section_schema import section_schema
from codex_kernel.structure import structure, unstructure
from codex_kernel.testing._calls import hooks_of, listing
from codex_kernel.testing._imports import check_light, check_without_effect
from codex_kernel.yaml_reader import Node, read
from codex_kernel.yaml_writer import write

_WRONG: tuple[Any, ...] = ({"no": "such"}, [["no"]], "no such value", True, -1.5)
"""Values of every form; an option that takes all of them has no type."""


class PluginContract:
    """What holds for every plugin, of whatever kind; the contracts of the kinds give `plugin`."""

    kind: ClassVar[str] = ""
    """The kind of plugin, as in `codex plugins list`."""
    heavy: Sequence[str] = HEAVY
    """Libraries that importing the plugin's module must not load."""

    def plugin(self, folder: Path) -> Any:
        """Return the plugin; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def broken(self, folder: Path) -> Iterable[Any]:  # noqa: ARG002 - for those who give some
        """Return plugins that cannot work (a file that is missing, an option that nothing fits); most give none."""
        return ()

    def use(self, plugin: Any, folder: Path) -> None:
        """Do with a plugin what a run does first, where that can fail."""

    # ── the class ─────────────────────────────────────────────────────────────────────────────────────────────────

    def test_it_is_a_plugin_of_its_kind(self, tmp_path: Path) -> None:
        """The class is one of attrs, implements the hook of its kind, and marks each of its hooks with @hookimpl."""
        plugin_class = type(self._plugin(tmp_path))
        assert attrs.has(plugin_class), f"{plugin_class.__name__} is no attrs class: decorate it with @frozen"
        named = {name for name, _ in inspect.getmembers(plugin_class) if name.startswith("codex_")}
        named -= {"codex_capabilities"}
        marked = {name for name in named if hasattr(getattr(plugin_class, name), "codex_impl")}
        assert not named - marked, f"without @hookimpl: {', '.join(sorted(named - marked))}"
        needed = HOOK_OF_KIND.get(self.kind)
        assert marked, "it implements no hook"
        assert needed is None or needed in marked, f"a {self.kind} implements {needed}"

    def test_its_hooks_are_those_of_the_kernel(self, tmp_path: Path) -> None:
        """The kernel takes its hooks: none misspelt, async, by keyword alone, or with an argument that no hook has."""
        Hooks().register(self._plugin(tmp_path), f"{self.kind} under test")

    # ── its options ───────────────────────────────────────────────────────────────────────────────────────────────

    def test_its_options_come_back_from_a_section(self, tmp_path: Path) -> None:
        """Its options, written as a section of a manifest and read again, make a plugin with the same options."""
        plugin = self._plugin(tmp_path)
        again = _structured(type(plugin), _section(plugin))
        assert unstructure(again) == unstructure(plugin)

    def test_defaults_can_be_written_out(self, tmp_path: Path) -> None:
        """Each default is a value of the option's type, so that a run's resolved.yaml can be read; and it is JSON."""
        plugin_class = type(self._plugin(tmp_path))
        schema = json.loads(json.dumps(section_schema(plugin_class), allow_nan=False))
        section = _section(self._plugin(tmp_path / "second"))
        for name, option in schema["properties"].items():
            if "default" in option:
                problems = _problems(plugin_class, {**section, name: option["default"]})
                assert not [one for one in problems if one.path == f"$.section.{name}"], (
                    f"{name}: {problems[0]}"
                )

    def test_equal_options_make_equal_plugins(self, tmp_path: Path) -> None:
        """Two plugins of one section are equal, as the kernel compares them; one that holds state has `eq=False`."""
        plugin = self._plugin(tmp_path)
        section = _section(plugin)
        one, other = (_structured(type(plugin), section) for _ in range(2))
        assert unstructure(one) == unstructure(other)
        if vars(object)["__eq__"] is not type(plugin).__eq__:
            assert one == other, f"two {type(plugin).__name__} of one section differ"

    def test_an_option_of_another_type_is_refused(self, tmp_path: Path) -> None:
        """No option takes just anything, and a value of another form is refused in words, not by a crash."""
        plugin = self._plugin(tmp_path)
        section = _section(plugin)
        for option in _options(plugin):
            if bare(option.type) is Sources:
                continue
            told = [_problems(type(plugin), {**section, option.name: wrong}) for wrong in _WRONG]
            assert any(told), f"the option {option.name} takes anything: declare its type"

    def test_two_plugins_share_no_option(self, tmp_path: Path) -> None:
        """A list or mapping that is an option of one plugin is no other's: a change in one run reaches no other."""
        for attribute in attrs.fields(type(self._plugin(tmp_path))):
            default: Any = attribute.default
            factory = getattr(default, "factory", None)
            if factory is not None and not default.takes_self:
                default, again = factory(), factory()
            else:
                again = default
            shared = default is again and isinstance(default, list | dict | set)
            assert not shared, f"{attribute.name} is one object in all plugins: give it a factory of its own"

    def test_making_it_has_no_effect(self, tmp_path: Path) -> None:
        """Making it from its section, as `codex validate` does, writes, prints, starts and draws nothing."""
        plugin = self._plugin(tmp_path / "plugin")
        section = _section(plugin)
        empty = tmp_path / "empty"
        empty.mkdir()
        before = (random.getstate(), dict(os.environ), threading.active_count())
        with contextlib.chdir(empty), contextlib.redirect_stdout(io.StringIO()) as printed:
            _structured(type(plugin), section)
        assert listing(empty) == {}
        assert printed.getvalue() == ""
        assert (random.getstate(), dict(os.environ), threading.active_count()) == before

    # ── its module ────────────────────────────────────────────────────────────────────────────────────────────────

    def test_importing_it_loads_nothing_heavy(self, tmp_path: Path) -> None:
        """Importing its module, as `codex validate` does, loads no library that takes long."""
        check_light(type(self._plugin(tmp_path)).__module__, self.heavy)

    def test_importing_it_has_no_effect(self, tmp_path: Path) -> None:
        """Importing its module prints nothing, starts no thread, and leaves environment and signals as they are."""
        check_without_effect(type(self._plugin(tmp_path)).__module__)

    # ── before a run ──────────────────────────────────────────────────────────────────────────────────────────────

    def test_preflight_finds_nothing_wrong(self, tmp_path: Path) -> None:
        """Preflight is silent about a plugin that can work."""
        plugin = self._plugin(tmp_path)
        answers = hooks_of(plugin).codex_preflight(base=tmp_path, cache=tmp_path / "cache")
        assert [problem for answer in answers for problem in answer or ()] == []

    def test_what_cannot_work_is_told(self, tmp_path: Path) -> None:
        """A plugin that cannot work says so: preflight in sentences, or the run's first use as a codex error."""
        for number, plugin in enumerate(self.broken(_made(tmp_path / "broken"))):
            folder = tmp_path / "broken"
            answers = hooks_of(plugin).codex_preflight(base=folder, cache=tmp_path / "cache")
            told = [problem for answer in answers for problem in answer or ()]
            assert all(isinstance(problem, str) and problem.strip() for problem in told)
            if told:
                continue
            try:
                self.use(plugin, folder)
            except CodexError as error:
                assert error.message, f"broken plugin {number}: an error without words"
                assert error.remedy, f"{error.message}: an error without a remedy"
            else:
                raise AssertionError(f"broken plugin {number} works, and says nothing: {plugin}")

    def test_a_rehearsal_changes_its_own_options(self, tmp_path: Path) -> None:
        """What it changes for `codex verify-resume` are options that it has, with values that they take."""
        plugin = self._plugin(tmp_path)
        for changes in hooks_of(plugin).codex_shorten(steps=10):
            assert isinstance(changes, Mapping)
            _structured(type(plugin), {**_section(plugin), **changes})

    def _plugin(self, folder: Path) -> Any:
        return self.plugin(_made(folder))


class SpawnedContract(PluginContract):
    """What holds beyond it for plugins that every process of a run has, and that a trainer may hand to workers."""

    def test_another_process_can_have_it(self, tmp_path: Path) -> None:
        """It can be pickled, as starting a worker process by `spawn` does, and has the same options afterwards."""
        plugin = self._plugin(tmp_path)
        again = pickle.loads(pickle.dumps(plugin))  # noqa: S301 - what stands beside it
        assert type(again) is type(plugin)
        assert unstructure(again) == unstructure(plugin)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _options(plugin: object) -> tuple[Option, ...]:
    plugin_class: Any = type(plugin)
    return options_of(plugin_class)


def _section(plugin: object) -> dict[str, Any]:
    """Return a plugin's options as a manifest has them; of a dataset made of others, with their sections."""
    section: dict[str, Any] = unstructure(plugin)
    for option in _options(plugin):
        if bare(option.type) is Sources:
            section[option.name] = {name: {"type": "any"} for name in getattr(plugin, option.name).names}
    return section


def _read(plugin_class: type, section: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """Make a plugin of a section as the kernel does, from text."""
    problems: list[Problem] = []
    root = read(write({"section": dict(section)}).encode(), "manifest.yaml").value
    assert isinstance(root, dict)
    node: Node = root["section"]
    return structure(plugin_class, node, "$.section", problems), problems


def _problems(plugin_class: type, section: Mapping[str, Any]) -> list[Problem]:
    return _read(plugin_class, section)[1]


def _structured(plugin_class: type, section: Mapping[str, Any]) -> Any:
    made, problems = _read(plugin_class, section)
    assert not problems, f"the section {dict(section)} is refused: {problems[0]}"
    return made
