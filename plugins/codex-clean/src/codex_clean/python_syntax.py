"""The cleaning step `python-syntax`: Python that does not parse is not trained on.

One rule: nothing of a document is executed, and no document ends the process, however deep or long it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import frozen

from codex_kernel import RunContext, hookimpl, option

if TYPE_CHECKING:
    from codex_clean.parsing import SyntaxFilter


@frozen
class PythonSyntax:
    """Parse Python documents (by language, or by the id's suffix), as the Python that runs this would.

    So Python 2 does not pass, nor does syntax newer than this Python. Other documents are not looked at.
    """

    action: Literal["drop", "count"] = option(
        "drop", help="What happens to a document that does not parse: it is dropped, or only counted."
    )
    max_bytes: int = option(
        1_000_000,
        gt=0,
        help="Bytes from which a document counts as not parsing: a parser's memory may be 600 times its text.",
    )

    @hookimpl
    def codex_cleaner(self, run: RunContext) -> SyntaxFilter:  # noqa: ARG002 - the hook's first argument
        """Begin a pass."""
        from codex_clean.parsing import SyntaxFilter

        return SyntaxFilter(self.action, self.max_bytes)
