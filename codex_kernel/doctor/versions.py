"""Versions of distributions that are known to be bad, each with its reason and what to do.

One rule: a row states a fact that somebody has published or measured; a range that merely is not tested is not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from codex_kernel.doctor.findings import Finding, Level
from codex_kernel.installers import install_line, uninstall_line


@frozen
class Bad:
    """Versions that are bad; `good` is the requirement that mends it, None where the distribution is to go."""

    distribution: str
    versions: str
    level: Level
    reason: str
    good: str | None


_PICKLE = "CVE-2025-32434 and CVE-2026-24747: torch.load of a foreign file runs code, even with weights_only"
_LITELLM = "it steals secrets by a .pth file whenever Python starts: change all that this machine knew"

KNOWN_BAD = (
    Bad(
        *("pluggy", "<1.7", "problem"),
        "it runs a plugin's properties when it registers it, and stays half registered after an error",
        "pluggy>=1.7,<2",
    ),
    Bad("pluggy", ">=2", "problem", "codex is made for the hooks of pluggy 1", "pluggy>=1.7,<2"),
    Bad("torch", "<2.10", "warning", _PICKLE, "torch>=2.10"),
    Bad(
        *("transformers", "<5.3", "warning"),
        "CVE-2026-4372: a config.json of the hub runs code, even with trust_remote_code=False",
        "transformers>=5.3",
    ),
    Bad(
        *("sentencepiece", "<0.2.1", "warning"),
        "CVE-2026-1260: a crafted model file reaches memory that it must not",
        "sentencepiece>=0.2.1",
    ),
    Bad(
        *("mlflow", "<3.11", "warning"),
        "CVE-2025-10279 and CVE-2026-4137: whoever can write its temporary folder runs code",
        "mlflow>=3.11",
    ),
    Bad("litellm", "==1.82.7", "problem", _LITELLM, None),
    Bad("litellm", "==1.82.8", "problem", _LITELLM, None),
    Bad(
        *("pip", "<26.1", "note"),
        "it does not compare the hashes of a file of constraints; uv and newer ones do",
        "pip>=26.1",
    ),
)


def judge(versions: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is known to be bad among versions by normalised name, and what is not."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    good = {row.distribution: versions[row.distribution] for row in KNOWN_BAD if row.distribution in versions}
    for row in KNOWN_BAD:
        try:
            version = Version(versions[row.distribution])
        except (KeyError, InvalidVersion):  # not installed, or not a version that anything can be said of
            continue
        if SpecifierSet(row.versions).contains(version, prereleases=True):
            good.pop(row.distribution, None)
            remedy = install_line(row.good) if row.good else uninstall_line(row.distribution)
            yield Finding(row.level, row.distribution, f"{version}: {row.reason}", remedy)
    if good:
        named = ", ".join(f"{name} {version}" for name, version in good.items())
        yield Finding("ok", "versions", f"nothing bad is known of {named}")
