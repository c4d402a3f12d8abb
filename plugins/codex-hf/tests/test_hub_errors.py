"""A failure of the hub or of a library is told once, by codex."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import datasets
import huggingface_hub.utils
import pytest

from codex_hf.hub_errors import asking_hub, silenced
from codex_hf.source import Source, pretrained_folder
from codex_kernel import StorageError
from codex_kernel.testing import make_run

REVISION = "0123456789abcdef0123456789abcdef01234567"


MANIFEST = """\
name: m
dataset: {type: hf-dataset, DATASET}
tokenizer: bytes
data: {seq_len: 32, validation_fraction: 0}
model: {type: hf-causal-lm, config: {model_type: llama, hidden_size: 32}}
trainer: {type: torch, max_steps: 2}
"""
PROGRAM = """\
import sys, time
time.sleep = lambda seconds: None  # the library waits longer and longer before it asks again
sys.argv = ["codex", "data", "build", "m.yaml"]
from codex_kernel.__main__ import main
main()
"""


def build(folder: Path, dataset: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Build the data of a manifest with this dataset, where nobody answers for the hub; return what was said."""
    (folder / "m.yaml").write_text(MANIFEST.replace("DATASET", dataset))
    variables = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "CODEX_CACHE": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env={**os.environ, **variables},
        stdout=subprocess.PIPE, stderr=stderr, text=True, check=False,
    )  # fmt: skip


def test_data_of_a_hub_without_an_answer_are_one_error(tmp_path):
    """What could not be fetched, the cause and what to do, and no line for each of the library's attempts."""
    said = build(tmp_path, f"hub_id: org/rows, revision: {REVISION}, files: ['*.parquet']")
    assert said.returncode == 6
    first, second = said.stderr.splitlines()
    assert first.startswith(f"error: cannot fetch the dataset org/rows@{REVISION}: ")
    assert "onnect" in first
    assert second == "  look at the network (and HF_HUB_OFFLINE) and the id, or give path, a local folder"


def test_weights_of_a_hub_without_an_answer_are_one_error(tmp_path, monkeypatch, capfd):
    """Those too are a storage error, and the library is silent."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(StorageError, match=r"cannot fetch a/b@.*onnect") as caught:
        pretrained_folder(Source(hub_id="a/b", revision=REVISION), make_run(tmp_path))
    assert "look at the network" in caught.value.remedy
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"PAR1 is all"), ("a.jsonl", b'{"text": 1')])
def test_of_a_damaged_file_only_the_error_is_shown(tmp_path, name, content):
    """The library would have said it on a line of its own."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / name).write_bytes(content)
    said = build(tmp_path, f"path: rows, files: ['{name}']")
    assert said.returncode == 2
    first, second = said.stderr.splitlines()
    assert first.startswith(f"error: rows/{name}: cannot be read behind row 0: ")
    assert second.startswith("  mend or fetch the file again")


def test_the_error_of_a_hub_stands_on_one_line():
    """The library writes advice of its own below its message."""
    with pytest.raises(StorageError) as caught, asking_hub("a/b", "look"):
        raise ValueError("no such\n\nrepository\n")
    assert caught.value.message == "cannot fetch a/b: no such repository"


@pytest.mark.parametrize("damage", [slice(200, None), slice(1000, 1400)])
def test_of_a_damaged_folder_only_the_error_is_shown(tmp_path, damage):
    """Whether the table is cut short or garbled, which shows only in the row that is read."""
    datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(100)]}).save_to_disk(tmp_path / "rows")
    (file,) = (tmp_path / "rows").glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[damage] = b"\xff" * (400 if damage.stop else 0)
    file.write_bytes(content)
    said = build(tmp_path, "path: rows")
    assert said.returncode == 2
    first = next(line for line in said.stderr.splitlines() if not line.endswith(" …"))
    assert first.startswith("error: rows")
    assert "cannot be read" in said.stderr
    assert "Traceback" not in said.stderr


def test_on_a_terminal_only_codex_tells_how_far_it_is(tmp_path):
    """A saved dataset of many files is opened with a bar of the library's where nobody turns it off."""
    table = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(40)]})
    table.save_to_disk(tmp_path / "rows", num_shards=20)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    said = build(tmp_path, "path: rows", stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert said.returncode == 0, shown
    assert "read: 40 of 40 documents" in shown
    assert "Loading dataset" not in shown


def test_bars_of_datasets_are_off_while_it_is_asked(monkeypatch):
    """Afterwards they are as before; where the environment asks for them, they are the user's."""
    module, variable = datasets.utils, "HF_DATASETS_DISABLE_PROGRESS_BARS"
    monkeypatch.delenv(variable, raising=False)
    module.enable_progress_bars()
    with silenced("datasets"):
        assert module.are_progress_bars_disabled()
    assert not module.are_progress_bars_disabled()
    module.disable_progress_bars()
    with silenced("datasets"):
        pass
    assert module.are_progress_bars_disabled()
    module.enable_progress_bars()
    monkeypatch.setenv(variable, "0")
    with silenced("datasets"):
        assert not module.are_progress_bars_disabled()


def test_bars_of_downloads_are_left_alone(monkeypatch):
    """They tell how long a download takes, and codex does not."""
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    huggingface_hub.utils.enable_progress_bars()
    with asking_hub("a/b", "look"):
        assert not huggingface_hub.utils.are_progress_bars_disabled()


def test_two_may_silence_a_library_and_end_in_any_order(request):
    """It speaks as before once the last one has ended."""
    logger = logging.getLogger("huggingface_hub")
    request.addfinalizer(partial(logger.setLevel, logger.level))
    logger.setLevel(logging.INFO)
    first, second = silenced(logger.name), silenced(logger.name)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not logger.isEnabledFor(logging.CRITICAL)
    second.__exit__(None, None, None)
    assert logger.level == logging.INFO
