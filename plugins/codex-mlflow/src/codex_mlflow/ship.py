"""The process that ships: `python -m codex_mlflow.ship RUN_FOLDER`, beside a run (--follow) or after it.

One rule: whatever the store does, the outbox stays as it is and shipping can be tried again.

It is a process of its own so that MLflow's import, locks, retries and telemetry switches are nowhere near the training.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codex_mlflow.names import has_user_info
from codex_mlflow.outbox import OUTBOX_FILE, count, load_state, read
from codex_mlflow.shipment import Shipment

QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow would fetch a configuration and send usage events
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",  # by default 120 s, seven times: a dead server would block for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # trying again is done here, with the records on disk
}
_ORPHAN_PATIENCE_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship a run's outbox; return 0 when all of it arrived, 1 when the store failed, 2 when nothing can be shipped."""
    parser = argparse.ArgumentParser(
        prog="python -m codex_mlflow.ship", description="Send a run's metrics to MLflow."
    )
    parser.add_argument("folder", type=Path, help="a run folder that the logger mlflow wrote to")
    parser.add_argument(
        "--to", metavar="URI", help="another store than the run's own; all is sent there anew"
    )
    parser.add_argument(
        "--follow", action="store_true", help="go on until stdin is closed (used by the logger)"
    )
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="time between batches")
    given = parser.parse_args(arguments)
    try:
        starts = _starts(given.folder)
    except OSError as error:
        parser.error(f"cannot read the outbox: {error}")
    if not starts:
        parser.error(f"{given.folder / OUTBOX_FILE}: no run has started here")
    uri = given.to or starts[-1]["tracking_uri"]
    if has_user_info(uri):
        parser.error("user name and password belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if given.follow:
        return follow(given.folder, uri, given.interval, len(starts), stdin_closed())
    return 0 if attempt(given.folder, uri) else 1


def follow(folder: Path, uri: str, interval: float, session: int, closed: threading.Event) -> int:
    """Ship every `interval` seconds until the run has said its last word, or has died without one.

    `session` is how often the run has started so far; one that was resumed meanwhile has a shipper of its own.
    """
    give_up: float | None = None
    while True:
        closing = closed.wait(interval)
        if closing and give_up is None:
            give_up = time.monotonic() + _ORPHAN_PATIENCE_SECONDS
        if attempt(folder, uri, session=session if closing else None) and closing:
            return 0
        if give_up is not None and time.monotonic() > give_up:
            return 1
        if closing:
            time.sleep(min(interval, 0.5))


def attempt(folder: Path, uri: str, *, session: int | None = None) -> bool:
    """Try to ship all that is in the outbox; say what went wrong and return False where the store failed.

    Where `session`, the last start of the run, has ended without a last word, the run is marked as killed.
    """
    from mlflow.tracking import MlflowClient

    try:
        shipment = Shipment(folder=folder, client=MlflowClient(tracking_uri=uri), tracking_uri=uri)
        shipment.ship()
        if session == len(_starts(folder)) and not _has_last_word(folder):
            shipment.abandon(int(time.time() * 1000))
    except Exception as error:  # noqa: BLE001 - any failure of a store; the records stay and are tried again
        _say(f"{type(error).__name__}: {error}")
        return False
    return True


def unsent(folder: Path) -> int:
    """Return how many records of the outbox have not reached MLflow."""
    return count(folder / OUTBOX_FILE, load_state(folder).get("offset", 0))


def stdin_closed() -> threading.Event:
    """Return an event that is set once the other end of stdin is gone: closed on purpose, or with its process."""
    closed = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        closed.set()

    threading.Thread(target=wait, daemon=True, name="codex-mlflow-stdin").start()
    return closed


def _starts(folder: Path) -> list[dict[str, Any]]:
    return [record for record, _ in read(folder / OUTBOX_FILE, 0) if record["kind"] == "start"]


def _has_last_word(folder: Path) -> bool:
    kinds = [record["kind"] for record, _ in read(folder / OUTBOX_FILE, 0)]
    return bool(kinds) and kinds[-1] == "finish"


def _say(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {message}\n")


if __name__ == "__main__":
    os.environ.update(QUIET_ENVIRONMENT)  # this process is ours; mlflow reads them while it is imported
    sys.exit(main())
