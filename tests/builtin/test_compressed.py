import gzip
import json
import random
import sys

import pytest

from codex_kernel import BadRecord, InputError
from codex_kernel.builtin import compressed
from codex_kernel.builtin.compressed import ArchiveError, open_file, plain_name
from codex_kernel.builtin.csv_dataset import CsvDataset
from codex_kernel.builtin.files import FoundFile
from codex_kernel.builtin.jsonl_dataset import JsonlDataset
from codex_kernel.builtin.parquet_dataset import ParquetDataset
from codex_kernel.builtin.text_files import TextFiles
from codex_kernel.testing import make_run

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOISE = random.Random(1).randbytes(300_000).hex().encode()
PACK = {".gz": gzip.compress, ".zst": zstd.compress}


def unpacked(tmp_path, name, data, limit=1 << 30):
    """Write a file and read it as a dataset does."""
    (tmp_path / name).write_bytes(data)
    with open_file(FoundFile(name, tmp_path / name), limit) as stream:
        return stream.read()


def far_window(data):
    """Compress so that unpacking needs 256 MiB of memory."""
    parameter = zstd.CompressionParameter
    packer = zstd.ZstdCompressor(options={parameter.window_log: 28})
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize(
    "data", [b"", b"a", b"\0" * 1_000_000, NOISE], ids=["empty", "one", "zeros", "noise"]
)
def test_what_was_packed_comes_back(tmp_path, suffix, data):
    """One member or several, with the suffix in capitals too, give the bytes that were packed."""
    pack = PACK[suffix]
    assert unpacked(tmp_path, f"a{suffix}", pack(data)) == data
    assert unpacked(tmp_path, f"a{suffix.upper()}", pack(data) + pack(b"more") + pack(b"")) == data + b"more"


def test_padding_behind_gzip_is_no_damage(tmp_path):
    """Zeros behind the last member are what a tape leaves, and nothing else."""
    assert unpacked(tmp_path, "a.gz", gzip.compress(b"x") + b"\0" * 200_000) == b"x"


def damaged(suffix):
    """Return packed bytes that are broken, each with what is said of them."""
    packed = PACK[suffix](NOISE)
    middle = bytearray(gzip.compress(NOISE))
    middle[len(middle) // 2] ^= 255
    yield b"", "is cut off: it ends at byte 0 in the middle of its data"
    yield packed[:5], "is cut off: it ends at byte 5 "
    yield packed[:-5], f"is cut off: it ends at byte {len(packed) - 5:,} "
    yield packed[: len(packed) // 2], f"is cut off: it ends at byte {len(packed) // 2:,} "
    yield packed + b"something", f"has something else behind its data, at byte {len(packed):,}"
    yield b"plain text", "is damaged before byte 10"
    yield (
        (bytes(middle), "is damaged before byte")
        if suffix == ".gz"
        else (far_window(NOISE), "is damaged before")
    )


@pytest.mark.parametrize("suffix", PACK)
def test_damage_is_named_with_its_place(tmp_path, suffix):
    """A file that is cut off, changed, no archive or asks for too much memory says so, with file and byte."""
    for data, problem in damaged(suffix):
        with pytest.raises(ArchiveError) as caught:
            unpacked(tmp_path, f"a{suffix}", data)
        assert caught.value.message.startswith(f"a{suffix}: {problem}")
        assert caught.value.remedy


@pytest.mark.parametrize("suffix", PACK)
def test_size_is_bounded(tmp_path, suffix):
    """More than the limit, or a small file that unpacks to very much, is refused before it is in memory."""
    with pytest.raises(ArchiveError, match="unpacks to more than 1,000 bytes") as caught:
        unpacked(tmp_path, f"a{suffix}", PACK[suffix](NOISE), limit=1000)
    assert "max_uncompressed_bytes" in caught.value.remedy
    with pytest.raises(ArchiveError, match="unpacks to over 250 times its size"):
        unpacked(tmp_path, f"bomb{suffix}", PACK[suffix](b"\0" * 100_000_000))


@pytest.mark.parametrize(
    "name",
    ["a.zip", "a.tar", "a.tar.gz", "a.tar.zst", "a.tgz", "a.TGZ", "a.7z", "a.rar", "a.bz2", "a.xz", "a.lz4"],
)
def test_archives_are_refused_by_name(tmp_path, name):
    """An archive of several files, and a compression that is not read, are errors that say what to do."""
    (tmp_path / name).write_bytes(b"x")
    for plugin in (JsonlDataset, CsvDataset, ParquetDataset):
        section = plugin(paths=[name])
        [problem] = section.codex_preflight(tmp_path)
        assert "unpack it" in problem
        with pytest.raises(InputError, match="which is not read"):
            section.codex_dataset(make_run(tmp_path))
    [bad] = TextFiles(paths=[name]).codex_dataset(make_run(tmp_path))
    assert isinstance(bad, BadRecord)
    assert (bad.where, "not read" in bad.problem) == (name, True)


@pytest.mark.parametrize("data", [*(pack(b'{"text": "x"}\n') for pack in PACK.values()), b"PK\x03\x04..."])
def test_a_compressed_file_with_a_plain_name_is_refused(tmp_path, data):
    """What begins like an archive and is not called so is an error, not a file of bad records."""
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.jsonl: begins like a \.(gz|zst|zip) file") as caught:
        list(JsonlDataset(paths=["rows.jsonl"]).codex_dataset(make_run(tmp_path)))
    assert caught.value.remedy.startswith(("call it rows.jsonl.", "unpack it"))


def test_records_before_the_damage_are_given(tmp_path):
    """A file of records is read as it unpacks: the error comes where the damage is, and ends the run."""
    rows = b"".join(json.dumps({"text": str(number) * 50}).encode() + b"\n" for number in range(20_000))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows)[:-100])
    documents = iter(JsonlDataset(paths=["*.gz"]).codex_dataset(make_run(tmp_path)))
    assert next(documents).id == "rows.jsonl.gz:1"
    with pytest.raises(InputError, match=r"rows\.jsonl\.gz: is cut off"):
        list(documents)


def test_without_the_library_zst_is_named_before(tmp_path, monkeypatch):
    """Where zstd cannot be imported, preflight names the file and the command that installs it."""
    (tmp_path / "a.jsonl.zst").write_bytes(zstd.compress(b""))
    monkeypatch.setattr(compressed, "find_spec", lambda name: None)
    [problem] = JsonlDataset(paths=["a.jsonl.zst"]).codex_preflight(tmp_path)
    assert problem.startswith("a.jsonl.zst: ")
    assert "pip install 'codex-kernel[zstd]'" in problem


def test_only_compression_is_taken_off_a_name():
    """The name of what is in a file loses .gz or .zst, and nothing else."""
    assert [plain_name(name) for name in ("a/b.py.gz", "b.PY.ZST", "c.py", "gz", ".gz")] == [
        "a/b.py",
        "b.PY",
        "c.py",
        "gz",
        ".gz",
    ]
