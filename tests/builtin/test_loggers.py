import csv
import itertools
import json
import math
import os
import pty
import subprocess
import sys
import textwrap

import pytest

from codex_kernel import Evaluation, InputError, Outcome, Progress
from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer
from codex_kernel.builtin.console import ConsoleLogger
from codex_kernel.builtin.console_views import PlainView, duration, printable
from codex_kernel.builtin.csv_logger import CsvLogger
from codex_kernel.builtin.evaluation_metrics import BitsPerByte, Perplexity
from codex_kernel.builtin.jsonl_logger import JsonlLogger
from codex_kernel.testing import make_run

DONE = Outcome("completed", 0, "max_steps", 1, 1, 1, 1.0, {}, None, ())


def log(logger, run, *records, split="train"):
    """Let a logger see records of metrics, one a step, from start to end."""
    logger.codex_run_started(run=run)
    for step, metrics in enumerate(records, 1):
        give(logger, run, step, metrics, split)
    logger.codex_run_finished(outcome=DONE)


def give(logger, run, step, metrics, split="train"):
    """Let a logger see one record."""
    progress = Progress(step, 10, step / 10, step * 8, step)
    known = {"run": run, "step": step, "metrics": metrics, "split": split, "progress": progress}
    names = logger.codex_metrics.__code__.co_varnames[1 : logger.codex_metrics.__code__.co_argcount]
    logger.codex_metrics(**{name: known[name] for name in names})


# ── jsonl ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_jsonl_writes_a_flat_object_a_record(tmp_path):
    """Each line has run, time, step, epoch, tokens and split, then the metrics by their names."""
    run = make_run(tmp_path)
    log(JsonlLogger(), run, {"loss": 2.5, "lr": 0.1}, {"loss": 2.0})
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["run_id", "time", "step", "epoch", "tokens", "split", "loss", "lr"]
    assert [(line["step"], line["tokens"], line["loss"]) for line in lines] == [(1, 8, 2.5), (2, 16, 2.0)]


def test_jsonl_is_json_even_for_nan(tmp_path):
    """A number that JSON cannot write is null, and the record says that something was not finite."""
    run = make_run(tmp_path)
    log(JsonlLogger(), run, {"loss": math.nan, "lr": 0.1}, {"loss": math.inf}, {"loss": 1.0})

    def refuse(name):
        raise AssertionError(name)

    text = (run.folder / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [line["loss"] for line in lines] == [None, None, 1.0]
    assert [line.get("nonfinite") for line in lines] == [True, True, None]


def test_jsonl_refuses_a_metric_that_would_hide_a_field(tmp_path):
    """A metric named like a field of the record is an error, never a changed step."""
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match="'step'"):
        log(logger := JsonlLogger(), run, {"step": 5.0})
    logger.codex_run_finished(outcome=DONE)


# ── csv ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_csv_has_one_header_for_ever(tmp_path):
    """New metrics, odd names and a resumed run add rows in long form under the one header."""
    run = make_run(tmp_path)
    log(CsvLogger(), run, {"loss": 2.5})
    log(CsvLogger(), run, {"loss": 2.0, 'odd, "name"\nover lines': math.nan, "late": math.inf})
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run_id", "time", "step", "split", "metric", "value"]
    assert [(row["metric"], row["value"]) for row in rows] == [
        ("loss", "2.5"),
        ("loss", "2.0"),
        ('odd, "name"\nover lines', "nan"),
        ("late", "inf"),
    ]


# ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [JsonlLogger, CsvLogger])
def test_each_record_is_on_disk_at_once(tmp_path, kind):
    """A record can be read before the run has ended."""
    run = make_run(tmp_path)
    logger = kind(path="sub/log")
    logger.codex_run_started(run=run)
    give(logger, run, 1, {"loss": 2.5})
    assert "2.5" in (run.folder / "sub" / "log").read_text()
    logger.codex_run_finished(outcome=DONE)


@pytest.mark.parametrize("kind", [JsonlLogger, CsvLogger])
def test_a_piece_of_a_record_is_cut_off(tmp_path, kind):
    """What a killed run left of its last record is cut off when the run goes on, with a warning."""
    run = make_run(tmp_path)
    log(kind(path="log"), run, {"loss": 2.5})
    whole = (run.folder / "log").read_bytes()
    (run.folder / "log").write_bytes(whole + b'{"run_id": "2026')
    log(kind(path="log"), run)
    assert (run.folder / "log").read_bytes() == whole
    assert "16 bytes" in run.report.warnings[0]


