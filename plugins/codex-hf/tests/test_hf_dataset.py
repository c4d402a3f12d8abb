"""Datasets of the `datasets` library: local folders and files, pinned hub repositories, and what is refused."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from codex_hf import hub_dataset
from codex_hf.hub_dataset import HFDataset
from codex_hf.hub_files import matches
from codex_kernel import BadRecord, Document, InputError, PluginError, Secret, StorageError
from codex_kernel.testing import RecordDatasetContract, make_run

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Show no progress bars, and let nothing reach the network."""

    def refuse(*arguments, **options):
        raise AssertionError("a dataset asked the network")

    datasets.disable_progress_bars()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def read(folder: Path, **options: Any) -> list[Document | BadRecord]:
    """Read a dataset in a folder."""
    return list(HFDataset(**options).codex_dataset(make_run(folder)))


class TestSaved(RecordDatasetContract):
    def store(self, folder, records, **options):
        datasets.Dataset.from_list(list(records)).save_to_disk(folder / "saved")
        return HFDataset(path=Path("saved"), **options)


class TestParquetFiles(RecordDatasetContract):
    def store(self, folder, records, **options):
        (folder / "data").mkdir(exist_ok=True)
        parquet.write_table(
            pa.Table.from_pylist(list(records)), folder / "data" / "a[1].parquet", row_group_size=500
        )
        return HFDataset(path=Path("data"), files=["*.parquet"], **options)


