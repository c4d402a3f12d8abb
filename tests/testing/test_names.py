"""The names of the test kit: what is public is there, light to import, and explained by pytest where it fails."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import codex_kernel.testing as kit
from codex_kernel.testing._rewrite import KINDS

FOLDER = Path(kit.__file__).parent


@pytest.mark.parametrize("name", kit.__all__)
def test_each_name_is_there_and_explained(name):
    """Every public name can be had, and has a docstring where it is a class or a function."""
    value = getattr(kit, name)
    assert value is not None
    assert not callable(value) or (value.__doc__ and not value.__doc__.startswith("Method generated"))


def test_another_name_is_an_attribute_error():
    """A slip fails as it does on any module."""
    with pytest.raises(AttributeError, match="no attribute 'LogerContract'"):
        kit.LogerContract  # noqa: B018
    assert set(kit.__all__) <= set(dir(kit))


def test_types_are_told_to_type_checkers():
    """Each lazy name stands under TYPE_CHECKING too, or mypy would not know it."""
    text = (FOLDER / "__init__.py").read_text()
    assert [name for name in kit.__all__ if f"import {name} as {name}\n" not in text] == []


def test_each_module_with_checks_has_its_asserts_explained():
    """A module whose asserts pytest must rewrite is in the list, and the list names nothing else."""
    trees = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py")}
    with_asserts = {
        name for name, tree in trees.items() if any(isinstance(n, ast.Assert) for n in ast.walk(tree))
    }
    assert with_asserts <= set(KINDS)
    assert {name for name in KINDS if not (FOLDER / f"{name}.py").exists()} == set()


def test_importing_the_kit_loads_nothing_heavy():
    """The kit, every contract and the fixtures need neither torch nor numpy to be imported."""
    code = (
        "import sys, codex_kernel.testing as kit, codex_kernel.testing.pytest_plugin\n"
        "[getattr(kit, name) for name in kit.__all__]\n"
        "print(sorted(set(kit.HEAVY) & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_kit_without_a_contract_needs_no_pytest():
    """A script that makes a run imports neither pytest nor Hypothesis."""
    code = (
        "import sys; from codex_kernel.testing import make_run, run_manifest, toy_manifest\n"
        "print({'pytest', 'hypothesis', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.mark.parametrize("name", [name for name in kit.__all__ if name.endswith("Contract")])
def test_a_contract_has_a_dozen_checks_each_in_a_sentence(name):
    """No contract of a kind has fewer than twelve checks, and each says what holds."""
    contract = getattr(kit, name)
    checks = {check for check in dir(contract) if check.startswith("test_")}
    if name != "PluginManifestContract":
        assert len(checks) >= 12
    for check in checks:
        sentence = (getattr(contract, check).__doc__ or "").split("\n\n")[0]
        assert sentence.endswith("."), check
