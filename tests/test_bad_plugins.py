"""A bad plugin: one line where nobody names it, one error of a few lines where a manifest does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.command import Workplace, toy_workplace
from tests.toys import TOY_MANIFEST, install

GOOD = (
    "from attrs import field, frozen\nfrom codex_kernel import hookimpl\n\n\n@frozen\nclass Mine:\n"
    "    @hookimpl\n    def codex_metrics(self, step): pass\n"
)
BAD = {
    "import-error": ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    "value-error": ("raise ValueError('bad day')", "ValueError: bad day"),
    "system-exit": ("raise SystemExit(3)", "it ended the process (SystemExit 3)"),
    "syntax-error": ("def (", "SyntaxError: invalid syntax (codex_bad_syntax_error.py, line 1)"),
    "base-exception": ("class Odd(BaseException): pass\nraise Odd('strange')", "Odd: strange"),
    "os-exit": ("import os\nos._exit(9)", "it ended the process (os._exit(9))"),
    "no-class": ("x = 1", "AttributeError: module 'codex_bad_no_class' has no attribute 'Mine'"),
    "deep-cause": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ImportError('outer') from error",
        "ZeroDivisionError: division by zero",
    ),
}
CONTRACT = {
    "no-attrs-class": ("Mine = 1", "is int, expected an attrs class"),
    "a-function": ("def Mine(): pass", "is function, expected an attrs class"),
    "no-hook": (
        "from attrs import frozen\n@frozen\nclass Mine: pass",
        "does not implement any hook",
    ),
    "forgotten-decorator": (
        GOOD.replace("    @hookimpl\n", ""),
        "has codex_metrics without @hookimpl",
    ),
}
AT_REGISTRATION = {
    "odd-comparison": (
        GOOD.replace("@frozen", "@frozen(eq=False)").replace(
            "    @hookimpl", "    def __eq__(self, _): 1 / 0\n    @hookimpl"
        ),
        "ZeroDivisionError",
    ),
    "misspelt-hook": (GOOD.replace("codex_metrics", "codex_metrisc"), "codex_metrisc"),
    "async-hook": (GOOD.replace("def codex", "async def codex"), "is async, hooks are plain functions"),
    "keyword-only": (GOOD.replace("self, step", "self, *, step"), "by keyword only"),
    "unknown-argument": (GOOD.replace("self, step", "self, stpe"), "stpe"),
    "defaulted-typo": (GOOD.replace("self, step", "self, stpe=None"), "'stpe', which the hook does not have"),
}

META = "class Meta(type):\n    def __dir__(cls): raise RuntimeError('no list')\n@frozen\nclass Mine(metaclass=Meta)"
NEVER_WRITTEN = {
    "complex-option": (
        "    odd: complex = 1j\n",
        "option 'odd': an option cannot be declared as <class 'complex'>",
    ),
    "object-default": (
        "    odd: object = field(factory=object)\n",
        "the default of option 'odd' cannot be written in a manifest: TypeError: Object of type object",
    ),
}
POST_INIT = "    def __attrs_post_init__(self):\n        raise {}\n    @hookimpl"
AT_MAKING = {
    "factory": (
        GOOD.replace("    @hookimpl", "    every: str = field(factory=lambda: {}['NOPE'])\n    @hookimpl"),
        "KeyError: 'NOPE'",
    ),
    "validator": (
        GOOD.replace(
            "    @hookimpl", "    every: int = field(default=1, validator=lambda *_: 1 / 0)\n    @hookimpl"
        ),
        "ZeroDivisionError: division by zero",
    ),
    "post-init": (
        GOOD.replace("    @hookimpl", POST_INIT.format("LookupError('no day')")),
        "LookupError: no day",
    ),
    "post-init-type": (GOOD.replace("    @hookimpl", POST_INIT.format("TypeError('odd')")), "TypeError: odd"),
    "post-init-exit": (GOOD.replace("    @hookimpl", POST_INIT.format("SystemExit(3)")), "SystemExit: 3"),
}


def module_of(name: str) -> str:
    """Return the module of a bad plugin."""
    return f"codex_bad_{name.replace('-', '_')}"


def put(workplace: Workplace, name: str, source: str, **more: str) -> None:
    """Install a distribution with one logger of this source."""
    module = module_of(name)
    plugins = {"codex.loggers": {name: f"{module}:Mine"}}
    install(workplace.site, f"codex-bad-{name}", plugins, modules={module: source}, **more)


def manifest(workplace: Workplace, logger: str) -> Path:
    """Write a manifest that names the logger."""
    return workplace.write("bad.yaml", TOY_MANIFEST.replace("loggers: [toy]", f"loggers: [{logger}]"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Make a workplace in which every kind of bad plugin is installed beside the toys."""
    made = toy_workplace(tmp_path_factory.mktemp("bad"))
    for name, (source, _) in {**BAD, **CONTRACT, **AT_REGISTRATION, **AT_MAKING}.items():
        put(made, name, source)
    for name, (options, _) in NEVER_WRITTEN.items():
        put(made, name, GOOD.replace("    @hookimpl", f"{options}    @hookimpl"))
    put(made, "meta", GOOD.replace("@frozen\nclass Mine", META))
    put(made, "raw", f"import os\nos.write(1, b'RAW')\n{GOOD}")
    put(made, "aborts", "import ctypes\nctypes.string_at(0)\n")
    put(made, "hangs", "import pathlib, time\npathlib.Path('it-hangs').touch()\ntime.sleep(600)\n")
    put(made, "prints", f"print('hello from me')\n{GOOD}")
    put(made, "too-new", GOOD, requires="codex-kernel>=9")
    commands = {"codex.commands": {"bad-command": "codex_bad_command:command"}}
    install(made.site, "codex-bad-command", commands, modules={"codex_bad_command": "raise SystemExit(7)"})
    parent = {"codex.loggers": {"dotted": "codex_bad_parent.inner:Mine"}}
    install(made.site, "codex-bad-parent", parent)
    (made.site / "codex_bad_parent").mkdir()
    (made.site / "codex_bad_parent" / "__init__.py").write_text("raise SystemExit('the parent was imported')")
    (made.site / "codex_bad_parent" / "inner.py").write_text(GOOD)
    install(made.site, "codex-bad-stale", {"codex.loggers": {"stale": "codex_gone:Mine"}})
    bare = {"codex.loggers": {"bare": "codex_bare:Mine"}}
    metadata = install(made.site, "codex-bad-bare", bare, modules={"codex_bare": GOOD})
    (metadata / "METADATA").unlink()
    damaged = made.site / "codex_bad_damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_bytes(
        b"[codex.loggers]\n\xff\xfe = =\n= no name\nodd = not a target\n"
    )
    for distribution in ("codex-bad-aaa", "codex-bad-zzz"):
        twice = {"codex.loggers": {"twice": "codex_twice:Mine"}}
        install(made.site, distribution, twice, modules={"codex_twice": GOOD})
    older = made.folder / "older"
    install(older, "codex-bad-zzz", {"codex.loggers": {"twice": "codex_twice:Mine"}}, version="0.9")
    return Workplace(made.folder, {"PYTHONPATH": os.pathsep.join([str(made.site), str(older)])})


