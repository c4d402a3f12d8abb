"""What is installed is found from metadata alone, and judged before anything is imported."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.catalog import GROUPS, Catalog
from codex_kernel.errors import InputError, PluginError
from codex_kernel.known import known_plugins
from codex_kernel.plugin_project import read_project
from tests.toys import install

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.mark.parametrize(
    "head",
    ["class Mine:", "class Mine(object):", "def Mine(a, b=f(1)):", "def Mine(\n    a,\n    b,\n) -> None:"],
)
def test_the_summary_is_the_first_docstring_line_of_the_class_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """The docstring of a class, or of a command's function, is read from the source text; the module is not run."""
    before = 'class Other:\n    """Another one."""\n\nclass Without:\n    x = 1\n\n'
    text = f'raise SystemExit(9)\n\n{before}{head}\n    """Writes to a fax machine.\n\n    Slowly.\n    """\n'
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
        ("codex-kernel>=9; python_version<'3'", "ok"),
        ("codex-kernel>=9 ; python_version >= '3'", "incompatible"),
        ("codex-kernel>=9; python_version>='3' and extra=='new'", "ok"),
        ("codex-kernel[testing]>=9; extra == 'test'", "ok"),
        ("codex-kernel>=9; no marker", "incompatible"),
        ("codex-kernel>=0.1; python_version", "ok"),
        ("codex-kernel @ git+https://host/~user/codex?x=1", "ok"),
        ("codex-kernel@https://host/codex-9.whl ; python_version<'3'", "ok"),
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


def declared() -> set[tuple[str, str, str]]:
    """Return (kind, name, distribution) of the entry points in this repository's pyproject files."""
    kinds = {group: kind for kind, group in GROUPS.items()}
    projects = [
        tomllib.loads(file.read_text())["project"]
        for file in [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    ]
    return {
        (kinds[group], name, project["name"])
        for project in projects
        for group, names in project.get("entry-points", {}).items()
        if group in kinds
        for name in names
    }


def test_the_bundled_index_names_exactly_the_first_party_plugins() -> None:
    """What the repository's distributions declare is in the index, those of the kernel too, and nothing else."""
    index = {
        (kind, name, known.distribution)
        for kind, names in known_plugins().items()
        for name, known in names.items()
    }
    assert index == declared()


def test_the_summaries_of_the_index_are_those_of_the_classes() -> None:
    """A search over the index says what the listing says."""
    ours = {
        (e.kind, e.name): e.summary
        for e in Catalog.scan().entries
        if (e.kind, e.name, e.distribution) in declared()
    }
    index = {
        (kind, name): known.summary
        for kind, names in known_plugins().items()
        for name, known in names.items()
    }
    assert index == ours


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


# ── verdicts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_built_in_cannot_be_replaced_silently(tmp_path: Path) -> None:
    """A distribution that has a built-in's name makes that name ambiguous: neither is used until one is picked."""
    path = [str(tmp_path), *sys.path]
    install(tmp_path, "codex-sneaky", {"codex.loggers": {"console": "sneaky:Mine"}}, modules={"sneaky": ""})
    catalog = Catalog.scan(path)
    with pytest.raises(PluginError, match=r"claimed by codex-kernel .+ and codex-sneaky 1\.0") as error:
        catalog.find("logger", "console")
    assert error.value.remedy == "write type: codex-kernel/console or codex-sneaky/console"
    assert catalog.find("logger", "console", "codex-kernel").target.startswith("codex_kernel.builtin")


def test_metadata_without_its_module_is_stale_and_claims_no_name(tmp_path: Path) -> None:
    """What an interrupted uninstall leaves is told, and does not make the name of the living one ambiguous."""
    install(tmp_path, "codex-gone", {"codex.loggers": {"mine": "gone:Mine"}})
    install(tmp_path, "codex-mine", LOGGER, modules=MINE)
    catalog = scan(tmp_path)
    assert {e.distribution: e.status for e in catalog.entries} == {"codex-gone": "stale", "codex-mine": "ok"}
    assert catalog.find("logger", "mine").distribution == "codex-mine"
    with pytest.raises(PluginError, match="its module gone is not there, only ") as error:
        catalog.find("logger", "mine", "codex-gone")
    assert error.value.remedy == "pip uninstall codex-gone, or again: pip install codex-gone"


def test_a_module_in_a_package_is_looked_for_without_importing_the_package(tmp_path: Path) -> None:
    """`package.inner` is found, and `package.missing` is not, though importing the package would end the process."""
    plugins = {"codex.loggers": {"there": "bomb.inner:A", "missing": "bomb.missing:A", "no-colon": "bomb"}}
    install(tmp_path / "metadata", "codex-bomb", plugins)
    package = tmp_path / "code" / "bomb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os; os._exit(9)")
    (package / "inner.py").write_text("")
    catalog = scan(tmp_path / "metadata", tmp_path / "code")
    assert {e.name: e.status for e in catalog.entries} == {
        "there": "ok",
        "missing": "stale",
        "no-colon": "stale",
    }


