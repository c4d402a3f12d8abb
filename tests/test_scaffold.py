"""`codex plugins new`: every kind of project, as the real command line writes it, put to use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel._version import __version__
from codex_kernel.catalog import GROUPS
from codex_kernel.manifest import PLUGIN_NAME
from codex_kernel.plugin_project import read_project
from codex_kernel.scaffold import KINDS, Project, files_of, fill, kernel_range
from codex_kernel.static_manifest import build_apart, text_of
from tests.command import Said, Workplace
from tests.toys import install

FILES = {
    ".github/workflows/test.yml", ".gitignore", "CHANGELOG.md", "LICENSE", "README.md", "manifest.yaml",
    "pyproject.toml", "src/{package}/__init__.py", "src/{package}/codex-plugin.json", "src/{package}/py.typed",
    "tests/test_{word}.py", "tests/test_{word}_manifest.py",
}  # fmt: skip
SLOW = ("adapter", "model", "trainer")
"""Kinds whose contract takes more than ten seconds."""
each_kind = pytest.mark.parametrize("kind", KINDS)


@frozen
class Projects:
    """One project of each kind, called `my-KIND`, and what the command said of it."""

    workplace: Workplace
    said: dict[str, Said]

    def folder(self, kind: str) -> Path:
        """The project's folder."""
        return self.workplace.folder / f"codex-plugin-my-{kind}"

    def codex(self, kind: str, *arguments: str | Path) -> Said:
        """Run `codex` where the projects lie, with one of them on the path of plugins."""
        return self.workplace.codex("--plugin-path", self.folder(kind), *arguments)


@pytest.fixture(scope="module")
def projects(tmp_path_factory) -> Projects:
    """Write a project of each kind, as a user does."""
    workplace = Workplace(tmp_path_factory.mktemp("projects"))
    said = {kind: workplace.codex("plugins", "new", kind, f"my-{kind}") for kind in KINDS}
    assert {kind: one.err for kind, one in said.items() if one.code} == {}
    return Projects(workplace, said)


def words_of(kind: str) -> dict[str, str]:
    """Return what the names of a project are made of."""
    return {"package": f"codex_my_{kind}", "word": f"my_{kind}"}


# ── what is written ───────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_plugin_has_a_project():
    """The kinds are those of the catalog, in its order, each with its entry-point group."""
    assert {kind: made.group for kind, made in KINDS.items()} == GROUPS


@each_kind
def test_a_project_is_complete(projects, kind):
    """All files are there, none of them is empty but the mark of types, and no place of a template is left."""
    files = {path.relative_to(projects.folder(kind)).as_posix(): path
             for path in projects.folder(kind).rglob("*") if path.is_file()}  # fmt: skip
    assert {name.format(**words_of(kind)) for name in FILES} <= set(files)
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        assert bool(text) != name.endswith("py.typed"), name
        assert not re.search(r"@\{|WORD|PACKAGE", text), name
        assert text == "" or text.endswith("\n"), name