@pytest.mark.parametrize("kind", [JsonlLogger, CsvLogger])
@pytest.mark.parametrize("path", ["../out", "a/../../out", "", "."])
def test_a_path_stays_in_the_run_folder(tmp_path, kind, path):
    """A relative path that leads out of the run's folder is named by preflight and refused."""
    assert len(list(kind(path=path).codex_preflight())) == 1
    with pytest.raises(InputError):
        kind(path=path).codex_run_started(run=make_run(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [JsonlLogger, CsvLogger])
def test_an_absolute_path_is_taken_as_it_is(tmp_path, kind):
    """An absolute path may lie anywhere."""
    log(kind(path=str(tmp_path / "elsewhere" / "log")), make_run(tmp_path), {"loss": 2.5})
    assert "2.5" in (tmp_path / "elsewhere" / "log").read_text()


# ── console ───────────────────────────────────────────────────────────────────────────────────────────────────────

STORY = """
    import sys
    from pathlib import Path
    from codex_kernel import Outcome, Progress
    from codex_kernel.builtin.console import ConsoleLogger
    from codex_kernel.testing import make_run

    run = make_run(Path(sys.argv[1]))
    logger = ConsoleLogger(every=float(sys.argv[2]))
    logger.codex_run_started(run=run)
    logger.codex_activity(name="encode", done=5, total=288, unit="documents")
    logger.codex_activity(name="encode", done=288, total=288, unit="documents")
    logger.codex_event(name="warning", fields={"message": "[bold]disk[/bold] \\x1b[31mnearly full"})
    for step in range(1, 21):
        progress = Progress(step, 20, step / 20, step, step)
        metrics = {"loss": 5 - step / 10, "lr": 1e-3, "tokens_per_second": 12345.6, "step_seconds": 2.0}
        logger.codex_metrics(step=step, metrics=metrics, split="train", progress=progress)
    metrics = {"loss": 3.25, "bits_per_byte": 1.5}
    logger.codex_metrics(step=20, metrics=metrics, split="validation", progress=progress)
    if sys.argv[3] == "finish":
        logger.codex_run_finished(outcome=Outcome("completed", 0, "", 20, 1, 1, 1.0, {}, None, ()))
    if sys.argv[3] == "die":
        raise SystemExit("died")
"""


def command(tmp_path, every, end):
    """Return the command that tells the story of a run to a console logger."""
    return [sys.executable, "-c", textwrap.dedent(STORY), str(tmp_path), str(every), end]


def environment(**changes):
    """Return the environment of a person at a terminal."""
    kept = {
        name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR", "FORCE_COLOR"}
    }
    return {**kept, "TERM": "xterm-256color", "COLUMNS": "120", **changes}


def on_a_terminal(tmp_path, end="finish", **changes):
    """Run the story with standard error on a terminal; return what was on stdout and on the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(tmp_path, 0, end), stdout=subprocess.PIPE, stderr=theirs, env=environment(**changes)
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # a terminal that nobody writes to any more
        pass
    os.close(ours)
    out = process.stdout.read()
    process.stdout.close()
    process.wait(timeout=60)
    return out.decode(), shown.decode()


def test_a_pipe_gets_plain_lines(tmp_path):
    """Without a terminal, lines on standard error tell activities, progress, evaluations and warnings."""
    ran = subprocess.run(
        command(tmp_path, 0, "finish"), capture_output=True, text=True, env=environment(), check=True
    )
    lines = ran.stderr.splitlines()
    assert ran.stdout == ""
    assert lines[:3] == [
        "encode: 5/288 documents",
        "encode: 288/288 documents",
        "warning: [bold]disk[/bold] \\x1b[31mnearly full",
    ]
    assert lines[3] == "step 1/20  loss 4.9000  12,346 tokens/s  ETA 0:38"
    assert lines[22].startswith("step 20/20  loss 3.0000")
    assert lines[23:] == ["step 20: validation loss 3.2500, bits per byte 1.5"]


def test_a_pipe_gets_few_lines(tmp_path):
    """Lines of progress come every so many seconds; the first and the last step are always told."""
    ran = subprocess.run(
        command(tmp_path, 3600, "finish"), capture_output=True, text=True, env=environment(), check=True
    )
    steps = [line.split()[1] for line in ran.stderr.splitlines() if line.startswith("step") and "ETA" in line]
    assert steps == ["1/20", "20/20"]


@pytest.mark.parametrize("end", ["finish", "die", "return"])
def test_a_terminal_gets_a_live_bar_and_its_cursor_back(tmp_path, end):
    """On a terminal the bar is drawn live on standard error; however the process ends, the cursor is shown again."""
    out, shown = on_a_terminal(tmp_path, end)
    assert out == ""
    assert "━" in shown
    assert "step 20/20" in shown
    assert "12,346 tokens/s" in shown
    assert "validation loss 3.2500" in shown
    assert "encode: 288/288 documents in" in shown
    assert "warning: [bold]disk[/bold] \\x1b[31mnearly full" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0


def test_no_color_is_respected(tmp_path):
    """With NO_COLOR the bar has no colours."""
    _, shown = on_a_terminal(tmp_path, NO_COLOR="1")
    assert "\x1b[33m" not in shown
    assert "\x1b[9" not in shown


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(tmp_path, changes):
    """A dumb terminal and a CI job get the lines of a pipe, without a single control sequence."""
    _, shown = on_a_terminal(tmp_path, **changes)
    assert "\x1b" not in shown
    assert "step 20/20  loss 3.0000" in shown


def test_time_left_is_measured_from_the_first_record(tmp_path, capsys, monkeypatch):
    """The time left is the mean time of the steps since the first record, times the steps to go."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    logger = ConsoleLogger(every=0)
    for step in (500, 502, 504):
        logger.codex_metrics(step=step, metrics={}, split="train", progress=Progress(step, 510, 0.1, 1, 1))
        now[0] += 60
    logger.codex_run_finished(outcome=DONE)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 500/510", "step 502/510  ETA 4:00", "step 504/510  ETA 3:00"]


def test_work_beside_training_is_told_only_when_it_takes_long(capsys):
    """While training goes on, a save that is done at once is not worth a line; one that lasts is."""
    now = [0.0]
    view = PlainView(10.0, lambda: now[0])
    view.progress(1, 9, [], None)
    view.activity("save", 0, 5, "files")
    view.activity("save", 5, 5, "files")
    view.activity("save", 0, 5, "files")
    now[0] = 11.0
    view.activity("save", 2, 5, "files")
    assert capsys.readouterr().err.splitlines() == ["step 1/9", "save: 2/5 files  ETA 0:16"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (59.6, "1:00"), (725, "12:05"), (10_800, "3:00:00")]
)
def test_durations_read_as_clocks(seconds, text):
    """Seconds are written as minutes and seconds, and hours where there are any."""
    assert duration(seconds) == text


