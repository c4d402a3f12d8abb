"""The texts of a document, one by one: where a step looks, and where it puts what it changed.

One rule: what a step does not change comes back as it was given, the document itself where nothing changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from attrs import evolve

from codex_clean.words import words
from codex_kernel import Document

PYTHON_SUFFIXES = frozenset({".py", ".pyi", ".pyw"})
_SOURCE_SUFFIXES = PYTHON_SUFFIXES | words(
    ".c .cc .cpp .cs .cxx .dart .ex .exs .go .groovy .h .hh .hpp .hs .java .jl .js .jsx .kt .kts .lua .m .mjs .ml "
    ".mm .php .pl .pm .proto .ps1 .r .rb .rs .scala .sh .sol .sql .swift .ts .tsx .vb .zig"
)
_NO_SOURCE = words(
    "csv html ini json jsonl latex markdown plaintext restructuredtext rst svg tex text toml tsv xml yaml"
)
"""Languages whose lines are as long as a sentence or a record."""


def texts(document: Document) -> Iterator[tuple[str, str]]:
    """Give the name and the text of each part that has one: `prompt`, `text`, `messages[0]` and so on."""
    if document.prompt:
        yield "prompt", document.prompt
    if document.text:
        yield "text", document.text
    for number, message in enumerate(document.messages):
        if message.content:
            yield f"messages[{number}]", message.content


def whole_text(document: Document) -> str:
    """Return all that a document says: its prompt and text, or its turns, each ended by a newline."""
    if document.messages:
        return "".join(f"{message.content}\n" for message in document.messages)
    return document.prompt + document.text


def with_texts(document: Document, change: Callable[[str, str], str]) -> Document:
    """Return the document with `change(name, text)` in the place of each text."""
    changed = {name: change(name, text) for name, text in texts(document)}
    if all(changed[name] == text for name, text in texts(document)):
        return document
    return evolve(
        document,
        prompt=changed.get("prompt", ""),
        text=changed.get("text", ""),
        messages=tuple(
            evolve(message, content=changed.get(f"messages[{number}]", ""))
            for number, message in enumerate(document.messages)
        ),
    )


def is_python(document: Document) -> bool:
    """Say whether a document is Python source: by its language, or where that is not known by its id's suffix."""
    return document.language == "python" if document.language else suffix(document) in PYTHON_SUFFIXES


def is_source(document: Document) -> bool:
    """Say whether a document is a source file: by its language, or where that is not known by its id's suffix."""
    if document.messages:
        return False
    if document.language:
        return document.language not in _NO_SOURCE
    return suffix(document) in _SOURCE_SUFFIXES


def suffix(document: Document) -> str:
    """Return the suffix of a document's id in lower case, empty where it has none: `.py`."""
    return PurePosixPath(document.id).suffix.lower()
