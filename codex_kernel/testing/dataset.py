"""The contract of dataset plugins: what a run relies on, as tests.

    class TestMine(DatasetContract):
        def make(self, folder):
            (folder / "a.txt").write_text("first")
            return MyDataset(path="a.txt")

One rule: it knows the hook and `Document` only. It needs pytest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from codex_kernel.interfaces import Document
from codex_kernel.testing._calls import hooks_of, listing
from codex_kernel.testing.toys import make_run


class DatasetContract:
    """What holds for every dataset plugin; subclass it and give `make`."""

    def make(self, folder: Path) -> Any:
        """Return the plugin and put the files that it reads into `folder`, from which relative paths start."""
        raise NotImplementedError

    def documents(self, folder: Path, *, rank: int = 0) -> Iterable[Document]:
        """Ask a fresh plugin for the documents of a run, as the kernel does."""
        folder.mkdir(parents=True, exist_ok=True)
        plugin = self.make(folder)
        run = attrs.evolve(make_run(folder.parent / f"{folder.name}-run"), base=folder, rank=rank)
        documents: Iterable[Document] | None = hooks_of(plugin).codex_dataset(run=run)
        assert documents is not None, "codex_dataset gave None"
        return documents

    def test_there_are_documents(self, tmp_path: Path) -> None:
        """The dataset gives documents, some of them with text."""
        documents = list(self.documents(tmp_path / "data"))
        assert all(isinstance(document, Document) for document in documents)
        assert any(document.text for document in documents)

    def test_fields_are_text(self, tmp_path: Path) -> None:
        """Every field is a string of valid Unicode; id and group are not empty."""
        for document in self.documents(tmp_path / "data"):
            for value in attrs.astuple(document):
                assert isinstance(value, str)
                value.encode()
            assert document.id
            assert document.group

    def test_ids_are_unique(self, tmp_path: Path) -> None:
        """No two documents share an id."""
        ids = [document.id for document in self.documents(tmp_path / "data")]
        assert len(set(ids)) == len(ids)

    def test_documents_can_be_gone_through_again(self, tmp_path: Path) -> None:
        """The same object gives the same documents in the same order each time."""
        documents = self.documents(tmp_path / "data")
        assert list(documents) == list(documents)

    def test_two_readers_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        """Two passes at the same time each see all documents, and a pass that was given up harms nobody."""
        documents = self.documents(tmp_path / "data")
        pairs = list(zip(documents, documents, strict=True))
        assert [first for first, _ in pairs] == [second for _, second in pairs] == list(documents)
        next(iter(documents))
        assert len(list(documents)) == len(pairs)

    def test_a_new_plugin_gives_the_same_documents(self, tmp_path: Path) -> None:
        """Plugins with the same options over the same files give the same documents, wherever these lie."""
        first = list(self.documents(tmp_path / "first"))
        assert first == list(self.documents(tmp_path / "second" / "deeper"))

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
        assert found == expected

    def test_every_rank_gets_the_same_documents(self, tmp_path: Path) -> None:
        """A process of another rank gets the same documents: it is the kernel that shares them out."""
        assert list(self.documents(tmp_path / "data", rank=1)) == list(self.documents(tmp_path / "data"))

    def test_reading_leaves_no_trace(self, tmp_path: Path) -> None:
        """Reading writes nothing beside the data and does not touch the random state of the process."""
        folder = tmp_path / "data"
        documents = self.documents(folder)
        before, state = listing(folder), random.getstate()
        list(documents)
        assert listing(folder) == before
        assert random.getstate() == state

    def test_preflight_finds_nothing_wrong(self, tmp_path: Path) -> None:
        """Preflight is silent about a dataset that can be read."""
        plugin = self.make(tmp_path)
        answers = hooks_of(plugin).codex_preflight(base=tmp_path, cache=tmp_path / "cache")
        assert [problem for answer in answers for problem in answer] == []