def test_control_characters_are_written_out():
    """Nothing from outside can move the cursor, ring or colour."""
    assert printable("a\x07b\x1b[2Jc\rd\ne\u202ef") == "a\\x07b\\x1b[2Jc\\rd\ne\\u202ef"


# ── metrics and tokenizer ─────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_follow_their_formulas():
    """Perplexity is exp(loss), bits per byte is the loss in bits over the bytes; nothing is made of nothing."""
    evaluation = Evaluation(loss_sum=100 * math.log(8), tokens=100, bytes=250.0)
    assert Perplexity().codex_metric(evaluation) == pytest.approx({"perplexity": 8.0})
    assert BitsPerByte().codex_metric(evaluation) == pytest.approx({"bits_per_byte": 1.2})
    assert Perplexity().codex_metric(Evaluation(1e6, 1, 1.0)) == {"perplexity": math.inf}
    assert math.isnan(Perplexity().codex_metric(Evaluation(math.nan, 1, 1.0))["perplexity"])
    assert Perplexity().codex_metric(Evaluation(0.0, 0, 0.0)) is None
    assert BitsPerByte().codex_metric(Evaluation(0.0, 0, 0.0)) is None


def test_work_whose_end_is_not_known_begins_without_a_number(capsys):
    """Nothing is counted in a first line that would say 0 or 1 of what is not known."""
    view = PlainView(every_seconds=1, clock=itertools.count().__next__)
    for done in (1, 500):
        view.activity("read", done, None, "documents")
    view.activity("read", 700, 700, "documents")
    assert capsys.readouterr().err == "read …\nread: 500 documents\nread: 700/700 documents\n"


def test_bytes_of_a_model_are_shown_as_far_as_they_go():
    """Bytes that are no UTF-8 become U+FFFD, and an id that is none is refused."""
    tokenizer = BytesTokenizer().codex_tokenizer()
    assert tokenizer.decode([0xFF, 0x61, 256]) == "\ufffda"
    with pytest.raises(InputError, match="expected ids in 0 … 256, got 257"):
        tokenizer.decode([257])
