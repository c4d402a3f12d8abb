"""The logger `mlflow`: what reaches a real sqlite store, once, whatever happens on the way."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel import InputError, Outcome, PluginError
from codex_kernel.testing.logger import LoggerContract
from codex_kernel.testing.toys import make_run
from codex_mlflow import ship
from codex_mlflow.logger import MLflowLogger, resolve_uri
from codex_mlflow.names import MAX_NAME_LENGTH, MAX_PARAM_LENGTH, clean_name, param_value
from codex_mlflow.outbox import LOG_FILE, OUTBOX_FILE, STATE_FILE, append, load_state, open_outbox, read
from codex_mlflow.shipment import Shipment

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # of mlflow and sqlalchemy, while they are imported and make their tables
    "ignore::PendingDeprecationWarning",
    "ignore::FutureWarning",
)

SETTINGS = {"trainer.lr": 1e-3, "loggers": ["mlflow"], "dataset.url": "https://me:pw@host/data"}


def outcome(status: str = "completed", **changes) -> Outcome:
    """Make an outcome of a short run."""
    values = {
        "status": status,
        "exit_code": 0,
        "reason": "max_steps",
        "steps": 3,
        "tokens": 300,
        "samples": 3,
        "seconds": 1.0,
        "metrics": {"train/loss": 1.0},
        "checkpoint": None,
        "detached": (),
    }
    return Outcome(**(values | changes))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Make one empty MLflow database; making its tables takes seconds, so tests copy it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = "import sys, mlflow; mlflow.MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"
    environment = {**os.environ, **ship.QUIET_ENVIRONMENT}
    subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{path}"], check=True, env=environment, cwd=path.parent
    )
    return path


@pytest.fixture
def run(tmp_path, database):
    """Make a run whose base already holds an empty MLflow database."""
    shutil.copy(database, tmp_path / "mlflow.db")
    return make_run(tmp_path)


@pytest.fixture
def client(run, monkeypatch):
    """Open the run's store as a user would, without telemetry."""
    for name, value in ship.QUIET_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri_of(run))


def uri_of(run) -> str:
    """Return the store that the logger takes by default."""
    return f"sqlite:///{run.base / 'mlflow.db'}"


def write(run, *records) -> None:
    """Append records to the run's outbox, as the logger does."""
    with open_outbox(run.folder / OUTBOX_FILE) as file:
        for record in records:
            append(file, record)


def start(run, **changes) -> dict:
    """Make the record of a start."""
    return {
        "kind": "start",
        "time": 1_000,
        "run": run.run_id,
        "experiment": run.name,
        "tracking_uri": uri_of(run),
        "artifact_location": (run.base / "files").as_uri(),
        "tags": {},
        "params": {},
        **changes,
    }


def metrics(step: int, loss: float, *, time: int = 2_000, split: str = "train", **more: float) -> dict:
    """Make a record of metrics."""
    return {
        "kind": "metrics",
        "time": time + step,
        "step": step,
        "split": split,
        "values": {"loss": loss, **more},
    }


def shipped(run, client) -> Shipment:
    """Ship what the outbox holds."""
    shipment = Shipment(folder=run.folder, client=client, tracking_uri=uri_of(run))
    shipment.ship()
    return shipment