def test_a_requirement_of_an_extra_is_none_of_the_plugin(tmp_path: Path) -> None:
    """Only what the distribution itself needs of codex-kernel decides; several such lines hold together."""
    metadata = install(tmp_path, "codex-mine", LOGGER, requires="codex-kernel>=0.1", modules=MINE)
    lines = "Requires-Dist: codex-kernel[testing]>=9; extra == 'test'\nRequires-Dist: codex-kernel<0.2\n\n"
    text = (metadata / "METADATA").read_text()
    (metadata / "METADATA").write_text(text.replace("\n\n", f"\n{lines}", 1))
    (entry,) = scan(tmp_path).entries
    assert (entry.kernel_requirement, entry.status) == (">=0.1,<0.2", "ok")


def test_each_verdict_has_a_reason(tmp_path: Path) -> None:
    """A status other than ok says why in a sentence."""
    install(tmp_path / "a", "codex-aaa", LOGGER, modules=MINE)
    install(tmp_path / "b", "codex-aaa", LOGGER, version="0.9", modules=MINE)
    install(tmp_path / "a", "codex-zzz", LOGGER, modules=MINE)
    install(tmp_path / "a", "codex-new", LOGGER, modules=MINE, requires="codex-kernel>=9")
    told = {
        (e.distribution, e.version): (e.status, e.reason)
        for e in scan(tmp_path / "a", tmp_path / "b").entries
    }
    assert told == {
        ("codex-aaa", "1.0"): (
            "claimed twice",
            "also claimed by codex-new 1.0 and codex-zzz 1.0: write codex-aaa/mine",
        ),
        ("codex-aaa", "0.9"): ("shadowed", f"codex-aaa 1.0 in {tmp_path / 'a'} comes earlier on the path"),
        ("codex-new", "1.0"): ("incompatible", "needs codex-kernel>=9, this is 0.1.0"),
        ("codex-zzz", "1.0"): (
            "claimed twice",
            "also claimed by codex-aaa 1.0 and codex-new 1.0: write codex-zzz/mine",
        ),
    }


# ── what may be used ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_variable_names_the_distributions_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset: all; a list: those and the kernel; empty: the kernel's alone. Names are compared as packaging does."""

    def usable() -> set[str]:
        return {e.distribution for e in Catalog.scan().entries if e.status == "ok"}

    monkeypatch.delenv("CODEX_PLUGINS", raising=False)
    everything = usable()
    monkeypatch.setenv("CODEX_PLUGINS", "Codex_Torch, codex.spm")
    assert usable() == {"codex-kernel", "codex-torch", "codex-spm"} < everything
    monkeypatch.setenv("CODEX_PLUGINS", "")
    assert usable() == {"codex-kernel"}


