"""The fixtures of the test kit's pytest plugin, used as a third party does: by asking for the plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from attrs import frozen

from codex_kernel import Document, InputError, PluginError, hookimpl
from codex_kernel.catalog import Catalog
from codex_kernel.loading import load
from codex_kernel.testing import run_manifest
from codex_kernel.testing.pytest_plugin import (  # noqa: F401 - asked for by name
    codex_catalog,
    codex_run,
    toy_corpus,
    toy_manifest,
)


@frozen
class Mine:
    """A logger of the test's own."""

    @hookimpl
    def codex_metrics(self, step):
        print(step)


def installed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call codex in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "codex_kernel", *arguments], capture_output=True, text=True, check=False
    )


def test_nothing_installed_is_found(codex_catalog):  # noqa: F811
    """Only the plugins of the kernel itself are there."""
    usable = [entry for entry in Catalog.scan().entries if entry.status == "ok"]
    assert {entry.distribution for entry in usable} == {"codex-kernel"}
    assert Catalog.scan().names("trainer") == []
    assert "bytes" in Catalog.scan().names("tokenizer")


def test_asking_for_another_plugin_says_that_the_catalog_is_isolated(codex_catalog):  # noqa: F811
    """The error names the plugin and how to add it, though it is installed."""
    with pytest.raises(
        PluginError, match="the trainer 'torch' is not in the test's isolated catalog"
    ) as caught:
        Catalog.scan().find("trainer", "torch")
    assert caught.value.remedy == "codex_catalog.add('trainer', 'torch', …) adds it"


def test_a_class_that_is_added_is_found(codex_catalog):  # noqa: F811
    """The class itself comes back, be it one at the top of a module or within a function."""

    @frozen
    class Local:
        """Within a function."""

        @hookimpl
        def codex_metrics(self):
            pass

    codex_catalog.add("logger", "mine", Mine)
    codex_catalog.add("logger", "local", Local)
    assert load(Catalog.scan().find("logger", "mine")) is Mine
    assert load(Catalog.scan().find("logger", "local")) is Local
    assert codex_catalog.has("logger", "mine")
    assert not codex_catalog.has("logger", "other")


def test_a_target_that_is_added_is_found(codex_catalog):  # noqa: F811
    """What is installed may be added by its target."""
    codex_catalog.add("trainer", "torch", "codex_torch.plugin:TorchTrainer")
    assert load(Catalog.scan().find("trainer", "torch")).__name__ == "TorchTrainer"


def test_a_distribution_may_be_added_whole(codex_catalog):  # noqa: F811
    """With a version, a requirement and modules of its own: what does not fit the kernel is refused by it."""
    source = "from codex_kernel.builtin.console import ConsoleLogger as Mine\n"
    plugins = {"logger": {"mine": "my_module:Mine"}}
    codex_catalog.add_distribution("mine", plugins, version="2.5", modules={"my_module": source})
    entry = Catalog.scan().find("logger", "mine")
    assert (entry.distribution, entry.version) == ("mine", "2.5")
    assert load(entry).__name__ == "ConsoleLogger"
    codex_catalog.add_distribution(
        "old", {"logger": {"old": "my_module:Mine"}}, requires="codex-kernel<0.0.1"
    )
    with pytest.raises(PluginError, match="needs codex-kernel"):
        Catalog.scan().find("logger", "old")


def test_a_plugin_added_to_a_whole_distribution_leaves_it_as_it_was(codex_catalog):  # noqa: F811
    """Its version and what it needs stay; another version of it takes the place of the one before."""
    plugins = {"logger": {"mine": "my_module:Mine"}}
    modules = {"my_module": "class Mine: ...\nclass More: ...\n"}
    codex_catalog.add_distribution(
        "mine", plugins, version="2.0", requires="codex-kernel>=99", modules=modules
    )
    codex_catalog.add("logger", "more", "my_module:More", distribution="mine")
    found = [entry for entry in Catalog.scan().entries if entry.distribution == "mine"]
    assert {(e.name, e.version, e.status) for e in found} == {
        ("mine", "2.0", "incompatible"),
        ("more", "2.0", "incompatible"),
    }
    codex_catalog.add_distribution("mine", {}, version="3.0", modules=modules)
    found = [entry for entry in Catalog.scan().entries if entry.distribution == "mine"]
    assert {(e.name, e.version, e.status) for e in found} == {("mine", "3.0", "ok"), ("more", "3.0", "ok")}