def history(client, run_id: str, key: str = "train/loss") -> list[tuple[int, float]]:
    """Return (step, value) of each stored row of a metric."""
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def test_a_run_reaches_a_local_database_without_any_connection(run, client, tmp_path, monkeypatch):
    """By default everything lands beside the manifest, no address is looked up, nothing is left elsewhere."""
    hook, home, here = tmp_path / "hook", tmp_path / "home", tmp_path / "here"
    for folder in (hook, home, here):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import sys\n"
        "def look(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        f"        open({str(tmp_path / 'connections')!r}, 'a').write(event + '\\n')\n"
        "sys.addaudithook(look)\n"
        f"open({str(tmp_path / 'hooked')!r}, 'a').write('x')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hook), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    monkeypatch.delenv("DO_NOT_TRACK")
    monkeypatch.chdir(here)
    (run.folder / "resolved.yaml").write_text("name: toy\n")
    before = dict(os.environ)

    logger = MLflowLogger(tags={"team": "code"})
    logger.codex_run_started(run=run, settings=SETTINGS)
    for step in (1, 2, 3):
        logger.codex_metrics(run=run, step=step, metrics={"loss": 1 / step}, split="train")
    logger.codex_metrics(run=run, step=3, metrics={"loss": 0.5}, split="validation")
    logger.codex_metrics(run=run, step=3, metrics={"cpu_percent": 50.0}, split="system")
    logger.codex_run_finished(run=run, outcome=outcome())

    assert dict(os.environ) == before
    assert (tmp_path / "hooked").exists()
    assert not (tmp_path / "connections").exists()
    assert list(here.iterdir()) == []
    assert [path for path in home.rglob("*") if "mlflow" in path.name] == []
    assert run.report.warnings == []
    (name, fields) = run.report.events[-1]
    assert name == "mlflow_finished"
    found = client.get_run(fields["mlflow_run"])
    assert client.get_experiment(found.info.experiment_id).name == run.name
    assert found.info.status == "FINISHED"
    assert found.info.run_name == run.run_id
    assert found.data.params == {
        "trainer.lr": "0.001",
        "loggers": '["mlflow"]',
        "dataset.url": "https://host/data",
    }
    assert found.data.tags["team"] == "code"
    assert found.data.tags["codex.run_id"] == run.run_id
    assert history(client, found.info.run_id) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.data.metrics["validation/loss"] == 0.5
    assert found.data.metrics["system/cpu_percent"] == 50.0
    files = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert files == {"resolved.yaml", "outcome.json"}
    assert found.info.artifact_uri.startswith((run.base / "mlflow-artifacts").as_uri())


def test_a_dead_server_costs_only_the_given_time_and_nothing_is_lost(run, client):
    """With nobody at the other end the run ends, says what is missing, and all of it can be sent later."""
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        logger = MLflowLogger(
            tracking_uri=f"http://127.0.0.1:{taken.getsockname()[1]}",
            flush_seconds=0.1,
            exit_timeout_seconds=0.2,
        )
        logger.codex_run_started(run=run, settings=SETTINGS)
        logger.codex_metrics(run=run, step=1, metrics={"loss": 1.0}, split="train")
        logger.codex_run_finished(run=run, outcome=outcome(metrics={"loss": math.nan}))
    (warning,) = run.report.warnings
    assert "3 records have not reached MLflow" in warning
    assert "python -m codex_mlflow.ship" in warning

    assert ship.main([str(run.folder), "--to", uri_of(run)]) == 0
    state = load_state(run.folder)
    assert history(client, state["run_id"]) == [(1, 1.0)]
    assert client.get_run(state["run_id"]).info.status == "FINISHED"
    assert ship.unsent(run.folder) == 0


