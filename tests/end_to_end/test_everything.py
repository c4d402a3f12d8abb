"""The example with every plugin at once, on a small scale: what each of them leaves behind."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from codex_kernel import metrics
from tests.command import Workplace
from tests.end_to_end.examples import EXAMPLES, losses, sets

SHORT = sets(
    "tokenizer.vocab_size=512",
    "data.seq_len=64",
    "trainer.max_steps=6",
    "trainer.warmup_steps=1",
    "trainer.log_every=1",
    "checkpointer.every_steps=2",
    "evaluate.every_steps=3",
    "evaluate.max_blocks=4",
)
OWN_FIELDS = {"schema", "run_id", "time", "step", "epoch", "tokens", "split", "nonfinite"}
Values = dict[tuple[int, str, str], Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache) -> Path:
    """Return the folder of a finished run of the example."""
    workplace = Workplace(tmp_path_factory.mktemp("everything"), {"CODEX_CACHE": str(cache)})
    said = workplace.codex("run", EXAMPLES / "everything.yaml", "--run-dir", "run", *SHORT)
    assert said.code == 0, said.err
    return workplace.folder / "run"


@pytest.fixture(scope="module")
def values(run) -> Values:
    """Return every value of the run's own record, metrics.ndjson, by step, split and metric."""
    return {
        (record["step"], record["split"], name): value
        for record in metrics.read(run / "metrics.ndjson")
        for name, value in record.items()
        if name not in OWN_FIELDS
    }


def test_the_run_completes_with_every_plugin_attached(run):
    """The loss falls, no logger was detached, and all six distributions are in the record."""
    assert losses(run)[-1][1] < losses(run)[0][1]
    outcome = json.loads((run / "outcome.json").read_text())
    assert (outcome["status"], outcome["steps"], outcome["detached"]) == ("completed", 6, [])
    used = json.loads((run / "plugins.lock.json").read_text())["plugins"]
    assert {plugin["distribution"] for plugin in used} == {
        "codex-kernel", "codex-torch", "codex-hf", "codex-spm", "codex-mlflow", "codex-sysmon",
    }  # fmt: skip


def test_the_vocabulary_is_sentencepiece_and_gives_text_back(run):
    """tokenizer/ holds a SentencePiece model of the size that the manifest asks for."""
    from sentencepiece import SentencePieceProcessor

    tokenizer = SentencePieceProcessor(model_file=str(run / "tokenizer" / "tokenizer.model"))
    assert json.loads((run / "data.json").read_text())["vocab_size"] == 512
    assert 0 < tokenizer.get_piece_size() <= 512
    assert len(tokenizer.encode("return None")) < len("return None")


def test_the_machine_is_measured_as_a_split_of_its_own(values):
    """What sysmon measures stands in the run's record, where every logger and reader finds them."""
    system = {name: value for (_, split, name), value in values.items() if split == "system"}
    assert {"cpu_percent", "memory_used_bytes", "process_rss_bytes", "disk_free_bytes"} <= system.keys()
    assert system["process_rss_bytes"] > 1_000_000


def test_the_csv_table_has_the_values_of_the_record(run, values):
    """metrics.csv, a row for each value, is equal to metrics.ndjson."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {(int(row["step"]), row["split"], row["metric"]): float(row["value"]) for row in rows}
    assert len(rows) == len(table)
    assert table == values


def test_the_json_lines_have_the_values_of_the_record(run, values):
    """metrics.jsonl, a line for each record, is equal to metrics.ndjson."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert values == {
        (line["step"], line["split"], name): value
        for line in lines
        for name, value in line.items()
        if name not in OWN_FIELDS
    }


def test_mlflow_has_the_values_of_the_record_in_a_local_database(run, values):
    """mlflow.db beside the manifest's folder of work: one finished run, its metrics, settings and files."""
    database = sqlite3.connect(f"file:{run.parent / 'mlflow.db'}?mode=ro", uri=True)
    try:
        ((uuid, status),) = database.execute("SELECT run_uuid, status FROM runs").fetchall()
        stored = database.execute("SELECT step, key, value FROM metrics").fetchall()
        tags = dict(database.execute("SELECT key, value FROM tags"))
        settings = dict(database.execute("SELECT key, value FROM params"))
    finally:
        database.close()
    assert status == "FINISHED"
    assert {(step, *key.split("/", 1)): value for step, key, value in stored} == values
    assert len(stored) == len(values)
    assert tags["purpose"] == "example"
    assert settings["trainer.max_steps"] == "6"
    kept = {path.name for path in (run.parent / "mlflow-artifacts" / uuid / "artifacts").iterdir()}
    assert {"manifest.yaml", "resolved.yaml", "environment.json", "outcome.json"} <= kept
