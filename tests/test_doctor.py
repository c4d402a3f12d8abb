"""What `codex plugins doctor` finds, and how it judges."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import doctor
from codex_kernel._version import __version__
from codex_kernel.catalog import Catalog
from codex_kernel.doctor import announced, machine, packages, start_code, versions
from codex_kernel.doctor.findings import LEVELS, Finding
from tests.toys import install

GIB = 2**30


def put(site: Path, name: str, version: str, *requires: str, record: str = "") -> Path:
    """Put a distribution without code into a folder; return its metadata folder."""
    metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{lines}\nText\n"
    )
    (metadata / "RECORD").write_text(record)
    return metadata


def found(site: Path) -> list[packages.Distribution]:
    """Return the distributions in a folder."""
    return packages.installed([str(site)])


def levels(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return level and subject of findings."""
    return [(finding.level, finding.subject) for finding in findings]


# ── versions ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [
        ("pluggy", "1.6.0", "problem"),
        ("pluggy", "2.0.0", "problem"),
        ("torch", "2.9.1+cpu", "warning"),
        ("transformers", "5.2.0", "warning"),
        ("sentencepiece", "0.2.0", "warning"),
        ("mlflow", "3.10.1", "warning"),
        ("litellm", "1.82.8", "problem"),
        ("pip", "23.2.1", "note"),
    ],
)
def test_a_version_that_is_known_to_be_bad_is_told(name: str, version: str, level: str) -> None:
    """With its reason and the line that mends it."""
    (finding,) = versions.judge({name: version})
    assert (finding.level, finding.subject) == (level, name)
    assert finding.message.startswith(f"{version}: ")
    assert name in (finding.remedy or "")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("pluggy", "1.7.0"),
        ("torch", "2.10.0+cu130"),
        ("transformers", "5.3.0"),
        ("sentencepiece", "0.2.1"),
        ("mlflow", "3.11.0"),
        ("litellm", "1.82.9"),
        ("torch", "of my own"),
    ],
)
def test_other_versions_are_fine(name: str, version: str) -> None:
    """Also those that are no versions: nobody can say anything of them."""
    (finding,) = versions.judge({name: version})
    assert finding.level == "ok"


