"""The logger `mlflow`: it writes a run's outbox and keeps a process that ships it.

One rule: no hook speaks to MLflow, so none can wait for it; only the end of the run waits, and not for long.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import attrs
from attrs import define, field

from codex_kernel import InputError, Outcome, PluginError, RunContext, hookimpl, option
from codex_mlflow.names import clean_name, has_user_info, param_value
from codex_mlflow.outbox import LOG_FILE, OUTBOX_FILE, append, load_state, open_outbox
from codex_mlflow.ship import QUIET_ENVIRONMENT, unsent

_SQLITE = "sqlite:///"
_STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LOCAL_PATIENCE_SECONDS = (
    120.0  # a new database takes some seconds, more on a busy machine; a local disk is no outage
)
_ARTIFACT_PATTERNS = ("*.yaml", "*.json")
_MAX_ARTIFACT_BYTES = 1_000_000


@define(eq=False)
class MLflowLogger:
    """Mirrors the run to MLflow: settings as parameters, metrics as `train/loss`, small files of the run as artifacts.

    By default into an sqlite database where the run was started, without any connection. A resumed run goes on in its
    MLflow run.
    """

    tracking_uri: str | None = option(
        None,
        help="Where to: sqlite:///FILE or http(s)://…; by default mlflow.db where the run was started.",
    )
    experiment: str | None = option(None, help="MLflow experiment; by default the name of the run.")
    tags: dict[str, str] = option(factory=dict, help="Tags of the MLflow run.")
    flush_seconds: float = option(2.0, gt=0.0, help="Time between two batches, in seconds.")
    exit_timeout_seconds: float = option(
        5.0, ge=0.0, help="How long the end of the run waits for a remote server, in seconds."
    )
    log_files: bool = option(default=True, help="Keep the run's small YAML and JSON files as artifacts.")
    _outbox: BinaryIO | None = field(init=False, default=None)
    _shipper: subprocess.Popen[bytes] | None = field(init=False, default=None)

    @hookimpl
    def codex_preflight(self, base: Path) -> list[str]:
        """Say when the tracking URI cannot be used."""
        try:
            resolve_uri(self.tracking_uri, base)
        except InputError as error:
            return [f"mlflow: {error.message}" + (f" ({error.remedy})" if error.remedy else "")]
        return []

    @hookimpl
    def codex_run_started(self, run: RunContext, settings: Mapping[str, object]) -> None:
        """Open the outbox, write what the run is, and start the process that ships."""
        uri = resolve_uri(self.tracking_uri, run.base)
        self._outbox = open_outbox(run.folder / OUTBOX_FILE)
        append(
            self._outbox,
            {
                "kind": "start",
                "time": _now(),
                "run": run.run_id,
                "experiment": self.experiment or run.name,
                "tracking_uri": uri,
                "artifact_location": _artifact_location(uri),
                "tags": {"codex.run_name": run.name, "codex.seed": str(run.seed), **self.tags},
                "params": {key: param_value(value) for key, value in settings.items()},
            },
        )
        self._shipper = _start_shipper(run.folder, self.flush_seconds)
        renamed = sorted(key for key in settings if clean_name(key) != key)
        if renamed:
            run.report.event("mlflow_renamed", names={key: clean_name(key) for key in renamed})

    @hookimpl
    def codex_metrics(self, run: RunContext, step: int, metrics: Mapping[str, float], split: str) -> None:
        """Put the record into the outbox; raise PluginError where the shipping process has died."""
        append(
            self._started(),
            {"kind": "metrics", "time": _now(), "step": step, "split": split, "values": _floats(metrics)},
        )
        if self._shipper is not None and self._shipper.poll() is not None:
            code, self._shipper = self._shipper.returncode, None
            raise PluginError(
                f"mlflow: the process that ships to MLflow ended with {code}: {_last_line(run.folder)}",
                remedy=_later(run.folder),
            )

    @hookimpl
    def codex_run_finished(self, run: RunContext, outcome: Outcome) -> None:
        """Write the end, wait a limited time until it has arrived, and say what has not."""
        if self._outbox is None:
            return
        append(
            self._outbox,
            {
                "kind": "finish",
                "time": _now(),
                "status": _STATUS[outcome.status],
                "outcome": attrs.asdict(outcome),
                "artifacts": self._files(run.folder),
            },
        )
        self._outbox.close()
        self._outbox = None
        self._wait(run)

    def _started(self) -> BinaryIO:
        if self._outbox is None:
            raise PluginError("mlflow: metrics came before codex_run_started or after codex_run_finished")
        return self._outbox

    def _wait(self, run: RunContext) -> None:
        """Close the shipper's input, which tells it to end, and end it where it takes too long."""
        shipper, self._shipper = self._shipper, None
        local = resolve_uri(self.tracking_uri, run.base).startswith(_SQLITE)
        if shipper is not None and shipper.stdin is not None:
            shipper.stdin.close()
            try:
                shipper.wait(timeout=_LOCAL_PATIENCE_SECONDS if local else self.exit_timeout_seconds)
            except subprocess.TimeoutExpired:
                shipper.kill()
                shipper.wait()
        left = unsent(run.folder)
        if left:
            run.report.warning(
                f"mlflow: {left} records have not reached MLflow ({_last_line(run.folder)}); {_later(run.folder)}"
            )
        else:
            run.report.event("mlflow_finished", mlflow_run=load_state(run.folder).get("run_id"))

    def _files(self, folder: Path) -> list[str]:
        if not self.log_files:
            return []
        paths = sorted(path for pattern in _ARTIFACT_PATTERNS for path in folder.glob(pattern))
        return [
            str(path.resolve())
            for path in paths
            if path.is_file()
            and path.stat().st_size <= _MAX_ARTIFACT_BYTES
            and not path.name.startswith("mlflow")
        ]


def resolve_uri(uri: str | None, base: Path) -> str:
    """Return where to ship; a relative sqlite file is relative to `base`.

    Raises InputError for other schemes, and for a user name or password in the URI.
    """
    if uri is None:
        return f"{_SQLITE}{(base / 'mlflow.db').resolve()}"
    if has_user_info(uri):
        raise InputError(
            "tracking_uri holds a user name or a password, and would be written to the run folder",
            remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    if uri.startswith(_SQLITE) and len(uri) > len(_SQLITE):
        return f"{_SQLITE}{(base / uri.removeprefix(_SQLITE)).resolve()}"
    if uri.startswith(("http://", "https://")):
        return uri
    raise InputError(
        f"tracking_uri: expected sqlite:///FILE, http://… or https://…, got {uri!r}",
        remedy="leave it out for a local database: MLflow no longer keeps runs in plain folders",
    )


def _artifact_location(uri: str) -> str | None:
    """Return where a new experiment keeps files: beside a local database; None where the server decides."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlflow-artifacts").as_uri()


def _start_shipper(folder: Path, interval: float) -> subprocess.Popen[bytes]:
    """Start the process; its own session, so that Ctrl-C for the run does not end it before the last record."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "codex_mlflow.ship",
        str(folder),
        "--follow",
        "--interval",
        str(interval),
    ]
    with (folder / LOG_FILE).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **QUIET_ENVIRONMENT},
            start_new_session=True,
        )


def _last_line(folder: Path) -> str:
    try:
        lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1][:500] if lines else "it said nothing"


def _later(folder: Path) -> str:
    return f"they are kept, send them with: python -m codex_mlflow.ship {folder}"


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _now() -> int:
    return math.floor(time.time() * 1000)
