"""The corpus of the data benchmarks: source code of installed distributions, its functions, and more of the like.

One rule: nothing is downloaded, and nothing is timed here.
"""

from __future__ import annotations

import ast
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from codex_kernel import Document
from codex_kernel.builtin.python_source import PythonSource
from codex_kernel.testing import make_run

DISTRIBUTIONS = ["networkx", "sympy"]
VOCAB_SIZE = 8192


@cache
def documents() -> list[Document]:
    """Return the source files of the distributions, tests left out."""
    with tempfile.TemporaryDirectory() as name:
        return list(PythonSource(distributions=DISTRIBUTIONS).codex_dataset(make_run(Path(name))))


@cache
def functions() -> list[Document]:
    """Return each function that has a docstring, as it is written; functions within functions belong to those."""
    found = []
    for document in documents():
        lines = document.text.splitlines(keepends=True)
        for node in _outermost(ast.parse(document.text)):
            text = "".join(lines[node.lineno - 1 : node.end_lineno])
            found.append(Document(f"{document.id}:{node.lineno}", document.group, text, language="python"))
    return found


def _outermost(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    found, waiting = [], [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if ast.get_docstring(node):
                    found.append(node)
            else:
                waiting.append(node)
    return found


def write_jsonl(path: Path, size: int) -> int:
    """Write records of about 20 kB, no two of them alike, until there are so many bytes of text; return how many."""
    texts = [text for text in (document.text[:20_000] for document in documents()) if text]
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            text = f"# copy {number}\n{texts[number % len(texts)]}"
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
            number += 1
    return written


def texts_of(megabytes: float) -> list[str]:
    """Return files of source code, spread over the whole corpus, of about that size."""
    texts = [document.text for document in documents()]
    step = max(1, round(sum(map(len, texts)) / (megabytes * 1e6)))
    return texts[::step]


def vocabulary(folder: Path, texts: list[str]) -> Any:
    """Train a vocabulary as a run does."""
    from codex_hf.bpe import HFBPETokenizer

    return HFBPETokenizer(vocab_size=VOCAB_SIZE).codex_tokenizer(make_run(folder), texts, None)