def test_every_row_of_the_table_mends_itself() -> None:
    """The requirement that a row names is met by no version that it calls bad, and its reason is a sentence."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    tried = [
        "0.1",
        "0.2",
        "0.2.1",
        "1.6",
        "1.7",
        "1.82.7",
        "2.0",
        "2.9",
        "2.10",
        "3.10",
        "3.11",
        "5.2",
        "5.3",
        "26.1",
    ]
    for row in versions.KNOWN_BAD:
        assert row.level in LEVELS
        if row.good:
            wanted = Requirement(row.good)
            assert wanted.name == row.distribution
            assert not [v for v in tried if v in wanted.specifier and v in SpecifierSet(row.versions)]


# ── what is installed ─────────────────────────────────────────────────────────────────────────────────────────────


def test_requirements_that_are_not_met_are_told(tmp_path: Path) -> None:
    """Missing ones and wrong versions, of a plugin and of what it needs; extras and other systems do not count."""
    put(
        tmp_path,
        *(
            "codex-one",
            "1.0",
            "codex-kernel",
            "gone>=1",
            "Some_Lib[fast]>=2",
            "never; sys_platform == 'nowhere'",
        ),
        "extra-only; extra == 'more'",
        "no version at all ((",
    )
    put(tmp_path, "some-lib", "2.1", "deep<3", "slow; extra == 'fast'")
    put(tmp_path, "deep", "3.0")
    put(tmp_path, "codex-kernel", __version__)
    put(tmp_path, "unrelated", "1", "also-gone")
    unmet, needed = packages.unmet(found(tmp_path), {"codex-one", "codex-kernel"})
    assert {(f.level, f.subject, f.message) for f in unmet} == {
        ("problem", "codex-one", "needs gone>=1, which is not installed"),
        ("warning", "codex-one", "its requirement 'no version at all ((' cannot be read"),
        ("problem", "some-lib", "needs deep<3, and 3.0 is installed"),
        ("problem", "some-lib", "needs slow, which is not installed"),
    }
    assert all("pip" in (f.remedy or "") for f in unmet if f.level == "problem")
    assert {"codex-one", "codex-kernel", "some-lib"} <= needed
    assert "unrelated" not in needed


def test_requirements_that_go_round_come_to_an_end(tmp_path: Path) -> None:
    """Two distributions may need one another."""
    put(tmp_path, "codex-one", "1.0", "codex-two[x]")
    put(tmp_path, "codex-two", "1.0", "codex-one", "codex-one; extra == 'x'")
    assert packages.unmet(found(tmp_path), {"codex-one"})[0] == []


def test_two_copies_of_what_plugins_need_are_told(tmp_path: Path) -> None:
    """Other versions are a problem, the same twice a warning, and what no plugin needs is counted."""
    first, second = tmp_path / "first", tmp_path / "second"
    for site, version in ((first, "1.0"), (second, "2.0")):
        put(site, "codex-one", version)
        put(site, "same", "1")
        put(site, "other", version)
    both = packages.installed([str(first), str(second), str(first)])
    findings = list(packages.doubled(both, {"codex-one", "same"}))
    assert levels(findings) == [("problem", "codex-one"), ("warning", "same"), ("note", "copies")]
    assert f"1.0 in {first} and 2.0 in {second}" in findings[0].message
    assert findings[2].message.startswith("1 distributions")


def test_two_versions_in_one_folder_are_told(tmp_path: Path) -> None:
    """An upgrade broke off, and nobody knows whose files are there."""
    put(tmp_path, "codex-one", "1.0")
    put(tmp_path, "codex-one", "2.0")
    (finding,) = packages.doubled(found(tmp_path), {"codex-one"})
    assert "uninstall" in (finding.remedy or "")


def test_damaged_metadata_and_remains_are_told(tmp_path: Path) -> None:
    """A distribution without its METADATA, or without a name in it, and what pip left under a name with a tilde."""
    (put(tmp_path, "lost", "1.0") / "METADATA").unlink()
    (put(tmp_path, "nameless", "1.0") / "METADATA").write_bytes(b"\xff\xfe\n\n")
    (tmp_path / "~orch-2.9.dist-info").mkdir()
    (tmp_path / "file.dist-info").write_text("Name: file\n")
    findings = list(packages.damaged([str(tmp_path)], found(tmp_path)))
    assert levels(findings) == [("warning", "lost"), ("warning", "nameless"), ("warning", "remains")]


def test_an_old_egg_is_read(tmp_path: Path) -> None:
    """Its name and version are in PKG-INFO, or in the name of the folder."""
    egg = tmp_path / "Old_One-1.5-py3.11.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Name: Old_One\n")
    (one,) = found(tmp_path)
    assert (one.name, one.version, one.damage) == ("old-one", "1.5", "")


def test_files_that_are_gone_are_told(tmp_path: Path) -> None:
    """Those that a plugin's own record lists, but for compiled ones."""
    (tmp_path / "one.py").write_text("")
    record = "one.py,,\ntwo.py,sha256=x,3\n__pycache__/one.cpython-311.pyc,,\n"
    put(tmp_path, "codex-one", "1.0", record=record)
    put(tmp_path, "other", "1.0", record=record)
    (finding,) = packages.lost_files(found(tmp_path), {"codex-one"})
    assert (finding.level, finding.message) == ("problem", "1 of its 3 files are gone, two.py among them")


def test_the_kernel_is_compared_with_its_metadata() -> None:
    """None at all: no built-in plugin is found; another version: an editable installation that is out of date."""
    assert packages.kernel({}, "0.1").level == "problem"
    assert packages.kernel({"codex-kernel": "0.0.9"}, "0.1").level == "warning"
    assert packages.kernel({"codex-kernel": "0.1"}, "0.1").level == "ok"