# ── installed, and named by nobody ────────────────────────────────────────────────────────────────────────────────


def test_bad_plugins_that_nobody_names_disturb_no_other_command(workplace: Workplace) -> None:
    """The version, the help, the schema, a check and a whole run are as without them, and exit 0."""
    for words in (
        ["--version"],
        ["--help"],
        ["plugins", "list"],
        ["validate", "toy.yaml"],
        ["run", "toy.yaml"],
    ):
        said = workplace.codex(*words)
        assert said.code == 0, (words, said.err)
        assert "codex-bad" not in said.err, (words, said.err)


def test_the_schema_survives_whatever_plugins_do_when_they_are_imported(tmp_path: Path) -> None:
    """Each without a static manifest is imported in a process of its own; what it does there is a warning."""
    modules = {
        "aborts": "import os\nos.abort()\n",
        "exits": "import os\nos._exit(3)\n",
        "raises": "raise ValueError('no')\n",
        "shouts": f"import os\nos.write(1, b'RAW')\n{GOOD}",
        "waits": f"import threading\nthreading.Thread(target=threading.Event().wait).start()\n{GOOD}",
    }
    place = Workplace(tmp_path)
    for name, text in modules.items():
        plugins = {"codex.loggers": {name: f"codex_{name}:Mine"}}
        install(place.site, f"codex-{name}", plugins, modules={f"codex_{name}": text})
    said = place.codex("schema")
    assert said.code == 0, said.err
    titles = [choice.get("title") for choice in json.loads(said.out)["$defs"]["logger"]["anyOf"]]
    assert set(modules) <= set(titles)
    for name in ("aborts", "exits", "raises"):
        (line,) = [line for line in said.err.splitlines() if f"codex-{name} 1.0" in line]
        assert line.startswith("warning: ")
        assert line.endswith("its options are left open in the schema")


