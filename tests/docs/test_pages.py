"""The pages against the code: nothing is missing on them, and nothing on them is invented."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from codex_kernel import errors, hookspecs
from codex_kernel.catalog import Catalog
from codex_kernel.data.options import DataOptions
from codex_kernel.interfaces import Outcome
from codex_kernel.loading import load
from codex_kernel.manifest import EvaluateSection
from codex_kernel.manifest import load as load_manifest
from codex_kernel.metrics import RESERVED
from codex_kernel.option_types import options_of
from codex_kernel.plan import resolve
from codex_kernel.runfolder import RunFolder
from tests.docs.tutorial import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLUGIN_PAGES = sorted(ROOT.glob("plugins/*/README.md"))
EXAMPLE_PAGES = sorted(ROOT.glob("examples/*/README.md"))
BY_NAME = [str(page.relative_to(ROOT)) for page in [*PAGES, *PLUGIN_PAGES, *EXAMPLE_PAGES]]

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
UNFINISHED = re.compile(
    r"\b(todo|fixme|tbd|wip|coming soon|not yet implemented|work in progress|in the future|planned for|later"
    r" version)\b",
    re.IGNORECASE,
)


def text(page: Path | str) -> str:
    """Return a page by its path from the root."""
    return (ROOT / page).read_text(encoding="utf-8")


def generator() -> ModuleType:
    """Import docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ── links and words ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", BY_NAME)
