"""Plugins that do the worst at their import, each judged from a process of its own."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from described import manifest_of, put
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import plugin_check
from codex_kernel.catalog import Catalog, Entry
from codex_kernel.plugin_check import Checked, check, check_one, heaviest
from codex_kernel.plugin_verdict import BEGIN, END
from tests.toys import install, install_toys

GOOD = """\
from attrs import frozen
from codex_kernel import hookimpl, option


@frozen
class Plugin:
    every: int = 10

    @hookimpl
    def codex_metrics(self, step, metrics):
        pass
"""


LIBC = "import ctypes; ctypes.CDLL(None)"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder for distributions, first on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def entry(site: Path, module: str, kind: str = "logger", **settings: str) -> Entry:
    """Install a distribution whose one plugin is in a module of this text; return its entry."""
    group = {"logger": "codex.loggers", "command": "codex.commands", "dataset": "codex.datasets"}[kind]
    install(
        site, "codex-one", {group: {"one": "codex_one:Plugin"}}, modules={"codex_one": module}, **settings
    )
    return entry_now()


def entry_now() -> Entry:
    """Return the entry of that distribution as it is now."""
    return next(e for e in Catalog.scan().entries if e.distribution == "codex-one")


def judged(site: Path, module: str, seconds: float = 60, kind: str = "logger") -> Checked:
    """Return the verdict of a plugin in a module of this text."""
    return check_one(entry(site, module, kind), seconds)


# ── what a module may do ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("module", "fault"),
    [
        ("raise ValueError('no such luck')", "ValueError: no such luck @ codex_one:Plugin"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def :", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", "it ended the process (SystemExit 3)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os; os._exit(99)", "it ended the process (os._exit(99))"),
        (f"{LIBC}._exit(0)", "it ended the process with exit code 0, while it was imported"),
        (f"{LIBC}._exit(99)", "it ended the process with exit code 99, while it was imported"),
        ("import os; os.abort()", "it ended the process by SIGABRT, while it was imported"),
        ("import ctypes; ctypes.string_at(0)", "it ended the process by SIGSEGV, while it was imported"),
        ("import os; os.kill(os.getpid(), 9)", "it ended the process by SIGKILL, while it was imported"),
        ("x = 1", "AttributeError: module 'codex_one' has no attribute 'Plugin'"),
        ("class Plugin: pass", "expected an attrs class"),
    ],
)
def test_a_module_that_cannot_be_imported_is_broken(site: Path, module: str, fault: str) -> None:
    """Whatever it raises, and however it ends the process, the verdict says which of it, and how to go on."""
    found = judged(site, module)
    assert found.verdict == "broken"
    assert fault in found.faults[0]
    assert found.remedy


def test_a_module_that_hangs_is_broken_after_the_timeout(site: Path) -> None:
    """Its process is killed, with what it started, and its folder is gone."""
    started = site / "started"
    start = f"open({str(started)!r}, 'w').write(str(subprocess.Popen(['sleep', '1000']).pid))"
    program = f"import subprocess, time; {start}; time.sleep(1000)"
    found = judged(site, program, seconds=3)
    assert found.faults == ("it was not done within 3 s, while it was imported",)
    assert is_gone(int(started.read_text()))


def is_gone(pid: int, patience_seconds: float = 30) -> bool:
    """Say whether a process ends soon; one that nobody has waited for counts."""
    ends = time.monotonic() + patience_seconds
    while time.monotonic() < ends:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_a_plugin_starts_goes_with_it(site: Path) -> None:
    """A process that its module leaves behind is killed, though the plugin itself is fine."""
    started = site / "started"
    start = f"import subprocess; open({str(started)!r}, 'w').write(str(subprocess.Popen(['sleep', '1000']).pid))\n"
    assert judged(site, start + GOOD).verdict == "ok"
    assert is_gone(int(started.read_text()))


def test_a_process_that_leads_a_session_of_its_own_goes_too(site: Path) -> None:
    """Neither leaving the group nor the death of its parent saves it."""
    started = site / "started"
    sleep = "subprocess.Popen(['sleep', '1000'], start_new_session=True).pid"
    daemon = f"import subprocess; open({str(started)!r}, 'w').write(str({sleep}))"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {daemon!r}], start_new_session=True)\n"
    assert judged(site, start + GOOD).verdict == "ok"
    assert is_gone(int(started.read_text()), patience_seconds=5)


@pytest.mark.parametrize(
    "module",
    [
        "import atexit, time; atexit.register(lambda: time.sleep(1000))\n",
        "import threading, time; threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()\n",
        "from concurrent.futures import ThreadPoolExecutor as E; E(1).submit(int).result()\n",
        "import sys; sys.exit = None; sys.stderr.close()\n",
        "import os; os.close(1); os.close(2)\n",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n",
    ],
)
def test_the_end_of_the_process_is_not_the_plugins(site: Path, module: str) -> None:
    """What a module leaves to be done at the exit does not keep its verdict back."""
    assert judged(site, module + GOOD).verdict == "ok"


@pytest.mark.parametrize(
    ("threads", "told"),
    [
        (1, "starts a thread ('one') while it is imported, which keeps"),
        (3, "starts 3 threads while it is imported, which keep"),
    ],
)
def test_a_thread_that_python_would_wait_for_is_warned_of(site: Path, threads: int, told: str) -> None:
    """Every command that imports the plugin would wait for it at its end; the verdict does not."""
    start = "threading.Thread(target=lambda: time.sleep(1000), name='one').start()"
    found = judged(site, f"import threading, time\nfor _ in range({threads}): {start}\n{GOOD}")
    assert (found.verdict, found.warnings) == ("warning", (f"{told} every command from ending",))


def test_last_words_are_told(site: Path) -> None:
    """What a library says before it aborts stands in the verdict."""
    found = judged(site, "import os; os.write(2, b'terminate: no such device\\n'); os.abort()")
    assert found.faults == (
        "it ended the process by SIGABRT, while it was imported: terminate: no such device",
    )


def test_a_plugin_that_prints_is_warned_of(site: Path) -> None:
    """Standard output belongs to codex."""
    found = judged(site, f"print('hello')\n{GOOD}")
    assert (found.verdict, found.warnings) == ("warning", ("prints while it is imported: 'hello'",))


# ── what a class must be ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("codex_metrics(self, step, metrics)", "codex_metrcs(self, step)", "unknown hook 'codex_metrcs'"),
        ("step, metrics", "step, loss", "takes 'loss', which the hook does not have"),
        ("step, metrics", "step, los=None", "takes 'los', which the hook does not have"),
        ("self, step, metrics", "self, *, step", "takes 'step' by keyword only"),
        ("def codex", "async def codex", "codex_metrics is async"),
        ("    @hookimpl\n", "", "has codex_metrics without @hookimpl"),
        ("every: int = 10", "every: int = option(0, ge=1, help='Steps.')", "0, is out of its bounds"),
        ("every: int = 10", "every: 'Nowhere' = 10", "its type 'Nowhere' cannot be resolved"),
        ("every: int = 10", "codex_capabilities = ('flight',)", "codex_capabilities"),
    ],
)
def test_a_class_that_breaks_its_contract_is_broken(site: Path, old: str, new: str, fault: str) -> None:
    """Hooks, their signatures, options and capabilities are looked at as a run would."""
    found = judged(site, GOOD.replace(old, new))
    assert found.verdict == "broken"
    assert fault in found.faults[0]


def test_a_plugin_with_required_options_is_judged_without_them(site: Path) -> None:
    """Nobody has given it its options, so it is not made."""
    module = GOOD.replace(
        "every: int = 10", "every: int\n    def __attrs_post_init__(self): raise ValueError"
    )
    found = judged(site, module)
    assert (found.verdict, found.faults) == ("ok", ())
    assert found.description is not None
    assert found.description["options"]["required"] == ["every"]


def test_a_heavy_library_at_the_top_of_a_module_is_warned_of(site: Path) -> None:
    """It may be there, but validate and schema pay for it."""
    (site / "mlflow.py").write_text("")
    found = judged(site, f"import mlflow\n{GOOD}")
    assert found.verdict == "warning"
    assert "imports mlflow at the top of its module" in found.warnings[0]


def test_a_good_plugin_tells_what_it_costs(site: Path) -> None:
    """Seconds, memory, the packages that took most, hooks and whether a static manifest is there."""
    (site / "weighty.py").write_text("sum(range(3_000_000))")
    found = judged(site, f"import weighty\n{GOOD}")
    assert found.verdict == "ok"
    assert found.import_seconds is not None
    assert found.peak_memory_bytes is None or found.peak_memory_bytes > 2**20
    assert found.heaviest[0].package == "weighty"
    row = found.as_json()
    assert (row["hooks"], row["static_manifest"], row["verdict"]) == (["codex_metrics"], "absent", "ok")


@pytest.mark.parametrize(("text", "found"), [(GOOD, "fresh"), (GOOD.replace("10", "1_000"), "stale")])
def test_a_static_manifest_is_compared_with_the_code(site: Path, text: str, found: str) -> None:
    """One that says something else than the class is a fault: options would be checked by it."""
    one = entry(site, GOOD)
    description = check_one(one).description
    assert description is not None
    row = {name: description[name] for name in ("kind", "name", "target", "summary", "hooks", "capabilities")}
    plugins = [{**row, "options": description["options"]}]
    put(one.metadata, {**manifest_of("codex-one", []), "plugins": plugins}, "codex_one.codex-plugin.json")
    (site / "codex_one.py").write_text(text)
    checked = check_one(entry_now())
    assert (checked.static, checked.faults) == (
        found,
        () if found == "fresh" else ("its static manifest has other options than its code",),
    )
    assert (checked.remedy is not None) == (found == "stale")


def test_a_static_manifest_that_is_not_believed_is_warned_of(site: Path) -> None:
    """Its distribution works as one without does."""
    one = entry(site, GOOD)
    put(one.metadata, "{", "codex_one.codex-plugin.json")
    checked = check_one(entry_now())
    assert (checked.verdict, checked.static) == ("warning", "absent")
    assert "its static manifest is not believed" in checked.warnings[0]


def test_a_project_that_has_other_entry_points_by_now_is_warned_of(site: Path) -> None:
    """An editable installation keeps the old name until it is installed again."""
    one = entry(site, GOOD)
    (site / "pyproject.toml").write_text(
        '[project]\nname = "codex-one"\n[project.entry-points."codex.loggers"]\ntwo = "codex_one:Plugin"\n'
    )
    note = {"url": site.as_uri(), "dir_info": {"editable": True}}
    (one.metadata / "direct_url.json").write_text(json.dumps(note))
    found = check_one(one)
    assert (found.verdict, found.faults) == ("warning", ())
    assert "logger one is gone, logger two is new; install it again: " in found.warnings[0]


@pytest.mark.parametrize("name", ["", "-x", "a b"])
def test_a_name_that_cannot_be_written_is_warned_of(site: Path, name: str) -> None:
    """The plugin works, and no manifest can name it."""
    found = check_one(entry(site, GOOD)._replace(name=name))
    assert found.verdict == "warning"
    assert f"its name {name!r} cannot be written in a manifest" in found.warnings[0]


def test_a_command_must_be_one_of_click(site: Path) -> None:
    """An entry of `codex.commands` is a click command, and nothing else."""
    assert "expected a click.Command" in judged(site, "Plugin = print", kind="command").faults[0]


def test_a_command_is_checked(site: Path) -> None:
    """A click command is fine, and has no hooks."""
    found = judged(site, "import click\n@click.command('one')\ndef Plugin(): 'Say one.'\n", kind="command")
    assert (found.verdict, found.as_json()["hooks"]) == ("ok", [])


# ── many of them ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_bad_plugin_does_not_keep_the_others_back(site: Path) -> None:
    """All are judged, whatever one of them does; the toys work, and are told that they import numpy at their top."""
    install_toys(site)
    entry(site, "import os; os.abort()")
    entries = [e for e in Catalog.scan().entries if e.distribution in {"codex-one", "codex-toys"}]
    verdicts = {(one.entry.kind, one.entry.name): one.verdict for one in check(entries, 60)}
    assert verdicts.pop(("logger", "one")) == "broken"
    assert len(verdicts) == 6
    assert set(verdicts.values()) == {"warning"}


def test_two_run_at_once_and_no_more(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine is not drowned in processes."""
    most, alive = 0, set()
    start = plugin_check._Child.start

    def counting(entry: Entry, seconds: float) -> plugin_check._Child:
        nonlocal most
        child = start(entry, seconds)
        alive.add(child.process.pid)
        most = max(most, sum(Path(f"/proc/{pid}").exists() for pid in alive))
        return child

    monkeypatch.setattr(plugin_check._Child, "start", counting)
    list(check([entry(site, GOOD)] * 5, 60))
    assert most == plugin_check.AT_ONCE == 2


