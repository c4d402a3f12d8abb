"""A plugin that cannot be used says so: which distribution, what it did, how to go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codex_kernel.catalog import Catalog, Entry
from codex_kernel.errors import PluginError
from codex_kernel.installers import upgrade_line
from codex_kernel.loading import load
from tests.toys import install

HEAD = "from attrs import frozen\nfrom codex_kernel import hookimpl\n"


def entry(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, *, kind: str = "logger") -> Entry:
    """Install one plugin with this source and return its entry."""
    module = f"plugin_{abs(hash(source))}"
    target = {f"codex.{kind}s": {"mine": f"{module}:Mine"}}
    install(folder, "codex-mine", target, modules={module: source})
    monkeypatch.syspath_prepend(folder)
    return Catalog.scan([str(folder)]).find(kind, "mine")


def test_a_good_plugin_is_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading returns the attrs class that the entry point names."""
    source = f"{HEAD}@frozen\nclass Mine:\n    @hookimpl\n    def codex_metrics(self, step): pass\n"
    assert load(entry(tmp_path, monkeypatch, source)).__name__ == "Mine"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ValueError('bad day')", "cannot be imported: ValueError: bad day"),
        (
            "import not_there_at_all",
            "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("raise SystemExit(3)", "it ended the process (SystemExit 3)"),
        (
            "class Odd(Exception):\n    def __str__(self): raise RuntimeError('no words')\nraise Odd",
            "cannot be imported: Odd (its message cannot be read)",
        ),
        (
            "one, two = ValueError('one'), ValueError('two')\none.__cause__, two.__cause__ = two, one\nraise one",
            "cannot be imported: ValueError: t",
        ),
        ("def (", "cannot be imported: SyntaxError"),
        ("x = 1", "cannot be imported: AttributeError"),
        ("Mine = 1", "is int, expected an attrs class"),
        ("class Mine: pass", "is type, expected an attrs class"),
        (f"{HEAD}@frozen\nclass Mine: pass", "does not implement any hook"),
        (
            f"{HEAD}@frozen\nclass Mine:\n    def codex_metrics(self): pass\n",
            "has codex_metrics without @hookimpl",
        ),
    ],
)
def test_a_bad_plugin_is_named_with_its_distribution_and_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    """Whatever a plugin does at import, the error names kind, name, distribution, version and cause."""
    with pytest.raises(PluginError) as error:
        load(entry(tmp_path, monkeypatch, source))
    assert str(error.value).startswith("logger 'mine' (codex-mine 1.0)")
    assert message in str(error.value)
    assert error.value.remedy


def test_a_plugin_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class registered as a tokenizer must implement codex_tokenizer."""
    source = f"{HEAD}@frozen\nclass Mine:\n    @hookimpl\n    def codex_metrics(self, step): pass\n"
    with pytest.raises(PluginError, match="does not implement codex_tokenizer"):
        load(entry(tmp_path, monkeypatch, source, kind="tokenizer"))


def test_what_a_plugin_prints_at_import_goes_to_standard_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output stays clean for data."""
    source = f"print('hello')\n{HEAD}@frozen\nclass Mine:\n    @hookimpl\n    def codex_metrics(self, step): pass\n"
    load(entry(tmp_path, monkeypatch, source))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: logger 'mine' (codex-mine 1.0) printed while it was imported: 'hello'\n"


RAISES = "raise RuntimeError('not today')"
META = f"{HEAD}class Meta(type):\n    {{}}\n@frozen\nclass Mine(metaclass=Meta):\n"
METRICS = "    @hookimpl\n    def codex_metrics(self, step): pass\n"


@pytest.mark.parametrize(
    "body",
    [
        f"def __dir__(cls): {RAISES}",
        f"@property\n    def codex_odd(cls): {RAISES}\n    def __dir__(cls): return ['codex_odd']",
        "def __dir__(cls): raise SystemExit('not today')",
    ],
)
def test_a_class_that_raises_while_it_is_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """A metaclass may do anything; the error names plugin, distribution and cause."""
    with pytest.raises(PluginError, match="not today") as error:
        load(entry(tmp_path, monkeypatch, META.format(body) + METRICS))
    assert str(error.value).startswith("logger 'mine' (codex-mine 1.0) cannot be looked at: ")
    assert "codex-mine" in (error.value.remedy or "")


def test_what_a_plugin_writes_to_the_descriptor_at_import_goes_to_standard_error_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """C libraries and child processes know nothing of Python's standard output; afterwards it is as it was."""
    writes = "import ctypes, os\nos.write(1, b'raw ')\nos.system('echo child')\nctypes.CDLL(None).puts(b'from C')\n"
    source = f"{writes}{HEAD}@frozen\nclass Mine:\n    @hookimpl\n    def codex_metrics(self, step): pass\n"
    load(entry(tmp_path, monkeypatch, source))
    os.write(1, b"mine\n")
    out, err = capfd.readouterr()
    assert out == "mine\n"
    assert err.startswith("warning: logger 'mine' (codex-mine 1.0) printed while it was imported: 'raw child")
    assert "from C" in err


@pytest.mark.parametrize("closed", ["1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "2>&-"])
def test_an_import_needs_no_open_descriptors(tmp_path: Path, closed: str) -> None:
    """Whatever of standard input, output and error a process was started without."""
    install(
        tmp_path,
        "codex-mine",
        {"codex.loggers": {"mine": "mine:Mine"}},
        modules={
            "mine": f"import os\n{HEAD}@frozen\nclass Mine:\n    @hookimpl\n    def codex_metrics(self, step): pass\n"
        },
    )
    program = (
        "import sys, pathlib; sys.path.insert(0, '.'); from codex_kernel.catalog import Catalog;"
        "from codex_kernel.loading import load; load(Catalog.scan(['.']).find('logger', 'mine'));"
        "pathlib.Path('done').touch()"
    )
    command = f'{sys.executable} -c "{program}" {closed}'
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)  # noqa: S602 - of constants
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("note", "remedy"),
    [
        (
            {"url": "file:///my/place%20a", "dir_info": {"editable": True}},
            "mend the code of /my/place a, or ",
        ),
        (
            {"url": "file:///my/place", "dir_info": {}},
            "mend the code of /my/place and install it again from there",
        ),
        ({"url": "file:///my/x.whl", "archive_info": {}}, "mend the code of /my/x.whl and install it again"),
        (
            {"url": "https://me:secret@git.example/x", "vcs_info": {"vcs": "git"}},
            "mend the code of https://git.example/x and install it again from there",
        ),
        (["no note"], f"{upgrade_line('codex-mine')}, or "),
    ],
)
def test_what_came_from_no_index_is_mended_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: object, remedy: str
) -> None:
    """An upgrade by name would look in an index, where another project may have the name."""
    one = entry(tmp_path, monkeypatch, "raise ValueError('no')")
    (one.metadata / "direct_url.json").write_text(json.dumps(note))
    with pytest.raises(PluginError) as error:
        load(one)
    told = error.value.remedy or ""
    assert told.startswith(remedy)
    assert ("--upgrade" in told) == (note == ["no note"])
    assert "secret" not in told