def test_the_list_has_one_verdict_for_each_bad_plugin_without_importing_it(workplace: Workplace) -> None:
    """Stale, incompatible, claimed twice and shadowed are told; what a module would do is not looked for."""
    said = workplace.codex("plugins", "list", "--json", "--all")
    rows = json.loads(said.out)["plugins"]
    status = {(row["name"], row["distribution"], row["version"]): row["status"] for row in rows}
    assert status["stale", "codex-bad-stale", "1.0"] == "stale"
    assert status["too-new", "codex-bad-too-new", "1.0"] == "incompatible"
    assert (
        status["twice", "codex-bad-aaa", "1.0"] == status["twice", "codex-bad-zzz", "1.0"] == "claimed twice"
    )
    assert status["twice", "codex-bad-zzz", "0.9"] == "shadowed"
    assert status["dotted", "codex-bad-parent", "1.0"] == "ok"
    assert status["bare", "codex_bad_bare", "1.0"] == "ok"
    assert status["odd", "codex_bad_damaged", "1.0"] == "stale"
    assert status["value-error", "codex-bad-value-error", "1.0"] == "ok"


def test_a_missing_name_does_not_import_what_is_installed(workplace: Workplace) -> None:
    """To say that a name is unknown, no plugin of the kind is asked."""
    said = workplace.codex("validate", manifest(workplace, "nobody-has-this"))
    assert said.code == 7
    assert "unknown logger 'nobody-has-this' (installed: " in said.err
    assert "hello from me" not in said.err


# ── named by a manifest ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", BAD)
def test_a_named_plugin_that_cannot_be_imported_is_fatal_before_any_work(
    workplace: Workplace, name: str
) -> None:
    """At most six lines: kind, name, distribution, version, cause, entry point, remedy; exit 7, and no run is begun."""
    folder = workplace.folder / f"run-{name}"
    said = workplace.codex("run", manifest(workplace, name), "--run-dir", folder)
    assert said.code == 7, said.err
    assert len(said.err.splitlines()) <= 6
    assert f"logger '{name}' (codex-bad-{name} 1.0) cannot be imported: {BAD[name][1]}" in said.err
    assert f" @ {module_of(name)}:Mine (pip install --upgrade codex-bad-{name}, or pip uninstall" in said.err
    assert "bad.yaml:8:" in said.err
    assert not folder.exists()


@pytest.mark.parametrize("name", [*CONTRACT, *AT_REGISTRATION])
def test_a_named_plugin_that_breaks_its_contract_is_fatal_before_any_work(
    workplace: Workplace, name: str
) -> None:
    """What pluggy takes in silence (a typo with a default, an async hook, a forgotten decorator) is an error too."""
    folder = workplace.folder / f"run-{name}"
    said = workplace.codex("run", manifest(workplace, name), "--run-dir", folder)
    assert said.code == 7, said.err
    assert len(said.err.splitlines()) <= 6
    assert f"logger '{name}' (codex-bad-{name} 1.0)" in said.err
    assert {**CONTRACT, **AT_REGISTRATION}[name][1] in said.err
    assert not folder.exists()


