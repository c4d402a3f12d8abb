"""The build hook `codex-plugin` of hatchling: puts codex-plugin.json into each wheel of a plugin's project.

    [build-system]
    requires = ["hatchling>=1.27", "codex-kernel"]

    [tool.hatch.build.targets.wheel.hooks.codex-plugin]

One rule: a wheel has the file made of the very classes that it holds, or it is not built. An editable wheel has none:
its code changes after it was built.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.plugin import hookimpl

from codex_kernel.errors import CodexError
from codex_kernel.file_record import FILE_NAME
from codex_kernel.plugin_project import project_of
from codex_kernel.static_manifest import build_apart, text_of


class StaticManifestHook(BuildHookInterface[BuilderConfig]):
    """Writes the file into a folder of its own, from which hatchling takes it."""

    PLUGIN_NAME = "codex-plugin"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the file before the wheel is built; end the build where that fails."""
        self._made: Path | None = None
        if self.target_name != "wheel" or version == "editable":
            return
        try:
            core = self.metadata.core
            project = project_of(
                Path(self.root), core.raw_name, self.metadata.version, core.entry_points, self._roots()
            )
            place = project.manifest_file
            text = text_of(build_apart(project))
        except CodexError as error:
            self.app.abort(f"{self.PLUGIN_NAME}: {error.message}\n  {error.remedy or ''}".rstrip())
            raise  # hatchling has ended the process already
        self._made = Path(tempfile.mkdtemp(prefix="codex-"))
        file = self._made / FILE_NAME
        file.write_text(text, encoding="utf-8")
        inside = self.build_config.get_distribution_path(place.relative_to(self.root).as_posix())
        build_data["force_include"][str(file)] = inside

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was written."""
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)

    def _roots(self) -> list[Path]:
        """Return the folders that hatchling strips from the paths of modules: they are imported from there."""
        return [Path(self.root, source) for source in self.build_config.sources if source]


@hookimpl
def hatch_register_build_hook() -> type[StaticManifestHook]:
    """Tell hatchling of the hook."""
    return StaticManifestHook