class TestJsonFiles(RecordDatasetContract):
    def store(self, folder, records, **options):
        (folder / "empty.jsonl").write_text("")
        (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return HFDataset(path=Path(), files=["*.jsonl"], **options)

    def test_reading_is_lazy(self, tmp_path):
        """The library reads JSON lines in pieces of 10 MB, so less is no measure: records come one after the other."""
        (tmp_path / "data").mkdir()
        plugin = self.store(tmp_path / "data", [{"text": "x"}] * 3)
        documents = iter(self.documents_of(plugin, tmp_path / "data"))
        assert next(documents).id == "rows.jsonl:1"


def test_a_split_of_a_saved_dataset_is_chosen(tmp_path):
    """Of several splits one must be named; ids tell them apart; a format that was saved does not matter."""
    parts = {
        "train": datasets.Dataset.from_dict({"text": ["a"]}),
        "test": datasets.Dataset.from_dict({"text": ["b"]}),
    }
    datasets.DatasetDict(parts).with_format("numpy").save_to_disk(tmp_path / "both")
    assert read(tmp_path, path=Path("both"), split="test") == [Document("both/test:1", "both/test:1", "b")]
    with pytest.raises(InputError, match=r"split: expected one of test, train, which both has$"):
        read(tmp_path, path=Path("both"))
    with pytest.raises(InputError, match=r"which both has, got 'dev'"):
        read(tmp_path, path=Path("both"), split="dev")
    parts["train"].save_to_disk(tmp_path / "one")
    with pytest.raises(InputError, match=r"split: one is one table, which has no 'train'"):
        read(tmp_path, path=Path("one"), split="train")


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    """Arrow, Parquet and JSON files give records with the file and the row as id; nulls are bad records."""
    datasets.Dataset.from_dict({"text": ["a", None]}).save_to_disk(tmp_path / "saved")
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    arrow.rename(tmp_path / "1.arrow")
    parquet.write_table(pa.table({"text": ["b"]}), tmp_path / "2.parquet")
    (tmp_path / "3.json").write_text('{"text": "c", "score": 1}\n')
    found = read(tmp_path, path=tmp_path, files=["*.json", "*.arrow", "*.parquet"], split=None)
    places = [each.where if isinstance(each, BadRecord) else each.id for each in found]
    assert places == [f"{tmp_path}/{name}" for name in ("1.arrow:1", "1.arrow:2", "2.parquet:1", "3.json:1")]
    assert [type(each) for each in found] == [Document, BadRecord, Document, Document]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{bad\n', "data/a.jsonl: cannot be read behind row 0"),
        (
            "a.jsonl",
            b'{"body": "a"}\n',
            "data/a.jsonl: no column 'text', 'completion' or 'messages', has body",
        ),
        ("a.parquet", b"", "data/a.parquet: cannot be read behind row 0"),
        ("a.parquet", b"PAR1 no parquet at all", "data/a.parquet: cannot be read behind row 0"),
        ("a.arrow", b"no arrow", "data/a.arrow: cannot be read behind row 0"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    """A file that the library cannot read ends the run with its name and the last good row."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path, path=Path("data"), files=[f"*{Path(name).suffix}"])
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of path and hub_id"),
        ({"path": Path("x"), "hub_id": "a/b"}, "expected one of path and hub_id"),
        ({"hub_id": "a/b", "files": ["a.parquet"]}, "commit of 40 hexadecimal digits, got None"),
        ({"hub_id": "a/b", "revision": "main", "files": ["a.parquet"]}, "40 hexadecimal digits, got 'main'"),
        ({"hub_id": "a/b", "revision": REVISION}, "files: hub_id needs the names of its data files"),
        ({"path": Path("x"), "revision": REVISION}, "revision: it belongs to hub_id"),
        ({"path": Path("x"), "token": Secret("T")}, "token: it belongs to hub_id"),
        ({"path": Path("x"), "files": ["../a.parquet"]}, "inside of the folder"),
        ({"path": Path("x"), "files": ["/etc/a.parquet"]}, "inside of the folder"),
        ({"path": Path("x"), "files": [""]}, "inside of the folder"),
        ({"path": Path("x"), "files": ["load.py"]}, "expected names that end in .parquet"),
        ({"path": Path("x"), "files": ["a.csv"]}, "read by the datasets csv"),
        (
            {"path": Path("x"), "files": ["a.parquet"], "split": "train"},
            "split: it belongs to a folder saved",
        ),
    ],
)
def test_a_source_that_is_not_pinned_or_ambiguous_is_refused(options, message):
    """Options that contradict each other, name no commit, or lead out of the folder are an error at once."""
    with pytest.raises(ValueError, match=message):
        HFDataset(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": Path("gone")}, "path: there is no folder"),
        ({"path": Path()}, "was not saved by save_to_disk"),
        ({"path": Path(), "files": ["*.parquet"]}, "matches *.parquet"),
    ],
)
def test_what_is_missing_is_named_before(tmp_path, options, message):
    """Preflight and the run say which folder or file there is not; no script in the folder is ever run."""
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('it ran')")
    [problem] = HFDataset(**options).codex_preflight(tmp_path)
    assert message in problem
    with pytest.raises(InputError) as caught:
        read(tmp_path, **options)
    assert message in caught.value.message


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "arrow"])
def test_a_name_that_is_not_utf_8_is_told_before(tmp_path, suffix):
    """The library opens some of such files and not others."""
    (tmp_path / os.fsdecode(f"caf\udce9.{suffix}".encode(errors="surrogateescape"))).write_text("")
    [problem] = HFDataset(path=Path(), files=[f"*.{suffix}"]).codex_preflight(tmp_path)
    assert problem == (
        rf"files: the name caf\xe9.{suffix} is not valid UTF-8 (rename the file, or name others)"
    )


def test_a_damaged_saved_folder_is_refused(tmp_path):
    """A saved folder whose description or data are broken ends the run with its name."""
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(InputError, match="saved: the saved dataset cannot be read"):
        read(tmp_path, path=Path("saved"))


def test_without_the_library_it_is_named_before(tmp_path, monkeypatch):
    """Where datasets is not installed, preflight and the run name the command that installs it."""
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    section = HFDataset(path=Path("saved"))
    assert section.codex_preflight(tmp_path) == []
    monkeypatch.setattr(hub_dataset, "find_spec", lambda name: None)
    assert "pip install 'codex-hf[datasets]'" in section.codex_preflight(tmp_path)[0]
    with pytest.raises(PluginError, match="datasets, which is not installed"):
        section.codex_dataset(make_run(tmp_path))


class Hub:
    """Stands for the hub: a folder of files of one commit, and what was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def list_repo_files(self, hub_id, *, repo_type, revision, token):
        assert (hub_id, repo_type, revision, token) == ("org/rows", "dataset", REVISION, False)
        self.asked.append("list")
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def download(self, hub_id, name, *, repo_type, revision, token, cache_dir):
        assert (hub_id, repo_type, revision, token) == ("org/rows", "dataset", REVISION, False)
        self.asked.append(name)
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    """Give huggingface_hub a repository with two data files and a script."""
    import huggingface_hub

    folder = tmp_path / "remote"
    (folder / "data").mkdir(parents=True)
    for name in ("data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet"):
        parquet.write_table(pa.table({"text": [name]}), folder / name)
    (folder / "rows.py").write_text("raise SystemExit('it ran')")
    made = Hub(folder)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.download)
    return made


PINNED = {"hub_id": "org/rows", "revision": REVISION}


def test_files_of_a_commit_are_fetched_and_the_list_is_kept(tmp_path, hub):
    """Only the files that match are fetched; a second run does not ask again which there are."""
    found = read(tmp_path, **PINNED, files=["data/train-*.parquet"])
    names = ["data/train-0.parquet", "data/train-1.parquet"]
    assert [document.id for document in found] == [f"org/rows/{name}:1" for name in names]
    assert [document.text for document in found] == names
    assert hub.asked == ["list", *names]
    assert read(tmp_path, **PINNED, files=["data/train-*.parquet"]) == found
    assert hub.asked == ["list", *names, *names]


def test_a_pattern_without_a_file_lists_what_there_is(tmp_path, hub):
    """Where no file of the commit matches, the error names those that are there."""
    with pytest.raises(InputError, match=r"no file matches \*\.jsonl, has .*data/train-0\.parquet"):
        read(tmp_path, **PINNED, files=["*.jsonl"])


def test_a_hub_that_cannot_be_reached_is_told(tmp_path, monkeypatch):
    """Offline, and without a list of the files, the run ends with what to do."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match=f"cannot fetch the dataset org/rows@{REVISION}") as caught:
        read(tmp_path, **PINNED, files=["*.parquet"])
    assert "HF_HUB_OFFLINE" in caught.value.remedy


@pytest.mark.parametrize(
    "pattern",
    [
        "*.parquet",
        "data/*.parquet",
        "**/*.parquet",
        "data/**/*.parquet",
        "*/deep/*-[01].parquet",
        "./data/?.parquet",
    ],
)
def test_a_glob_means_the_same_for_a_folder_and_the_hub(tmp_path, pattern):
    """A star stays within a folder, and two stars go through any number of them, wherever the files are."""
    names = [
        "a.parquet",
        "data/b.parquet",
        "data/.c.parquet",
        "data/deep/d-0.parquet",
        "data/deep/er/e-1.parquet",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob(pattern)}
    assert found
    assert {name for name in names if matches(name, pattern)} == found
