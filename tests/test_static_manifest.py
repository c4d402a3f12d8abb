"""What a distribution says of its plugins is read from its file, checked, and as good as their classes."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs import frozen
from described import manifest_of, put
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCALARS, classes_with_values, tree

from codex_kernel import static_file, static_manifest
from codex_kernel.catalog import Catalog
from codex_kernel.errors import InputError, PluginError, Problem
from codex_kernel.file_record import record_of
from codex_kernel.metadata import Entry
from codex_kernel.options import Secret, option
from codex_kernel.plugin_project import read_project
from codex_kernel.schema_types import class_of, is_described
from codex_kernel.section_schema import section_schema
from codex_kernel.structure import structure
from codex_kernel.testing.plugin_manifest import PluginManifestContract
from tests.command import Workplace
from tests.toys import install

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
KILLS = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
TARGET = "codex_far:Far"


def through_json(schema: Any) -> Any:
    """Return the schema as a file gives it back."""
    return json.loads(json.dumps(schema, allow_nan=False))


def nested(around: Callable[[Any], Any]) -> Any:
    """Return a schema that lies within another one four hundred times."""
    made: Any = {"type": "integer"}
    for _ in range(400):
        made = around(made)
    return made


def problems_of(cls: type, value: Any) -> list[Problem]:
    """Return what is wrong with a section."""
    problems: list[Problem] = []
    structure(cls, tree(value), "$.trainer", problems)
    return problems


@frozen
class Inner:
    """A part of it."""

    folder: Path = option(help="Where it is kept.")
    depth: int = option(2, ge=1, help="Levels.")


@frozen
class Everything:
    """Every form that an option has."""

    steps: int = option(help="Optimizer steps.", ge=1, le=10)
    lr: float | None = option(1e-3, gt=0, lt=1, help="Learning rate.")
    betas: tuple[float, float] = option((0.9, 0.95), ge=0, lt=1, help="Decays.")
    sizes: list[int] | int = option(1, ge=1, help="One, or several.")
    mode: Literal["fast", "slow", 3] = "fast"
    path: Path | None = None
    text: Path | str = "a"
    token: Secret | None = None
    flag: bool = False
    inner: Inner = option(factory=lambda: Inner(folder=Path("x")), help="The part.")
    parts: dict[str, Inner] | list[Inner] = option(factory=dict, help="More of them.")
    names: dict[str, int] = attrs.field(factory=dict)
    anything: Any = None
    warmup: int = attrs.field(default=attrs.Factory(lambda self: self.steps, takes_self=True))


NAMES = st.sampled_from([field.name for field in attrs.fields(Everything)] + ["stesp", "depth", "x"])
PARTS = st.fixed_dictionaries({}, optional={"depth": SCALARS, "folder": SCALARS, "dept": SCALARS})
ANYTHING = st.recursive(
    SCALARS | PARTS | st.floats(0, 2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(NAMES, ANYTHING, max_size=6))
def test_a_class_made_of_a_schema_finds_what_the_class_itself_finds(value):
    """Problem for problem, with path, message and hint, after the way through a file."""
    made = class_of(through_json(section_schema(Everything)))
    assert problems_of(made, value) == problems_of(Everything, value)


@given(classes_with_values())
def test_any_class_of_options_is_had_again_from_its_schema(pair):
    """Over generated classes and sections: the same paths and messages, and the same schema once more."""
    cls, value = pair
    schema = section_schema(cls)
    made = class_of(through_json(schema))
    assert [problem[:3] for problem in problems_of(made, value)] == [
        problem[:3] for problem in problems_of(cls, value)
    ]
    assert section_schema(made) == through_json(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        [],
        {"type": "object"},
        {"type": "object", "properties": {}, "additionalProperties": True},
        {"type": "object", "properties": {}, "additionalProperties": False, "required": ["a"]},
        *(
            {"type": "object", "properties": {name: {}}, "additionalProperties": False}
            for name in ("_a", "a b", "class", "a=print(1)", "", "a\nimport os", "self", "ﬁ")
        ),
        *(
            {"type": "object", "properties": {"a": one}, "additionalProperties": False}
            for one in (
                {"type": "text"},
                {"anyOf": []},
                {"enum": []},
                {"enum": [[1]]},
                {"type": "array"},
                {"type": "object"},
                {"type": "integer", "minimum": "1"},
                {"allOf": []},
                {"$ref": "#/$defs/model"},
                {"type": "string", "pattern": "a"},
                3,
                nested(lambda inner: {"type": "array", "items": inner}),
                nested(lambda inner: {"anyOf": [inner, {"type": "null"}]}),
                nested(
                    lambda inner: {
                        "type": "object",
                        "properties": {"a": inner},
                        "additionalProperties": False,
                    }
                ),
                {"type": "integer", "default": nested(lambda inner: [inner])},
            )
        ),
    ],
    ids=itertools.count(),
)
def test_a_schema_of_another_form_is_refused(schema):
    """Nothing of a file becomes code: no name that is none, no word that codex does not write."""
    with pytest.raises(PluginError):
        class_of(schema)


WORDS = st.sampled_from(
    [
        *(
            "type",
            "properties",
            "additionalProperties",
            "required",
            "description",
            "default",
            "enum",
            "anyOf",
        ),
        *("allOf", "items", "prefixItems", "minItems", "minimum", "propertyNames", "self", "cls", "a", "b"),
    ]
)
VALUES = st.sampled_from(
    [None, True, False, 0, 1.5, "object", "array", "integer", "string", "number", "a", "b"]
)
ODD = st.recursive(
    VALUES | st.sampled_from(list(section_schema(Everything)["properties"].values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(WORDS | st.text(max_size=3), ODD, max_size=3), ANYTHING)
def test_any_options_of_a_file_are_a_class_or_refused(properties, value):
    """Nothing else becomes of them, and with such a class a section is checked without an error."""
    try:
        made = class_of({"type": "object", "properties": properties, "additionalProperties": False})
    except PluginError:
        return
    problems_of(made, dict.fromkeys(properties, value))
    section_schema(made)


def test_a_class_made_of_a_schema_is_known_as_one():
    """So that nobody takes it for the plugin itself."""
    assert is_described(class_of(section_schema(Inner)))
    assert not is_described(Inner)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────


def far(site: Path, *, code: str = KILLS) -> Path:
    """Install a distribution with a logger `far` and return its metadata folder."""
    return install(site, "codex-far", {"codex.loggers": {"far": TARGET}}, modules={"codex_far": code})


def manifest(**changes: Any) -> dict[str, Any]:
    """Return the static manifest of that distribution."""
    return {**manifest_of("codex-far", [("logger", "far", TARGET, Inner)]), **changes}


def entry_of(site: Path) -> Entry:
    """Return the one plugin in a folder of installed distributions."""
    (entry,) = Catalog.scan([str(site)]).entries
    return entry


def test_a_plugin_is_described_by_its_file(tmp_path):
    """All that the file says, and nothing is imported: the module would kill the process."""
    put(far(tmp_path), manifest(), "codex_far/codex-plugin.json")
    entry = entry_of(tmp_path)
    described = static_manifest.describe(entry)
    assert described == static_file.read(entry)
    assert (described.kind, described.name, described.target) == ("logger", "far", TARGET)
    assert (described.summary, described.hooks, described.static) == (
        "The logger far.",
        ("codex_metrics",),
        True,
    )
    assert (described.plugin_api, described.options) == ((1, 1), section_schema(Inner))
    assert static_file.fault(entry) == ""


def test_a_command_is_described_by_its_help(tmp_path):
    """It has no options of a section."""
    metadata = install(tmp_path, "codex-far", {"codex.commands": {"go": "codex_far:go"}})
    commands = [{"name": "go", "target": "codex_far:go", "help": "Go far."}]
    put(metadata, manifest_of("codex-far", [], commands=commands))
    described = static_manifest.describe(entry_of(tmp_path))
    assert (described.kind, described.summary, described.options) == ("command", "Go far.", {})


def test_without_a_file_the_class_is_asked(tmp_path, monkeypatch):
    """The description is the one that a file would have given."""
    code = (
        "from attrs import frozen\nfrom codex_kernel import hookimpl\n@frozen\nclass Far:\n"
        '    """Goes far."""\n    every: int = 3\n    @hookimpl\n    def codex_metrics(self, step): ...\n'
    )
    far(tmp_path, code=code)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = entry_of(tmp_path)
    assert static_file.read(entry) is None
    described = static_manifest.describe(entry)
    sys.modules.pop("codex_far")
    assert (described.summary, described.static) == ("Goes far.", False)
    assert described.options["properties"] == {"every": {"type": "integer", "default": 3}}


def test_options_of_another_form_in_a_file_are_those_of_the_class(tmp_path, monkeypatch):
    """The description is then the one of the code, as it is where there is no file."""
    content = manifest()
    content["plugins"][0]["options"] = {
        "type": "object",
        "properties": {"self": {"type": "integer", "default": 1}},
        "additionalProperties": False,
    }
    put(far(tmp_path, code=GOOD), content)
    monkeypatch.syspath_prepend(str(tmp_path))
    described = static_manifest.describe(entry_of(tmp_path))
    sys.modules.pop("codex_far")
    assert (described.static, list(described.options["properties"])) == (False, ["every"])


@pytest.mark.parametrize("error", ["KeyError('NOPE')", "SystemExit(3)"])
def test_a_default_that_cannot_be_made_is_told_with_its_option(tmp_path, monkeypatch, error):
    """Whatever its factory raises: the plugin is named, the option, and the cause."""
    code = GOOD.replace("option(10, ge=1,", "option(factory=fails,")
    far(tmp_path, code=f"def fails():\n    raise {error}\n\n{code}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as told:
        static_manifest.describe(entry_of(tmp_path))
    sys.modules.pop("codex_far")
    cause = error.replace("(", ": ").replace(")", "")
    assert str(told.value) == (
        f"logger 'far' (codex-far 1.0): the default of option 'every' cannot be made: {cause}"
    )


def test_an_editable_installation_is_asked_itself(tmp_path):
    """Its code may be newer than its file; one from a folder that is not editable is believed."""
    metadata = far(tmp_path)
    put(metadata, manifest())
    (metadata / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {}}')
    assert static_file.read(entry_of(tmp_path))
    (metadata / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    assert static_file.read(entry_of(tmp_path)) is None
    assert static_file.fault(entry_of(tmp_path)) == ""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is not JSON"),
        (b"\xff\xfe{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ('{"schema_version": 1, "schema_version": 1}', "a key stands there twice"),
        (json.dumps(manifest()).replace("2", "NaN"), "NaN is no number of JSON"),
        ("[]", "'schema_version' is missing"),
        (manifest(schema_version=2), "its schema_version is 2, a newer one than 1"),
        (manifest(schema_version=True), "'schema_version' is a bool"),
        (manifest(plugin_api=[1]), "its plugin_api is [1]"),
        (manifest(plugins={}), "'plugins' is a dict"),
        (manifest(plugins=[{"kind": "logger"}]), "is missing"),
        (manifest(distribution="codex-other"), "it is that of 'codex-other'"),
        (manifest(plugins=[]), f"logger 'far' is nothing there, and {TARGET} among the entry points"),
        (manifest_of("codex-far", [("logger", "far", "other:Far", Inner)]), "is other:Far there"),
        (" " * (4 * 2**20) + json.dumps(manifest()), "it is larger than 4 MiB"),
    ],
    ids=range(15),
)
def test_a_file_that_is_not_whole_or_does_not_fit_is_not_believed(tmp_path, content, why):
    """`fault` says in one line what is wrong with it, and the plugin counts as one without a file."""
    put(far(tmp_path), content)
    entry = entry_of(tmp_path)
    assert static_file.read(entry) is None
    said = static_file.fault(entry)
    assert said.startswith("the codex-plugin.json of codex-far 1.0 is not used: ")
    assert why in said
    assert "\n" not in said


def test_a_file_that_was_changed_or_lost_after_the_installation_is_not_believed(tmp_path):
    """The record has its size and its hash."""
    file = put(far(tmp_path), manifest())
    file.write_text(file.read_text().replace("far.", "fab."))
    assert "it is not the file that was installed" in static_file.fault(entry_of(tmp_path))
    file.unlink()
    assert "it cannot be read: No such file" in static_file.fault(entry_of(tmp_path))


@pytest.mark.parametrize("place", ["../codex-plugin.json", "/codex-plugin.json"])
def test_a_record_that_points_elsewhere_is_not_followed(tmp_path, place):
    """The file lies in the installation, or nowhere."""
    metadata = far(tmp_path / "site")
    with (metadata / "RECORD").open("a") as record:
        record.write(f"{place},,\n")
    assert "outside of the installation" in static_file.fault(entry_of(tmp_path / "site"))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("m\0/codex-plugin.json,,\n", "it cannot be read: embedded null byte"),
        ("../outside/codex-plugin.json,,\n", "outside of the installation"),
        ("..\\outside\\codex-plugin.json,,\n", "outside of the installation"),
        ("pipe/codex-plugin.json,,\n", "it is no plain file"),
        ("big/codex-plugin.json,,\n", "it is larger than 4 MiB"),
        ("good/codex-plugin.json,sha256=wrong,\n", "it is not the file that was installed"),
        ("good/codex-plugin.json,sha0=wrong,\n", "a hash of the unknown kind 'sha0'"),
        ("good/codex-plugin.json\nbig/codex-plugin.json,,\n", "its record lists 2 of them"),
    ],
    ids=range(8),
)
def test_what_a_record_places_wrongly_is_a_reason_and_is_not_judged_by(tmp_path, record, why):
    """The listing takes no API of such a file, as the description takes nothing of it; neither fails."""
    site = tmp_path / "site"
    for folder in (tmp_path / "outside", site / "pipe", site / "big", site / "good"):
        folder.mkdir(parents=True)
    newer = json.dumps(manifest(plugin_api=[99, 0]))
    for folder in (tmp_path / "outside", site / "good"):
        (folder / "codex-plugin.json").write_text(newer)
    (site / "big" / "codex-plugin.json").write_text(newer + " " * 2**22)
    os.mkfifo(site / "pipe" / "codex-plugin.json")
    (far(site) / "RECORD").write_text(record)
    entry = entry_of(site)
    assert (entry.plugin_api, entry.status) == (None, "ok")
    assert why in static_file.fault(entry)
    assert static_file.read(entry) is None


def test_the_listing_judges_by_a_file_with_a_comma_in_its_quoted_name(tmp_path):
    """A record is CSV, in which an installer quotes such a path."""
    metadata = far(tmp_path)
    put(metadata, manifest(plugin_api=[99, 0]), "a, b/codex-plugin.json")
    text = (metadata / "RECORD").read_text()
    (metadata / "RECORD").write_text(text.replace("a, b/codex-plugin.json", '"a, b/codex-plugin.json"'))
    assert [row.path for row in record_of(metadata)] == ["codex_far.py", "a, b/codex-plugin.json"]
    assert (entry_of(tmp_path).plugin_api, entry_of(tmp_path).status) == ((99, 0), "incompatible")


@given(record=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_record_is_read_without_an_error(tmp_path_factory, record):
    """Whatever bytes lie there: files, or none that can be read."""
    metadata = tmp_path_factory.mktemp("any")
    assert record_of(metadata) is None
    (metadata / "RECORD").write_bytes(record)
    assert all(isinstance(row.path, str) for row in record_of(metadata) or ())


def test_a_file_is_read_once_for_all_plugins_of_a_distribution(tmp_path, monkeypatch):
    """And again once it has changed."""
    names = [f"far{number}" for number in range(20)]
    metadata = install(tmp_path, "codex-far", {"codex.loggers": dict.fromkeys(names, TARGET)})
    made = manifest_of("codex-far", [("logger", name, TARGET, Inner) for name in names])
    file = put(metadata, made)
    read: list[bytes] = []
    parse = static_file._parse
    monkeypatch.setattr(static_file, "_parse", lambda data: (read.append(data), parse(data))[1])
    entries = Catalog.scan([str(tmp_path)]).entries
    assert len([entry for entry in entries if static_file.read(entry)]) == 20
    assert len(read) == 1
    file.write_text("[]")
    assert "it is not the file that was installed" in static_file.fault(entries[0])


def test_two_files_are_none(tmp_path):
    """Nobody can say which one holds."""
    metadata = far(tmp_path)
    put(metadata, manifest())
    put(metadata, manifest(), "codex_far/codex-plugin.json")
    assert "its record lists 2 of them" in static_file.fault(entry_of(tmp_path))


# ── making it ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
class TestFirstParty(PluginManifestContract):
    """Each distribution of this repository ships the manifest that its classes make."""

    @pytest.fixture(autouse=True)
    def _of(self, project: Path) -> None:
        self.project = project


def far_project(folder: Path, code: str) -> Path:
    """Write a project with the logger `far` and return its folder."""
    (folder / "src" / "codex_far").mkdir(parents=True)
    (folder / "src" / "codex_far" / "__init__.py").write_text(code)
    table = f'[project.entry-points."codex.loggers"]\nfar = "{TARGET}"\n'
    (folder / "pyproject.toml").write_text(f'[project]\nname = "codex-far"\nversion = "1.0"\n\n{table}')
    return folder


GOOD = '''\
from attrs import frozen
from codex_kernel import hookimpl, option

@frozen
class Far:
    """Goes far."""

    every: int = option(10, ge=1, help="Steps between lines.")

    @hookimpl
    def codex_metrics(self, step, metrics): ...
'''


def test_build_manifest_writes_and_checks_the_file_of_a_project(tmp_path):
    """Written, up to date, then out of date in so many words, and exit 1; nothing else is touched."""
    project = far_project(tmp_path / "project", GOOD)
    workplace = Workplace(project)
    file = project / "src" / "codex_far" / "codex-plugin.json"
    said = workplace.codex("plugins", "build-manifest", "--check")
    assert (said.code, file.exists()) == (1, False)
    assert "src/codex_far/codex-plugin.json is not there" in said.out
    assert "wrote src/codex_far/codex-plugin.json" in workplace.codex("plugins", "build-manifest").out
    assert json.loads(file.read_text()) == static_manifest.build_apart(read_project(project))
    assert workplace.codex("plugins", "build-manifest", "--check").code == 0
    (file.parent / "__init__.py").write_text(GOOD.replace("ge=1", "ge=2").replace("Goes far", "Goes on"))
    before = file.read_bytes()
    said = workplace.codex("plugins", "build-manifest", project, "--check")
    assert said.code == 1
    assert "logger far: option 'every' has changed" in said.out
    assert "logger far: summary is 'Goes far.', should be 'Goes on.'" in said.out
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos.abort()\n", "ended with exit code -6"),
        ("raise ValueError('no')\n", "cannot be imported: ValueError: no"),
        (GOOD.replace("every: int", "every: complex"), "an option cannot be declared as <class 'complex'>"),
        (
            GOOD.replace("option(10", "option(float('inf')").replace("int", "float"),
            "cannot be written as JSON",
        ),
        (GOOD.replace("codex_metrics", "codex_metrix"), "unknown hook 'codex_metrix'"),
        (GOOD.replace("self, step, metrics", "self, *, step"), "takes 'step' by keyword only"),
        (GOOD.replace("self, step, metrics", "self, stepp"), "stepp"),
        (GOOD.replace("self, step, metrics", "self, stepp=1"), "'stepp', which the hook does not have"),
    ],
)
def test_build_manifest_leaves_the_file_alone_where_a_class_cannot_be_described(tmp_path, code, said):
    """Exit code 7, the cause, no traceback, and the file as it was."""
    project = far_project(tmp_path, code)
    file = project / "src" / "codex_far" / "codex-plugin.json"
    file.write_text("as it was")
    done = Workplace(tmp_path).codex("plugins", "build-manifest")
    assert (done.code, said in done.err, "Traceback" in done.err) == (7, True, False), done.err
    assert file.read_text() == "as it was"


def test_a_hook_for_other_kernels_is_no_fault_and_is_not_in_the_file(tmp_path):
    """Its decorator says so, in the word that is for it: `optionalhook`."""
    later = "    @hookimpl(optionalhook=True)\n    def codex_of_later(self): ...\n"
    made = static_manifest.build_apart(read_project(far_project(tmp_path, GOOD + later)))
    assert made["plugins"][0]["hooks"] == ["codex_metrics"]


def test_a_method_of_another_name_is_in_the_file_by_its_hook(tmp_path):
    """Its decorator says which hook it implements: `specname`. A run and the file then mean the same."""
    named = GOOD.replace("@hookimpl", '@hookimpl(specname="codex_metrics")').replace(
        "def codex_metrics", "def seen"
    )
    made = static_manifest.build_apart(read_project(far_project(tmp_path, named)))
    assert made["plugins"][0]["hooks"] == ["codex_metrics"]


STARTS = "import pathlib, subprocess, sys\npathlib.Path({!r}).write_text(str(subprocess.Popen(['sleep', '600']).pid))\n"


def is_running(pid: int) -> bool:
    """Say whether a process is there and has not ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    "ends",
    ["", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)\n", "import time; time.sleep(600)\n"],
)
def test_what_an_import_starts_ends_with_it(tmp_path, ends):
    """A process that keeps the output open holds nobody up, and is not left behind, however the import ends."""
    pid = tmp_path / "pid"
    project = read_project(far_project(tmp_path / "far", STARTS.format(str(pid)) + ends + GOOD))
    if ends:
        with pytest.raises(PluginError, match=r"ended with exit code -15|took more than 3 seconds"):
            static_manifest.build_apart(project, seconds=3)
    else:
        assert static_manifest.build_apart(project, seconds=60)["distribution"] == "codex-far"
    end = time.monotonic() + 10
    while is_running(int(pid.read_text())) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(int(pid.read_text()))


