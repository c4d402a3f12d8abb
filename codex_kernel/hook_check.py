"""Whether what a plugin implements are hooks of this kernel, and takes what they give.

One rule: a slip is told in the plugin author's words before pluggy finds it, or does not: it accepts some that it then
never calls as their author meant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from codex_kernel import hookspecs
from codex_kernel.errors import PluginError
from codex_kernel.option_types import did_you_mean

ALL_HOOKS = "python -m pydoc codex_kernel.hookspecs shows the hooks and what they take"


def known_hooks() -> list[str]:
    """Return the names of all hooks."""
    return [name for specs in hookspecs.SPECS for name in vars(specs) if name.startswith("codex_")]


def unknown(label: str, hook: str, where: str = "") -> PluginError:
    """Return the error of a hook that this kernel does not have; where: what names it, if it is not the class."""
    return PluginError(
        f"{label} does not fit the hooks of this kernel: unknown hook {hook!r}{where}",
        remedy=did_you_mean(hook, known_hooks()) or ALL_HOOKS,
    )


def implemented(name: str, function: object) -> str | None:
    """Return the hook that a method implements, known or not; None where it is none, or one for other kernels alone."""
    marked = getattr(function, "codex_impl", None)
    if marked is None:
        return None
    said = marked if isinstance(marked, dict) else {}
    hook = said.get("specname") or name
    return None if said.get("optionalhook") and hook not in known_hooks() else hook


def check(plugin: object, label: str) -> None:
    """Raise PluginError for an implementation of no hook, and for one that cannot be called as it was meant."""
    for name, function in inspect.getmembers(type(plugin), inspect.isfunction):
        hook = implemented(name, function)
        if hook is None:
            continue
        if hook not in known_hooks():
            raise unknown(label, hook)
        _check_signature(getattr(plugin, name), name, hook, label)


def _check_signature(function: Callable[..., Any], name: str, hook: str, label: str) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(
            f"{label}: {name} is async, hooks are plain functions", remedy="write def, not async def"
        )
    given = parameters(hook)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise PluginError(
                f"{label}: {name} takes {parameter.name!r} by keyword only, hooks pass by position",
                remedy="remove the * from its parameters",
            )
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            stars = str(parameter).partition(":")[0]
            raise PluginError(
                f"{label}: {name} takes {stars}, which is always empty: a hook gets what it names",
                remedy=f"name what it needs of: {', '.join(given)}",
            )
        if parameter.name not in given:
            raise PluginError(
                f"{label}: {name} takes {parameter.name!r}, which the hook does not have",
                remedy=f"the hook has {', '.join(given)}",
            )


def parameters(hook: str) -> list[str]:
    """Return the parameters that a hook's specification has."""
    for specs in hookspecs.SPECS:
        if spec := getattr(specs, hook, None):
            return [name for name in inspect.signature(spec).parameters if name != "self"]
    return []
