"""The contract of cleaning steps: what a run relies on, as tests.

    class TestMine(CleanerContract):
        dirty = (Document("a.py", "a", "print 'Python 2'", language="python"),)

        def make(self, folder):
            return MyStep()

One rule: it knows the hook, `Cleaner` and `Document` only. It needs pytest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from codex_kernel.interfaces import Cleaned, Cleaner, Document, Message
from codex_kernel.testing._calls import check_same, hooks_of, listing
from codex_kernel.testing.plugin import SpawnedContract
from codex_kernel.testing.toys import make_run

_FUNCTION = (
    "def mean(values: list[float]) -> float:\n"
    '    """Return the arithmetic mean of values that are not empty."""\n'
    "    total = 0.0\n"
    "    for value in values:\n"
    "        total += value\n"
    "    return total / len(values)\n"
)
_TURNS = (
    Message("system", "You write short Python functions."),
    Message("user", "Add two numbers, please.\r\n"),
    Message("assistant", "def add(a, b):\n    return a + b\n", trained=False),
    Message("user", ""),
    Message("assistant", "def add(a: int, b: int) -> int:\n    return a + b\n"),
)

DOCUMENTS = (
    Document("mean.py", "statistics", _FUNCTION, language="python"),
    Document("copy/mean.py", "copy", _FUNCTION, language="python", source="code"),
    Document("crlf.py", "crlf", "x = 1\r\n\r\n\ty = 2\r\n", language="python"),
    Document(
        "task-1", "tasks", "    return -a\n", prompt="Negate a number.\ndef negate(a):\n", source="tasks"
    ),
    Document("talk-1", "talks", messages=_TURNS),
    Document("empty", "empty"),
    Document("blank", "blank", " \n\t\r\n\u3000"),
    Document("no-newline", "prose", "The class name, className, is written in camel case"),
    Document("unicode", "prose", "naïve 漢字 🙂👩‍👩‍👧 e\u0301 \ufeff \u2028 \x0c \0 end\n"),
    Document("line", "line", "word " * 16_000),
    Document("lines", "lines", "\n" * 5_000),
    Document("digits", "digits", "0123456789" * 8_000),
    Document("deep", "deep", "(" * 50_000, language="python"),
    Document("folder/deep/Makefile", "make", "all:\n\tcc -o main main.c\n", language="makefile"),
)
"""Documents of every shape, in which a step need not find anything."""

SURROGATE = Document("surrogate", "surrogate", "before \ud800 after\n", language="python")
"""No valid text: a step never gets it from the kernel, and does not fall over it all the same."""


class CleanerContract(SpawnedContract):
    """What holds for every cleaning step; subclass it, and give `make` and some `dirty` documents."""

    kind = "cleaner"
    dirty: Sequence[Document] = ()
    """Documents in which the step has something to do, each by itself or after those before it."""
    order_matters = False
    """True: what becomes of a document depends on those before it (duplicates); never on those after it."""

    def make(self, folder: Path) -> Any:
        """Return the plugin and put the files that it reads into `folder`, from which relative paths start."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:
        """Return the plugin."""
        return self.make(folder)

    def use(self, plugin: Any, folder: Path) -> None:
        """Begin a pass."""
        hooks_of(plugin).codex_cleaner(run=attrs.evolve(make_run(folder), base=folder))

    def cleaner(self, folder: Path, *, rank: int = 0) -> Cleaner:
        """Ask a fresh plugin for a pass, as the kernel does."""
        return self.cleaners(folder, 1, rank=rank)[0]

    def cleaners(self, folder: Path, count: int, *, rank: int = 0) -> list[Cleaner]:
        """Ask one plugin for several passes."""
        folder.mkdir(parents=True, exist_ok=True)
        plugin = self.make(folder)
        run = attrs.evolve(make_run(folder.parent / f"{folder.name}-run"), base=folder, rank=rank)
        answers = [hooks_of(plugin).codex_cleaner(run=run) for _ in range(count)]
        assert all(len(answer) == 1 for answer in answers), "codex_cleaner gave None"
        return [answer[0] for answer in answers]

    def documents(self) -> list[Document]:
        """Return clean and dirty documents, mixed: copies, lest a step that writes into them spoils the next test."""
        first, *rest = DOCUMENTS
        return [attrs.evolve(document) for document in (first, *self.dirty, *rest, SURROGATE)]

    def answers(self, folder: Path, documents: Iterable[Document] | None = None) -> list[Cleaned]:
        """Clean documents in a pass of their own."""
        cleaner = self.cleaner(folder)
        return [
            cleaner.clean(document) for document in (self.documents() if documents is None else documents)
        ]

    # ── the answers ───────────────────────────────────────────────────────────────────────────────────────────

    def test_each_document_gets_an_answer(self, tmp_path: Path) -> None:
        """Every document is answered with a Cleaned that holds a document or None, whatever its text is."""
        for answer in self.answers(tmp_path):
            assert isinstance(answer, Cleaned)
            assert answer.document is None or isinstance(answer.document, Document)

    def test_dirty_documents_are_dropped_changed_or_counted(self, tmp_path: Path) -> None:
        """The step does something with each of the documents that it is made for."""
        assert self.dirty, "give `dirty` documents in which the step has something to do"
        for document, answer in zip(self.documents(), self.answers(tmp_path), strict=True):
            if document in self.dirty:
                assert answer.counts, document.id

    def test_nothing_happens_without_a_count(self, tmp_path: Path) -> None:
        """A document that is dropped or changed is counted, with a reason."""
        for document, answer in zip(self.documents(), self.answers(tmp_path), strict=True):
            if answer.document != document:
                assert answer.counts, document.id

    def test_counts_are_words_and_positive_integers(self, tmp_path: Path) -> None:
        """Counts name a reason in a short line of print, and say how often as an integer above 0."""
        for answer in self.answers(tmp_path):
            for reason, count in answer.counts.items():
                assert isinstance(reason, str)
                assert reason.strip() == reason
                assert reason.isprintable()
                assert 0 < len(reason) <= 120
                assert type(count) is int
                assert count > 0

    def test_only_the_texts_change(self, tmp_path: Path) -> None:
        """A document that is kept has the id, group, language and source that it had."""
        for document, answer in zip(self.documents(), self.answers(tmp_path), strict=True):
            if answer.document is not None:
                kept = attrs.evolve(document, text="", prompt="", messages=())
                assert attrs.evolve(answer.document, text="", prompt="", messages=()) == kept

    def test_texts_stay_valid_text(self, tmp_path: Path) -> None:
        """What was valid Unicode is valid Unicode afterwards, in every field."""
        for document, answer in zip(self.documents(), self.answers(tmp_path), strict=True):
            if answer.document is not None and document != SURROGATE:
                turns = "".join(turn.role + turn.content for turn in answer.document.messages)
                (answer.document.prompt + answer.document.text + turns).encode()

    def test_a_conversation_stays_one(self, tmp_path: Path) -> None:
        """A conversation that is kept has the same turns by the same roles, trained or not as before, and no text."""
        talks = [document for document in self.documents() if document.messages]
        for document, answer in zip(talks, self.answers(tmp_path, talks), strict=True):
            if answer.document is None:
                continue
            assert (answer.document.text, answer.document.prompt) == ("", "")
            turns = [(turn.role, turn.trained) for turn in answer.document.messages]
            assert turns == [(turn.role, turn.trained) for turn in document.messages]

    def test_the_given_document_is_left_alone(self, tmp_path: Path) -> None:
        """The document that was given is not changed: what is changed is a copy."""
        documents, before = self.documents(), [attrs.asdict(document) for document in self.documents()]
        self.answers(tmp_path, documents)
        check_same([attrs.asdict(document) for document in documents], before)

    # ── what they depend on ───────────────────────────────────────────────────────────────────────────────────

    def test_a_new_plugin_gives_the_same_answers(self, tmp_path: Path) -> None:
        """Plugins with the same options over the same documents give the same answers, wherever their files lie."""
        check_same(self.answers(tmp_path / "second" / "deeper"), self.answers(tmp_path / "first"))

    def test_a_new_pass_has_forgotten_the_old(self, tmp_path: Path) -> None:
        """The same plugin gives the same answers in its second pass."""
        first, second = self.cleaners(tmp_path, 2)
        expected = [first.clean(document) for document in self.documents()]
        check_same([second.clean(document) for document in self.documents()], expected)

    def test_two_passes_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        """Two passes at the same time, of one plugin, each give the answers of one alone."""
        first, second = self.cleaners(tmp_path, 2)
        pairs = [(first.clean(document), second.clean(document)) for document in self.documents()]
        alone = self.answers(tmp_path / "alone")
        check_same(pairs, [(answer, answer) for answer in alone])

    def test_order_matters_only_where_it_says_so(self, tmp_path: Path) -> None:
        """Unless `order_matters` says so, a document's answer is the same in any order."""
        documents = self.documents()
        forwards = self.answers(tmp_path / "forwards", documents)
        backwards = self.answers(tmp_path / "backwards", documents[::-1])[::-1]
        if self.order_matters:
            assert forwards != backwards, (
                "order_matters is True, and makes no difference to `dirty` documents"
            )
        else:
            check_same(backwards, forwards)

    def test_documents_to_come_do_not_matter(self, tmp_path: Path) -> None:
        """An answer depends on the documents so far: it is given before the next one is seen, and holds."""
        documents = self.documents()
        half = self.answers(tmp_path / "half", documents[: len(documents) // 2])
        check_same(half, self.answers(tmp_path / "whole", documents)[: len(half)])

    def test_what_is_clean_stays_as_it_is(self, tmp_path: Path) -> None:
        """Documents that the step has kept are kept, unchanged, by another pass."""
        kept = [answer.document for answer in self.answers(tmp_path / "first") if answer.document is not None]
        again = [answer.document for answer in self.answers(tmp_path / "second", kept)]
        check_same(again, kept)

    def test_every_rank_gives_the_same_answers(self, tmp_path: Path) -> None:
        """A process of another rank cleans in the same way."""
        other = self.cleaner(tmp_path / "other", rank=1)
        check_same([other.clean(document) for document in self.documents()], self.answers(tmp_path / "first"))

    def test_the_working_folder_does_not_matter(self, tmp_path: Path) -> None:
        """Relative paths start from the run's base, not from the folder that the process is in."""
        here, elsewhere = Path.cwd(), tmp_path / "elsewhere"
        expected = self.answers(tmp_path / "data")
        elsewhere.mkdir()
        os.chdir(elsewhere)
        try:
            found = self.answers(tmp_path / "data")
        finally:
            os.chdir(here)
        check_same(found, expected)

    def test_random_states_stay_as_they_are(self, tmp_path: Path) -> None:
        """Cleaning neither draws from nor seeds the random generators of the process, and does not follow them."""
        import numpy as np

        kept = random.getstate()
        try:
            found = []
            for seed in (1, 2):
                random.seed(seed)
                before, numbers = random.getstate(), str(np.random.get_state())  # noqa: NPY002 - others' generator
                found.append(self.answers(tmp_path))
                assert random.getstate() == before
                assert str(np.random.get_state()) == numbers  # noqa: NPY002
        finally:
            random.setstate(kept)
        check_same(found[1], found[0])

    def test_cleaning_leaves_no_trace(self, tmp_path: Path) -> None:
        """Nothing is written beside the files that the step reads."""
        folder = tmp_path / "data"
        cleaner = self.cleaner(folder)
        before = listing(folder)
        for document in self.documents():
            cleaner.clean(document)
        assert listing(folder) == before

    def test_a_fingerprint_is_the_same_each_time(self, tmp_path: Path) -> None:
        """A step that has a fingerprint gives a text that no pass and no place of its files changes."""
        prints = []
        for name in ("first", "second"):
            cleaner = self.cleaner(tmp_path / name)
            fingerprint = getattr(cleaner, "fingerprint", None)
            if fingerprint is None:
                return
            prints.append(fingerprint())
            for document in self.documents():
                cleaner.clean(document)
            prints.append(fingerprint())
        assert isinstance(prints[0], str)
        assert prints[0]
        assert len(set(prints)) == 1