def test_the_folder_that_one_is_in_is_no_place_of_modules(tmp_path, monkeypatch):
    """A file that has the name of a module of Python's own stands in nobody's way."""
    project = read_project(far_project(tmp_path / "far", GOOD))
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert static_manifest.build_apart(project)["distribution"] == "codex-far"


def test_what_is_no_project_of_a_plugin_is_bad_input(tmp_path):
    """No pyproject.toml, one that is no TOML, one without plugins, and a module that is not there."""
    with pytest.raises(InputError, match="cannot be read"):
        read_project(tmp_path)
    for text, why in (("[", "pyproject"), ("[tool.x]", "expected"), ('[project]\nname = "a"', "no plugin")):
        (tmp_path / "pyproject.toml").write_text(text)
        with pytest.raises(InputError, match=why):
            read_project(tmp_path)
    project = far_project(tmp_path / "far", GOOD)
    (project / "src" / "codex_far" / "__init__.py").unlink()
    with pytest.raises(InputError, match="there is no module 'codex_far'"):
        _ = read_project(project).manifest_file


def test_a_manifest_for_an_older_api_is_up_to_date():
    """A newer kernel alone changes nothing of the plugins."""
    made = manifest(plugin_api=[1, 1])
    assert static_manifest.differences(json.dumps(manifest(plugin_api=[1, 0])), made) == []
    assert static_manifest.differences(json.dumps(manifest(plugin_api=[1, 2])), made) != []


def test_the_manifest_of_an_installed_distribution_is_made_of_its_entry_points():
    """By the name of the distribution, however it is written."""
    made = static_manifest.build("Codex_Kernel")
    assert made == json.loads((ROOT / "codex_kernel" / "codex-plugin.json").read_text())
    with pytest.raises(PluginError, match="no plugin of a distribution 'codex-nowhere'"):
        static_manifest.build("codex-nowhere")
