"""The contract of tokenizer plugins: what a run relies on, as tests.

    class TestMine(TokenizerContract):
        def make(self, folder):
            return MyTokenizer(vocab_size=300)

One rule: it knows the hook and the protocol only. It needs pytest and Hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from codex_kernel.errors import CodexError
from codex_kernel.interfaces import (
    BatchDecoder,
    BatchTokenizer,
    OffsetTokenizer,
    SavedTokenizer,
    SpecialTokens,
    Tokenizer,
)
from codex_kernel.testing._calls import check_same, hooks_of
from codex_kernel.testing.plugin import SpawnedContract
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

OTHER_CORPUS = (*CORPUS, *("zebra_quartz(xylophone)\n" * 4 for _ in range(200)))
"""Texts that make another vocabulary of the same size, where one is trained."""

REFUSALS = (CodexError, ValueError, LookupError, OverflowError)
"""What a tokenizer may raise for text and ids that are none; a crash of its library is not among them."""


class TokenizerContract(SpawnedContract):
    """What holds for every tokenizer plugin; subclass it and give `make`."""

    kind = "tokenizer"
    examples = 100
    """Texts that Hypothesis tries."""

    def make(self, folder: Path) -> Any:
        """Return the plugin; `folder` is an empty one, from which relative paths start."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:
        """Return the plugin."""
        return self.make(folder)

    def use(self, plugin: Any, folder: Path) -> None:
        """Ask for the tokenizer."""
        hooks_of(plugin).codex_tokenizer(run=make_run(folder), corpus=CORPUS, saved=None)

    def tokenizer(
        self,
        folder: Path,
        *,
        saved: Path | None = None,
        train: bool = True,
        corpus: Sequence[str] = CORPUS,
    ) -> Tokenizer:
        """Ask a fresh plugin for the tokenizer of a run, as the kernel does."""
        folder.mkdir(parents=True, exist_ok=True)
        plugin = self.make(folder)
        tokenizer: Tokenizer | None = hooks_of(plugin).codex_tokenizer(
            run=make_run(folder), corpus=corpus if train else None, saved=saved
        )
        assert tokenizer is not None, "codex_tokenizer gave None"
        return tokenizer

    def reloaded(self, first: Tokenizer, folder: Path) -> Tokenizer:
        """Return the tokenizer again as `generate` has it: from what `first` saved, or from the options alone."""
        saved = None
        if isinstance(first, SavedTokenizer):
            saved = folder / "saved"
            saved.mkdir()
            first.save(saved)
        return self.tokenizer(folder / "second", saved=saved, train=False)

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
        """`encode_batch` and `decode_batch`, where there are such, give what `encode` and `decode` give for each."""
        tokenizer = self.tokenizer(tmp_path)
        texts = [*PROBES, ""]
        one_by_one = [list(tokenizer.encode(text)) for text in texts]
        if isinstance(tokenizer, BatchTokenizer):
            assert [list(ids) for ids in tokenizer.encode_batch(texts)] == one_by_one
            assert list(tokenizer.encode_batch([])) == []
        if isinstance(tokenizer, BatchDecoder):
            assert list(tokenizer.decode_batch(one_by_one)) == texts
            assert list(tokenizer.decode_batch([])) == []

    def test_encoding_may_be_done_by_many_threads(self, tmp_path: Path) -> None:
        """Threads that encode at the same time get the ids that each would get alone."""
        tokenizer = self.tokenizer(tmp_path)
        texts = PROBES * 8
        alone = [list(tokenizer.encode(text)) for text in texts]
        with ThreadPoolExecutor(4) as threads:
            assert [list(ids) for ids in threads.map(tokenizer.encode, texts)] == alone

    def test_offsets_cover_the_text_in_order(self, tmp_path: Path) -> None:
        """Offsets, where there are such, lie in the text, go forward, leave no character out, and change no id."""
        tokenizer = self.tokenizer(tmp_path)
        if not isinstance(tokenizer, OffsetTokenizer):
            return
        for text in (*PROBES, ""):
            ids, spans = tokenizer.encode_with_offsets(text)
            assert list(ids) == list(tokenizer.encode(text))
            assert len(spans) == len(ids)
            before = (0, 0)
            for start, stop in spans:
                assert before[0] <= start <= before[1] <= stop <= len(text), f"{(start, stop)} after {before}"
                before = (start, stop)
            assert before[1] == len(text), f"the spans end at {before[1]} of {len(text)} characters"

    def test_tokens_that_share_a_character_all_cover_it(self, tmp_path: Path) -> None:
        """Of a character that is several tokens, each says that it covers the whole of it."""
        tokenizer = self.tokenizer(tmp_path)
        if not isinstance(tokenizer, OffsetTokenizer):
            return
        _, spans = tokenizer.encode_with_offsets("\U0001fae8")
        covering = [
            span for span in spans if span != (0, 0)
        ]  # some begin each text with a token that covers nothing
        assert covering == [(0, 1)] * len(covering)
        assert len(spans) - len(covering) <= 1

    def test_special_tokens_are_no_text(self, tmp_path: Path) -> None:
        """Each special token is one id that no text has, not even what spells it, and that stands for no text."""
        tokenizer = self.tokenizer(tmp_path)
        if not isinstance(tokenizer, SpecialTokens):
            return
        specials = dict(tokenizer.special_tokens)
        assert len(set(specials.values())) == len(specials), f"two special tokens share an id: {specials}"
        assert tokenizer.eos_id in specials.values()
        spelt = f"a {' '.join(specials)} b"
        for text in (*specials, spelt):
            found = set(tokenizer.encode(text)) & set(specials.values())
            assert not found, f"the text {text!r} has the special ids {found}"
            assert tokenizer.decode(tokenizer.encode(text)) == text
        for name, token in specials.items():
            assert 0 <= token < tokenizer.vocab_size
            first, second = tokenizer.encode("a"), tokenizer.encode("b")
            back = tokenizer.decode([*first, token, *second])
            assert back == tokenizer.decode([*first, *second]), f"{name!r} stands for text"

    def test_padding_is_a_special_token_or_there_is_none(self, tmp_path: Path) -> None:
        """The padding token is one of the special tokens; where there is none, it is None and not some id."""
        tokenizer = self.tokenizer(tmp_path)
        if isinstance(tokenizer, SpecialTokens):
            assert tokenizer.pad_id is None or tokenizer.pad_id in tokenizer.special_tokens.values()

    def test_unknown_ids_are_refused(self, tmp_path: Path) -> None:
        """Ids outside of the vocabulary are an error, alone and in a batch, and not left out or turned into text."""
        tokenizer = self.tokenizer(tmp_path)
        for wrong in (-1, tokenizer.vocab_size, tokenizer.vocab_size + 1_000_000):
            with pytest.raises(REFUSALS):
                tokenizer.decode([*tokenizer.encode("a"), wrong])
            if isinstance(tokenizer, BatchDecoder):
                with pytest.raises(REFUSALS):
                    tokenizer.decode_batch([[], [wrong]])

    def test_a_lone_surrogate_is_refused(self, tmp_path: Path) -> None:
        """A string that is no Unicode text is an error; half a text must not pass for a whole one."""
        tokenizer = self.tokenizer(tmp_path)
        with pytest.raises(REFUSALS):
            tokenizer.encode("a\ud800b")
        if isinstance(tokenizer, BatchTokenizer):
            with pytest.raises(REFUSALS):
                tokenizer.encode_batch(["a", "a\ud800b"])

    def test_nul_comes_back_or_is_refused(self, tmp_path: Path) -> None:
        """A NUL character comes back, or is an error: it never ends the text that is read."""
        tokenizer = self.tokenizer(tmp_path)
        try:
            ids = tokenizer.encode("a\0b")
        except REFUSALS:
            return
        assert tokenizer.decode(ids) == "a\0b"

    def test_a_long_run_of_one_character_comes_back(self, tmp_path: Path) -> None:
        """A megabyte without a place to part it, as generated files have it, is encoded like any other."""
        tokenizer = self.tokenizer(tmp_path)
        text = "=" * 1_000_000
        check_same(tokenizer.decode(tokenizer.encode(text)), text)

    def test_the_same_texts_make_the_same_tokenizer(self, tmp_path: Path) -> None:
        """Two plugins with the same options and texts give tokenizers with equal ids and fingerprints."""
        first, second = self.tokenizer(tmp_path / "first"), self.tokenizer(tmp_path / "second")
        for text in PROBES:
            assert list(first.encode(text)) == list(second.encode(text))
        assert (first.vocab_size, first.eos_id) == (second.vocab_size, second.eos_id)
        if isinstance(first, SavedTokenizer) and isinstance(second, SavedTokenizer):
            assert first.fingerprint() == second.fingerprint()

    def test_two_runs_in_one_process_do_not_meet(self, tmp_path: Path) -> None:
        """A tokenizer that another run makes of other texts leaves the ids of the first as they are."""
        first = self.tokenizer(tmp_path / "first")
        before = [list(first.encode(text)) for text in PROBES]
        second = self.tokenizer(tmp_path / "second", corpus=OTHER_CORPUS)
        second.encode(PROBES[0])
        assert [list(first.encode(text)) for text in PROBES] == before

    def test_a_save_that_lost_its_files_is_told(self, tmp_path: Path) -> None:
        """A saved tokenizer whose files are gone is a codex error that names the place or a remedy, not another one."""
        first = self.tokenizer(tmp_path / "first")
        if not isinstance(first, SavedTokenizer):
            return
        (tmp_path / "empty").mkdir()
        try:
            self.tokenizer(tmp_path / "second", saved=tmp_path / "empty", train=False)
        except CodexError as error:
            named = "empty" in error.message or error.remedy
            assert named, f"{error.message}: neither where it is wrong nor how to mend it"
        else:
            raise AssertionError("an empty folder was taken for a saved tokenizer")

    def test_a_saved_tokenizer_is_loaded_without_training_texts(self, tmp_path: Path) -> None:
        """What was saved, or the options alone, gives an equal tokenizer again, as `generate` needs it."""
        first = self.tokenizer(tmp_path / "first")
        second = self.reloaded(first, tmp_path)
        for text in PROBES:
            assert list(first.encode(text)) == list(second.encode(text))
        assert (first.vocab_size, first.eos_id) == (second.vocab_size, second.eos_id)
        if isinstance(first, SavedTokenizer) and isinstance(second, SavedTokenizer):
            assert first.fingerprint() == second.fingerprint()
        if isinstance(first, SpecialTokens) and isinstance(second, SpecialTokens):
            assert dict(first.special_tokens) == dict(second.special_tokens)
            assert first.pad_id == second.pad_id

    def test_another_vocabulary_has_another_fingerprint(self, tmp_path: Path) -> None:
        """Where other training texts make a tokenizer with other ids, its fingerprint is another one too."""
        first = self.tokenizer(tmp_path / "first")
        second = self.tokenizer(tmp_path / "second", corpus=OTHER_CORPUS)
        if all(list(first.encode(text)) == list(second.encode(text)) for text in OTHER_CORPUS):
            return
        assert isinstance(first, SavedTokenizer), "the texts decide the ids, but it cannot be saved"
        assert isinstance(second, SavedTokenizer)
        assert first.fingerprint() != second.fingerprint()
