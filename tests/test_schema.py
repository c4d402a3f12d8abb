"""The JSON Schema of manifests takes what strict structuring takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import jsonschema
import pytest
from attrs import frozen
from hypothesis import given
from strategies import classes_with_values, section_classes, tree

from codex_kernel.manifest import parse
from codex_kernel.options import Secret, option
from codex_kernel.schema import manifest_schema, section_schema
from codex_kernel.structure import structure


@frozen
class Files:
    """Documents from text files.

    More is said here.
    """

    paths: list[str] = option(help="Files or folders.")
    encoding: Literal["utf-8", "latin-1"] = option("utf-8", help="Encoding of the files.")


@frozen
class Trainer:
    """A toy trainer."""

    steps: int = option(10, ge=1, le=1000, help="Optimizer steps.")
    lr: float | None = option(1e-3, gt=0, lt=1, help="Learning rate.")
    betas: tuple[float, float] = option((0.9, 0.95), ge=0, lt=1, help="Decays.")
    folder: Path | None = None
    token: Secret | None = None


@frozen
class Nothing:
    pass


PLUGINS: dict[str, dict[str, type | None]] = {
    "dataset": {"files": Files},
    "tokenizer": {"bytes": Nothing},
    "model": {"toy": Nothing, "broken": None},
    "trainer": {"toy": Trainer},
    "checkpointer": {"safetensors": Nothing},
    "logger": {"console": Nothing, "csv": Files},
    "metric": {"perplexity": Nothing, "bits-per-byte": Nothing},
    "adapter": {},
}
MANIFEST: dict[str, Any] = {
    "name": "demo",
    "dataset": {"type": "files", "paths": ["a"]},
    "tokenizer": "bytes",
    "model": "toy",
    "trainer": {"type": "toy", "lr": 0.5},
}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Say whether the schema takes the value."""
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def reads(value: dict[str, Any]) -> bool:
    """Say whether the kernel reads the value as a manifest of the toy plugins."""
    problems = []
    manifest = parse(tree(value), problems)
    for section in manifest.sections():
        if section.type not in PLUGINS[section.kind]:
            return False
        if (cls := PLUGINS[section.kind][section.type]) is not None:
            structure(cls, section.options, section.path, problems)
    return not problems


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"seed": 0, "data": {"seq_len": 8}, "adapters": []}, True),
        ({"checkpointer": "safetensors", "evaluate": {"every_steps": None, "metrics": ["perplexity"]}}, True),
        ({"loggers": ["console", {"type": "csv", "paths": [], "on_error": "fail"}]}, True),
        ({"model": {"type": "broken", "anything": [1]}}, True),
        ({"model": "broken"}, True),
        ({"model": "codex-hf/toy"}, True),
        ({"trainer": {"type": "codex-torch/toy", "steps": 3, "token": "${env:A}", "folder": "a/b"}}, True),
        ({"trainer": {"type": "toy", "lr": None, "betas": [0, 0.5]}}, True),
        ({"seed": -1}, False),
        ({"seed": "17"}, False),
        ({"name": "../x"}, False),
        ({"name": None}, False),
        ({"tokenizer": "other"}, False),
        ({"tokenizer": {"type": "bytes", "vocab": 3}}, False),
        ({"tokenizer": {}}, False),
        ({"dataset": "files"}, False),
        ({"dataset": {"type": "files", "paths": ["${env:A}"]}}, False),
        ({"dataset": {"type": "files", "paths": "a"}}, False),
        ({"dataset": {"type": "files", "paths": [], "encoding": "ascii"}}, False),
        ({"trainer": {"type": "toy", "steps": 0}}, False),
        ({"trainer": {"type": "toy", "steps": True}}, False),
        ({"trainer": {"type": "toy", "lr": 1}}, False),
        ({"trainer": {"type": "toy", "betas": [0.5, 1]}}, False),
        ({"trainer": {"type": "toy", "betas": [0.5]}}, False),
        ({"trainer": {"type": "toy", "token": "hf_abc"}}, False),
        ({"trainer": {"type": "toy", "on_error": "fail"}}, False),
        ({"loggers": "console"}, False),
        ({"loggers": [{"type": "console", "on_error": "ignore"}]}, False),
        ({"evaluate": {"metrics": ["accuracy"]}}, False),
        ({"evaluate": {"every": 3}}, False),
        ({"data": {"seq_len": 0}}, False),
        ({"adapters": ["lora"]}, False),
        ({"unknown": 1}, False),
    ],
)
def test_the_schema_and_the_kernel_agree_on_a_manifest(change, right):
    """What an editor marks is what `codex validate` refuses."""
    value = {**MANIFEST, **change}
    assert (accepts(manifest_schema(PLUGINS), value), reads(value)) == (right, right)


@pytest.mark.parametrize("missing", ["name", "dataset", "tokenizer", "model", "trainer"])
def test_required_keys_are_required(missing):
    """A manifest without them is incomplete in the editor, too."""
    assert not accepts(
        manifest_schema(PLUGINS), {key: value for key, value in MANIFEST.items() if key != missing}
    )


def test_the_schema_is_valid_and_of_the_dialect_it_names():
    """Draft 2020-12, with plugins and without."""
    for plugins in (PLUGINS, {}):
        schema = manifest_schema(plugins)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(schema)


def test_options_are_described_for_the_editor():
    """Help, bounds, choices and defaults come from the class."""
    properties = section_schema(Trainer)["properties"]
    assert properties["steps"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "description": "Optimizer steps.",
        "default": 10,
    }
    assert properties["betas"]["default"] == [0.9, 0.95]
    assert section_schema(Files)["properties"]["encoding"]["enum"] == ["utf-8", "latin-1"]
    assert section_schema(Files)["description"] == "Documents from text files."
    assert section_schema(Files)["required"] == ["paths"]
    assert "description" not in section_schema(Nothing)


def test_a_plugin_is_offered_by_name_only_where_it_needs_no_option():
    """`dataset: files` would lack its paths."""
    kinds = manifest_schema(PLUGINS)["$defs"]
    assert kinds["model"]["anyOf"][0] == {"enum": ["toy", "broken"]}
    assert [option.get("title") for option in kinds["dataset"]["anyOf"]] == ["files"]


def test_a_default_that_depends_on_other_options_is_left_out():
    """It has no one value to show."""

    @frozen
    class Dependent:
        a: int = 1
        b: int = attrs.field(default=attrs.Factory(lambda self: self.a, takes_self=True))

    Dependent.__annotations__.update(a=int, b=int)
    attrs.resolve_types(Dependent)
    assert "default" not in section_schema(Dependent)["properties"]["b"]


@given(classes_with_values())
def test_schema_and_structuring_agree_on_any_class(pair):
    """Over generated classes and values: the schema takes exactly what structuring takes."""
    cls, value = pair
    problems = []
    structure(cls, tree(value), "$", problems)
    schema = section_schema(cls)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert accepts(schema, value) == (not problems), [*map(str, problems)]


@given(section_classes().flatmap(lambda pair: pair[1].map(lambda value: (pair[0], value))))
def test_the_schema_takes_every_section_that_is_right(pair):
    """Sections made for the class, so that this is not left to luck."""
    cls, value = pair
    assert accepts(section_schema(cls), value)