@pytest.mark.parametrize("name", AT_MAKING)
def test_a_named_plugin_that_cannot_be_made_of_its_options_is_fatal_before_any_work(
    workplace: Workplace, name: str
) -> None:
    """Whatever its class raises: the section, the plugin and the cause, and under --debug where it was."""
    folder = workplace.folder / f"run-{name}"
    said = workplace.codex("run", manifest(workplace, name), "--run-dir", folder)
    assert said.code == 7, said.err
    assert len(said.err.splitlines()) <= 6
    told = f"logger '{name}' (codex-bad-{name} 1.0) cannot be made of its options: {AT_MAKING[name][1]}"
    assert f"$.loggers[0]: {told} @ {module_of(name)}:Mine" in said.err
    assert not folder.exists()
    said = workplace.codex("validate", manifest(workplace, name), "--debug")
    assert (said.code, f"{module_of(name)}.py" in said.err, told in said.err) == (7, True, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stale", "logger 'stale' (codex-bad-stale 1.0): its module codex_gone is not there, only "),
        ("too-new", "logger 'too-new' (codex-bad-too-new 1.0): needs codex-kernel>=9, this is 0.1"),
        ("odd", "logger 'odd' (codex_bad_damaged 1.0): its entry point 'not a target' is not module:Class"),
        ("twice", "logger 'twice' is claimed by codex-bad-aaa 1.0 and codex-bad-zzz 1.0 (write type: "),
        (
            "dotted",
            "logger 'dotted' (codex-bad-parent 1.0) cannot be imported: it ended the process (SystemExit ",
        ),
    ],
)
def test_a_named_plugin_that_cannot_be_used_is_told_by_its_metadata(
    workplace: Workplace, name: str, message: str
) -> None:
    """The verdict of the list is the error of the manifest that names the plugin, with what to do."""
    said = workplace.codex("validate", manifest(workplace, name))
    assert said.code == 7
    assert message in said.err
    assert "pip " in said.err or "write type:" in said.err


def test_one_of_two_claimants_is_picked_by_its_full_name(workplace: Workplace) -> None:
    """`distribution/name` names one plugin, whatever else is installed."""
    said = workplace.codex("validate", manifest(workplace, "codex-bad-zzz/twice"))
    assert said.code == 0, said.err
    assert "logger 'twice' (codex-bad-zzz 1.0)" in said.out


def test_what_a_plugin_prints_at_import_is_a_warning_with_its_name(workplace: Workplace) -> None:
    """Standard output stays codex's own."""
    said = workplace.codex("validate", manifest(workplace, "prints"), "--json")
    assert said.code == 0
    assert json.loads(said.out)["valid"] is True
    assert said.err.startswith(
        "warning: logger 'prints' (codex-bad-prints 1.0) printed while it was imported: "
    )


def test_what_a_plugin_writes_below_python_leaves_the_json_whole(workplace: Workplace) -> None:
    """Text written to the descriptor is a warning, as printed text is."""
    said = workplace.codex("validate", manifest(workplace, "raw"), "--json")
    assert (said.code, json.loads(said.out)["valid"]) == (0, True)
    assert "logger 'raw' (codex-bad-raw 1.0) printed while it was imported: 'RAW'" in said.err


@pytest.mark.parametrize("name", NEVER_WRITTEN)
def test_an_option_that_no_manifest_can_write_is_refused_though_nobody_writes_it(
    workplace: Workplace, name: str
) -> None:
    """A check says of the class what `codex plugins check` says of it, with the section, the plugin and the option."""
    said = workplace.codex("validate", manifest(workplace, name))
    assert said.code == 7
    assert f"$.loggers[0]: logger '{name}' (codex-bad-{name} 1.0): {NEVER_WRITTEN[name][1]}" in said.err
    checked = json.loads(workplace.codex("plugins", "check", name, "--json").out)
    assert NEVER_WRITTEN[name][1] in checked["plugins"][0]["faults"][0]


