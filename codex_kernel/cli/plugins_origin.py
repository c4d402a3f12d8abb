"""Where an installed plugin comes from: a folder of installed distributions, a project in work, a repository.

One rule: what an installer recorded is told as it stands, but for passwords in URLs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from codex_kernel.environment import without_credentials

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry


def origin(entry: Entry) -> str:
    """Return where a plugin comes from: `/site-packages`, `/project (editable)`, `https://… @ commit`."""
    if entry.metadata.suffix not in {".dist-info", ".egg-info"}:
        return f"{entry.metadata} (not installed)"
    return in_words(_direct_url(entry.metadata)) or str(entry.metadata.parent)


def in_words(direct_url: object) -> str | None:
    """Return what an installer recorded of a distribution that came from no index; None where there is nothing."""
    if not isinstance(direct_url, dict) or not isinstance(where := direct_url.get("url"), str):
        return None
    folder, repository = direct_url.get("dir_info"), direct_url.get("vcs_info")
    if isinstance(folder, dict) and folder.get("editable"):
        return f"{unquote(urlsplit(where).path)} (editable)"
    commit = repository.get("commit_id") if isinstance(repository, dict) else None
    return f"{without_credentials(where)}{f' @ {commit}' if commit else ''}"


def _direct_url(metadata: Path) -> object:
    try:
        return json.loads((metadata / "direct_url.json").read_bytes())
    except (OSError, ValueError):
        return None