def test_plugins_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """One line for all plugins of a distribution with the same reason, with what mends it."""
    for name, requires in (
        ("codex-old", "codex-kernel<0.0.1"),
        ("codex-a", "codex-kernel"),
        ("codex-b", "codex-kernel"),
    ):
        module = name.replace("-", "_")
        names = {"same": f"{module}:A"} if name != "codex-old" else {f"n{i}": f"{module}:A" for i in range(5)}
        install(tmp_path, name, {"codex.loggers": names}, modules={module: ""}, requires=requires)
    install(tmp_path, "codex-stale", {"codex.loggers": {"stale": "codex_nowhere_at_all:A"}})
    findings = list(doctor.plugins(Catalog.scan([str(tmp_path)])))
    told = {finding.message.split(":")[0]: finding for finding in findings if finding.level == "warning"}
    assert set(told) == {"codex-old 1.0", "codex-a 1.0", "codex-b 1.0", "codex-stale 1.0"}
    assert "logger n0, logger n1, logger n2 and 2 more: incompatible" in told["codex-old 1.0"].message
    assert "type: codex-a/same" in (told["codex-a 1.0"].remedy or "")
    assert "uninstall" in (told["codex-stale 1.0"].remedy or "")


# ── entry points ──────────────────────────────────────────────────────────────────────────────────────────────────


def in_work(folder: Path, entry_points: str, *, editable: bool = True) -> Path:
    """Install logger `old` from a project whose pyproject.toml has these entry points now; return its metadata."""
    project = folder / "my project"
    project.mkdir()
    (project / "pyproject.toml").write_text(f'[project]\nname = "codex-work"\n{entry_points}')
    plugins = {"codex.loggers": {"old": "codex_work:A", "kept": "codex_work : B [extra]"}}
    metadata = install(folder / "site", "codex-work", plugins, modules={"codex_work": ""})
    note = {"url": project.as_uri(), "dir_info": {"editable": editable}}
    (metadata / "direct_url.json").write_text(json.dumps(note))
    return metadata


LOGGERS = '[project.entry-points."codex.loggers"]\n'


@pytest.mark.parametrize(
    ("entry_points", "told"),
    [
        ('old = "codex_work:A"\nkept = "codex_work:B"', None),
        ('new = "codex_work:A"\nkept = "codex_work:B"', "logger old is gone, logger new is new"),
        ('old = "codex_work:C"\nkept = "codex_work:B"', "logger old is codex_work:C now"),
        (
            "".join(f'n{i} = "a:B"\n' for i in range(9)),
            "logger old is gone, logger kept is gone, logger n0 is new and 8",
        ),
    ],
)
def test_entry_points_that_are_not_those_of_the_project_are_told(
    tmp_path: Path, entry_points: str, told: str | None
) -> None:
    """An editable installation keeps those of the day it was made; the line that renews them is safe to paste."""
    metadata = in_work(tmp_path, LOGGERS + entry_points)
    findings = list(doctor.entry_points(Catalog.scan([str(tmp_path / "site")])))
    if told is None:
        assert not findings
        return
    (finding,) = findings
    assert finding.level == "warning"
    assert f"has other entry points than are installed: {told}" in finding.message
    assert (finding.remedy or "").startswith("install it again: ")
    assert shlex.split(finding.remedy or "")[-2:] == ["-e", str(tmp_path / "my project")]
    assert announced.outdated(metadata) == finding.message


@pytest.mark.parametrize(
    "text", ["", 'dynamic = ["entry-points"]\n' + LOGGERS, "[[", "entry-points = 5", LOGGERS + "old = 5"]
)
def test_entry_points_that_nobody_can_compare_are_left_alone(tmp_path: Path, text: str) -> None:
    """Those that the build backend makes, or that a file has which cannot be read."""
    assert not announced.outdated(in_work(tmp_path, text))


def test_only_an_editable_installation_can_lag_behind(tmp_path: Path) -> None:
    """What was copied is what was installed, and a folder that is gone says nothing."""
    metadata = in_work(tmp_path, LOGGERS, editable=False)
    assert not announced.outdated(metadata)
    for note in ("", "[]", '{"url": 5, "dir_info": {"editable": true}}'):
        (metadata / "direct_url.json").write_text(note)
        assert not announced.outdated(metadata)
    (metadata / "direct_url.json").write_text(
        '{"url": "file:///nowhere/at/all", "dir_info": {"editable": true}}'
    )
    assert not announced.outdated(metadata)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a\x07b", "a\tb", "über", "a/b"])
