"""The contract of dataset plugins: what a run relies on, as tests.

    class TestMine(DatasetContract):
        def make(self, folder):
            (folder / "a.txt").write_text("first")
            return MyDataset(path="a.txt")

A dataset of records, whose section names their fields, subclasses `RecordDatasetContract` instead, which is given any
records to store.

One rule: it knows the hook, `Document` and `BadRecord` only. It needs pytest.
"""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from codex_kernel.interfaces import BadRecord, Document, Message
from codex_kernel.testing._calls import check_same, hooks_of, listing
from codex_kernel.testing.plugin import SpawnedContract
from codex_kernel.testing.toys import make_run


class DatasetContract(SpawnedContract):
    """What holds for every dataset plugin; subclass it and give `make`."""

    kind = "dataset"

    def make(self, folder: Path) -> Any:
        """Return the plugin and put the files that it reads into `folder`, from which relative paths start."""
        raise NotImplementedError

    def plugin(self, folder: Path) -> Any:
        """Return the plugin."""
        return self.make(folder)

    def use(self, plugin: Any, folder: Path) -> None:
        """Read the documents."""
        list(self.documents_of(plugin, folder))

    def sources(self) -> Mapping[str, Iterable[Document | BadRecord]]:
        """Return the documents of the datasets that the plugin is made of, by name; most are made of none."""
        return {}

    def documents(self, folder: Path, *, rank: int = 0) -> Iterable[Document | BadRecord]:
        """Ask a fresh plugin for the documents of a run, as the kernel does."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.documents_of(self.make(folder), folder, rank=rank)

    def documents_of(self, plugin: object, folder: Path, *, rank: int = 0) -> Iterable[Document | BadRecord]:
        """Ask a plugin for the documents of a run that starts in `folder`."""
        run = attrs.evolve(make_run(folder.parent / f"{folder.name}-run"), base=folder, rank=rank)
        documents: Iterable[Document | BadRecord] | None = hooks_of(plugin).codex_dataset(
            run=run, sources=self.sources()
        )
        assert documents is not None, "codex_dataset gave None"
        return documents

    def test_there_are_documents(self, tmp_path: Path) -> None:
        """The dataset gives documents and perhaps bad records, some of them with a text or messages."""
        documents = list(self.documents(tmp_path / "data"))
        assert all(isinstance(document, Document | BadRecord) for document in documents)
        assert any(
            document.text or document.messages for document in documents if isinstance(document, Document)
        )

    def test_fields_are_what_they_are_declared(self, tmp_path: Path) -> None:
        """Fields are strings of valid Unicode, id and group not empty, the language in lower case.

        Messages are a tuple, each with a role; where there are any, there is no text and no prompt.
        """
        for document in self.documents(tmp_path / "data"):
            if isinstance(document, BadRecord):
                assert document.where
                assert document.problem
                continue
            _check_text(document.id, document.group, document.text, document.prompt, document.language)
            assert document.id
            assert document.group
            assert document.language == document.language.lower()
            assert isinstance(document.messages, tuple)
            assert not (document.messages and (document.text or document.prompt))
            for message in document.messages:
                _check_text(message.role, message.content)
                assert message.role
                assert isinstance(message.trained, bool)

    def test_ids_are_unique(self, tmp_path: Path) -> None:
        """No two documents share an id, and no two bad records a place."""
        documents = list(self.documents(tmp_path / "data"))
        ids = [document.id for document in documents if isinstance(document, Document)]
        places = [document.where for document in documents if isinstance(document, BadRecord)]
        assert len(set(ids)) == len(ids)
        assert len(set(places)) == len(places)

    def test_documents_can_be_gone_through_again(self, tmp_path: Path) -> None:
        """The same object gives the same documents in the same order each time."""
        documents = self.documents(tmp_path / "data")
        check_same(list(documents), list(documents))

    def test_two_readers_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        """Two passes at the same time each see all documents, and a pass that was given up harms nobody."""
        documents = self.documents(tmp_path / "data")
        pairs = list(zip(documents, documents, strict=True))
        check_same(pairs, [(document, document) for document in documents])
        next(iter(documents))
        assert len(list(documents)) == len(pairs)

    def test_a_new_plugin_gives_the_same_documents(self, tmp_path: Path) -> None:
        """Plugins with the same options over the same files give the same documents, wherever these lie."""
        first = list(self.documents(tmp_path / "first"))
        check_same(list(self.documents(tmp_path / "second" / "deeper")), first)

    def test_two_runs_in_one_process_do_not_meet(self, tmp_path: Path) -> None:
        """Documents of two plugins, read in turn from two folders, are those that each gives alone."""
        one, other = self.documents(tmp_path / "one"), self.documents(tmp_path / "other")
        pairs = list(zip(one, other, strict=True))
        alone = list(self.documents(tmp_path / "alone"))
        check_same(pairs, [(document, document) for document in alone])

    def test_the_working_folder_does_not_matter(self, tmp_path: Path) -> None:
        """Relative paths start from the run's base, not from the folder that the process is in."""
        here = Path.cwd()
        expected = list(self.documents(tmp_path / "data"))
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        os.chdir(elsewhere)
        try:
            found = list(self.documents(tmp_path / "data"))
        finally:
            os.chdir(here)
        check_same(found, expected)

    def test_every_rank_gets_the_same_documents(self, tmp_path: Path) -> None:
        """A process of another rank gets the same documents: it is the kernel that shares them out."""
        other = list(self.documents(tmp_path / "data", rank=1))
        check_same(other, list(self.documents(tmp_path / "data")))

    def test_reading_leaves_no_trace(self, tmp_path: Path) -> None:
        """Reading writes nothing beside the data and does not touch the random state of the process."""
        folder = tmp_path / "data"
        documents = self.documents(folder)
        before, state = listing(folder), random.getstate()
        list(documents)
        assert listing(folder) == before
        assert random.getstate() == state