@each_kind
def test_the_metadata_says_what_the_plugin_is(projects, kind):
    """Name, range of kernels, licence, the requirements of its tests, and one entry point of the kind."""
    project = tomllib.loads((projects.folder(kind) / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"codex-plugin-my-{kind}"
    assert f"codex-kernel{kernel_range(__version__)}" in project["dependencies"]
    assert project["license"] == "MIT"
    assert (projects.folder(kind) / "LICENSE").read_text().startswith("MIT License\n")
    assert any("codex-kernel[testing]" in line for line in project["optional-dependencies"]["test"])
    ((group, points),) = project["entry-points"].items()
    assert group == GROUPS[kind]
    assert list(points) == [f"my-{kind}"]


@each_kind
def test_the_static_manifest_is_made_of_the_code(projects, kind):
    """`codex-plugin.json` is what would be built now, and building it left nothing else behind."""
    project = read_project(projects.folder(kind))
    assert project.manifest_file.read_text(encoding="utf-8") == text_of(build_apart(project))
    assert list(projects.workplace.folder.glob(".tmp-*")) == []


def test_ci_runs_the_tests_on_each_python(projects):
    """The workflow names the Pythons, and is not mangled by the places of templates."""
    text = (projects.folder("logger") / ".github" / "workflows" / "test.yml").read_text()
    assert 'python: ["3.11", "3.12", "3.13"]' in text
    assert "python-version: ${{ matrix.python }}" in text


@pytest.mark.parametrize(("kind", "use"), [
    ("logger", "codex run codex-plugin-my-logger/manifest.yaml"),
    ("command", "codex my-command codex-plugin-my-command/example"),
])  # fmt: skip
def test_the_next_three_commands_are_shown(projects, kind, use):
    """Install, test and use it, in the words of the installer in use, from the folder where one is."""
    lines = projects.said[kind].out.splitlines()
    place = f"codex-plugin-my-{kind}"
    assert lines[0].startswith(f"wrote {place}: ")
    assert [line[18:] for line in lines[2:]] == [f"pytest {place}", use]
    assert re.fullmatch(rf"  install it +(uv )?pip install (--python \S+ )?-e {place}", lines[1])


@pytest.mark.parametrize(("file", "text", "install", "test"), [
    ("uv-receipt.toml", "[tool]\nrequirements = [{ name = 'codex-kernel' }]\n",
     "uv tool install {tool} --with codex-kernel --with-editable codex-plugin-mine",
     "{python} -m pytest codex-plugin-mine"),
    ("pipx_metadata.json", "{}", "pipx inject {tool} -e codex-plugin-mine", "{python} -m pytest codex-plugin-mine"),
    ("pyvenv.cfg", "home = /usr/bin\n", "pip install -e codex-plugin-mine", "pytest codex-plugin-mine"),
])  # fmt: skip
def test_the_commands_fit_the_installer(tmp_path, monkeypatch, file, text, install, test):
    """An environment of `uv tool` or pipx takes the project its own way, and has its programs to itself."""
    from codex_kernel.cli import plugins_new

    (tmp_path / file).write_text(text)
    project = Project("logger", "mine", "codex-plugin-mine", __version__, 2026)
    folder = tmp_path / "codex-plugin-mine"
    folder.mkdir()
    (folder / "manifest.yaml").write_text(
        next(made for path, made in files_of(project).items() if path.name == "manifest.yaml")
    )
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    if file != "pyvenv.cfg":  # programs of a tool's environment are on no PATH
        monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    commands = dict(plugins_new._next_commands(project, Path("codex-plugin-mine")))
    assert commands["install it"] == install.format(tool=tmp_path.name)
    assert commands["test it"] == test.format(python=sys.executable)
    assert commands["use it"] == "codex run codex-plugin-mine/manifest.yaml"


# ── whether it is any good ────────────────────────────────────────────────────────────────────────────────────────


def checked(*words: str | Path, cwd: Path, variables: dict[str, str] | None = None) -> None:
    """Run a program of this environment; fail with what it said."""
    done = subprocess.run(
        [Path(sys.executable).parent / str(words[0]), *map(str, words[1:])],
        cwd=cwd, env={**os.environ, **(variables or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


def test_the_code_is_clean(projects):
    """Ruff has nothing to say, with the settings of each project, and would format nothing anew."""
    checked("ruff", "check", "--no-cache", ".", cwd=projects.workplace.folder)
    checked("ruff", "format", "--no-cache", "--check", ".", cwd=projects.workplace.folder)


@pytest.mark.slow
def test_the_types_are_right(projects):
    """Mypy has nothing to say under `strict`, of the code and of its tests."""
    folders = [projects.folder(kind) for kind in KINDS]
    sources = [folder / name for folder in folders for name in ("src", "tests")]
    path = {"MYPYPATH": os.pathsep.join(str(folder / "src") for folder in folders)}
    cwd = projects.workplace.folder
    checked("mypy", "--strict", "--cache-dir", cwd / "mypy", *sources, cwd=cwd, variables=path)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS]
)
def test_its_own_tests_pass(projects, kind):
    """The contract of the kind, and what is the plugin's own, from the folder that holds the project."""
    path = {"PYTHONPATH": str(projects.folder(kind) / "src"), "OMP_NUM_THREADS": "1"}
    command = ("python", "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", projects.folder(kind))
    checked(*command, cwd=projects.workplace.folder, variables=path)


@each_kind
def test_its_manifest_is_valid(projects, kind):
    """`codex validate` takes it as it is written, and finds the plugin of the project in it."""
    said = projects.codex(kind, "validate", f"codex-plugin-my-{kind}/manifest.yaml")
    assert (said.code, said.err) == (0, "")
    assert kind == "command" or f"{kind} 'my-{kind}' (codex-plugin-my-{kind} 0.1.0)" in said.out


def trained(projects: Projects, kind: str) -> Path:
    """Run the manifest of a project as it is written; return the folder of the run."""
    run = projects.workplace.folder / f"run-{kind}"
    said = projects.codex(kind, "run", f"codex-plugin-my-{kind}/manifest.yaml", "--run-dir", run)
    assert said.code == 0, said.err
    assert "all 20 steps done" in (run / "outcome.json").read_text()
    return run


@pytest.mark.slow
def test_its_manifest_runs(projects):
    """`codex run` trains with a new logger at once, with nothing edited, and the logger does its work."""
    journal = (trained(projects, "logger") / "my-logger.log").read_text().splitlines()
    assert journal[-1] == "completed after 20 steps: all 20 steps done"
    assert [line.partition(",")[0] for line in journal[1:5]] == [f"step {n} of 20" for n in (5, 10, 15, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"logger", "command"}])
def test_the_manifest_of_every_other_kind_runs(projects, kind):
    """`codex run` trains with it at once, and `codex generate` writes with what was trained."""
    written = projects.codex(
        kind, "generate", trained(projects, kind), "--prompt", "def ", "--max-new-tokens", "4"
    )
    assert written.code == 0, written.err
    assert written.out.startswith("def ")


def test_its_command_works(projects):
    """`codex my-command` draws the example that the project has."""
    said = projects.codex("command", "my-command", "codex-plugin-my-command/example")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("codex-plugin-my-command/example  █")


@pytest.mark.slow
def test_the_page_on_new_plugins_is_as_it_shows(tmp_path):
    """Every command of the page does and prints what the page shows, from the first one to an option of one's own."""
    from tests.docs.test_tutorials import DOCS, environment, play

    (tmp_path / "work").mkdir()
    play(DOCS / "how-to" / "new-plugin.md", tmp_path / "work", environment(tmp_path))


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def workplace(tmp_path) -> Workplace:
    """Return a folder to work in, with a logger `mine` of another distribution installed."""
    workplace = Workplace(tmp_path)
    install(
        workplace.site, "codex-other", {"codex.loggers": {"mine": "codex_taken:Mine"}},
        modules={"codex_taken": "class Mine: ..."},
    )  # fmt: skip
    return workplace


@pytest.mark.parametrize(("kind", "name", "error", "remedy"), [
    ("loger", "mine", "'loger' is no kind of plugin", "did you mean 'logger'?"),
    ("nothing", "mine", "'nothing' is no kind of plugin", "expected one of dataset, cleaner, "),
    ("logger", "my logger", "'my logger' cannot be the name of a plugin", "letters and digits"),
    ("logger", "../mine", "'../mine' cannot be the name of a plugin", "letters and digits"),
    ("logger", "x" * 41, "cannot be the name of a plugin", "40 characters at the most"),
    ("command", "My_Command", "'My_Command' cannot be the name of a command", "small letters"),
    ("command", "run", "codex has a command 'run' of its own", "choose another name"),
    ("logger", "mine", "logger 'mine' (codex-other 1.0) is installed already", "choose another name"),
    ("logger", "console", "logger 'console' (codex-kernel", "choose another name"),
    ("metric", "taken", "the package codex_taken is there already", "choose another name"),
    ("metric", "kernel", "the package codex_kernel is there already", "choose another name"),
])  # fmt: skip
def test_what_cannot_be_is_refused(workplace, kind, name, error, remedy):
    """A kind or a name that is none or taken is one error with its remedy, and nothing is written."""
    said = workplace.codex("plugins", "new", kind, name)
    assert (said.code, said.out) == (2, "")
    assert error in said.err
    assert remedy in said.err
    assert len(said.err.splitlines()) == 2
    assert [path.name for path in workplace.folder.iterdir()] == ["site"]


def test_a_name_that_a_known_plugin_has_is_refused(workplace):
    """Also where the distribution that has it is not installed: both could not be used together."""
    hidden = Workplace(workplace.folder, {"CODEX_PLUGINS": ""})
    said = hidden.codex("plugins", "new", "logger", "mlflow")
    assert said.code == 2
    assert "codex-mlflow" in said.err


def test_another_kind_may_have_the_name(workplace):
    """A name belongs to one distribution of a kind, not of all kinds."""
    assert workplace.codex("plugins", "new", "metric", "mine").code == 0


def test_a_folder_that_is_not_empty_is_left_alone(workplace):
    """It is an error, and what lies there stays as it was; an empty folder is filled."""
    folder = workplace.folder / "codex-plugin-free"
    folder.mkdir()
    assert workplace.codex("plugins", "new", "metric", "free").code == 0
    (folder / "README.md").write_text("mine")
    said = workplace.codex("plugins", "new", "metric", "free")
    assert said.code == 2
    assert "codex-plugin-free is there already, and not empty" in said.err
    assert (folder / "README.md").read_text() == "mine"


def test_what_cannot_be_written_leaves_nothing(workplace):
    """Where the project cannot be made whole there is an error, and no part of it."""
    workplace.write("in-the-way", "no folder")
    said = workplace.codex("plugins", "new", "metric", "free", "--output", "in-the-way/deeper")
    assert said.code == 6
    assert "Traceback" not in said.err
    assert {path.name for path in workplace.folder.iterdir()} == {"site", "in-the-way"}


def test_the_project_may_lie_elsewhere(workplace):
    """`--output` names the folder; the commands and the manifest's paths start from where one is."""
    said = workplace.codex("plugins", "new", "dataset", "notes", "--output", "it's here")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1].endswith("codex run 'it'\"'\"'s here/codex-plugin-notes/manifest.yaml'")
    project = workplace.folder / "it's here" / "codex-plugin-notes"
    validated = workplace.codex("--plugin-path", project, "validate", project / "manifest.yaml")
    assert validated.code == 0, validated.err


def test_what_the_run_needs_is_named_first(workplace):
    """Where the plugins of the manifest are not installed, the first line installs them."""
    bare = Workplace(workplace.folder, {"CODEX_PLUGINS": ""})
    said = bare.codex("plugins", "new", "logger", "free")
    assert said.code == 0, said.err
    line = said.out.splitlines()[1]
    assert line.startswith("  the run needs ")
    assert set(line.split()) >= {"install", "codex-hf", "codex-torch"}


# ── the pure part ─────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.sampled_from(sorted(KINDS)), st.from_regex(PLUGIN_NAME, fullmatch=True).filter(lambda n: len(n) <= 40)
)
def test_any_name_makes_valid_names(kind, name):
    """Whatever the plugin is called: pyproject is TOML, the modules are Python, the names are identifiers."""
    project = Project(kind, name, f"codex-plugin-{name}", "0.1.0", 2026)
    files = files_of(project)
    metadata = tomllib.loads(files[next(path for path in files if path.name == "pyproject.toml")])["project"]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", metadata["name"])
    module, _, target = metadata["entry-points"][GROUPS[kind]][name].partition(":")
    assert module.isidentifier()
    assert target.isidentifier()
    assert any(path.parts[:2] == ("src", module) for path in files)
    for path, text in files.items():
        if path.suffix == ".py":
            compile(text, str(path), "exec")


