"""The static manifest of plugins, `codex-plugin.json`: describing plugins by it or by their code, and making it.

One rule: it is made from the classes, never by hand, so that it says what an import would say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codex_kernel.api import PLUGIN_API
from codex_kernel.errors import PluginError
from codex_kernel.file_record import FILE_NAME
from codex_kernel.metadata import KERNEL, Entry, normal
from codex_kernel.plugin_project import Project, read_project
from codex_kernel.static_file import SCHEMA_VERSION, PluginDescription, look_up

__all__ = [
    "PluginDescription",
    "build",
    "build_apart",
    "class_without_code",
    "describe",
    "differences",
    "fault",
    "imported",
    "read",
    "text_of",
]

CAPABILITIES = ("gpu", "distributed", "resume", "generate")
"""What `codex_capabilities` of a class may hold."""


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


def describe(entry: Entry) -> PluginDescription:
    """Return what is known of a plugin; raise PluginError.

    It is imported where its distribution has no file, or one with options that are not of the form that codex writes.
    """
    from codex_kernel.schema_types import class_of

    described = read(entry)
    if described is not None and described.options:
        try:
            class_of(described.options)
        except PluginError:
            described = None
    return described or imported(entry)


def class_without_code(entry: Entry) -> type | None:
    """Return a class that has the options of a plugin, made of its static manifest: nothing of it is imported.

    None where there is no such file, or none that can be believed, and for the kernel's own plugins, which may be
    imported. Raises PluginError where the options in the file are not of the form that codex writes.
    """
    from codex_kernel.schema_types import class_of

    described = None if normal(entry.distribution) == KERNEL else read(entry)
    if described is None:
        return None
    try:
        return class_of(described.options)
    except PluginError as error:
        raise PluginError(
            f"the {FILE_NAME} of {entry.distribution} {entry.version} is not used for {entry.name!r}: {error.message}",
            remedy=error.remedy,
        ) from error


def imported(entry: Entry) -> PluginDescription:
    """Return what the plugin's code says of it; raise PluginError where it cannot be imported or described."""
    if entry.kind == "command":
        return _imported_command(entry)
    from codex_kernel.loading import blaming, load
    from codex_kernel.section_schema import plugin_schema

    cls = load(entry)
    try:
        options = plugin_schema(cls)
    except PluginError as error:
        raise PluginError(f"{entry}: {error.message}", remedy=error.remedy) from error
    with blaming(entry):
        return PluginDescription(
            kind=entry.kind,
            name=entry.name,
            target=entry.target,
            summary=_first_line(cls) or entry.distribution_summary,
            hooks=tuple(sorted(_hooks(cls))),
            capabilities=_capabilities(entry, cls),
            options=options,
            plugin_api=entry.plugin_api,
            static=False,
        )


def _hooks(cls: type) -> Iterator[str]:
    """Yield the hooks of a class, but those that it has for other kernels, which say so: `optionalhook`."""
    from codex_kernel.hook_check import known_hooks

    for name in dir(cls):
        said = getattr(getattr(cls, name, None), "codex_impl", None)
        if said is not None and not (_is_optional(said) and name not in known_hooks()):
            yield name


def _is_optional(said: object) -> bool:
    return isinstance(said, dict) and bool(said.get("optionalhook"))


def check_hooks(entry: Entry) -> None:
    """Raise PluginError where a plugin's file names a hook that this kernel does not have, as registration would."""
    from codex_kernel import hook_check

    described, known = read(entry), hook_check.known_hooks()
    for name in described.hooks if described else ():
        if name not in known:
            raise hook_check.unknown(str(entry), name, f" in its {FILE_NAME}")


def _imported_command(entry: Entry) -> PluginDescription:
    from codex_kernel.loading import load_command

    summary = load_command(entry).get_short_help_str(limit=200)
    return PluginDescription(
        "command", entry.name, entry.target, summary, (), (), {}, entry.plugin_api, static=False
    )


