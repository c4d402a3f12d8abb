"""How a manifest differs from the one that a run was begun with, and what each difference means to a run that goes on.

One rule: a difference is harmless, or the user allows it by its key, or it is another run; none goes unsaid.

    harmless    changes neither losses nor weights: loggers, evaluation, checkpoints; of data and tokenizer it is what
                they give that counts, and that is compared by fingerprint
    curve       changes the losses from here on: `--allow-change KEY`
    refused     would be another run: the seed, another model, another tokenizer

A key is the way to an option, with dots: `trainer.lr`, `adapters.0.r`. A list of values is one value.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import NOTHING, frozen

from codex_kernel.errors import InputError
from codex_kernel.option_types import Option, did_you_mean, members, options_of
from codex_kernel.options import OnResume
from codex_kernel.overrides import SECTION_LISTS, SECTIONS, is_same_plugin
from codex_kernel.plan import Chosen, Plan
from codex_kernel.structure import unstructure

ABSENT: Any = NOTHING
"""In place of a value that a manifest does not have."""

_LISTS = {
    ".".join(steps): kind
    for steps, kind in zip(SECTION_LISTS, ("cleaner", "adapter", "logger", "metric"), strict=True)
}
_OTHER_OPTIONS: dict[str, OnResume] = {"model": "curve", "adapter": "curve", "trainer": "curve"}
_OTHER_PLUGIN: dict[str, OnResume] = {
    "tokenizer": "refused",
    "model": "refused",
    "adapter": "refused",
    "trainer": "refused",
    "checkpointer": "refused",  # it could not read what the former one has saved
}
_KERNEL: dict[str, OnResume] = {
    "name": "harmless",
    "seed": "refused",
    "plugins": "harmless",  # what is used is compared by the lock
    "data": "harmless",
    "evaluate": "harmless",
}
_SHOWN = 60  # characters of a value


@frozen
class Change:
    """One difference: the value that the run had and the one that the manifest has now, ABSENT for none."""

    key: str
    was: Any
    now: Any
    meaning: OnResume

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.was)}, is {_shown(self.now)}"

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of the event `manifest_changed`; a value that is not there is left out."""
        fields = {"key": self.key, "was": self.was, "is": self.now, "meaning": self.meaning}
        return {name: value for name, value in fields.items() if value is not ABSENT}


def between(before: Mapping[str, Any], plan: Plan) -> list[Change]:
    """Return how a plan differs from a resolved manifest, in the order of the manifest."""
    now = plan.resolved()
    found: list[Change] = []
    for key in dict.fromkeys([*now, *before]):
        was, value = before.get(key, ABSENT), now.get(key, ABSENT)
        if key in SECTIONS:
            found.extend(_section(key, key, was, value, plan.of_kind(key)[0]))
        elif key in _LISTS:
            found.extend(_sections(key, was, value, plan))
        elif key == "evaluate":
            was, value = {} if was is ABSENT else dict(was), dict(value)
            found.extend(
                _sections("evaluate.metrics", was.pop("metrics", []), value.pop("metrics", []), plan)
            )
            found.extend(_options(key, was, value, _KERNEL[key]))
        else:
            found.extend(_options(key, was, value, _KERNEL.get(key, "curve")))
    return found


def check(changes: Sequence[Change], before: Mapping[str, Any], plan: Plan, allowed: Collection[str]) -> None:
    """Raise InputError for keys to allow that are none, and for changes that may not be, or are not allowed.

    It names every key, and the flags to add.
    """
    keys = {**_nodes(before), **_nodes(plan.resolved())}
    for key in allowed:
        if key not in keys:
            raise InputError(
                f"--allow-change {key}: the manifest has no such key",
                remedy=did_you_mean(key, keys) or "write the way to an option with dots, such as trainer.lr",
            )
    refused = [change for change in changes if change.meaning == "refused"]
    missing = [change for change in changes if change.meaning == "curve" and change.key not in allowed]
    if refused:
        raise InputError(
            f"this would be another run: {_listed(refused)}",
            remedy=f"put {'it' if len(refused) == 1 else 'them'} back, or start a new run: codex run",
        )
    if missing:
        flags = " ".join(f"--allow-change {change.key}" for change in missing)
        raise InputError(
            f"the curve of this run would change: {_listed(missing)}",
            remedy=f"to go on nevertheless add {flags}",
        )


def allowed_before(events: Iterable[Mapping[str, Any]], plan: Plan) -> frozenset[str]:
    """Return the keys of changes that the run has gone on with earlier, as its events say, and that still hold.

    The newest checkpoint may be older than such a change.
    """
    last = {event["key"]: event for event in events if event["event"] == "manifest_changed"}
    now = _nodes(plan.resolved())
    return frozenset(
        key
        for key, event in last.items()
        if event["meaning"] == "curve" and _is_same(event.get("is", ABSENT), now.get(key, ABSENT))
    )


