"""The kernel's own tests against its wheel, on each minor version of Python here, without torch."""

from __future__ import annotations

import shutil

import pytest

from tests.install.environments import ROOT, find_pythons, make_environment

# Those that look at the kernel alone: not at this checkout, the plugins, or a package that torch brings.
MODULES = [
    "data",
    "builtin/test_compressed.py",
    "builtin/test_contracts.py",
    "builtin/test_csv_dataset.py",
    "builtin/test_jsonl_dataset.py",
    "builtin/test_loggers.py",
    "builtin/test_parquet_dataset.py",
    "builtin/test_records.py",
    "builtin/test_text_files.py",
    "test_bad_input.py",
    "test_hooks.py",
    "test_loading.py",
    "test_manifest.py",
    "test_metrics.py",
    "test_overrides.py",
    "test_reporter.py",
    "test_retention.py",
    "test_runfolder.py",
    "test_schema.py",
    "test_structure.py",
    "test_yaml_reader.py",
]
PYTHONS = {version.rpartition(".")[0]: path for version, path in find_pythons().items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_tests_of_the_kernel_pass(version, kernel_wheel, tmp_path):
    """A copy of the tests, which sees nothing of the checkout, passes with the wheel."""
    environment = make_environment(tmp_path / "venv", PYTHONS[version])
    environment.install(
        f"{kernel_wheel}[parquet,zstd]", "pytest", "pytest-timeout", "hypothesis", "jsonschema"
    )
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    modules = [f"tests/{name}" for name in MODULES]
    said = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules, cwd=tmp_path)
    assert said.code == 0, said.out[-8000:] + said.err
    assert "passed" in said.out
    assert "skipped" not in said.out