def _first_line(cls: type) -> str:
    text = cls.__doc__ or ""
    return "" if text.startswith("Method generated by attrs") else text.strip().partition("\n")[0].strip()


def _capabilities(entry: Entry, cls: type) -> tuple[str, ...]:
    declared = getattr(cls, "codex_capabilities", ())
    if not isinstance(declared, tuple) or any(word not in CAPABILITIES for word in declared):
        raise PluginError(
            f"{entry}: codex_capabilities is {declared!r}",
            remedy=f"write a tuple of some of {', '.join(CAPABILITIES)}",
        )
    return declared


# ── making it ─────────────────────────────────────────────────────────────────────────────────────────────────────


def build(source: str | Path | Project) -> dict[str, Any]:
    """Return the static manifest of an installed distribution, or of a project (its folder), from its classes.

    They are imported into this process; `build_apart` imports a project's into another. Raises PluginError where one
    cannot be imported or described, InputError where there is no such project.
    """
    from codex_kernel import loading

    if isinstance(source, str):
        name, entries = _installed(source)
    else:
        project = source if isinstance(source, Project) else read_project(source)
        name, entries = project.name, project.entries
        sys.path[:0] = [str(root) for root in project.roots if str(root) not in sys.path and root.is_dir()]
    described = [imported(entry._replace(distribution_summary="")) for entry in entries]
    for entry, one in zip(entries, described, strict=True):
        if entry.kind != "command":
            loading.check_hooks(entry, loading.load(entry))
        _check(entry, one)
    return {
        "schema_version": SCHEMA_VERSION,
        "distribution": name,
        "plugin_api": list(PLUGIN_API),
        "plugins": [_plugin_row(one) for one in described if one.kind != "command"],
        "commands": [
            {"name": one.name, "target": one.target, "help": one.summary}
            for one in described
            if one.kind == "command"
        ],
    }


def _installed(distribution: str) -> tuple[str, Sequence[Entry]]:
    """Return the name and the plugins of an installed distribution."""
    from codex_kernel.catalog import Catalog

    found = [
        entry
        for entry in Catalog.scan().entries
        if normal(entry.distribution) == normal(distribution) and entry.status != "shadowed"
    ]
    if not found:
        raise PluginError(
            f"no plugin of a distribution {distribution!r} is installed",
            remedy="codex plugins list shows what is",
        )
    return found[0].distribution, found


def _plugin_row(described: PluginDescription) -> dict[str, Any]:
    return {
        "kind": described.kind,
        "name": described.name,
        "target": described.target,
        "summary": described.summary,
        "hooks": list(described.hooks),
        "capabilities": list(described.capabilities),
        "options": described.options,
    }


def _check(entry: Entry, described: PluginDescription) -> None:
    """Raise PluginError where the options would not come back from a file."""
    from codex_kernel.schema_types import class_of

    if described.kind == "command":
        return
    try:
        class_of(json.loads(json.dumps(described.options, allow_nan=False)))
    except (TypeError, ValueError, PluginError) as error:
        raise PluginError(
            f"{entry}: its options cannot be written as JSON: {error}",
            remedy="give defaults, choices and bounds that JSON has: text, finite numbers, true, false, null, lists",
        ) from error


