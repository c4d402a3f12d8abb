"""The step `python-syntax`: what parses, what does not, and that no text harms the process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_clean.parsing import fault
from codex_clean.python_syntax import PythonSyntax
from codex_kernel import Document

LIMIT = 1_000_000
PARSES = [
    "",
    "\n",
    "x = 1",
    "\ufeffx = 1\n",
    "# coding: latin-1\nx = 'é'\n",
    "def f():\r\n\treturn 1\r\n",
    "return 1\n",
    "match x:\n    case 1: pass\n",
    "async def f():\n    await g()\n",
    "x = '\\d'\nif 1 is 1: pass\n",
    "\x0cclass A: pass\n",
    "x: int = lambda: (yield)\n",
]
DOES_NOT = {
    "print 'Python 2'\n": "syntax error",
    "def f(:\n": "syntax error",
    "  x = 1\n y = 2\n": "syntax error",
    "if x:\n\ty\n        z\n": "syntax error",
    "x = '": "syntax error",
    "9" * 5000: "syntax error",
    "<html></html>": "syntax error",
    "x = '\ud800'": "no valid source text",
    "(" * 100_000: "syntax error",
    "-" * 100_000 + "1": "nested too deeply to parse",
    "a" + ".b" * 100_000: "nested too deeply to parse",
    "a" + "()" * 100_000: "nested too deeply to parse",
    "x" * (LIMIT + 1): "too large to parse",
    "'" + "é" * 600_000 + "'": "too large to parse",
}


@pytest.mark.parametrize("text", PARSES)
def test_python_that_parses_stays(text):
    """Valid Python stays as it is, whatever its line ends, and with code that Python only warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fault(text, LIMIT) is None


@pytest.mark.parametrize("text", DOES_NOT, ids=range(len(DOES_NOT)))
def test_python_that_does_not_parse_has_a_reason(text):
    """What does not parse is dropped, or only counted, with the reason."""
    document = Document("a.py", "a", text)
    answer = PythonSyntax().codex_cleaner(None).clean(document)
    assert (answer.document, answer.counts) == (None, {DOES_NOT[text]: 1})
    answer = PythonSyntax(action="count").codex_cleaner(None).clean(document)
    assert (answer.document, answer.counts) == (document, {DOES_NOT[text]: 1})


@pytest.mark.parametrize(
    ("name", "language", "looked_at"),
    [
        ("a.py", "", True),
        ("types.pyi", "", True),
        ("rows.jsonl:1", "python", True),
        ("a.py", "cython", False),
        ("a.txt", "", False),
        ("a", "", False),
    ],
)
def test_only_python_is_looked_at(name, language, looked_at):
    """A document is Python by its language, or by its id's suffix where the language is not known."""
    answer = PythonSyntax().codex_cleaner(None).clean(Document(name, "a", "no python", language=language))
    assert (answer.document is None) == looked_at


def test_a_prompt_and_its_completion_are_parsed_together():
    """Neither a function's head nor its body parses alone; together they do."""
    step = PythonSyntax().codex_cleaner(None)
    assert step.clean(Document("a", "a", "    return 1\n", prompt="def f():\n", language="python")).document
    assert step.clean(Document("a", "a", "    return 1\n", language="python")).document is None


def test_filters_of_warnings_stay_as_they_are():
    """Warnings are silenced for the parser alone."""
    before = list(warnings.filters)
    fault("x = '\\d'", LIMIT)
    assert warnings.filters == before


def test_texts_made_to_break_a_parser_do_not_end_the_process():
    """Deep, long and wide texts each give an answer, on the main thread and on another with a small stack."""
    code = """
        import sys, threading
        from codex_clean.parsing import fault
        bombs = ["(" * 10**5, "[" * 10**5, "{1:" * 10**5, "-" * 10**5 + "1", "not " * 10**5 + "1", "a" + "+a" * 10**5,
                 "a" + ".b" * 10**5, "a" + "[0]" * 10**5, "lambda:" * 10**5 + "1", "1 if a else " * 80000 + "1",
                 "if a:pass\\n" + "elif b:pass\\n" * 50000, "".join(" " * i + "if a:\\n" for i in range(1000)),
                 "[x " + "for x in y " * 50000 + "]",
                 "f'{" * 1000, "'a' " * 2 * 10**5, "@a\\n" * 50000 + "def f():pass",
                 "a" + "**a" * 10**5, "a" + "<a" * 10**5, "try:\\n pass\\n" * 50000, "f(" * 150 + ")" * 150,
                 "x = " * 10**5 + "1", "\\\\\\n" * 10**5, "\\0" * 1000, "async " * 10**5]
        def run():
            print([fault(bomb, 10**6) is None for bomb in bombs].count(None), len(bombs))
        run()
        threading.stack_size(1 << 20)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "0 24\n0 24\n"), ran.stderr


@given(st.text(alphabet="()[]{}:=+-*'\"\\\n\t ,.@abif0lmnd", max_size=60))
def test_any_text_has_an_answer(text):
    """Whatever a text is, it parses or has one of the four reasons."""
    assert fault(text, 50) in (
        None,
        "syntax error",
        "nested too deeply to parse",
        "no valid source text",
        "too large to parse",
    )
