"""Where an installed plugin comes from: a folder of installed distributions, a project in work, a repository.

One rule: what an installer recorded is told as it stands, but for passwords in URLs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from codex_kernel.environment import without_credentials
from codex_kernel.plugin_lock import direct_url

if TYPE_CHECKING:
    from codex_kernel.catalog import Entry


def origin(entry: Entry) -> str:
    """Return where a plugin comes from: `/site-packages`, `/project (editable)`, `https://… @ commit`."""
    if entry.metadata.suffix not in {".dist-info", ".egg-info"}:
        return f"{entry.metadata} (not installed)"
    return in_words(direct_url(entry.metadata)) or str(entry.metadata.parent)


def in_words(note: object) -> str | None:
    """Return what an installer recorded of a distribution that came from no index; None where there is nothing."""
    if not isinstance(note, dict) or not isinstance(where := note.get("url"), str):
        return None
    where = without_credentials(where)
    folder, repository = note.get("dir_info"), note.get("vcs_info")
    if isinstance(folder, dict) and folder.get("editable"):
        return f"{unquote(urlsplit(where).path)} (editable)"
    commit = repository.get("commit_id") if isinstance(repository, dict) else None
    return f"{where}{f' @ {commit}' if commit else ''}"
