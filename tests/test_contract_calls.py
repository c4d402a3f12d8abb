"""What a contract says where two sequences differ: the place, and only the part that matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import Document
from codex_kernel.testing._calls import check_same


@given(st.lists(st.text()), st.lists(st.text()))
def test_sequences_pass_where_they_are_equal_and_only_there(one: list[str], other: list[str]) -> None:
    """Equal ones pass, others fail."""
    check_same(one, list(one))
    if one != other:
        with pytest.raises(AssertionError):
            check_same(one, other)


def test_the_first_difference_is_shown_in_a_line() -> None:
    """Of a long document the message shows where it differs, not the whole."""
    text = "word " * 100_000
    same, one, other = (Document("a", "g", text + end) for end in ("", "left", "right"))
    with pytest.raises(AssertionError) as caught:
        check_same([same, one], [same, other])
    message = str(caught.value)
    assert message.startswith("number 1 differs: expected …")
    assert "word right" in message
    assert "word left" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ("ab", "abc", "number 2 differs: expected …'c'…, got …'nothing'…"),
        ([1, 2], [1], "number 1 differs: expected …'nothing'…, got …2…"),
        ([1], (1,), "number 1 differs: expected …(1,)…, got …[1]…"),
    ],
)
def test_what_is_missing_is_told(found: str, expected: str, message: str) -> None:
    """A sequence that ends too early or too late differs where it ends."""
    with pytest.raises(AssertionError) as caught:
        check_same(found, expected)
    assert str(caught.value) == message