class RecordDatasetContract(DatasetContract):
    """What holds beside it for datasets of records with fields `text`, `prompt`, `completion` and `messages`.

    Subclass it and give `store`; set `conversations` to False where a record cannot hold messages.
    """

    conversations = True

    def store(self, folder: Path, records: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Put the records, which have the same fields, into `folder`; return the plugin that reads them."""
        raise NotImplementedError

    def make(self, folder: Path) -> Any:
        """Store two records."""
        return self.store(folder, [{"text": "def one():\n\treturn 1\n"}, {"text": "naïve 🙂"}])

    def stored(
        self, folder: Path, records: Sequence[Mapping[str, Any]], **options: Any
    ) -> list[Document | BadRecord]:
        """Store records and read them back."""
        folder.mkdir(parents=True, exist_ok=True)
        return list(self.documents_of(self.store(folder, records, **options), folder))

    def test_texts_come_back(self, tmp_path: Path) -> None:
        """Every text comes back to the last character, in its order."""
        texts = [
            "plain",
            " white space \t\n",
            "a\nb\r\nc",
            'quotes " and, commas; \\',
            "e\u0301 é 🙂 \u2028 \u200d",
            "",
        ]
        found = self.stored(tmp_path / "data", [{"text": text} for text in texts])
        assert [document.text for document in found if isinstance(document, Document)] == texts

    def test_a_completion_has_its_prompt(self, tmp_path: Path) -> None:
        """A completion is trained, the prompt before it is not, under whatever names."""
        [plain] = self.stored(tmp_path / "plain", [{"prompt": "1 + 1 =", "completion": " 2"}])
        [named] = self.stored(tmp_path / "named", [{"q": "1 + 1 =", "a": " 2"}], prompt="q", completion="a")
        for document in (plain, named):
            assert isinstance(document, Document)
            assert (document.prompt, document.text, document.messages) == ("1 + 1 =", " 2", ())

    def test_messages_come_back(self, tmp_path: Path) -> None:
        """Messages are read with role, text and weight, under whatever names; or the dataset has none at all."""
        said = [("system", "s", None), ("user", "u\n", None), ("assistant", "a", 0), ("assistant", "b", 1)]
        records = [{"talk": [{"from": role, "value": text, "weight": weight} for role, text, weight in said]}]
        names = {"messages": "talk", "role": "from", "content": "value"} if self.conversations else {}
        if not self.conversations:
            assert not hasattr(self.store(tmp_path, [{"text": "x"}]), "messages")
            return
        [document] = self.stored(tmp_path / "data", records, **names)
        assert isinstance(document, Document)
        assert document.messages == (
            Message("system", "s"),
            Message("user", "u\n"),
            Message("assistant", "a", trained=False),
            Message("assistant", "b"),
        )

    def test_id_group_and_language_are_read(self, tmp_path: Path) -> None:
        """They come from the fields that the section names; a number is an id too, a language is in lower case."""
        records = [
            {"text": text, "name": name, "repo": "r", "lang": "C++"}
            for text, name in [("x", "n1"), ("y", "n2")]
        ]
        found = self.stored(tmp_path / "data", records, id="name", group="repo", language="lang")
        assert found == [
            Document("n1", "r", "x", language="c++"),
            Document("n2", "r", "y", language="c++"),
        ]

    def test_a_bad_record_stands_in_its_place(self, tmp_path: Path) -> None:
        """A record that cannot be used is a BadRecord with its place, and those around it are read."""
        records = [
            {"text": text, "name": name} for text, name in [("a", "1"), ("b", ""), ("c", ""), ("d", "4")]
        ]
        found = self.stored(tmp_path / "data", records, id="name")
        assert [type(each) for each in found] == [Document, BadRecord, BadRecord, Document]
        places = [each.where for each in found if isinstance(each, BadRecord)]
        assert len(set(places)) == len(places)
        assert all("'name'" in each.problem for each in found if isinstance(each, BadRecord))

    def test_reading_is_lazy(self, tmp_path: Path) -> None:
        """What is held in memory does not grow with the records: they are read as they are asked for."""
        folder = tmp_path / "data"
        folder.mkdir()
        plugin = self.store(folder, [{"text": f"{number} " * 200} for number in range(8_000)])
        next(iter(self.documents_of(plugin, folder)))  # what the library imports does not count
        tracemalloc.start()
        try:
            documents = self.documents_of(plugin, folder)
            total = sum(len(each.text) for each in documents if isinstance(each, Document))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert total > 7_000_000
        assert peak < total / 3


def _check_text(*values: object) -> None:
    for value in values:
        assert isinstance(value, str)
        value.encode()