def test_a_refused_connection_fails_the_attempt_and_keeps_the_records(run, client, capsys):
    """MLflow's own retries, minutes long, are off: the attempt says what happened, and the outbox stays as it is."""
    write(run, start(run), metrics(1, 1.0))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not ship.attempt(run.folder, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert "MlflowException" in capsys.readouterr().err
    assert ship.unsent(run.folder) == 2
    assert shipped(run, client).run_id


def test_a_run_that_dies_is_marked_as_killed(run, client):
    """The shipper outlives a killed run, sends the rest and sets the status, so no dead run is shown as running."""
    write(run, start(run), metrics(1, 1.0))
    command = [
        sys.executable,
        "-P",
        "-m",
        "codex_mlflow.ship",
        str(run.folder),
        "--follow",
        "--interval",
        "60",
    ]
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    state = load_state(run.folder)
    assert client.get_run(state["run_id"]).info.status == "KILLED"
    assert history(client, state["run_id"]) == [(1, 1.0)]


def test_a_run_that_was_resumed_meanwhile_is_not_marked_as_killed(run, client):
    """The shipper of an earlier process leaves the status to that of the later one."""
    write(run, start(run), metrics(1, 1.0), start(run))
    assert ship.attempt(run.folder, uri_of(run), session=1)
    assert client.get_run(load_state(run.folder)["run_id"]).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("status", "mirrored"), [("completed", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")]
)
def test_the_outcome_decides_the_status(run, client, status, mirrored):
    """Completed, failed and stopped runs are told apart in MLflow."""
    logger = MLflowLogger()
    logger._outbox = open_outbox(run.folder / OUTBOX_FILE)
    append(logger._outbox, start(run))
    logger.codex_run_finished(run=run, outcome=outcome(status, reason="because"))
    found = client.get_run(shipped(run, client).run_id)
    assert found.info.status == mirrored
    assert found.data.tags["codex.reason"] == "because"


def test_a_resumed_run_goes_on_in_its_mlflow_run_without_duplicate_steps(run, client):
    """Steps that the resumed process repeats are not sent again, and a changed setting does not stop anything."""
    write(run, start(run, params={"lr": "0.1", "seed": "1"}), *[metrics(step, step) for step in range(1, 6)])
    first = shipped(run, client).run_id
    write(
        run,
        start(run, params={"lr": "0.2", "seed": "1", "new": "x"}),
        *[metrics(step, step, time=9_000) for step in range(3, 9)],
        metrics(4, 0.5, time=9_000, split="validation"),
    )
    assert shipped(run, client).run_id == first
    assert history(client, first) == [(step, step) for step in range(1, 9)]
    assert history(client, first, "validation/loss") == [(4, 0.5)]
    found = client.get_run(first).data
    assert found.params == {"lr": "0.1", "seed": "1", "new": "x"}
    assert found.tags["changed/lr"] == "0.2"
    assert load_state(run.folder)["repeated"] == 3


@pytest.mark.parametrize("point", ["log_batch", "save"])
def test_a_failure_at_any_point_of_shipping_is_made_good(run, client, monkeypatch, point):
    """A batch that fails, or is sent but not marked as sent, is neither lost nor doubled by the next attempt."""
    write(run, start(run), *[metrics(step, step) for step in range(1, 4)])

    def broken(*_arguments, **_options):
        raise OSError("the store is away")

    with monkeypatch.context() as patch:
        shipment = Shipment(folder=run.folder, client=client, tracking_uri=uri_of(run))
        patch.setattr(
            *{"log_batch": (client, "log_batch"), "save": ("codex_mlflow.shipment.save_state",)}[point],
            broken,
        )
        with pytest.raises(OSError, match="the store is away"):
            shipment.ship()
    again = shipped(run, client)
    assert history(client, again.run_id) == [(1, 1), (2, 2), (3, 3)]
    assert len(client.search_runs([client.get_run(again.run_id).info.experiment_id])) == 1


def test_shipping_twice_changes_nothing(run, client):
    """Even with the state lost, the same run is found by its tag and no row is doubled."""
    write(run, start(run), *[metrics(step, step) for step in range(1, 2501)])
    first = shipped(run, client).run_id
    (run.folder / STATE_FILE).unlink()
    assert shipped(run, client).run_id == first
    assert [step for step, _ in history(client, first)] == list(range(1, 2501))


def test_values_that_are_not_finite_arrive(run, client):
    """NaN and infinities are logged, not dropped and not refused."""
    write(run, start(run), metrics(1, math.nan, top=math.inf, low=-math.inf))
    stored = client.get_run(shipped(run, client).run_id).data.metrics
    assert math.isnan(stored["train/loss"])
    assert stored["train/top"] > 1e308
    assert stored["train/low"] < -1e308


def test_any_name_is_stored_under_one_of_its_own(run, client):
    """Names that MLflow refuses are changed, and two that would look alike stay apart."""
    names = {
        "a[0]": 1.0,
        "a(0)": 2.0,
        "../up": 3.0,
        "/abs": 4.0,
        "a\nb": 5.0,
        "x" * 300: 6.0,
        "": 7.0,
        "ok": 8.0,
    }
    record = {"kind": "metrics", "time": 1, "step": 1, "split": "train", "values": names}
    write(run, start(run, params={clean_name("b/../c"): "v"}, tags={"odd\ntag": "t" * 9000}), record)
    stored = client.get_run(shipped(run, client).run_id).data
    assert sorted(stored.metrics.values()) == sorted(names.values())
    assert stored.metrics["train/ok"] == 8.0
    assert any(tag.endswith("(cut, 9000 characters in all)") for tag in stored.tags.values())


@given(names=st.lists(st.text(), unique=True, max_size=5))
def test_cleaned_names_are_accepted_and_differ(names):
    """A cleaned name fits MLflow's own check (its words, stated here), and different names stay different."""
    import posixpath
    import re

    cleaned = [clean_name(name) for name in names]
    for name in cleaned:
        assert re.fullmatch(r"[/\w.\- ]{1,250}", name)
        assert posixpath.normpath(name) == name
        assert not name.startswith(("..", "/"))
        assert name != "."
        assert len(name) <= MAX_NAME_LENGTH
    assert len(set(cleaned)) == len(names)


@given(value=st.text(max_size=50) | st.integers() | st.none() | st.lists(st.booleans()))
def test_short_settings_are_kept_as_they_are(value):
    """A setting is text as it is, anything else as JSON."""
    text = param_value(value)
    assert (
        text == (value if isinstance(value, str) else json.dumps(value))
        or "://" in text
        or "://" in str(value)
    )


def test_long_settings_are_cut_with_a_note():
    """A value above MLflow's limit says how long it was."""
    text = param_value("x" * 7000)
    assert len(text) == MAX_PARAM_LENGTH
    assert text.endswith("(cut, 7000 characters in all)")


def test_half_a_line_at_the_end_is_not_read_and_goes(tmp_path):
    """What a killed process half wrote is no record, and does not spoil the next one."""
    path = tmp_path / OUTBOX_FILE
    path.write_bytes(b'{"kind": "metrics"}\n{"kind": "met' + b"x" * 200_000)
    assert [record for record, _ in read(path, 0)] == [{"kind": "metrics"}]
    with open_outbox(path) as file:
        append(file, {"kind": "finish"})
    assert [record["kind"] for record, _ in read(path, 0)] == ["metrics", "finish"]
    path.write_bytes(b"half")
    open_outbox(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://me:secret@host", "holds a user name or a password"),
        ("./mlruns", "expected sqlite:///FILE"),
        ("file:///tmp/mlruns", "expected sqlite:///FILE"),
        ("sqlite:///", "expected sqlite:///FILE"),
        ("sqlite://", "expected sqlite:///FILE"),
    ],
)
def test_a_store_that_cannot_be_used_is_known_before_the_run(tmp_path, uri, message):
    """Preflight refuses plain folders and secrets in the URI, and does not repeat the secret."""
    (problem,) = MLflowLogger(tracking_uri=uri).codex_preflight(base=tmp_path)
    assert message in problem
    assert "secret" not in problem
    with pytest.raises(InputError):
        MLflowLogger(tracking_uri=uri).codex_run_started(run=make_run(tmp_path), settings={})


def test_a_relative_database_is_relative_to_the_manifest(tmp_path):
    """The current directory plays no part."""
    assert resolve_uri("sqlite:///runs.db", tmp_path) == f"sqlite:///{tmp_path}/runs.db"
    assert resolve_uri("sqlite:////srv/runs.db", tmp_path) == "sqlite:////srv/runs.db"
    assert MLflowLogger().codex_preflight(base=tmp_path) == []


def test_a_shipper_that_dies_is_reported_once_and_the_records_stay(run):
    """The logger says that nothing is sent any more; it goes on writing the outbox."""
    logger = MLflowLogger()
    logger._outbox = open_outbox(run.folder / OUTBOX_FILE)
    logger._shipper = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], stdin=subprocess.PIPE)
    logger._shipper.wait()
    logger._shipper.stdin.close()
    (run.folder / LOG_FILE).write_text("no module named mlflow\n")
    with pytest.raises(PluginError, match="ended with 3: no module named mlflow"):
        logger.codex_metrics(run=run, step=1, metrics={"loss": 1.0}, split="train")
    logger.codex_metrics(run=run, step=2, metrics={"loss": 1.0}, split="train")
    logger.codex_run_finished(run=run, outcome=outcome())
    assert "3 records have not reached MLflow" in run.report.warnings[0]


def test_metrics_before_the_start_are_an_error(run):
    """A record out of order is named, not lost."""
    with pytest.raises(PluginError, match="before codex_run_started"):
        MLflowLogger().codex_metrics(run=run, step=1, metrics={}, split="train")


def test_shipping_needs_an_outbox(tmp_path, capsys):
    """The command says what is wrong with a folder that no run wrote to."""
    with pytest.raises(SystemExit) as caught:
        ship.main([str(tmp_path)])
    assert caught.value.code == 2
    assert "cannot read the outbox" in capsys.readouterr().err


def test_the_plugin_class_imports_no_mlflow():
    """Naming the logger in a manifest that is only validated costs nothing."""
    code = "import sys, codex_mlflow.logger; assert not {'mlflow', 'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class TestMLflowLogger(LoggerContract):
    """The hooks alone: nothing listens at the other end, and the end of the run does not wait for it."""

    def make(self, folder):
        return MLflowLogger(tracking_uri="http://127.0.0.1:9", exit_timeout_seconds=0.0)