def test_an_allow_list_decides_between_two_claimants(tmp_path: Path) -> None:
    """A distribution that is left out claims nothing; an allow-list within another never widens it."""
    install(tmp_path, "codex-aaa", LOGGER, modules=MINE)
    install(tmp_path, "codex-zzz", LOGGER, modules=MINE)
    catalog = scan(tmp_path).allowing(["codex-zzz"], "CODEX_PLUGINS=codex-zzz")
    assert catalog.find("logger", "mine").distribution == "codex-zzz"
    assert catalog.names("logger") == ["mine"]
    nothing = catalog.allowing(["codex-aaa"], "plugins.allow")
    assert {e.distribution: e.reason for e in nothing.entries} == {
        "codex-aaa": "CODEX_PLUGINS=codex-zzz leaves codex-aaa out",
        "codex-zzz": "plugins.allow leaves codex-zzz out",
    }
    with pytest.raises(PluginError, match=r"logger 'mine' .+ leaves .+ out") as error:
        nothing.find("logger", "mine", "codex-zzz")
    assert error.value.remedy == "add codex-zzz to it"


PYPROJECT = """\
[project]
name = "codex-mine"
version = "2.0"
description = "Mine, in work"
dependencies = ["codex-kernel>=0.1,<0.2"]

[project.entry-points."codex.loggers"]
mine = "codex_mine:Mine [gpu]"
"""


def local(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> Catalog:
    """Scan as `codex` does, with these folders named by the variable; `sys.path` is put back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("CODEX_PLUGIN_PATH", os.pathsep.join(map(str, folders)))
    return Catalog.scan()


@pytest.mark.parametrize("layout", ["src", "."])
def test_a_project_that_is_not_installed_is_found_by_its_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Its modules lie in `src` or beside the file; the standard library comes before them, what is installed after."""
    (tmp_path / layout).mkdir(exist_ok=True)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / layout / "codex_mine.py").write_text("")
    entry = local(monkeypatch, tmp_path).find("logger", "mine")
    assert (str(entry), entry.status) == ("logger 'mine' (codex-mine 2.0)", "ok")
    assert entry.target == read_project(tmp_path).entries[0].target == "codex_mine:Mine"
    assert (entry.metadata, entry.kernel_requirement) == (tmp_path, ">=0.1,<0.2")
    place = sys.path.index(str(tmp_path / layout))
    assert place < next(i for i, folder in enumerate(sys.path) if folder.endswith("site-packages"))
    assert place > sys.path.index(os.path.dirname(os.__file__))  # noqa: PTH120


def test_a_project_in_work_wins_over_an_installed_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one named on the command line is meant; the other is told as shadowed."""
    project, site = tmp_path / "project", tmp_path / "site"
    install(site, "codex-mine", LOGGER, modules=MINE)
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "codex_mine.py").write_text("")
    monkeypatch.syspath_prepend(site)
    catalog = local(monkeypatch, project)
    assert {e.version: e.status for e in catalog.entries if e.name == "mine"} == {
        "2.0": "ok",
        "1.0": "shadowed",
    }


def test_a_folder_of_installed_things_only_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder as `pip install --target` fills it comes last: what is installed, codex-kernel above all, stays."""
    target = tmp_path / "target"
    install(target, "codex-mine", LOGGER, modules=MINE)
    install(
        target,
        "codex-kernel",
        {"codex.loggers": {"console": "evil:Mine"}},
        version="9.0",
        modules={"evil": ""},
    )
    catalog = local(monkeypatch, target)
    assert catalog.find("logger", "mine").status == "ok"
    assert catalog.find("logger", "console").version != "9.0"
    assert sys.path[-1] == str(target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no folder"),
        ("[project", "pyproject.toml: Expected"),
        ("[project]\nversion = '1'\n", "expected [project] with a name"),
        ("project = 1\n", "expected [project] with a name"),
        ("[project]\nname = 'x'\nentry-points = 1\n", "expected [project] with a name"),
        ("[project]\nname = 1\n", "expected [project] with a name"),
        (
            "[project]\nname = 'x'\n[project.entry-points.'codex.loggers']\na = 1\n",
            "expected [project] with a name",
        ),
        ("a = " + "[" * 5000, "pyproject.toml: "),
    ],
)
def test_a_wrong_plugin_path_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    """A folder that is not there, or a pyproject.toml that cannot be read, is named with the way out."""
    folder = tmp_path / "project"
    if text is not None:
        folder.mkdir()
        (folder / "pyproject.toml").write_text(text)
    with pytest.raises(InputError) as error:
        local(monkeypatch, folder)
    assert message in str(error.value)
    assert error.value.remedy


