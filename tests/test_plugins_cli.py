"""`codex plugins`: what each of its commands shows, whatever is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import click
import pytest
from attrs import frozen
from described import manifest_of, put
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.cli.plugins import COMMANDS, plugins
from codex_kernel.cli.plugins_origin import in_words
from codex_kernel.options import option
from tests.command import Workplace, toy_workplace
from tests.docs.test_tutorials import environment
from tests.docs.tutorial import play
from tests.test_plugin_check import GOOD
from tests.toys import install

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "look-at-plugins.md"
BAD = {
    "raises": "raise ValueError('no such luck')",
    "exits": "import sys; sys.exit(3)",
    "aborts": "import os; os.abort()",
    "hangs": "import time; time.sleep(1000)",
}


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins."""
    return toy_workplace(tmp_path)


@pytest.fixture
def bad(workplace: Workplace) -> Workplace:
    """Install distributions whose modules do the worst, and some with broken metadata."""
    for name, module in BAD.items():
        plugin = {"codex.loggers": {name: f"codex_bad_{name}:Plugin"}}
        install(workplace.site, f"codex-bad-{name}", plugin, modules={f"codex_bad_{name}": module})
    metadata = install(workplace.site, "codex-spoilt", {"codex.loggers": {"spoilt": "not a target"}})
    (metadata / "METADATA").write_bytes(b"\xff\xfe\x00")
    (metadata / "RECORD").write_bytes(b"\xff")
    install(workplace.site, "codex-stale", {"codex.loggers": {"stale": "codex_nowhere:Plugin"}})
    wants = "codex-kernel<0.0.1"
    install(
        workplace.site,
        "codex-old",
        {"codex.loggers": {"old": "codex_old:Plugin"}},
        requires=wants,
        modules={"codex_old": GOOD},
    )
    return workplace


def told(workplace: Workplace, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Return what a command prints as JSON, which always is an object with its schema's version."""
    said = workplace.codex("plugins", *arguments, "--json")
    assert said.code == code, said.err
    assert "Traceback" not in said.err
    answer: dict[str, Any] = json.loads(said.out)
    assert answer["schema_version"] == 1
    return answer


# ── the group ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_command_of_the_table_is_there() -> None:
    """Each can be imported, has the name of the table, and a help text."""
    context = click.Context(plugins)
    assert plugins.list_commands(context) == list(COMMANDS)
    for name in COMMANDS:
        command = plugins.get_command(context, name)
        assert command is not None
        assert (command.name, bool(command.help)) == (name, True)
    assert plugins.get_command(context, "nonsense") is None


def test_help_imports_no_command(workplace: Workplace) -> None:
    """The table is all that help needs."""
    program = (
        "import sys; from codex_kernel.cli import main; main(['plugins', '--help'])\n"
        "print([n for n in sys.modules if n.startswith('codex_kernel.cli.plugins_')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_mark_of_the_source_is_shown_in_a_help(workplace: Workplace, command: str) -> None:
    """What keeps lines apart in the source does so, and is not printed."""
    said = workplace.codex("plugins", command, "--help")
    assert (said.code, "\\b" in said.out) == (0, False)
    assert command != "build-manifest" or re.search(r"^ *Exit codes: 0 written", said.out, re.MULTILINE)


def test_a_mistyped_command_is_told_with_the_near_one(workplace: Workplace) -> None:
    """As a mistyped option of a manifest is."""
    said = workplace.codex("plugins", "docter")
    assert (said.code, "did you mean 'doctor'?" in said.err) == (2, True)
    assert workplace.codex("plugins", "nothing-like-it").code == 2


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in {"new", "build-manifest"}])
@pytest.mark.parametrize("installed", ["bad", "none"])
def test_no_command_fails_over_what_is_installed(
    bad: Workplace, tmp_path: Path, command: str, installed: str
) -> None:
    """Bad plugins, broken metadata, or no plugin at all: each command answers, and nothing is a traceback."""
    some = [*BAD, "spoilt", "stale", "sharpen"] if installed == "bad" else ["console"]
    arguments = {"show": ["spoilt"], "search": ["log"], "check": [*some, "--timeout", "3"]}.get(command, [])
    place = bad if installed == "bad" else Workplace(tmp_path / "empty", {"CODEX_PLUGINS": ""})
    place.folder.mkdir(exist_ok=True)
    for form in ([], ["--json"]):
        said = place.codex("plugins", command, *arguments, *form)
        assert said.code in {0, 1, 7}, said.err
        assert "Traceback" not in said.out + said.err
        assert "not an error that codex knows" not in said.err
        assert not form or not said.out or json.loads(said.out)["schema_version"] == 1