def test_two_distributions_may_claim_one_name(codex_catalog):  # noqa: F811
    """The kernel's own verdicts hold in it: a name that two distributions have is an error with both."""
    codex_catalog.add("logger", "mine", Mine)
    codex_catalog.add("logger", "mine", Mine, distribution="other")
    with pytest.raises(PluginError, match=r"added-by-the-test 1\.0 and other 1\.0"):
        Catalog.scan().find("logger", "mine")


def test_what_is_no_plugin_is_refused(codex_catalog):  # noqa: F811
    """Neither a class nor a command nor a target."""
    with pytest.raises(
        TypeError, match="expected a plugin's class, a click command or 'module:Class', got 3"
    ):
        codex_catalog.add("logger", "three", 3)


def test_an_unknown_kind_is_refused(codex_catalog):  # noqa: F811
    """A slip in the kind is an error of the test."""
    with pytest.raises(ValueError, match="no kind 'loger'"):
        codex_catalog.add("loger", "mine", Mine)


def test_child_processes_see_the_same_catalog(codex_catalog):  # noqa: F811
    """`codex plugins list` in a process of its own shows what was added, and nothing else that is usable."""
    codex_catalog.add("logger", "mine", Mine)
    shown = json.loads(installed("plugins", "list", "--json").stdout)
    usable = {row["distribution"] for row in shown["plugins"] if row["status"] == "ok"}
    assert usable == {"codex-kernel", "added-by-the-test"}


def surroundings():
    """Return variables, path, and what is found."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return variables, list(sys.path), [str(entry) for entry in Catalog.scan().entries]


@pytest.fixture
def before():
    """What holds before an isolated catalog."""
    return surroundings()


def test_afterwards_all_is_as_before(before, request):
    """Path, variables and what is found come back; nothing of the test stays imported."""
    catalog = request.getfixturevalue("codex_catalog")
    catalog.add("logger", "mine", Mine)
    assert load(Catalog.scan().find("logger", "mine")) is Mine
    [name] = [name for name in sys.modules if name.startswith("codex_added_")]
    (codex_undone,) = [request._get_active_fixturedef("codex_catalog")]
    codex_undone.finish(request)
    assert surroundings() == before
    assert name not in sys.modules


def test_a_run_in_the_catalog_sees_what_the_test_added(codex_catalog, toy_manifest, tmp_path, capsys):  # noqa: F811
    """run_manifest uses the catalog that holds, and adds the toys to it."""
    codex_catalog.add("logger", "mine", Mine)
    run_manifest(toy_manifest(loggers=["mine"]), folder=tmp_path)
    assert capsys.readouterr().out.split()[:2] == ["1", "2"]
    assert Catalog.scan().names("trainer") == ["toy"]


def test_a_run_has_a_folder_and_keeps_what_it_is_told(codex_run, tmp_path):  # noqa: F811
    """It is a run context within the test's folder."""
    assert codex_run.folder.is_dir()
    assert tmp_path in codex_run.folder.parents
    codex_run.report.warning("full")
    assert codex_run.report.warnings == ["full"]
    codex_run.stop.signal_number = 2
    assert codex_run.stop.signal_number == 2


def test_the_corpus_is_documents(toy_corpus):  # noqa: F811
    """Sixty, no two alike."""
    assert all(isinstance(document, Document) for document in toy_corpus)
    assert len({document.text for document in toy_corpus}) == len(toy_corpus) == 60


def test_the_manifest_is_of_toys(toy_manifest, tmp_path):  # noqa: F811
    """Sections that are given take the place of the toys'."""
    with pytest.raises(InputError, match="max_stepz"):
        run_manifest(toy_manifest(trainer={"type": "toy", "max_stepz": 1}), folder=tmp_path)


THIRD_PARTY = """\
pytest_plugins = ["codex_kernel.testing.pytest_plugin"]
"""


@pytest.mark.parametrize("way", ["conftest", "option"])
def test_a_third_party_asks_for_the_fixtures(tmp_path, way):
    """In the conftest.py or with -p the fixtures are there; without either they are not."""
    (tmp_path / "test_mine.py").write_text(
        "def test_mine(codex_catalog, codex_run, toy_corpus, toy_manifest):\n    assert toy_corpus\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    without = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "fixture 'codex_catalog' not found" in without.stdout
    if way == "conftest":
        (tmp_path / "conftest.py").write_text(THIRD_PARTY)
    else:
        command += ["-p", "codex_kernel.testing.pytest_plugin"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