def test_a_name_that_no_manifest_can_have_is_told(tmp_path: Path, name: str) -> None:
    """Nobody could use the plugin; how it is written is for its authors to mend."""
    install(tmp_path, "codex-odd", {"codex.loggers": {name: "codex_odd:A"}}, modules={"codex_odd": ""})
    (finding,) = doctor.entry_points(Catalog.scan([str(tmp_path)]))
    assert finding.level == "warning"
    assert f"its name {name!r} cannot be written in a manifest" in finding.message
    assert finding.remedy


@pytest.mark.parametrize(
    ("name", "good"), [("say", True), ("say.it", True), ("", False), ("--say", False), ("a b", False)]
)
def test_a_command_that_cannot_be_called_is_told(tmp_path: Path, name: str, *, good: bool) -> None:
    """An empty name, one that is taken for an option, or one with spaces."""
    install(tmp_path, "codex-odd", {"codex.commands": {name: "codex_odd:A"}}, modules={"codex_odd": ""})
    findings = list(doctor.entry_points(Catalog.scan([str(tmp_path)])))
    assert [("cannot be called" in finding.message) for finding in findings] == ([] if good else [True])


# ── code at the start of Python ───────────────────────────────────────────────────────────────────────────────────


def test_pth_files_with_code_are_told(tmp_path: Path) -> None:
    """One that a distribution's record lists is a note, one that nobody knows a warning; paths are no code."""
    put(tmp_path, "honest", "1.0", record="honest.pth,sha256=x,1\n")
    (tmp_path / "honest.pth").write_text("import os; os.environ\n")
    (tmp_path / "stranger.pth").write_text(f"# text\nimport\tbase64; exec({'x' * 100})\n")
    (tmp_path / "paths.pth").write_text("/somewhere\nimportant/folder\n")
    (tmp_path / "_virtualenv.pth").write_text("import _virtualenv")
    findings = {Path(f.message.split()[0]).name: f for f in start_code.start_code([str(tmp_path)] * 2)}
    assert {name: f.level for name, f in findings.items()} == {
        "honest.pth": "note",
        "stranger.pth": "warning",
        "_virtualenv.pth": "note",
    }
    assert "came with honest" in (findings["honest.pth"].remedy or "")
    assert findings["stranger.pth"].message.endswith("…")


def test_a_changed_file_of_virtualenv_is_not_its_own(tmp_path: Path) -> None:
    """Its name alone does not make it harmless."""
    (tmp_path / "_virtualenv.pth").write_text("import _virtualenv; evil()")
    assert [f.level for f in start_code.start_code([str(tmp_path)])] == ["warning"]