def in_words(changes: Sequence[Change]) -> str:
    """Return one sentence for all changes that a run goes on with."""
    return f"the manifest is not the one of before: {_listed(changes)}"


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _section(key: str, kind: str, was: Any, now: Any, chosen: Chosen) -> Iterator[Change]:
    """Yield the changes of one plugin's section; with another plugin, that is the only one."""
    was = _written_out(was)
    if was is ABSENT or not is_same_plugin(was["type"], now["type"]):
        old = was if was is ABSENT else was["type"]
        yield Change(f"{key}.type", old, now["type"], _OTHER_PLUGIN.get(kind, "harmless"))
        return
    for name in dict.fromkeys([*now, *was]):
        old, new = was.get(name, ABSENT), now.get(name, ABSENT)
        if name in {"type", "on_error"}:
            yield from _options(f"{key}.{name}", old, new, "harmless")
            continue
        if name == "sources" and chosen.sources and isinstance(old, Mapping):
            yield from _sources(f"{key}.{name}", kind, old, new, chosen.sources)
            continue
        for child, one, other in _leaves(f"{key}.{name}", old, new):
            yield Change(
                child,
                one,
                other,
                _meaning(type(chosen.plugin), child.removeprefix(f"{key}."), one, other, kind),
            )


def _sections(key: str, was: Any, now: Any, plan: Plan) -> Iterator[Change]:
    """Yield the changes of a list of sections; with other plugins, or in another order, that is the only one."""
    kind = _LISTS[key]
    old = [] if was is ABSENT else [_written_out(one) for one in was]
    types, new_types = [one["type"] for one in old], [one["type"] for one in now]
    if len(types) != len(new_types) or not all(map(is_same_plugin, types, new_types)):
        yield Change(key, types, new_types, _OTHER_PLUGIN.get(kind, "harmless"))
        return
    for index, (one, other, chosen) in enumerate(zip(old, now, plan.of_kind(kind), strict=True)):
        yield from _section(f"{key}.{index}", kind, one, other, chosen)


def _sources(
    key: str, kind: str, was: Mapping[str, Any], now: Mapping[str, Any], chosen: Mapping[str, Chosen]
) -> Iterator[Change]:
    """Yield the changes of the datasets that a dataset is made of; their order is no change."""
    for name in dict.fromkeys([*now, *was]):
        if name in now and name in was:
            yield from _section(f"{key}.{name}", kind, was[name], now[name], chosen[name])
        else:
            meaning = _OTHER_PLUGIN.get(kind, "harmless")
            yield Change(f"{key}.{name}", was.get(name, ABSENT), now.get(name, ABSENT), meaning)


def _written_out(section: Any) -> Any:
    """Return a section as a mapping: a person may have written its plugin's name alone."""
    return {"type": section} if isinstance(section, str) else section


def _options(key: str, was: Any, now: Any, meaning: OnResume) -> Iterator[Change]:
    """Yield the changes of options that all mean the same."""
    for child, one, other in _leaves(key, was, now):
        yield Change(child, one, other, meaning)


def _leaves(key: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, was, is) where two values differ, as deep in their mappings as both have one."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        old, new = ({str(name): value for name, value in one.items()} for one in (was, now))
        for name in dict.fromkeys([*new, *old]):
            yield from _leaves(f"{key}.{name}", old.get(name, ABSENT), new.get(name, ABSENT))
    elif not _is_same(was, now):
        yield key, was, now


def _is_same(one: Any, other: Any) -> bool:
    """Say whether two values of a manifest are the same; true is not 1, but 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _nodes(value: Any, key: str = "") -> dict[str, Any]:
    """Return every key of a manifest and what stands there, mappings and lists of plugins included."""
    found = {key: value} if key else {}
    if key in _LISTS:
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for name, child in value.items():
            found.update(_nodes(child, f"{key}.{name}" if key else str(name)))
    return found


# ── what it means ─────────────────────────────────────────────────────────────────────────────────────────────────


def _meaning(cls: type, way: str, was: Any, now: Any, kind: str) -> OnResume:
    """Return what the change of an option means: what it or an option around it declares, else what its kind does."""
    meaning = _OTHER_OPTIONS.get(kind, "harmless")
    classes = [cls]
    option = None
    for name in way.split("."):
        option = next((one for each in classes for one in options_of(each) if one.name == name), None)
        if option is None:
            return meaning
        meaning = option.on_resume or meaning
        classes = [member for member in members(option.type) if attrs.has(member)]
    if was is ABSENT and option is not None and _is_same(_default(option), now):
        return "harmless"  # the plugin has learned an option since, and its default is what it did before
    return meaning


def _default(option: Option) -> Any:
    """Return the default of an option as a manifest would write it; ABSENT where it has none of its own."""
    default = option.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type] # attrs declares it as a function
        return ABSENT if default.takes_self else unstructure(default.factory())
    return unstructure(default)


def _listed(changes: Iterable[Change]) -> str:
    return "; ".join(map(str, changes))


def _shown(value: Any) -> str:
    """Return a value in one short line."""
    text = "not set" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