def test_a_class_whose_metaclass_raises_is_named_with_its_distribution(workplace: Workplace) -> None:
    """It is the plugin's error, and not one of codex."""
    said = workplace.codex("validate", manifest(workplace, "meta"))
    assert said.code == 7
    told = (
        "logger 'meta' (codex-bad-meta 1.0) cannot be looked at: RuntimeError: no list @ codex_bad_meta:Mine"
    )
    assert f"$.loggers[0]: {told}" in said.err


def test_a_plugin_that_crashes_the_interpreter_leaves_a_stack_that_names_its_file(
    workplace: Workplace,
) -> None:
    """A segmentation fault cannot be caught; what is shown ends in the module that was being imported."""
    said = workplace.codex("validate", manifest(workplace, "aborts"))
    assert said.code == -signal.SIGSEGV
    assert "Segmentation fault" in said.err
    assert "codex_bad_aborts.py" in said.err


def test_a_plugin_that_hangs_is_named_when_the_user_interrupts(workplace: Workplace) -> None:
    """Ctrl-C tells which import never ended; `codex plugins check` has a time-out of its own."""
    with workplace.start("validate", manifest(workplace, "hangs")) as process:
        deadline = time.monotonic() + 120
        while not (workplace.folder / "it-hangs").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted while logger 'hangs' (codex-bad-hangs 1.0) was imported: codex_bad_hangs:Mine" in err


# ── decided before import ─────────────────────────────────────────────────────────────────────────────────────────


def test_plugins_that_are_not_allowed_are_never_imported(workplace: Workplace) -> None:
    """CODEX_PLUGINS names the distributions that may be used; a manifest that names another one is wrong there."""
    narrow = Workplace(workplace.folder, {**workplace.variables, "CODEX_PLUGINS": "codex-toys"})
    said = narrow.codex("validate", manifest(narrow, "os-exit"))
    assert said.code == 7
    assert (
        "logger 'os-exit' (codex-bad-os-exit 1.0): CODEX_PLUGINS=codex-toys leaves codex-bad-os-exit out"
        in said.err
    )
    assert "(add codex-bad-os-exit to it)" in said.err
    said = narrow.codex("validate", "toy.yaml")
    assert said.code == 0, said.err


def test_no_plugins_at_all_leaves_those_of_the_kernel(workplace: Workplace) -> None:
    """CODEX_PLUGINS set to nothing leaves codex-kernel's own, and says so to a manifest that needs more."""
    none = Workplace(workplace.folder, {**workplace.variables, "CODEX_PLUGINS": ""})
    rows = json.loads(none.codex("plugins", "list", "--json", "--all").out)["plugins"]
    assert {row["status"] for row in rows if row["distribution"] != "codex-kernel"} <= {
        "not allowed",
        "shadowed",
    }
    assert {row["status"] for row in rows if row["distribution"] == "codex-kernel"} == {"ok"}
    said = none.codex("validate", "toy.yaml")
    assert said.code == 7
    told = "dataset 'toy' (codex-toys 1.0): --no-plugins or CODEX_PLUGINS= leaves codex-toys out"
    assert f"{told} (leave --no-plugins away, and CODEX_PLUGINS unset)" in said.err


def test_a_distribution_that_is_named_and_not_there_is_told(workplace: Workplace) -> None:
    """A slip in CODEX_PLUGINS leaves plugins out without a word otherwise; a package without plugins is none."""
    narrow = Workplace(
        workplace.folder, {**workplace.variables, "CODEX_PLUGINS": "codex-toyz,codex-toys,attrs,zzz"}
    )
    said = narrow.codex("validate", "toy.yaml")
    assert said.code == 0
    assert said.err.splitlines() == [
        "warning: CODEX_PLUGINS names codex-toyz, which is not installed (did you mean 'codex-toys'?)",
        "warning: CODEX_PLUGINS names zzz, which is not installed",
    ]
