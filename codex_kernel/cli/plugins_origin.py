"""Where an installed plugin comes from: a folder of installed distributions, a project in work, a repository.

One rule: what an installer recorded is told as it stands, but for passwords in URLs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from codex_kernel.environment import without_credentials

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry


def origin(entry: Entry) -> str:
    """Return where a plugin comes from: `/site-packages`, `/project (editable)`, `https://… @ commit`."""
    if entry.metadata.suffix not in {".dist-info", ".egg-info"}:
        return f"{entry.metadata} (not installed)"
    url = _direct_url(entry.metadata)
    where = url.get("url")
    if not isinstance(where, str):
        return str(entry.metadata.parent)
    if isinstance(url.get("dir_info"), dict) and url["dir_info"].get("editable"):
        return f"{unquote(urlsplit(where).path)} (editable)"
    commit = url["vcs_info"].get("commit_id") if isinstance(url.get("vcs_info"), dict) else None
    return f"{without_credentials(where)}{f' @ {commit}' if commit else ''}"


def _direct_url(metadata: Path) -> dict[str, Any]:
    """Return what the installer wrote of a distribution that came from no index; empty where there is nothing."""
    try:
        found = json.loads((metadata / "direct_url.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
