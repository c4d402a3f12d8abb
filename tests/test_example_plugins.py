"""The example plugins, imported by path: they do what their READMEs say, in as few lines as they claim."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from codex_kernel.testing.logger import LoggerContract
from codex_kernel.testing.tokenizer import TokenizerContract

EXAMPLES = Path(__file__).parent.parent / "examples"


def module_of(name: str) -> ModuleType:
    """Import the module of an example plugin, once, as the one of its name."""
    if f"codex_{name}" in sys.modules:
        return sys.modules[f"codex_{name}"]
    path = EXAMPLES / f"codex-plugin-{name}" / f"codex_{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "limit"), [("stdout", 10), ("reverse", 15)])
def test_an_example_is_as_short_as_promised(name, limit):
    """Ten lines are enough for a logger, fifteen for a tokenizer."""
    source = (EXAMPLES / f"codex-plugin-{name}" / f"codex_{name}.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line]) <= limit


@pytest.mark.parametrize(("name", "kind"), [("stdout", "loggers"), ("reverse", "tokenizers")])
def test_an_entry_point_leads_to_the_class(name, kind):
    """The distribution's one entry point names a class that the module has, and the kernel's range is declared."""
    project = tomllib.loads(
        (EXAMPLES / f"codex-plugin-{name}" / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    ((group, points),) = project["entry-points"].items()
    assert group == f"codex.{kind}"
    ((found, value),) = points.items()
    assert found == name
    module, _, cls = value.partition(":")
    assert module == f"codex_{name}"
    assert isinstance(getattr(module_of(name), cls), type)
    assert any(requirement.startswith("codex-kernel>=") for requirement in project["dependencies"])


def test_stdout_prints_every_so_many_steps(capsys):
    """With `every: 2` steps 2 and 4 of four are printed."""
    logger = module_of("stdout").StdoutLogger(every=2)
    for step in range(1, 5):
        logger.codex_metrics(step=step, metrics={"loss": step / 2})
    assert capsys.readouterr().out == "2 {'loss': 1.0}\n4 {'loss': 2.0}\n"


class TestStdout(LoggerContract):
    def make(self, folder):
        return module_of("stdout").StdoutLogger(every=1)


class TestReverse(TokenizerContract):
    def make(self, folder):
        return module_of("reverse").ReverseTokenizer()


def test_reverse_turns_the_bytes_round():
    """The first id is the last byte."""
    tokenizer = module_of("reverse").ReverseTokenizer().codex_tokenizer()
    assert tokenizer.encode("ab") == [98, 97]