@pytest.mark.parametrize("command", ["list", "tree", "doctor"])
def test_a_pipe_that_is_closed_is_no_error(workplace: Workplace, command: str) -> None:
    """`codex plugins list | head -1` ends in silence, and what is printed has no colours."""
    line = f"{sys.executable} -m codex_kernel plugins {command} | head -1"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=workplace.folder,
        env={**workplace.environment(), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout
    assert "Traceback" not in done.stderr


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bad_status_tells_its_reason(bad: Workplace) -> None:
    """In the table it stands where the summary would."""
    rows = {row["name"]: row for row in told(bad, "list", "--kind", "logger")["plugins"]}
    assert rows["old"]["status"] == "incompatible"
    assert "needs codex-kernel<0.0.1" in rows["old"]["reason"]
    assert "reason" not in rows["console"]
    assert "needs codex-kernel<0.0.1" in bad.codex("plugins", "list").out


def test_what_is_left_out_is_counted(bad: Workplace) -> None:
    """Shadowed and stale plugins are a line below the table, and rows with --all."""
    again = bad.folder / "again"
    shutil.copytree(bad.site, again)
    both = Workplace(bad.folder, {"PYTHONPATH": f"{bad.site}:{again}"})
    said = both.codex("plugins", "list")
    assert "stale" not in said.out
    assert "not shown: 13 shadowed, 2 stale (--all shows them)" in said.err
    shown = told(both, "list", "--all")
    assert shown["hidden"] == {}
    assert {"shadowed", "stale", "ok"} <= {row["status"] for row in shown["plugins"]}
    assert told(both, "list")["hidden"] == {"shadowed": 13, "stale": 2}
    assert {row["name"] for row in told(both, "list", "--status", "stale")["plugins"]} == {"stale", "spoilt"}


def test_a_list_may_be_a_part(workplace: Workplace) -> None:
    """By kind, by distribution as its name may be written, by status; what is none of them is refused."""
    rows = told(workplace, "list", "--kind", "trainer", "--distribution", "Codex_Toys")["plugins"]
    assert [(row["kind"], row["name"]) for row in rows] == [("trainer", "toy")]
    assert told(workplace, "list", "--status", "incompatible")["plugins"] == []
    assert "no such plugin is installed" in workplace.codex("plugins", "list", "--distribution", "gone").err
    assert workplace.codex("plugins", "list", "--status", "nonsense").code == 2


def test_the_distributions_of_plugins_are_requirements(workplace: Workplace) -> None:
    """As pip reads them, each once."""
    lines = workplace.codex("plugins", "list", "--requirements").out.splitlines()
    assert "codex-toys==1.0" in lines
    assert len(lines) == len(set(lines))
    assert told(workplace, "list", "--requirements")["requirements"] == lines


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_is_shown(workplace: Workplace) -> None:
    """What it does, where it comes from, its hooks, and its options with type, default, bounds and meaning."""
    module = GOOD.replace("every: int = 10", "every: int = option(7, ge=1, lt=99, help='Steps between.')")
    plugin = {"codex.loggers": {"mine": "codex_mine:Plugin"}}
    install(
        workplace.site, "codex-mine", plugin, modules={"codex_mine": module}, requires="codex-kernel>=0.1"
    )
    said = workplace.codex("plugins", "show", "mine")
    assert said.code == 0, said.err
    for words in (
        "logger mine",
        "codex-mine 1.0",
        str(workplace.site),
        "codex_metrics",
        "wants codex-kernel>=0.1",
    ):
        assert words in said.out
    assert "every   an integer  7        ≥ 1, < 99  Steps between." in said.out
    shown = told(workplace, "show", "codex-mine/logger:mine")
    assert shown["options"]["properties"]["every"]["minimum"] == 1
    assert (shown["id"], shown["described_by"]) == ("codex-mine/logger:mine", "code")
    schema = json.loads(workplace.codex("plugins", "show", "mine", "--schema").out)
    assert schema == shown["options"]


def test_a_plugin_with_a_static_manifest_is_shown_without_its_code(workplace: Workplace) -> None:
    """Its module would end the process that imports it."""

    @frozen
    class Far:
        depth: int = option(2, ge=1, help="Levels.")

    far = ("logger", "far", "codex_far:Far", Far)
    module = {"codex_far": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"}
    metadata = install(
        workplace.site, "codex-far", {"codex.loggers": {"far": "codex_far:Far"}}, modules=module
    )
    put(metadata, manifest_of("codex-far", [far]), "codex_far.codex-plugin.json")
    said = workplace.codex("plugins", "show", "far")
    assert said.code == 0, said.err
    assert "its static manifest" in said.out
    assert "made for 1.1" in said.out
    assert "depth   an integer  2        ≥ 1     Levels." in said.out
    assert told(workplace, "show", "far")["described_by"] == "static manifest"


def test_a_name_of_several_plugins_lists_them(workplace: Workplace) -> None:
    """Each by the word that means it alone."""
    said = workplace.codex("plugins", "show", "toy")
    assert said.code == 7
    assert "may be any of 5 plugins" in said.err
    assert "codex-toys/dataset:toy, codex-toys/model:toy" in said.err
    for word in (
        "trainer:toy",
        "codex-toys/trainer:toy",
        "Codex.Toys/trainer:toy",
        "sharpen",
        "codex-toys/sharpen",
    ):
        assert workplace.codex("plugins", "show", word).code == 0


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("sharpn", "did you mean 'sharpen'?"),
        ("model:sharpen", "did you mean 'codex-toys/adapter:sharpen'?"),
        ("nothing-like-it-at-all", "codex plugins list shows what is installed"),
    ],
)
def test_an_unknown_plugin_is_told_with_the_near_one(workplace: Workplace, word: str, remedy: str) -> None:
    """Or with another kind of the same name."""
    said = workplace.codex("plugins", "show", word)
    assert said.code == 7
    assert f"no plugin {word!r} is installed" in said.err
    assert remedy in said.err