def text_of(manifest: Mapping[str, Any]) -> str:
    """Return the text of the file."""
    return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def differences(text: str, made: Mapping[str, Any]) -> list[str]:
    """Return in a line each what a file says otherwise than the manifest that was made of the code just now.

    A file for an older API of plugins is up to date: nothing of the plugins has changed.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        return [f"it is not JSON: {error}"]
    if not isinstance(content, dict):
        return ["it is no mapping"]
    lines = [
        f"{key} is {content.get(key)!r}, should be {made[key]!r}"
        for key in ("schema_version", "distribution")
        if content.get(key) != made[key]
    ]
    if not isinstance(api := content.get("plugin_api"), list) or api > made["plugin_api"]:
        lines.append(f"plugin_api is {api!r}, should be {made['plugin_api']!r}")
    before, after = _rows(content), _rows(made)
    for key in {**before, **after}:
        lines.extend(_row_differences(" ".join(key), before.get(key), after.get(key)))
    return lines


def _rows(manifest: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    plugins = {(str(row.get("kind")), str(row.get("name"))): row for row in manifest.get("plugins") or ()}
    commands = {("command", str(row.get("name"))): row for row in manifest.get("commands") or ()}
    return {**plugins, **commands}


def _row_differences(
    name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> Iterator[str]:
    if before is None or after is None:
        yield f"{name} is {'not there' if before is None else 'no longer declared'}"
        return
    for key in {**before, **after}:
        if key == "options":
            old, new = (row[key].get("properties", {}) for row in (before, after))
            for option in {**old, **new}:
                if old.get(option) != new.get(option):
                    yield f"{name}: option {option!r} has changed"
            if old == new and before[key] != after[key]:
                yield f"{name}: its options have changed"
        elif before.get(key) != after.get(key):
            yield f"{name}: {key} is {before.get(key)!r}, should be {after.get(key)!r}"


_PROJECT, _ANSWER, _OUTPUT = "project.json", "answer.json", "output"
_PROGRAM = """
import sys
sys.path.append(sys.argv[2])  # where this kernel lies, should nothing else lead there
from codex_kernel.static_manifest import answer
answer()
"""


def build_apart(project: Project, *, seconds: float = 120) -> dict[str, Any]:
    """Return the static manifest of a project, its classes imported by a process of its own.

    Whatever they do there (exit, crash, hang for so many seconds) becomes a PluginError.
    """
    import tempfile

    from codex_kernel import plugin_project

    with tempfile.TemporaryDirectory(prefix="codex-") as name:
        folder = Path(name)
        (folder / _PROJECT).write_text(json.dumps(plugin_project.as_json(project)), encoding="utf-8")
        code = _run_apart(folder, seconds)
        if code is None:
            raise _not_described(project, f"importing them took more than {seconds:g} seconds")
        if not (folder / _ANSWER).exists():
            output = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace")
            last = output.strip().rpartition("\n")[2]
            how = f"the process that imported them ended with exit code {code}"
            raise _not_described(project, f"{how}: {last}" if last else how)
        answered = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    if "error" in answered:
        raise PluginError(answered["error"], remedy=answered["remedy"])
    made: dict[str, Any] = answered["manifest"]
    return made


def _run_apart(folder: Path, seconds: float) -> int | None:
    """Answer in a process of its own and return its exit code; None where it was not done in time.

    It leads a session, so that what the plugins start ends with it, and what it says goes into a file: a process that
    outlives it would keep a pipe open.
    """
    import os
    import signal
    import subprocess
    import time

    kernel = str(Path(__file__).parents[1])
    with (folder / _OUTPUT).open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - this Python
            [sys.executable, "-P", "-c", _PROGRAM, str(folder), kernel],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ends = time.monotonic() + seconds
    try:
        # Its number is not taken from it before its group is killed: it might be another one's by then.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= ends:
                return None
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    return code


def _not_described(project: Project, why: str) -> PluginError:
    return PluginError(
        f"the plugins of {project.name} cannot be described: {why}",
        remedy="a module that an entry point names must import without side effects; codex plugins check tells more",
    )


def answer() -> None:
    """Answer `build_apart`, in its process: the project comes from a file, and the manifest goes into one."""
    from codex_kernel.errors import CodexError
    from codex_kernel.plugin_project import from_json

    folder = Path(sys.argv[1])
    project = from_json(json.loads((folder / _PROJECT).read_text(encoding="utf-8")))
    try:
        answered: dict[str, Any] = {"manifest": build(project)}
    except CodexError as error:
        answered = {"error": error.message, "remedy": error.remedy}
    partial = folder / f"{_ANSWER}.part"
    partial.write_text(json.dumps(answered), encoding="utf-8")
    partial.rename(folder / _ANSWER)