def test_a_sitecustomize_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for, not imported."""
    (tmp_path / "usercustomize.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "usercustomize", raising=False)
    assert any(str(tmp_path) in finding.message for finding in start_code.modules())


# ── the machine ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_place_is_tried(tmp_path: Path) -> None:
    """A folder that is not there yet is judged by the nearest one above it; nothing is left in it."""
    place = machine.place("runs", tmp_path / "a" / "b")
    assert place.level in {"ok", "warning"}
    assert f"to be made in {tmp_path}," in place.message
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_a_problem(tmp_path: Path) -> None:
    """A file where a folder should be is one of them."""
    (tmp_path / "file").write_text("")
    finding = machine.place("cache", tmp_path / "file" / "below")
    assert (finding.level, finding.subject) == ("problem", "cache")


@pytest.mark.parametrize(
    ("free", "level"), [(GIB, "ok"), (GIB - 1, "warning"), (10**6, "problem"), (0, "problem")]
)
def test_free_disk_is_judged(free: int, level: str) -> None:
    """Less than a GiB may not last, less than 100 MiB does not."""
    assert machine.room("temp", "/somewhere", free).level == level


def test_memory_is_judged_within_the_limit_of_a_container() -> None:
    """What a container may use is less than what the machine has."""
    assert machine.judge_memory(8 * GIB, 16 * GIB, None).level == "ok"
    limited = machine.judge_memory(8 * GIB, 16 * GIB, GIB // 2)
    assert limited.level == "warning"
    assert "no more than 0.5 GiB" in limited.message
    assert machine.judge_memory(None, None, None).level == "note"


@pytest.mark.parametrize(
    ("cores", "quota", "variables", "level"),
    [
        (4, None, {}, "ok"),
        (4, None, {"OMP_NUM_THREADS": "4"}, "ok"),
        (4, 4.0, {"OMP_NUM_THREADS": "2,1"}, "ok"),
        (4, None, {"OMP_NUM_THREADS": "8"}, "warning"),
        (64, 2.0, {}, "warning"),
        (64, 2.0, {"OMP_NUM_THREADS": "2"}, "ok"),
        (64, 0.5, {"OMP_NUM_THREADS": "2"}, "warning"),
        (4, None, {"OMP_NUM_THREADS": "many"}, "warning"),
        (4, None, {"OMP_NUM_THREADS": "²"}, "warning"),
        (4, None, {"OMP_NUM_THREADS": "0"}, "warning"),
    ],
)
def test_threads_are_judged_by_the_cores(
    cores: int, quota: float | None, variables: dict[str, str], level: str
) -> None:
    """More threads than cores, or than a container has time for, wait for one another."""
    (finding,) = machine.judge_threads(cores, quota, variables)
    assert finding.level == level
    assert (finding.remedy is None) == (level == "ok")


def test_threads_that_spin_are_warned_of() -> None:
    """OMP_WAIT_POLICY=ACTIVE is slow as soon as others use the cores."""
    findings = list(machine.judge_threads(4, None, {"OMP_WAIT_POLICY": "Active"}))
    assert levels(findings) == [("ok", "threads"), ("warning", "threads")]


def test_gpus_are_judged_by_what_is_installed() -> None:
    """A GPU that torch is not built for, or that a variable hides, is not used."""
    card = ["NVIDIA H200, 143771 MiB, 143000 MiB, 570.86"]

    def judged(
        gpus: list[str] | None, torch: str | None, variables: dict[str, str], *, driver: bool
    ) -> list[str]:
        found = machine.judge_gpus(gpus, torch, variables, has_driver=driver)
        return [finding.level for finding in found]

    assert judged(None, "2.13.0", {}, driver=False) == ["ok"]
    assert judged(None, None, {}, driver=True) == ["warning"]
    assert judged(card, "2.13.0", {}, driver=True) == ["ok"]
    assert judged(card, "2.13.0+cpu", {}, driver=True) == ["ok", "warning"]
    assert judged(card, "2.13.0", {"CUDA_VISIBLE_DEVICES": ""}, driver=True) == ["ok", "note"]
    (told,) = machine.judge_gpus(card, None, {}, has_driver=True)
    assert told.message == "NVIDIA H200 (memory 143771 MiB, free 143000 MiB, driver 570.86)"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'Some GPU, 1 MiB, 1 MiB, 5'", "Some GPU (memory 1 MiB, free 1 MiB, driver 5)"),
        ("exit 9", "no NVIDIA GPU"),
        ("echo", "no NVIDIA GPU"),
    ],
)
def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str) -> None:
    """The driver's own program says which GPUs there are; one that fails says of none."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpus = machine._nvidia_smi()
    findings = list(machine.judge_gpus(gpus, None, {}, has_driver=False))
    assert told in findings[0].message


def test_encodings_are_judged() -> None:
    """Anything but UTF-8 is named."""
    assert machine.judge_encodings({"of files": "UTF-8", "of output": "utf8"}).level == "ok"
    finding = machine.judge_encodings({"of files": "ISO8859-1", "of output": "utf-8"})
    assert (finding.level, "of files is ISO8859-1" in finding.message) == ("warning", True)


