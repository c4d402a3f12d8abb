"""From the outbox of one run to one MLflow run.

One rule: shipping again changes nothing. The place in the outbox is kept with the ids; a record that was sent but not
yet marked as sent is the same metric, timestamp included, for which MLflow keeps one row.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from attrs import define, field

from codex_mlflow.names import MAX_TAG_LENGTH, clean_name, cut
from codex_mlflow.outbox import OUTBOX_FILE, load_state, read, save_state

RUN_TAG = "codex.run_id"
METRICS_OF_A_BATCH = 1000
PARAMS_OF_A_BATCH = 100

Record = dict[str, Any]


@define(eq=False)
class Shipment:
    """Sends what is new in a run folder's outbox; `client` is an MlflowClient of `tracking_uri`.

    Of the state, `last` holds the last step sent of each metric, and `floor` what `last` was when the run last started
    or went on: a run that goes on after an interruption repeats some steps, and what is not above the floor is not
    sent again. With another store than last time everything is sent anew.
    """

    folder: Path
    client: Any
    tracking_uri: str
    _state: dict[str, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Take up the state."""
        state = load_state(self.folder)
        fresh = {"tracking_uri": self.tracking_uri, "offset": 0, "last": {}, "floor": {}, "repeated": 0}
        self._state = state if state.get("tracking_uri") == self.tracking_uri else fresh

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; raises KeyError before the first `start` record was sent."""
        return str(self._state["run_id"])

    def ship(self) -> None:
        """Send all whole records behind the offset; what MLflow raises comes through, and nothing is lost by it."""
        state = deepcopy(self._state)  # only what was sent reaches self._state
        metrics: list[Any] = []
        for record, offset in read(self.folder / OUTBOX_FILE, state["offset"]):
            if record["kind"] == "metrics":
                metrics += _new_metrics(record, state)
            else:
                self._send(metrics, state)
                (self._start if record["kind"] == "start" else self._finish)(record, state)
            state["offset"] = offset
            if len(metrics) >= METRICS_OF_A_BATCH or record["kind"] != "metrics":
                self._send(metrics, state)
        self._send(metrics, state)

    def abandon(self, time: int) -> None:
        """Mark the run as killed: its process is gone without a last word."""
        self.client.set_terminated(self.run_id, status="KILLED", end_time=time)

    def _send(self, metrics: list[Any], state: dict[str, Any]) -> None:
        """Send what was gathered, then mark everything up to the state's offset as sent."""
        for start in range(0, len(metrics), METRICS_OF_A_BATCH):
            self.client.log_batch(state["run_id"], metrics=metrics[start : start + METRICS_OF_A_BATCH])
        metrics.clear()
        if state != self._state:
            save_state(self.folder, state)
            self._state = deepcopy(state)

    def _start(self, record: Record, state: dict[str, Any]) -> None:
        """Open the run: the one of the state, else the one with this run's tag, else a new one."""
        if "run_id" not in state:
            state["experiment_id"] = self._experiment(record)
            state["run_id"] = self._find(record, state) or self._create(record, state)
        run_id = state["run_id"]
        self.client.update_run(run_id, status="RUNNING")
        for key, value in record["tags"].items():
            self.client.set_tag(run_id, clean_name(key), cut(value, MAX_TAG_LENGTH))
        self._log_params(run_id, {clean_name(key): value for key, value in record["params"].items()})
        state["floor"] = dict(state["last"])

    def _experiment(self, record: Record) -> str:
        found = self.client.get_experiment_by_name(record["experiment"])
        if found is not None:
            return str(found.experiment_id)
        location = record["artifact_location"]
        return str(self.client.create_experiment(record["experiment"], artifact_location=location))

    def _find(self, record: Record, state: dict[str, Any]) -> str | None:
        """Look for the run that an earlier shipment made before it could note the id."""
        query = f"tags.`{RUN_TAG}` = '{record['run']}'"
        runs = self.client.search_runs([state["experiment_id"]], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create(self, record: Record, state: dict[str, Any]) -> str:
        run = self.client.create_run(
            state["experiment_id"],
            start_time=record["time"],
            run_name=record["run"],
            tags={RUN_TAG: record["run"]},
        )
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: dict[str, str]) -> None:
        """Log settings; one that changed when the run went on is a tag, since MLflow's parameters never change."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        for key, value in params.items():
            if key in known and known[key] != value:
                self.client.set_tag(run_id, f"changed/{key}"[:250], cut(value, MAX_TAG_LENGTH))
        new = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(new), PARAMS_OF_A_BATCH):
            self.client.log_batch(run_id, params=new[start : start + PARAMS_OF_A_BATCH])

    def _finish(self, record: Record, state: dict[str, Any]) -> None:
        run_id = state["run_id"]
        for path in record["artifacts"]:
            self.client.log_artifact(run_id, path)
        self.client.log_dict(run_id, record["outcome"], "outcome.json")
        self.client.set_tag(
            run_id, "codex.reason", cut(str(record["outcome"].get("reason", "")), MAX_TAG_LENGTH)
        )
        self.client.set_terminated(run_id, status=record["status"], end_time=record["time"])


def _new_metrics(record: Record, state: dict[str, Any]) -> list[Any]:
    """Make MLflow's metrics of a record, without those that an earlier process of this run sent."""
    from mlflow.entities import Metric

    metrics = []
    for name, value in record["values"].items():
        key, step = clean_name(f"{record['split']}/{name}"), record["step"]
        if step <= state["floor"].get(key, -1):
            state["repeated"] += 1
            continue
        metrics.append(Metric(key, value, record["time"], step))
        state["last"][key] = max(step, state["last"].get(key, -1))
    return metrics