@pytest.mark.parametrize("name", ["raises", "exits", "aborts", "spoilt", "old"])
def test_a_broken_plugin_is_shown_as_far_as_it_is_known(bad: Workplace, name: str) -> None:
    """Its metadata are shown, and why the rest is not; no code of it runs in this process."""
    said = bad.codex("plugins", "show", name)
    assert said.code == 7
    assert f"logger {name}" in said.out
    assert "its options are not known" in said.err
    assert told(bad, "show", name, code=7)["options"] is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "/a b (editable)"),
        ({"url": "https://me:secret@host/x", "vcs_info": {"commit_id": "abc"}}, "https://host/x @ abc"),
        ({"url": "https://host/x.whl", "archive_info": {}}, "https://host/x.whl"),
        ({"url": 3}, None),
        ([], None),
        (None, None),
    ],
)
def test_what_an_installer_recorded_is_told(url: object, words: str | None) -> None:
    """A project in work, a commit, an archive; without a password."""
    assert in_words(url) == words


@given(
    st.recursive(st.none() | st.text() | st.integers(), lambda x: st.dictionaries(st.text(), x) | st.lists(x))
)
def test_no_record_of_an_installer_is_too_much(record: object) -> None:
    """Whatever JSON a direct_url.json holds."""
    in_words(record)
    in_words({"url": "file:///x", "dir_info": record, "vcs_info": record})


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_broken_plugins_are_told_and_the_others_checked(bad: Workplace) -> None:
    """One line each; the exit code is 7, the error says how many and how to go on."""
    found = told(bad, "check", "--timeout", "20", code=7)
    verdicts = {row["name"]: row["verdict"] for row in found["plugins"] if row["kind"] == "logger"}
    assert {name: verdicts[name] for name in (*BAD, "spoilt", "stale")} == dict.fromkeys(
        (*BAD, "spoilt", "stale"), "broken"
    )
    assert (verdicts["old"], verdicts["toy"], verdicts["console"]) == (
        "not imported",
        "warning",
        "ok",
    )  # the toys import numpy
    assert found["broken"] == 6


def test_the_plugins_that_are_named_are_checked(bad: Workplace) -> None:
    """In their order, each once; an incompatible one that is asked for is an error."""
    said = bad.codex("plugins", "check", "sharpen", "console", "codex-toys/sharpen")
    assert said.code == 0, said.err
    assert [line.split()[1] for line in said.out.splitlines()[1:]] == ["sharpen", "console"]
    old = bad.codex("plugins", "check", "old")
    assert old.code == 7
    assert "logger 'old' (codex-old 1.0) cannot be used: needs codex-kernel<0.0.1" in old.err
    raises = bad.codex("plugins", "check", "raises")
    assert raises.code == 7
    assert "ValueError: no such luck" in raises.out
    assert len(raises.err.splitlines()) <= 6
    assert bad.codex("plugins", "check", "--timeout", "0").code == 2