def test_variables_of_codex_are_told() -> None:
    """Those it reads with their values; the value of one that it does not know may be a secret, and is not shown."""
    findings = list(
        machine.variables(
            {
                "CODEX_CACHE": "/c",
                "CODEX_PLUGIN": "s3cret",
                "PYTHONPATH": "x",
                "PYTHONOPTIMIZE": "1",
                "HOME": "/h",
            }
        )
    )
    assert [f.level for f in findings] == ["note", "warning", "note", "warning"]
    assert "'/c'" in findings[0].message
    assert "s3cret" not in str(findings)
    assert "CODEX_PLUGINS" in (findings[1].remedy or "")


def test_every_variable_that_codex_reads_is_known() -> None:
    """A CODEX_… name in the code of the kernel stands in the table that doctor explains them from."""
    import re

    import codex_kernel

    sources = Path(codex_kernel.__file__).parent.rglob("*.py")
    named = {name for file in sources for name in re.findall(r"\"(CODEX_[A-Z_]+)\"", file.read_text("utf-8"))}
    assert named - {"CODEX_"} == set(machine.VARIABLES)


@given(st.dictionaries(st.text(), st.text()))
def test_no_environment_is_too_much(variables: dict[str, str]) -> None:
    """Whatever the variables are, they are judged."""
    list(machine.variables(variables))
    list(machine.judge_threads(4, 2.5, variables))


# ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_examination_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on."""

    def broken(*_: object) -> None:
        raise RuntimeError("what is this?")

    monkeypatch.setattr(packages, "installed", broken)
    findings = list(doctor.examine(tmp_path / "cache", tmp_path / "runs"))
    told = next(f for f in findings if f.subject == "packages")
    assert (told.level, "RuntimeError: what is this?" in told.message) == ("warning", True)
    assert findings[-1].subject in {"variables", "encoding"}


def test_what_was_found_before_an_examination_failed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last finding is that it failed."""

    def broken(*_: object) -> None:
        raise RuntimeError("what is this?")

    monkeypatch.setattr(packages, "damaged", broken)
    findings = list(doctor.examine(tmp_path / "cache", tmp_path / "runs"))
    failed = next(f for f in findings if f.subject == "packages")
    assert "RuntimeError: what is this?" in failed.message
    assert "codex-kernel" in {f.subject for f in findings[: findings.index(failed)]}


def test_plugins_that_cannot_be_looked_at_are_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing them may fail, and so may judging them; the packages are looked at all the same."""

    def broken(*_: object) -> None:
        raise RuntimeError("what is this?")

    for place in ("plugins", "Catalog.scan"):
        with monkeypatch.context() as patch:
            patch.setattr(f"codex_kernel.doctor.{place}", broken)
            findings = list(doctor.examine(tmp_path / "cache", tmp_path / "runs"))
        assert [f for f in findings if f.subject == "plugins" and "what is this?" in f.message]
        assert "codex-kernel" in {f.subject for f in findings}


def test_a_line_that_removes_remains_is_safe_to_paste(tmp_path: Path) -> None:
    """Whatever a folder is called, a shell takes it as one word."""
    left = tmp_path / "my site" / "~ip; touch x"
    left.mkdir(parents=True)
    (finding,) = packages.damaged([str(left.parent)], [])
    assert finding.remedy is not None
    assert shlex.split(finding.remedy.partition(": ")[2]) == ["rm", "-r", str(left)]
    (unknown,) = machine.variables({"CODEX_X; touch x": "1"})
    assert shlex.split(unknown.remedy or "") == ["unset", "CODEX_X; touch x"]


def test_whatever_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    """Each note, warning and problem of this installation has its remedy, and each subject is looked at."""
    findings = list(doctor.examine(tmp_path / "cache", tmp_path / "runs"))
    assert [f for f in findings if f.level != "ok" and not f.remedy] == []
    subjects = {f.subject for f in findings}
    assert {
        "python",
        "plugins",
        "codex-kernel",
        "cache",
        "runs",
        "temp",
        "memory",
        "threads",
        "gpu",
    } <= subjects
    assert "encoding" in subjects


def test_a_plugin_path_that_is_not_there_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of other commands is one finding here."""
    monkeypatch.setenv("CODEX_PLUGIN_PATH", str(tmp_path / "nowhere"))
    findings = list(doctor.examine(tmp_path, tmp_path))
    assert ("problem", "plugins") in levels(findings)
