"""JSON Schema (draft 2020-12) of manifests, for editors: composed from the sections' schemas of the installed plugins.

One rule: it knows schemas, no plugin; where these come from is the caller's affair, and need not be an import.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codex_kernel.data.options import DataOptions
from codex_kernel.manifest import (
    DEFAULT_CHECKPOINTER,
    DEFAULT_LOGGERS,
    DEFAULT_METRICS,
    DISTRIBUTION_NAME,
    RUN_NAME,
    EvaluateSection,
    LoggerOptions,
    RunOptions,
)
from codex_kernel.overrides import SECTIONS
from codex_kernel.requirements import PluginsOptions
from codex_kernel.section_schema import (
    PATH_MARK,
    VALUES,
    Schema,
    plugin_schema,
    section_schema,
    takes_sources,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Sections = Mapping[str, Schema | None]


def manifest_schema(plugins: Mapping[str, Mapping[str, type | Schema | None]]) -> Schema:
    """Return the schema of a manifest that may use these plugins: kind → name → schema of its section, or its class.

    A plugin of which None is known may have any options.
    """
    sections = {kind: {name: _section(one) for name, one in found.items()} for kind, found in plugins.items()}
    run = section_schema(RunOptions)["properties"]
    evaluate = section_schema(EvaluateSection)
    evaluate["properties"]["metrics"] = _list_of(
        "metric", "What is derived from an evaluation.", DEFAULT_METRICS
    )
    checkpointer = {**_ref("checkpointer"), "default": DEFAULT_CHECKPOINTER}
    kinds = (*SECTIONS, "cleaner", "adapter", "logger", "metric")
    schema = {
        "$schema": DIALECT,
        "title": "codex manifest",
        "description": "What a run of codex trains, on what, and how.",
        "type": "object",
        "properties": {
            "name": {**run["name"], "pattern": f"^{RUN_NAME.pattern}$"},
            "seed": run["seed"],
            "plugins": section_schema(PluginsOptions),
            "dataset": _ref("dataset"),
            "cleaners": _list_of("cleaner", "Cleaning steps, in the order in which documents pass them.", ()),
            "tokenizer": _ref("tokenizer"),
            "model": _ref("model"),
            "adapters": _list_of("adapter", "Changes to the model, the last one outermost.", ()),
            "trainer": _ref("trainer"),
            "data": section_schema(DataOptions),
            "checkpointer": checkpointer,
            "loggers": _list_of("logger", "Where metrics and events are shown or sent.", DEFAULT_LOGGERS),
            "evaluate": evaluate,
        },
        "required": ["name", *(kind for kind in SECTIONS if kind != "checkpointer")],
        "additionalProperties": False,
        "$defs": {
            **{kind: _kind_schema(kind, sections.get(kind, {})) for kind in kinds},
            "source": _source_schema(sections.get("dataset", {})),
        },
    }
    plain: Schema = _plain(schema)
    return plain


def _section(known: type | Schema | None) -> Schema | None:
    return plugin_schema(known) if isinstance(known, type) else known


def _plain(schema: Any) -> Any:
    """Return the schema without the mark of paths: a strict validator refuses a `format` that it does not know."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _plain_value(key, value) for key, value in schema.items() if (key, value) != PATH_MARK}


def _plain_value(key: str, value: Any) -> Any:
    if key in VALUES:
        return value
    if key in ("properties", "$defs"):  # their keys are names, not words of the dialect
        return {name: _plain(one) for name, one in value.items()}
    return _plain(value)


# ── sections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _ref(kind: str) -> Schema:
    return {"$ref": f"#/$defs/{kind}"}


def _list_of(kind: str, description: str, default: tuple[str, ...]) -> Schema:
    return {"type": "array", "items": _ref(kind), "description": description, "default": list(default)}


def _kind_schema(kind: str, sections: Sections) -> Schema:
    """Return the schema of a section: a plugin's name alone where it needs no option, or its type and options."""
    short = [name for name, section in sections.items() if not (section and section.get("required"))]
    objects = [_plugin_schema(kind, name, section) for name, section in sections.items()]
    described = f"The {kind}: a plugin's name, or its type and options."
    # The dialect wants at least one choice; without a plugin nothing can be written.
    return {"description": described, "anyOf": [*_names(short), *objects] or [False]}


def _source_schema(sections: Sections) -> Schema:
    """Return the schema of a dataset within another one: it is not made of others itself."""
    simple = {name: section for name, section in sections.items() if not (section and takes_sources(section))}
    return _kind_schema("dataset", simple)


def _names(names: list[str]) -> list[Schema]:
    """Return schemas of `name`, for completion, and of `distribution/name`."""
    if not names:
        return []
    return [
        {"enum": names},
        {"type": "string", "pattern": f"^({DISTRIBUTION_NAME.pattern})/({'|'.join(names)})$"},
    ]


def _plugin_schema(kind: str, name: str, section: Schema | None) -> Schema:
    schema: Schema = {"type": "object", "properties": {}} if section is None else section
    own: Schema = {"type": {"anyOf": _names([name])}}
    if kind == "logger":
        own |= section_schema(LoggerOptions)["properties"]
    is_default = kind == "checkpointer" and name == DEFAULT_CHECKPOINTER
    return {
        **schema,
        "title": name,
        "properties": {**own, **schema["properties"]},
        "required": [*([] if is_default else ["type"]), *schema.get("required", [])],
    }
