"""Every example manifest as a text: an editor can check it, and so can codex."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from codex_kernel import yaml_reader
from tests.command import Workplace
from tests.end_to_end.examples import EXAMPLES

MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))
MODELINE = "# yaml-language-server: $schema=codex.schema.json"
each_manifest = pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def schema(tmp_path_factory) -> Any:
    """Return what `codex schema` prints."""
    said = Workplace(tmp_path_factory.mktemp("schema")).codex("schema")
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_the_examples_are_the_three_of_the_documentation():
    """The tests below see every example."""
    assert [path.stem for path in MANIFESTS] == ["everything", "lora-smollm2", "quickstart"]


@each_manifest
def test_an_editor_finds_the_schema(manifest):
    """The first line names the schema for the YAML language server."""
    assert manifest.read_text(encoding="utf-8").splitlines()[0] == MODELINE


@each_manifest
def test_the_schema_takes_the_example(manifest, schema):
    """An editor marks nothing in an example as wrong, and a typo as wrong."""
    text = yaml_reader.plain(yaml_reader.read_file(manifest))
    jsonschema.validate(text, schema, cls=jsonschema.Draft202012Validator)
    text["trainer"]["max_stepz"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_stepz"):
        jsonschema.validate(text, schema, cls=jsonschema.Draft202012Validator)


@each_manifest
def test_validate_takes_the_example(manifest, workplace):
    """`codex validate` exits 0, and prints the plugins of the example; nothing is written."""
    said = workplace.codex("validate", manifest)
    assert (said.code, said.err) == (0, "")
    assert f"{manifest}: ok, " in said.out
    assert "trainer 'torch' (codex-torch " in said.out
    assert list(workplace.folder.iterdir()) == []
