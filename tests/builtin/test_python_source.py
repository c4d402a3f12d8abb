import base64
import hashlib
import sys

import pytest

from codex_kernel import InputError
from codex_kernel.builtin.python_source import PythonSource
from codex_kernel.testing import make_run

CODE = b"# -*- coding: utf-8 -*-\r\nx = '\xc3\xa9'\r\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the import path with an installed distribution, toy-dist 1.2."""
    folder = tmp_path / "site"
    files = {
        "toy/__init__.py": b"",
        "toy/core.py": CODE,
        "toy/tests/test_core.py": b"assert 1\n",
        "toy/data.bin": b"\0",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    info = folder / "toy_dist-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-dist\nVersion: 1.2\n")
    rows = [f"{name},sha256={record_hash(data)},{len(data)}" for name, data in files.items()]
    (info / "RECORD").write_text("\n".join([*rows, "toy_dist-1.2.dist-info/RECORD,,"]) + "\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def record_hash(data):
    """Return a hash as RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def read(tmp_path, **options):
    """Return the documents of a section."""
    return list(PythonSource(**options).codex_dataset(make_run(tmp_path)))


@pytest.mark.parametrize("name", ["toy-dist", "toy-dist==1.2", "Toy_Dist==1.2", "toy-dist>=1"])
def test_a_distribution_gives_its_python_files(tmp_path, site, name):
    """Its Python files come sorted, named as in the package, without tests, and with their newlines."""
    documents = read(tmp_path, distributions=[name])
    assert [(document.id, document.group) for document in documents] == [
        ("toy/__init__.py", "toy/__init__.py"),
        ("toy/core.py", "toy/core.py"),
    ]
    assert documents[1].text.encode() == CODE


def test_what_is_left_out_can_be_chosen(tmp_path, site):
    """The section's own globs replace the ones for tests."""
    documents = read(tmp_path, distributions=["toy-dist"], exclude=["__init__.py"])
    assert [document.id for document in documents] == ["toy/core.py", "toy/tests/test_core.py"]


def test_a_changed_file_is_refused(tmp_path, site):
    """A file whose bytes differ from RECORD ends the run, with both hashes."""
    (site / "toy" / "core.py").write_bytes(CODE + b"#")
    with pytest.raises(
        InputError, match=rf"core\.py: sha256 {record_hash(CODE + b'#')}, expected {record_hash(CODE)}"
    ):
        read(tmp_path, distributions=["toy-dist"])


def test_a_missing_file_is_refused_and_named_before(tmp_path, site):
    """A file of RECORD that is gone is named by preflight and ends a run."""
    (site / "toy" / "core.py").unlink()
    section = PythonSource(distributions=["toy-dist"])
    assert list(section.codex_preflight()) == ["toy-dist: 1 of its files are missing, first toy/core.py"]
    with pytest.raises(InputError, match=r"toy/core\.py: cannot be read"):
        list(section.codex_dataset(make_run(tmp_path)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy-dist==1.3", "toy-dist 1.2 is installed, expected toy-dist==1.3"),
        ("no-such-dist-here", "no-such-dist-here is not installed"),
        ("toy dist!", "'toy dist!' is not the name of a distribution"),
    ],
)
def test_a_distribution_that_is_not_there_is_named(tmp_path, site, name, message):
    """A missing distribution, another version and a malformed name are named by preflight and end a run."""
    section = PythonSource(distributions=[name])
    [problem] = section.codex_preflight()
    assert message in problem
    with pytest.raises(InputError, match=message):
        section.codex_dataset(make_run(tmp_path))


def test_an_editable_install_is_refused(tmp_path, site):
    """A distribution whose RECORD names no Python file cannot be used."""
    (site / "toy_dist-1.2.dist-info" / "RECORD").write_text("toy_dist-1.2.dist-info/RECORD,,\n")
    with pytest.raises(InputError, match="names no Python file"):
        read(tmp_path, distributions=["toy-dist"])


def test_a_record_without_hashes_is_refused(tmp_path, site):
    """A Python file without a sha256 in RECORD is not trusted."""
    (site / "toy_dist-1.2.dist-info" / "RECORD").write_text("toy/core.py,,\n")
    with pytest.raises(InputError, match=r"no sha256 for toy/core\.py"):
        read(tmp_path, distributions=["toy-dist"])


def test_nothing_to_read_is_refused(tmp_path):
    """Neither distributions nor the standard library is a fault that preflight names."""
    assert len(list(PythonSource().codex_preflight())) == 1
    with pytest.raises(InputError, match="expected one of them"):
        read(tmp_path)


def test_the_standard_library_is_read_without_its_tests(tmp_path):
    """Modules of this Python come sorted, without tests and installed packages."""
    names = [document.id for document in read(tmp_path, standard_library=True)]
    assert names == sorted(names)
    assert "stdlib/json/decoder.py" in names
    assert not [name for name in names if "/test/" in name or "-packages/" in name or "/idlelib/" in name]
    assert len(names) > 400


def test_the_bundled_default_is_there(tmp_path):
    """A real distribution passes the check of all its files."""
    documents = read(tmp_path, distributions=["networkx"])
    assert len(documents) > 200
    assert "networkx/algorithms/dag.py" in {document.id for document in documents}
