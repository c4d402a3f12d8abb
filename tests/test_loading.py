"""A plugin that cannot be used says so: which distribution, what it did, how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from codex_kernel.catalog import Catalog, Entry
from codex_kernel.errors import PluginError
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
