"""The environment is written down without changing it, and without secrets."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import environment


def git(folder: Path, *arguments: str) -> None:
    """Run git as a user without configuration."""
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_tells_commit_dirty_flag_and_the_hash_of_the_difference(tmp_path: Path) -> None:
    """A clean repository has no difference; an edit makes it dirty and changes the hash."""
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "remote", "add", "origin", "https://me:hunter2@example.org/repo.git")
    clean = environment.git(tmp_path)
    assert clean is not None
    assert (clean["dirty"], clean["diff_sha256"], clean["branch"]) == (False, None, "main")
    assert clean["remote"] == "https://example.org/repo.git"
    (tmp_path / "a.py").write_text("x = 2\n")
    dirty = environment.git(tmp_path)
    assert dirty is not None
    assert dirty["dirty"] is True
    assert len(dirty["diff_sha256"]) == 64
    assert dirty["commit"] == clean["commit"]


def test_no_repository_is_null(tmp_path: Path) -> None:
    """Outside a repository there is nothing to say."""
    assert environment.git(tmp_path) is None


def test_the_description_is_json_and_keeps_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only named variables are kept."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = json.dumps(environment.describe(["codex", "run"], 17, tmp_path))
    assert "canary" not in text
    described = json.loads(text)
    assert described["variables"]["OMP_NUM_THREADS"] == "1"
    assert described["packages"]["torch"].startswith("2.13.0")
    assert described["hardware"]["memory_bytes"] > 0
    assert described["hardware"]["usable_cores"] <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("settings", "flat"),
    [
        (
            {"trainer": {"lr": 1.0, "betas": [0.9, 0.95]}},
            {"trainer.lr": 1.0, "trainer.betas.0": 0.9, "trainer.betas.1": 0.95},
        ),
        ({"adapters": [], "evaluate": {}}, {"adapters": {}, "evaluate": {}}),
        ({"loggers": [{"type": "csv"}]}, {"loggers.0.type": "csv"}),
    ],
)
def test_settings_are_flattened_for_trackers(settings: dict[str, object], flat: dict[str, object]) -> None:
    """Nested keys are joined by dots, list items by their index."""
    assert environment.flat(settings) == flat


@given(user=st.text("abc:%40-", min_size=1), host=st.text("abc.", min_size=1))
def test_credentials_never_stay_in_a_url(user: str, host: str) -> None:
    """Whatever stands before the @ goes."""
    assert environment.without_credentials(f"https://{user}@{host}/x") == f"https://{host}/x"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://bob:p/ss@host/x", "https://host/x"),
        ("https://bob:p@ss/w@host/x", "https://host/x"),
        ("https://bob:p#s?s@host/x", "https://host/x"),
        ("https://host/x?private_token=SECRET", "https://host/x"),
        ("https://example.org/x#token=SECRET", "https://example.org/x"),
        ("https://me@example.org/x.git?t=1#subdirectory=a/b&egg=c&t=1", "https://example.org/x.git#subdirectory=a/b&egg=c"),
        ("https://example.org/@scope/x?mail=a@b", "https://example.org/@scope/x"),
        ("ssh://git@example.org/x.git", "ssh://git@example.org/x.git"),
        ("git@example.org:x.git", "git@example.org:x.git"),
        ("me:secret@example.org:x.git", "example.org:x.git"),
        ("file:///home/a@b/x", "file:///home/a@b/x"),
        ("/home/a@b/c#/x", "/home/a@b/c#/x"),
    ],
)  # fmt: skip
def test_a_url_keeps_what_says_where_and_no_more(url: str, kept: str) -> None:
    """Passwords with a / or an @, tokens in the query or the fragment go; hosts, paths and subdirectories stay."""
    assert environment.without_credentials(url) == kept