def test_giving_up_leaves_no_process(site: Path) -> None:
    """Whoever stops asking, by Ctrl-C for example, ends the processes."""
    started = site / "started"
    hangs = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    slow = entry(site, hangs)
    found = check([slow._replace(status="shadowed"), slow, slow._replace(status="shadowed")], 1000)
    assert next(found).verdict == "not imported"
    assert next(found).verdict == "not imported"
    while not (started.exists() and started.read_text()):
        time.sleep(0.01)
    found.close()
    assert is_gone(int(started.read_text()))


@pytest.mark.parametrize("status", ["shadowed", "incompatible", "not allowed"])
def test_what_codex_would_not_import_is_not_imported(site: Path, status: str) -> None:
    """Its reason is told instead."""
    one = entry(site, "import os; os.abort()")._replace(status=status, reason="because")
    found = check_one(one)
    assert (found.verdict, found.warnings) == ("not imported", ("because",))


def test_the_path_of_the_caller_is_that_of_the_process(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module beside where the command was called is not taken for one of codex's or the plugin's."""
    hostile = site.parent / "hostile"
    hostile.mkdir()
    for name in ("json", "attrs", "pluggy"):
        (hostile / f"{name}.py").write_text("import os; os._exit(5)")
    monkeypatch.chdir(hostile)
    assert judged(site, GOOD).verdict == "ok"


def test_a_name_that_is_a_signals_is_told_by_it() -> None:
    """An exit code below zero is a signal, also one without a name."""
    assert plugin_check._how_it_ended(-signal.SIGTERM) == "it ended the process by SIGTERM"
    assert plugin_check._how_it_ended(-250) == "it ended the process by signal 250"


# ── lines of -X importtime ────────────────────────────────────────────────────────────────────────────────────────


def test_the_heaviest_packages_are_summed_over_their_modules() -> None:
    """Only what was imported between the marks counts, and a package is the sum of its modules."""
    text = f"""\
import time: self [us] | cumulative | imported package
import time:    900000 |     900000 | before
{BEGIN}
import time:       100 |        100 |   torch.nn
import time:       200 |        300 | torch
import time:       250 |        250 | numpy
something that a library says
{END}
import time:    900000 |     900000 | after
"""
    found = [(weight.package, weight.seconds, weight.modules) for weight in heaviest(text)]
    assert found == [("torch", pytest.approx(0.0003), 2), ("numpy", pytest.approx(0.00025), 1)]


@given(st.text())
def test_no_text_on_standard_error_is_too_much(text: str) -> None:
    """A plugin may write anything there."""
    assert list(heaviest(f"{BEGIN}\n{text}\n{END}\n")) == [] or "import time:" in text
    assert len(plugin_check._last_words(text)) <= 200


def test_a_report_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """The process may die while it writes."""
    report = tmp_path / "report"
    report.write_bytes(b'{"phase": "first"}\n[]\n\xff\n{"done": {"fau')
    assert list(plugin_check._lines(report)) == [{"phase": "first"}]
    assert list(plugin_check._lines(tmp_path / "none")) == []


def test_no_folder_is_left(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check writes is gone when it is over."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    judged(site, GOOD)
    assert list(temporary.iterdir()) == []