# ── tree ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MIXED = """\
name: mixed
dataset: {type: mixture, sources: {a: {type: toy}, b: codex-toys/toy}}
tokenizer: bytes
model: toy
adapters: [sharpen, {type: codex-toys/sharpen}]
trainer: {type: toy, max_steps: 6}
checkpointer: {type: toy, every_steps: 2}
loggers: [toy]
"""


def test_the_tree_of_all_is_by_kind(workplace: Workplace) -> None:
    """Kind, plugin, distribution, version and where it comes from."""
    said = workplace.codex("plugins", "tree")
    assert re.search(rf"─ toy +codex-toys 1\.0  {re.escape(str(workplace.site))}$", said.out, re.MULTILINE)
    kinds = {row["kind"]: row["plugins"] for row in told(workplace, "tree")["kinds"]}
    assert {"name": "toy", "distribution": "codex-toys"}.items() <= kinds["checkpointer"][-1].items()


def test_the_tree_of_a_manifest_has_its_sections(workplace: Workplace) -> None:
    """A mixture stands above its sources, an adapter above what it wraps, the outermost first."""
    workplace.write("mixed.yaml", MIXED)
    said = workplace.codex("plugins", "tree", "mixed.yaml")
    assert said.code == 0, said.err
    lines = [line.partition("  codex-")[0].rstrip() for line in said.out.splitlines()]
    assert lines == [
        "manifest: mixed",
        "├── dataset",
        "│   └── mixture",
        "│       ├── a: toy",
        "│       └── b: codex-toys/toy",
        "├── tokenizer",
        "│   └── bytes",
        "├── model",
        "│   └── codex-toys/sharpen (adapter)",
        "│       └── sharpen (adapter)",
        "│           └── toy",
        "├── checkpointer",
        "│   └── toy",
        "├── trainer",
        "│   └── toy",
        "├── metrics",
        "│   ├── perplexity",
        "│   └── bits-per-byte",
        "└── loggers",
        "    └── toy",
    ]
    rows = {row["path"]: row for row in told(workplace, "tree", "mixed.yaml")["plugins"]}
    assert (rows["$.adapters[0]"]["wraps"], rows["$.adapters[1]"]["wraps"]) == ("$.model", "$.adapters[0]")
    assert rows["$.dataset.sources.b"]["source_of"] == "$.dataset"


def test_a_section_without_its_plugin_is_told_in_the_tree(workplace: Workplace) -> None:
    """The other sections are shown, and the exit code is 7."""
    workplace.write("mixed.yaml", MIXED.replace("b: codex-toys/toy", "b: gone"))
    said = workplace.codex("plugins", "tree", "mixed.yaml")
    assert said.code == 7
    assert "b: gone" in said.out
    assert "└── loggers" in said.out
    assert "$.dataset.sources.b: unknown dataset 'gone'" in said.err


def test_a_manifest_decides_over_its_tree(workplace: Workplace) -> None:
    """What its plugins.allow leaves out fills no section."""
    workplace.write("mixed.yaml", f"plugins: {{allow: [codex-hf]}}\n{MIXED}")
    said = workplace.codex("plugins", "tree", "mixed.yaml")
    assert said.code == 7
    assert "plugins.allow" in said.out


def test_the_tree_of_a_run_is_its_record(workplace: Workplace) -> None:
    """And says where something else, or nothing, is installed now."""
    assert workplace.codex("run", "toy.yaml").code == 0
    assert "now:" not in workplace.codex("plugins", "tree", "toy").out
    metadata = next(workplace.site.glob("codex_toys-*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    said = workplace.codex("plugins", "tree", "toy")
    assert said.out.startswith("run: toy/")
    assert "codex-toys 1.0  now: codex-toys 1.1" in said.out
    (workplace.site / "codex_toys.py").unlink()
    gone = told(workplace, "tree", "toy")
    model = next(row for row in gone["plugins"] if row["path"] == "$.model")
    assert (model["version"], model["fault"]) == ("1.0", None)
    assert model["remark"].startswith("now: ")


def test_the_tree_of_nothing_is_an_error(workplace: Workplace) -> None:
    """A file that is not there, a run that is none, a damaged record."""
    assert "no such file" in workplace.codex("plugins", "tree", "none.yaml").err
    assert "no run 'none'" in workplace.codex("plugins", "tree", "none").err
    assert workplace.codex("run", "toy.yaml", "--run-dir", "here").code == 0
    (workplace.folder / "here" / "plugins.lock.json").write_text("{}")
    said = workplace.codex("plugins", "tree", "here")
    assert (said.code, "plugins.lock.json cannot be read" in said.err) == (2, True)


# ── search ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_installed_and_what_is_not_is_found(workplace: Workplace) -> None:
    """By words of the name, the kind, the distribution or the summary; what is not installed has its install line."""
    found = {(row["kind"], row["name"]): row for row in told(workplace, "search", "CHECKPOINTER")["plugins"]}
    assert found["checkpointer", "toy"]["version"] == "1.0"
    assert found["checkpointer", "toy"]["install"] is None
    assert found["checkpointer", "safetensors"]["version"]
    assert told(workplace, "search", "toys trainer")["plugins"][0]["name"] == "toy"


def test_an_install_line_names_only_what_the_index_has(tmp_path: Path) -> None:
    """Without the distribution on the path, its plugins are known all the same."""
    from codex_kernel.catalog import Catalog
    from codex_kernel.cli.plugins_search import _known

    matches = _known(Catalog.scan([str(tmp_path)]))
    assert {(m.kind, m.name) for m in matches} >= {("adapter", "lora"), ("logger", "console")}
    assert all(m.version is None and m.install and m.distribution in m.install for m in matches)


def test_no_match_is_told_with_the_near_name(workplace: Workplace) -> None:
    """It is no error."""
    said = workplace.codex("plugins", "search", "lorra")
    assert (said.code, said.out) == (0, "")
    assert "did you mean 'lora'?" in said.err
    nothing = told(workplace, "search", "lorra")
    assert (nothing["plugins"], nothing["near"]) == ([], "did you mean 'lora'?")


# ── doctor ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_doctor_works_with_broken_plugins_and_imports_none(bad: Workplace) -> None:
    """They are findings; modules that abort or hang are not imported, and torch is not."""
    found = told(bad, "doctor")
    messages = "\n".join(f"{row['level']} {row['message']}" for row in found["findings"])
    assert "warning codex-stale 1.0: logger stale: stale" in messages
    assert "warning codex-old 1.0: logger old: incompatible" in messages
    assert found["problems"] == 0
    assert bad.codex("plugins", "doctor").err.startswith("no problem found")


def test_a_problem_is_exit_code_1(workplace: Workplace) -> None:
    """A plugin's requirement that is not met is one, and the line that mends it is below it."""
    install(workplace.site, "codex-needy", {"codex.loggers": {"needy": "os:x"}}, requires="gone-for-good>=2")
    said = workplace.codex("plugins", "doctor")
    assert said.code == 1
    assert "needs gone-for-good>=2, which is not installed" in said.out
    assert "install 'gone-for-good>=2'" in said.out
    assert "1 problem found" in said.err