def test_every_link_leads_somewhere(page):
    """A relative link names a file or a folder of the repository, and a heading that the page has."""
    for link in LINK.findall(text(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_index():
    """Following links from docs/index.md, a reader comes to every page."""
    reached, open_ = set(), [ROOT / "docs" / "index.md"]
    while open_:
        page = open_.pop().resolve()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        links = LINK.findall(page.read_text(encoding="utf-8"))
        open_ += [page.parent / link.partition("#")[0] for link in links if "://" not in link]
    assert set((ROOT / "docs").rglob("*.md")) - reached == set()


@pytest.mark.parametrize("page", BY_NAME)
def test_no_page_speaks_of_unfinished_things(page):
    """A page says what is there."""
    assert UNFINISHED.findall(text(page)) == []


@pytest.mark.parametrize("page", BY_NAME)
def test_no_page_knows_a_machine(page):
    """No absolute path of somebody's machine stands on a page."""
    assert re.findall(r"(?<![\w.~])/(?:work|home|root|tmp|Users)/", text(page)) == []


# ── what the code says ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_generated_pages_are_up_to_date():
    """docs/generate.py would change nothing."""
    assert [page.name for page, _ in generator().stale()] == []


def test_the_generator_fails_where_a_page_is_stale(tmp_path, monkeypatch, capsys):
    """With --check it names the page and returns 1; without, it rewrites it."""
    module = generator()
    (tmp_path / "reference").mkdir()
    page = tmp_path / "reference" / "page.md"
    page.write_text("before\n<!-- generated: data options -->\nold\n<!-- generated: end -->\nafter\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert module.main(["--check"]) == 1
    assert "out of date: page.md" in capsys.readouterr().out
    assert module.main([]) == 0
    assert "`seq_len`" in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    assert module.main(["--check"]) == 0


def test_every_hook_has_a_heading():
    """The page of hooks has a heading for each hook, with its arguments."""
    hooks = [name for group in hookspecs.SPECS for name in vars(group) if name.startswith("codex_")]
    headings = re.findall(r"^### (codex_\w+)\((.*)\)$", text("docs/reference/hooks.md"), re.MULTILINE)
    assert [name for name, _ in headings] == hooks


def test_every_exit_code_is_on_its_page():
    """Each error that codex raises on purpose stands in the table with its code."""
    table = text("docs/reference/exit-codes.md")
    for error in vars(errors).values():
        if not (isinstance(error, type) and issubclass(error, errors.CodexError)):
            continue
        code = "128+n" if error is errors.StoppedError else str(error.exit_code)
        row = next(row for row in table.splitlines() if f"`{error.__name__}`" in row)
        assert row.split("|")[1].strip() == code


def test_every_file_of_a_run_is_on_its_page():
    """The page of the run folder names each file that the kernel writes, and each field of its records."""
    page = text("docs/reference/run-folder.md")
    folder = RunFolder(Path("run"), "id", "name", Path())
    properties = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    names = ["run.json", "run.lock", *(getattr(folder, name).name for name in properties)]
    fields = [*RESERVED, *(field.name for field in attrs.fields(Outcome))]
    assert [name for name in [*names, *fields] if f"`{name}" not in page] == []


def test_every_event_is_on_its_page():
    """Each event that the kernel or a first-party plugin writes is explained."""
    sources = [*ROOT.glob("codex_kernel/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    call = re.compile(r'\b(?:_write_event|report\.event|reporter\.event|self\.event)\(\s*"([a-z_]+)"')
    written = {name for source in sources for name in call.findall(source.read_text(encoding="utf-8"))}
    assert written
    page = text("docs/reference/run-folder.md")
    assert sorted(name for name in written if f"`{name}`" not in page) == []


def test_the_picture_shows_every_layer():
    """Each module of the import contracts is in the picture, but those that the text names."""
    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    modules = {module for layer in layers for module in re.split(r" [|:] ", layer)}
    picture = text("docs/explanation/architecture.svg")
    missing = {module for module in modules if not re.search(rf"\b{module}\b", picture)}
    assert missing <= {"__main__", "_version", "hatch_hook", "testing"}


def test_the_table_of_the_readme_has_every_plugin():
    """The README names each first-party plugin in the row of its kind and distribution."""
    rows, distribution = set(), ""
    for cells in re.findall(r"^\| (.*) \|$", text("README.md"), re.MULTILINE):
        first, kind, types = (cell.strip() for cell in f" {cells}".split("|"))
        distribution = re.sub(r"\[(.*)\].*", r"\1", first) or distribution
        rows |= {(distribution, kind, name) for name in re.findall(r"`([\w-]+)`", types)}
    installed = {
        (entry.distribution, entry.kind, entry.name)
        for entry in Catalog.scan().entries
        if (entry.distribution.startswith("codex-") and (ROOT / "plugins" / entry.distribution).exists())
        or entry.distribution == "codex-kernel"
    }
    assert rows == installed


def test_the_readme_shows_the_example_plugin():
    """The plugin of the README is the one that the tests install."""
    shown = next(block.text for block in blocks(text("README.md")) if block.language == "python")
    assert shown == text("examples/codex-plugin-stdout/codex_stdout.py")


# ── what a reader types ───────────────────────────────────────────────────────────────────────────────────────────


def typed() -> list[tuple[str, str]]:
    """Return (page, command) of every command on a page that is not played, in its `sh` and `console` blocks."""
    found = []
    for page in [*PAGES, *PLUGIN_PAGES, *EXAMPLE_PAGES, ROOT / "CONTRIBUTING.md"]:
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.language in {"sh", "console"}:
                lines = (
                    line.partition(" #")[0].removeprefix("$ ").strip() for line in block.text.splitlines()
                )
                found += [(page.name, line) for line in lines if line]
    return found


def test_every_job_of_dev_py_exists():
    """A command `python3 dev.py JOB` on any page names a job that dev.py explains."""
    jobs = {line.split()[2] for _, line in typed() if line.startswith("python3 dev.py")}
    shown = subprocess.run(
        [sys.executable, ROOT / "dev.py"], capture_output=True, text=True, check=False
    ).stderr
    assert {"demo", "test", "sync"} <= jobs
    assert sorted(job for job in jobs if f"python3 dev.py {job}" not in shown) == []


def test_every_script_of_hatch_exists():
    """A command `hatch run SCRIPT` names a script of hatch.toml."""
    scripts = tomllib.loads(text("hatch.toml"))["envs"]["default"]["scripts"]
    named = {name for page in PAGES for name in re.findall(r"`hatch run ([\w-]+)`", page.read_text("utf-8"))}
    assert named
    assert named <= set(scripts)


EVERYWHERE = {"--debug", "--no-plugins", "--plugin-path", "--trace-plugins"}
"""Flags of `codex` itself, which may stand anywhere on a line."""
COMMANDS_OF_EXAMPLES = {"best", "bset", "mine", "NAME", "DISTRIBUTION/NAME", "distribution/name"}
"""Commands of plugins that a page makes, or speaks of; one is misspelt on purpose."""


def test_every_command_of_codex_exists():
    """A command line of codex on any page has a command and long options that its help knows."""
    reference = text("docs/reference/commands.md")
    for page, line in typed():
        if not line.startswith("codex "):
            continue
        words = [word for word in line.split() if word.partition("=")[0] not in EVERYWHERE]
        if words[1].rpartition("/")[2] in COMMANDS_OF_EXAMPLES:
            continue
        name = (
            " ".join(words[:3])
            if words[1] in {"runs", "plugins", "checkpoints", "data", "tokenizer"}
            else " ".join(words[:2])
        )
        if name in {"codex --version", "codex --help"}:
            continue
        section = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL)
        assert section, f"{page}: {line}"
        for word in words:
            option = word.partition("=")[0]
            assert not option.startswith("--") or option in section[1], f"{page}: {line}"


def options() -> dict[str, set[str]]:
    """Return section → the names of the options that any first-party plugin, or the kernel, has there."""
    own = {"data": DataOptions, "evaluate": EvaluateSection}
    found = {section: {option.name for option in options_of(cls)} for section, cls in own.items()}
    found["evaluate"].add("metrics")
    for entry in Catalog.scan().entries:
        names = {option.name for option in options_of(load(entry))}
        found.setdefault(entry.kind, {"type"}).update(names)
    return found


def test_every_option_on_a_page_exists():
    """What stands on a page as `section.option`, alone or after --set, is an option of that section."""
    known = options()
    place = re.compile(rf"(?:`|--set )({'|'.join(known)})\.(?!json)(\w+)")
    named = {(page.name, *found) for page in PAGES for found in place.findall(page.read_text("utf-8"))}
    slips = {"lrr"}  # the tutorial shows what a slip leads to
    assert len(named) > 10
    assert {found for found in named if found[2] not in known[found[1]] | slips} == set()


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_manifest_on_a_page_is_one(tmp_path, page):
    """A YAML block with a name is a whole manifest: its keys, plugins and options exist."""
    for block in blocks(text(page)):
        if block.language == "yaml" and block.text.startswith("name:") and "type: hello" not in block.text:
            path = tmp_path / "manifest.yaml"
            path.write_text(block.text)
            problems: list[errors.Problem] = []
            resolve(load_manifest(path, problems=problems), Catalog.scan(), problems)
