"""The project of a plugin as its author has it: what its pyproject.toml declares, and where its modules lie.

One rule: it reads the table `[project]` and looks for files; it runs nothing of the project and no build backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codex_kernel.errors import InputError
from codex_kernel.file_record import FILE_NAME
from codex_kernel.metadata import GROUPS, Entry, kernel_requirement


class Project(NamedTuple):
    """A distribution in work: its plugins and commands, and the folders from which its modules are imported."""

    folder: Path
    name: str
    entries: tuple[Entry, ...]
    roots: tuple[Path, ...]

    @property
    def manifest_file(self) -> Path:
        """Where codex-plugin.json has its place: in the package of the first plugin, or beside its module.

        Raises InputError where there is no such module.
        """
        module = self.entries[0].target.partition(":")[0].strip()
        for root in self.roots:
            if place := _place(root, module.split(".")):
                return place
        raise InputError(
            f"{self.folder}: there is no module {module!r}, which {self.entries[0].kind} "
            f"{self.entries[0].name!r} names",
            remedy="put it below src/ or beside pyproject.toml, or mend the entry point",
        )


def read_project(folder: Path) -> Project:
    """Read the project in a folder; raise InputError where it has no plugin, or cannot be read."""
    table = table_of(folder)
    return project_of(folder, table["name"], table.get("version"), table.get("entry-points", {}))


def table_of(folder: Path, *, remedy: str = "mend it") -> Mapping[str, Any]:
    """Return the table [project] of the pyproject.toml in a folder: it has a name, and tables of entry points.

    Raises InputError, with the remedy, where it cannot be read.
    """
    import tomllib

    file = folder / "pyproject.toml"
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        groups = [table.get("entry-points", {}).get(group, {}) for group in GROUPS.values()]
        texts = [table["name"], *(target for plugins in groups for target in plugins.values())]
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}", remedy="name the folder of a plugin's project"
        ) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{file}: {str(error).splitlines()[0]}", remedy=remedy) from None
    except (AttributeError, KeyError, TypeError):
        texts = [None]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{file}: expected [project] with a name and tables of entry points", remedy=remedy)
    found: Mapping[str, Any] = table
    return found


def entries_of(folder: Path, table: Mapping[str, Any]) -> list[Entry]:
    """Return the plugins of a table [project], as `table_of` reads it; what a target says of extras is left out."""
    needed = table.get("dependencies")
    requirement = kernel_requirement([str(line) for line in needed] if isinstance(needed, list) else [])
    version, summary = str(table.get("version") or 0), str(table.get("description", ""))
    return [
        Entry(
            kind,
            plugin,
            target.partition("[")[0].strip(),
            table["name"],
            version,
            requirement,
            str(folder),
            summary,
        )
        for kind, group in GROUPS.items()
        for plugin, target in sorted(table.get("entry-points", {}).get(group, {}).items())
    ]


def project_of(
    folder: Path,
    name: str,
    version: str | None,
    entry_points: Mapping[str, Mapping[str, str]],
    roots: Sequence[Path] = (),
) -> Project:
    """Return the project of these entry points; raise InputError where codex has none of them.

    version: None where only the build backend knows it.
    roots: where its modules are looked for, before `src` and the folder itself.
    """
    entries = entries_of(folder, {"name": name, "version": version, "entry-points": entry_points})
    if not entries:
        raise InputError(
            f"{folder / 'pyproject.toml'} declares no plugin of codex",
            remedy='write a table such as [project.entry-points."codex.loggers"]',
        )
    return Project(folder, name, tuple(entries), (*roots, folder / "src", folder))


def _place(root: Path, parts: list[str]) -> Path | None:
    """Return the file's place for a module below a root; None where the module is not there."""
    for depth in range(1, len(parts) + 1):
        package = root.joinpath(*parts[:depth])
        if (package / "__init__.py").is_file():  # the outermost: a namespace package belongs to nobody
            return package / FILE_NAME
    module = root.joinpath(*parts)
    if module.with_name(f"{module.name}.py").is_file():
        return module.with_name(f"{module.name}.{FILE_NAME}")
    return None


def as_json(project: Project) -> dict[str, Any]:
    """Return the project as JSON values, for another process."""
    return {
        "folder": str(project.folder),
        "name": project.name,
        "entries": [[entry.kind, entry.name, entry.target, entry.version] for entry in project.entries],
        "roots": [str(root) for root in project.roots],
    }


def from_json(values: Mapping[str, Any]) -> Project:
    """Return the project that `as_json` wrote."""
    folder = Path(values["folder"])
    entries = [
        Entry(kind, name, target, values["name"], version, "", str(folder), "")
        for kind, name, target, version in values["entries"]
    ]
    return Project(folder, values["name"], tuple(entries), tuple(map(Path, values["roots"])))
