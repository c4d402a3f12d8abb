"""Data files of a repository on the hub: those of one commit that the manifest names, and all of them.

One rule: what is read offline later is exactly what was listed online once; a part of it is never taken for the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from codex_hf.hub_errors import asking_hub
from codex_hf.source import revealed
from codex_kernel import InputError, RunContext, Secret, write_whole

_REMEDY = "look at the network (and HF_HUB_OFFLINE) and the id, or give path, a local folder"


def hub_files(
    hub_id: str, revision: str, patterns: Sequence[str], token: Secret | None, run: RunContext
) -> list[tuple[str, Path]]:
    """Return the files of a commit that match, by name; fetch into the cache what is not there.

    The list is kept beside them: with it, nothing is asked of the hub again. Raises InputError where none matches,
    StorageError where the hub cannot be reached.
    """
    import huggingface_hub

    names = _listed(hub_id, revision, token, run)
    wanted = sorted(name for name in names if any(matches(name, pattern) for pattern in patterns))
    if not wanted:
        raise InputError(
            f"{hub_id}@{revision}: no file matches {', '.join(patterns)}, has {', '.join(names[:12]) or 'none'}"
            + (f" and {len(names) - 12} more" if len(names) > 12 else ""),  # noqa: PLR2004 - enough to see the names
            remedy="name the data files with the option files",
        )
    found = []
    for number, name in enumerate(wanted):
        run.report.activity("fetch data", number, len(wanted), "files")
        with asking_hub(f"the dataset {hub_id}@{revision}", _REMEDY):
            path = huggingface_hub.hf_hub_download(
                hub_id,
                name,
                repo_type="dataset",
                revision=revision,
                token=revealed(token),
                cache_dir=run.cache / "hub",
            )
        found.append((name, Path(path)))
    return found


def matches(name: str, pattern: str) -> bool:
    """Say whether a glob matches a name, as it would in a folder: * stays within a level, ** takes any number."""
    return _match(PurePosixPath(name).parts, PurePosixPath(pattern).parts)


def _match(parts: Sequence[str], globs: Sequence[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        return _match(parts, globs[1:]) or (bool(parts) and _match(parts[1:], globs))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _match(parts[1:], globs[1:])


def _listed(hub_id: str, revision: str, token: Secret | None, run: RunContext) -> list[str]:
    """Return the names of all files of a commit, which cannot change."""
    import huggingface_hub

    key = hashlib.sha256(f"{hub_id}@{revision}".encode()).hexdigest()
    kept = run.cache / "hub" / "codex-listings" / f"{key}.json"
    if kept.is_file():
        listing: list[str] = json.loads(kept.read_text(encoding="utf-8"))
        return listing
    with asking_hub(f"the dataset {hub_id}@{revision}", _REMEDY):
        names = sorted(
            huggingface_hub.HfApi().list_repo_files(
                hub_id, repo_type="dataset", revision=revision, token=revealed(token)
            )
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(names).encode())
    return names