# ── the terminal ──────────────────────────────────────────────────────────────────────────────────────────────────


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b2J\x7fhi"


def str_of(value: object) -> str:
    """Return all text in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    return " ".join(map(str_of, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("plugins", "list"), 0),
        (("plugins", "list", "--json"), 0),
        (("plugins", "tree"), 0),
        (("plugins", "search", "hi"), 0),
        (("plugins", "show", "odd"), 0),
        (("plugins", "show", "odd", "--json"), 0),
        (("plugins", "check", "odd", "quiet"), 7),
        (("plugins", "doctor"), None),
        (("quiet",), 7),
    ],
)
def test_no_plugin_can_speak_to_the_terminal(
    workplace: Workplace, arguments: tuple[str, ...], code: int | None
) -> None:
    """Control characters in what a plugin says of itself, or raises, are shown and not obeyed."""
    groups = {"codex.loggers": {"odd": "codex_odd:Plugin"}, "codex.commands": {"quiet": "codex_quiet:none"}}
    raising = f"raise ValueError({ESCAPES!r})"
    modules = {
        "codex_odd": GOOD.replace("class Plugin:", f"class Plugin:\n    {ESCAPES!r}\n"),
        "codex_quiet": raising,
    }
    metadata = install(workplace.site, "codex-odd", groups, modules=modules)
    header = (metadata / "METADATA").read_text().replace("codex-odd for tests", ESCAPES)
    (metadata / "METADATA").write_text(header)
    with (metadata / "entry_points.txt").open("a") as file:
        file.write(f"[codex.metrics]\n{ESCAPES} = codex_gone:M\n")
    said = workplace.codex(*arguments)
    assert code is None or said.code == code, said.err
    both = said.out + said.err
    assert not [c for c in both if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert "owned" in both
    if "--json" in arguments:
        assert ESCAPES in str_of(json.loads(said.out))


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_shows_what_happens(tmp_path: Path) -> None:
    """docs/how-to/look-at-plugins.md, played as a reader would."""
    (tmp_path / "work").mkdir()
    play(PAGE, tmp_path / "work", environment(tmp_path))
