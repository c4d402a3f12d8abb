"""A failure of the hub or of a library is told once, by codex."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from codex_hf.hub_dataset import HFDataset
from codex_hf.hub_errors import silenced
from codex_hf.source import Source, pretrained_folder
from codex_kernel import InputError, StorageError
from codex_kernel.testing import make_run

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def nobody_listens(monkeypatch) -> None:
    """Let the hub be an address where nothing answers, and its library not wait before it asks again."""
    import huggingface_hub.constants
    import huggingface_hub.hf_api

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for module in (huggingface_hub.constants, huggingface_hub.hf_api):
        if hasattr(module, "ENDPOINT"):
            monkeypatch.setattr(module, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("nobody_listens")
def test_a_hub_without_an_answer_is_a_storage_error_and_its_library_is_silent(tmp_path, capfd):
    """Weights and data alike: what could not be fetched, the cause, what to do, and no line of each attempt."""
    run = make_run(tmp_path)
    dataset = HFDataset(hub_id="org/rows", revision=REVISION, files=["*.parquet"])
    for ask in (
        lambda: pretrained_folder(Source(hub_id="a/b", revision=REVISION), run),
        lambda: list(dataset.codex_dataset(run)),
    ):
        with pytest.raises(StorageError, match=r"cannot fetch .*[Cc]onnect") as caught:
            ask()
        assert "look at the network" in caught.value.remedy
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"PAR1 is all"), ("a.jsonl", b'{"text": 1')])
def test_of_a_damaged_file_only_the_error_is_shown(tmp_path, capfd, name, content):
    """The library would have said it on a line of its own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(InputError, match=f"data/{name}: cannot be read behind row 0"):
        list(HFDataset(path=Path("data"), files=[name]).codex_dataset(make_run(tmp_path)))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("datasets").level < logging.CRITICAL


def test_two_may_silence_a_library_and_end_in_any_order():
    """It speaks as before once the last one has ended."""
    logger = logging.getLogger("codex.test.library")
    logger.setLevel(logging.INFO)
    first, second = silenced(logger.name), silenced(logger.name)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not logger.isEnabledFor(logging.CRITICAL)
    second.__exit__(None, None, None)
    assert logger.level == logging.INFO