def test_a_project_without_its_module_is_told_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is stale, and the remedy is in the project."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.replace('version = "2.0"', 'dynamic = ["version"]'))
    with pytest.raises(PluginError, match=r"its module codex_mine is neither in .+ nor in ") as error:
        local(monkeypatch, tmp_path).find("logger", "mine")
    assert error.value.remedy == f"mend the entry point in {tmp_path / 'pyproject.toml'}"


def test_a_name_that_one_distribution_has_twice_is_told_and_not_to_be_used(tmp_path: Path) -> None:
    """Nobody can say which is meant; the same line twice says nothing more than once."""
    metadata = install(tmp_path, "codex-aaa", LOGGER, modules={"mine": "", "other": ""})
    points = metadata / "entry_points.txt"
    points.write_text("[codex.loggers]\nmine = mine:Mine\nmine = mine:Mine\n")
    assert [e.status for e in scan(tmp_path).entries] == ["ok"]
    points.write_text("[codex.loggers]\nmine = mine:Mine\nmine = other:Mine\n")
    catalog = scan(tmp_path)
    reason = "the distribution names it twice: mine:Mine and other:Mine"
    assert {(e.status, e.reason) for e in catalog.entries} == {("claimed twice", reason)}
    for distribution in (None, "codex-aaa"):
        with pytest.raises(PluginError) as error:
            catalog.find("logger", "mine", distribution)
        assert str(error.value) == f"logger 'mine' (codex-aaa 1.0): {reason}"
        assert error.value.remedy == f"leave one of them in {points}, whose authors made it"
    install(tmp_path, "codex-zzz", LOGGER)
    with pytest.raises(PluginError, match=r"claimed by codex-aaa 1.0 and codex-zzz 1.0$") as error:
        scan(tmp_path).find("logger", "mine")
    assert error.value.remedy == "write type: codex-zzz/mine"


@pytest.mark.parametrize(
    ("distribution", "name", "remedy"),
    [
        ("codex-nope", "mine", "no plugin of codex-nope is installed; write type: codex-aaa/mine"),
        (
            "codex-nope",
            "mlflow",
            "no plugin of codex-nope is installed; codex-mlflow has it: pip install codex-mlflow",
        ),
        (
            "codex-aaa",
            "mlflow",
            "codex-aaa has no such plugin; codex-mlflow has it: pip install codex-mlflow",
        ),
        ("codex-mlflow", "mlflow", "pip install codex-mlflow"),
        ("codex-aab", "what", "no plugin of codex-aab is installed; did you mean 'codex-aaa'?"),
        ("codex-aaa", "what", "codex-aaa has no such plugin"),
    ],
)
def test_a_plugin_that_its_distribution_does_not_have_is_told_with_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, name: str, remedy: str
) -> None:
    """`distribution/name` is never answered with an install line of another distribution alone."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    install(tmp_path, "codex-aaa", LOGGER, modules=MINE)
    with pytest.raises(PluginError, match=f"unknown logger '{distribution}/{name}'") as error:
        scan(tmp_path).find("logger", name, distribution)
    assert error.value.remedy == remedy


def test_what_came_from_a_folder_is_mended_there(tmp_path: Path) -> None:
    """A stale entry, and one for another kernel: no index is asked for the name."""
    metadata = install(tmp_path, "codex-aaa", LOGGER)
    other = install(
        tmp_path, "codex-new", {"codex.loggers": {"new": "mine:Mine"}}, requires="codex-kernel>=9"
    )
    for one in (metadata, other):
        (one / "direct_url.json").write_text('{"url": "file:///my/place", "dir_info": {}}')
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(PluginError) as error:
        scan(tmp_path).find("logger", "new")
    assert (error.value.remedy or "").startswith("mend /my/place for this kernel, or ")
    assert "codex-new" not in (error.value.remedy or "")
    (tmp_path / "mine.py").unlink()
    with pytest.raises(PluginError) as error:
        scan(tmp_path).find("logger", "mine")
    assert (error.value.remedy or "").startswith(
        "mend the entry point in /my/place and install it again from"
    )
