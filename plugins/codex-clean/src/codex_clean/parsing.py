"""Whether a text is Python that parses.

One rule: the parser is asked for a tree and for nothing else; its warnings are silenced, its failures are reasons.
"""

from __future__ import annotations

import ast
import sys
import warnings

from attrs import frozen

from codex_clean.documents import is_python
from codex_kernel import Cleaned, Document


@frozen(eq=False)
class SyntaxFilter:
    """A pass; it remembers nothing. `action` is `drop` or `count`."""

    action: str
    max_bytes: int

    def fingerprint(self) -> str:
        """Name the version of Python whose grammar is meant."""
        return "python-{}.{}.{}".format(*sys.version_info)

    def clean(self, document: Document) -> Cleaned:
        """Count why a Python document does not parse, and drop it where that is asked for."""
        if document.messages or not is_python(document):
            return Cleaned(document)
        why = fault(document.prompt + document.text, self.max_bytes)
        if why is None:
            return Cleaned(document)
        return Cleaned(None if self.action == "drop" else document, {why: 1})


def fault(text: str, max_bytes: int) -> str | None:
    """Return why a text is no Python that parses; None: it is."""
    if len(text) > max_bytes or len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        return "too large to parse"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text.removeprefix("\ufeff"))
        except SyntaxError:
            return "syntax error"
        except (RecursionError, MemoryError):  # the parser's own limits: it says MemoryError for its stack
            return "nested too deeply to parse"
        except ValueError:  # a NUL, a lone surrogate
            return "no valid source text"
    return None
