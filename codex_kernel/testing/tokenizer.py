"""The contract of tokenizer plugins: what a run relies on, as tests.

    class TestMine(TokenizerContract):
        def make(self, folder):
            return MyTokenizer(vocab_size=300)

One rule: it knows the hook and the protocol only. It needs pytest and Hypothesis.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codex_kernel.interfaces import BatchTokenizer, SavedTokenizer, Tokenizer
from codex_kernel.testing._calls import hooks_of
from codex_kernel.testing.toys import make_run

PROBES = (
    'def greet(name: str) -> str:\n\treturn f"Hello, {name!r}"  # naïve → 漢字\n',
    "class A:\r\n    x  =  1\r\n\r\n\r\n    def f(self):\r\n        return  self.x\r\n",
    "    leading, trailing    \n\n\n",
    "🙂👩‍👩‍👧 e\u0301 \u00e9 \ufb01 \u2126 \u200b \u3000 ①",
    "<s></s><unk><pad><|endoftext|><|im_end|>[CLS] ▁ Ġ Ċ",
    "\t\tif x != 0x1F and y <= 1e-9: pass\n",
    " ",
    "\n",
)
"""Texts that careless tokenizers do not give back."""

CORPUS = tuple(
    f"def function_{n}(first, second={n}):\n    '''Return number {n} of {n * n}.'''\n"
    f"    for index in range(first, {n}):\n        if index % {n + 2} == second:\n            return index * {n}\n"
    f"    raise ValueError(f'no number for {{first}}')\n\n\nclass Thing{n}(Base):\n    value: int = {n}\n"
    for n in range(60)
)
"""Training texts of a run in which a tokenizer is made."""


class TokenizerContract:
    """What holds for every tokenizer plugin; subclass it and give `make`."""

    examples = 100
    """Texts that Hypothesis tries."""

    def make(self, folder: Path) -> Any:
        """Return the plugin; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def tokenizer(self, folder: Path, *, saved: Path | None = None, train: bool = True) -> Tokenizer:
        """Ask a fresh plugin for the tokenizer of a run, as the kernel does."""
        folder.mkdir(parents=True, exist_ok=True)
        plugin = self.make(folder)
        tokenizer: Tokenizer | None = hooks_of(plugin).codex_tokenizer(
            run=make_run(folder), corpus=CORPUS if train else None, saved=saved
        )
        assert tokenizer is not None, "codex_tokenizer gave None"
        return tokenizer

    def test_code_comes_back(self, tmp_path: Path) -> None:
        """Tabs, CRLF, runs of spaces, emoji, combining marks and the look of special tokens come back unchanged."""
        tokenizer = self.tokenizer(tmp_path)
        for text in (*PROBES, *CORPUS):
            assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_any_text_comes_back(self, tmp_path: Path) -> None:
        """Any Unicode text without NUL comes back unchanged from its ids."""
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        tokenizer = self.tokenizer(tmp_path)

        @settings(
            max_examples=self.examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
        def check(text: str) -> None:
            assert tokenizer.decode(tokenizer.encode(text)) == text

        check()

    def test_ids_are_in_the_vocabulary(self, tmp_path: Path) -> None:
        """Every id is an integer in 0 … vocab_size - 1, and so is the end-of-text id."""
        tokenizer = self.tokenizer(tmp_path)
        for text in PROBES:
            for token in tokenizer.encode(text):
                assert int(token) == token
                assert 0 <= token < tokenizer.vocab_size
        assert 0 <= tokenizer.eos_id < tokenizer.vocab_size

    def test_no_text_has_no_ids(self, tmp_path: Path) -> None:
        """An empty text has no ids, and no ids are an empty text."""
        tokenizer = self.tokenizer(tmp_path)
        assert list(tokenizer.encode("")) == []
        assert tokenizer.decode([]) == ""

    def test_encoding_adds_no_special_token(self, tmp_path: Path) -> None:
        """No text has the end-of-text id among its ids: the data package alone puts it there."""
        tokenizer = self.tokenizer(tmp_path)
        for text in PROBES:
            assert tokenizer.eos_id not in list(tokenizer.encode(text))

    def test_end_of_text_is_no_text(self, tmp_path: Path) -> None:
        """The end-of-text token stands for no text wherever it lies."""
        tokenizer = self.tokenizer(tmp_path)
        ids = list(tokenizer.encode(PROBES[0]))
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == PROBES[0]
        assert tokenizer.decode([tokenizer.eos_id]) == ""

    def test_encoding_has_no_memory(self, tmp_path: Path) -> None:
        """A text has the same ids whatever was encoded before it."""
        tokenizer = self.tokenizer(tmp_path)
        first = [list(tokenizer.encode(text)) for text in PROBES]
        again = [list(tokenizer.encode(text)) for text in reversed(PROBES)]
        assert first == again[::-1]

    def test_many_at_once_are_as_one_by_one(self, tmp_path: Path) -> None:
        """`encode_batch`, where there is one, gives what `encode` gives for each text."""
        tokenizer = self.tokenizer(tmp_path)
        if not isinstance(tokenizer, BatchTokenizer):
            return
        batch = tokenizer.encode_batch([*PROBES, ""])
        assert [list(ids) for ids in batch] == [list(tokenizer.encode(text)) for text in (*PROBES, "")]

    def test_the_same_texts_make_the_same_tokenizer(self, tmp_path: Path) -> None:
        """Two plugins with the same options and texts give tokenizers with equal ids and fingerprints."""
        first, second = self.tokenizer(tmp_path / "first"), self.tokenizer(tmp_path / "second")
        for text in PROBES:
            assert list(first.encode(text)) == list(second.encode(text))
        assert (first.vocab_size, first.eos_id) == (second.vocab_size, second.eos_id)
        if isinstance(first, SavedTokenizer) and isinstance(second, SavedTokenizer):
            assert first.fingerprint() == second.fingerprint()

    def test_a_saved_tokenizer_is_loaded_without_training_texts(self, tmp_path: Path) -> None:
        """What was saved, or the options alone, gives an equal tokenizer again, as `generate` needs it."""
        first = self.tokenizer(tmp_path / "first")
        saved = None
        if isinstance(first, SavedTokenizer):
            saved = tmp_path / "saved"
            saved.mkdir()
            first.save(saved)
        second = self.tokenizer(tmp_path / "second", saved=saved, train=False)
        for text in PROBES:
            assert list(first.encode(text)) == list(second.encode(text))
        assert (first.vocab_size, first.eos_id) == (second.vocab_size, second.eos_id)
        if isinstance(first, SavedTokenizer) and isinstance(second, SavedTokenizer):
            assert first.fingerprint() == second.fingerprint()
