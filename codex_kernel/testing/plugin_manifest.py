"""The contract of codex-plugin.json: it says what the classes of its distribution say.

    class TestManifest(PluginManifestContract):
        project = Path(__file__).parents[1]

One rule: it is compared with one that is made anew, by a process of its own, never repaired. It needs pytest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codex_kernel.plugin_project import Project, read_project
from codex_kernel.schema_types import class_of
from codex_kernel.section_schema import section_schema
from codex_kernel.static_file import SCHEMA_VERSION
from codex_kernel.static_manifest import CAPABILITIES, build_apart, differences, text_of


class PluginManifestContract:
    """What holds for the static manifest of a project; subclass it and give `project`."""

    project: Path
    """The folder with pyproject.toml."""

    def read(self) -> dict[str, Any]:
        """Return the content of the file."""
        content: dict[str, Any] = json.loads(self._project().manifest_file.read_text(encoding="utf-8"))
        return content

    def test_it_is_there_and_up_to_date(self) -> None:
        """It is the one that `codex plugins build-manifest` would write now."""
        project = self._project()
        place = project.manifest_file
        assert place.is_file(), f"{place} is not there: run codex plugins build-manifest"
        outdated = differences(place.read_text(encoding="utf-8"), build_apart(project))
        assert not outdated, "run codex plugins build-manifest:\n" + "\n".join(outdated)

    def test_nobody_wrote_it_by_hand(self) -> None:
        """Its text is the one that codex writes, byte for byte: a small change of a plugin is one of it."""
        text = self._project().manifest_file.read_bytes()
        assert text.replace(b"\r\n", b"\n") == text_of(self.read()).encode()

    def test_it_has_the_plugins_of_the_entry_points(self) -> None:
        """Each with its target, none more."""
        content, project = self.read(), self._project()
        assert (content["schema_version"], content["distribution"]) == (SCHEMA_VERSION, project.name)
        plugins = {(row["kind"], row["name"]): row["target"] for row in content["plugins"]}
        commands = {("command", row["name"]): row["target"] for row in content["commands"]}
        assert {**plugins, **commands} == {(one.kind, one.name): one.target for one in project.entries}

    def test_each_plugin_says_what_it_is(self) -> None:
        """A summary, the hooks that it implements, capabilities that codex knows; each command has a help."""
        content = self.read()
        for row in content["plugins"]:
            assert row["summary"], f"{row['kind']} {row['name']}: its class has no docstring"
            assert row["hooks"], f"{row['kind']} {row['name']} implements no hook"
            assert set(row["capabilities"]) <= set(CAPABILITIES)
        for row in content["commands"]:
            assert row["help"], f"command {row['name']} has no help"

    def test_options_can_be_checked_by_it(self) -> None:
        """Its schemas are read back into options without loss."""
        for row in self.read()["plugins"]:
            assert section_schema(class_of(row["options"])) == row["options"]

    def _project(self) -> Project:
        return read_project(self.project)
