"""`codex plugins doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict

from codex_kernel.cli.places import cache_folder, runs_option
from codex_kernel.cli.terminal import counted, json_option, print_behind, print_json, unicode
from codex_kernel.errors import CodexError

if TYPE_CHECKING:
    from codex_kernel.doctor.findings import Finding


@click.command()
@runs_option
@json_option
def doctor(runs: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Look for what is wrong with the installation and the machine, and say how to mend it.

    Looked at are Python, what is installed, what plugins need, code that runs whenever Python starts, places and disk,
    memory, threads, GPU, encodings and variables. Nothing is imported that is looked at, and nothing is changed. Exit
    code 1: there is a problem.
    """
    from codex_kernel.doctor import examine

    findings = list(examine(cache_folder(), runs.absolute()))
    counts = Counter(finding.level for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print_json({"schema_version": 1, "problems": counts["problem"], "findings": rows})
    else:
        _print(findings)
    if counts["problem"]:
        raise CodexError(
            f"{counted(counts['problem'], 'problem')} found", remedy="what mends it stands below each"
        )
    if not as_json:
        warnings = counted(counts["warning"], "warning")
        click.echo(f"no problem found, {warnings}, {counted(counts['note'], 'note')}", err=True)


def _print(findings: Sequence[Finding]) -> None:
    """Print each finding, and below it what mends it."""
    width = max(len(unicode(finding.subject)) for finding in findings)
    for finding in findings:
        lead = f"{finding.level:<8} {unicode(finding.subject):<{width}}  "
        print_behind(lead, finding.message)
        if finding.remedy:
            print_behind(" " * len(lead), f"→ {finding.remedy}")
