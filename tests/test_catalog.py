"""What is installed is found from metadata alone, and judged before anything is imported."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.catalog import GROUPS, Catalog, known_plugins
from codex_kernel.errors import PluginError
from tests.toys import install

LOGGER = {"codex.loggers": {"mine": "mine:Mine"}}
MINE = {"mine": ""}
"""A module for it: metadata alone would be stale."""


def scan(*folders: Path) -> Catalog:
    """Scan these folders alone."""
    return Catalog.scan([str(folder) for folder in folders])


def test_the_scan_finds_what_importlib_metadata_finds() -> None:
    """The direct reading of entry points agrees with importlib.metadata on this environment."""
    ours = {(e.kind, e.name, e.target, e.distribution, e.version) for e in Catalog.scan().entries}
    theirs = {
        (kind, point.name, point.value, point.dist.name, point.dist.version)
        for kind, group in GROUPS.items()
        for point in importlib.metadata.entry_points(group=group)
        if point.dist is not None
    }
    assert ours == theirs
    assert ("trainer", "torch", "codex_torch.plugin:TorchTrainer", "codex-torch", "0.1.0") in ours


def test_an_entry_tells_its_distribution_version_and_summary(tmp_path: Path) -> None:
    """Name, version and summary come from the distribution's metadata."""
    install(tmp_path, "codex-mine", LOGGER, version="2.5", modules=MINE)
    (entry,) = scan(tmp_path).entries
    assert str(entry) == "logger 'mine' (codex-mine 2.5)"
    assert entry.summary == "codex-mine for tests"


def test_the_summary_is_the_first_docstring_line_of_the_class_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class's docstring is read from its source text; the module is not run."""
    text = 'raise SystemExit(9)\n\nclass Mine(object):\n    """Writes to a fax machine.\n\n    Slowly.\n    """\n'
    install(tmp_path, "codex-mine", LOGGER, modules={"mine": text})
    monkeypatch.syspath_prepend(tmp_path)
    assert scan(tmp_path).entries[0].summary == "Writes to a fax machine."


def test_a_name_claimed_by_two_distributions_is_an_error_naming_both_and_how_to_choose(
    tmp_path: Path,
) -> None:
    """Neither claimant wins silently; `distribution/name` picks one."""
    install(tmp_path, "codex-aaa", LOGGER, modules=MINE)
    install(tmp_path, "codex-zzz", LOGGER, version="3.0", modules=MINE)
    catalog = scan(tmp_path)
    assert {entry.status for entry in catalog.entries} == {"claimed twice"}
    with pytest.raises(PluginError, match=r"claimed by codex-aaa 1\.0 and codex-zzz 3\.0") as error:
        catalog.find("logger", "mine")
    assert error.value.remedy == "write type: codex-aaa/mine or codex-zzz/mine"
    assert catalog.find("logger", "mine", "codex_ZZZ").version == "3.0"


def test_one_distribution_twice_on_the_path_is_shadowed_not_claimed_twice(tmp_path: Path) -> None:
    """The first on the path is the one that Python imports, so it is the one that counts."""
    install(tmp_path / "first", "codex-mine", LOGGER, version="1.0", modules=MINE)
    install(tmp_path / "second", "codex_mine", LOGGER, version="0.9", modules=MINE)
    catalog = scan(tmp_path / "first", tmp_path / "second")
    assert [(e.version, e.status) for e in catalog.entries] == [("1.0", "ok"), ("0.9", "shadowed")]
    assert catalog.find("logger", "mine").version == "1.0"


@pytest.mark.parametrize(
    ("requires", "status"),
    [
        ("codex-kernel", "ok"),
        ("codex-kernel<0.2,>=0.1", "ok"),
        ("codex_kernel (>=0.1)", "ok"),
        ("codex-kernel>=9", "incompatible"),
        ("codex-kernel=nonsense", "incompatible"),
        ("codex-kernel-extras>=9", "ok"),
    ],
)
def test_the_wanted_kernel_version_is_judged_before_import(
    tmp_path: Path, requires: str, status: str
) -> None:
    """Requires-Dist of the plugin's distribution decides whether it fits this kernel."""
    install(tmp_path, "codex-mine", LOGGER, requires=requires, modules=MINE)
    catalog = scan(tmp_path)
    assert catalog.entries[0].status == status
    if status == "incompatible":
        with pytest.raises(PluginError, match=r"needs codex-kernel.+, this is"):
            catalog.find("logger", "mine")


@pytest.mark.parametrize(
    ("kind", "name", "remedy"),
    [
        ("logger", "mien", "did you mean 'mine'?"),
        ("trainer", "torch", "pip install codex-torch"),
        ("logger", "mlfow", "did you mean 'mlflow'? pip install codex-mlflow"),
        ("tokenizer", "mine", "'mine' is a logger, not a tokenizer"),
        ("logger", "zzzzzz", "installed: mine"),
        ("metric", "zzzzzz", "no metric plugin is installed"),
    ],
)
def test_an_unknown_name_gets_the_nearest_remedy(tmp_path: Path, kind: str, name: str, remedy: str) -> None:
    """A close name, a known distribution, the right kind, or what there is; never an invented package."""
    install(tmp_path, "codex-mine", LOGGER, modules=MINE)
    with pytest.raises(PluginError, match="unknown") as error:
        scan(tmp_path).find(kind, name)
    assert error.value.remedy == remedy


def test_the_bundled_index_names_exactly_the_first_party_plugins() -> None:
    """Every plugin of ours outside the kernel is in the index, and nothing else."""
    ours = {
        (e.kind, e.name, e.distribution) for e in Catalog.scan().entries if e.distribution != "codex-kernel"
    }
    index = {
        (kind, name, known.distribution)
        for kind, names in known_plugins().items()
        for name, known in names.items()
        if known.distribution != "codex-kernel"
    }
    assert index == {row for row in ours if row[2] in {home for _, _, home in index}}
    assert {"codex-torch", "codex-hf", "codex-spm", "codex-mlflow", "codex-sysmon", "codex-clean"} == {
        home for _, _, home in index
    }


def test_broken_metadata_does_not_disturb_the_others(tmp_path: Path) -> None:
    """A folder without METADATA, a file that is not text, and a path that does not exist are passed over."""
    metadata = install(tmp_path, "codex-bare", LOGGER, modules=MINE)
    (metadata / "METADATA").unlink()
    (tmp_path / "odd-1.0.dist-info").mkdir()
    (tmp_path / "odd-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[codex.loggers]")
    install(tmp_path, "codex-other", {"codex.loggers": {"other": "other:Other"}}, modules={"other": ""})
    catalog = scan(tmp_path, tmp_path / "missing")
    assert [(e.name, e.distribution, e.version) for e in catalog.entries] == [
        ("mine", "codex_bare", "1.0"),
        ("other", "codex-other", "1.0"),
    ]


def test_scanning_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose module ends the process can be listed."""
    install(tmp_path, "codex-bomb", {"codex.loggers": {"bomb": "codex_bomb_module:Bomb"}}, modules={
        "codex_bomb_module": "import os; os._exit(9)"
    })  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    assert scan(tmp_path).find("logger", "bomb").target == "codex_bomb_module:Bomb"
    assert "codex_bomb_module" not in sys.modules


@given(st.text(max_size=400))
def test_any_entry_points_text_is_read_without_an_error(text: str) -> None:
    """What a distribution wrote into its metadata never stops the listing."""
    from codex_kernel.metadata import parse_entry_points

    assert all(kind in GROUPS for kind, _, _ in parse_entry_points(text))