@pytest.mark.parametrize("name", ["true", "No", "123", "1e5", "0x1f", "7zip", "null", "on", "n"])
def test_a_name_that_yaml_reads_as_something_else_is_quoted(name):
    """The manifest names the plugin as a string, whatever it is called."""
    from codex_kernel.yaml_reader import read

    files = files_of(Project("tokenizer", name, "here", "0.1.0", 2026))
    text = files[next(path for path in files if path.name == "manifest.yaml")]
    assert read(text.encode(), "manifest.yaml").value["tokenizer"].value["type"].value == name


@pytest.mark.parametrize(("version", "expected"), [
    ("0.1.0", ">=0.1,<0.2"), ("0.12.3", ">=0.12,<0.13"), ("1.4.2", ">=1.4,<2"), ("0.2.0.dev3", ">=0.2.0.dev3,<0.3"),
])  # fmt: skip
def test_the_range_of_kernels_follows_from_the_version(version, expected):
    """From this minor version up to the next one that may break plugins; the running kernel is in it."""
    from packaging.specifiers import SpecifierSet

    assert kernel_range(version) == expected
    assert SpecifierSet(expected).contains(version, prereleases=True)


def test_a_place_without_a_value_is_an_error():
    """A template that names what there is not cannot be filled in."""
    assert fill("@{a} $b {c} ${{ d }}", {"a": "1"}) == "1 $b {c} ${{ d }}"
    with pytest.raises(KeyError):
        fill("@{b}", {"a": "1"})
