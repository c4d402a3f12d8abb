"""The command line on a run without torch: every command, through the real process."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codex_kernel import metrics, runfolder
from codex_kernel._version import __version__
from codex_kernel.cli import SECTIONS, codex, main
from codex_kernel.runfolder import RunFolder, list_runs
from tests.command import Workplace, toy_workplace
from tests.toys import install


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """Make a workplace of toy plugins."""
    return toy_workplace(tmp_path)


def only_run(workplace: Workplace) -> RunFolder:
    """Return the one run that was made."""
    (folder,) = list_runs(workplace.folder / "runs")
    return folder


def test_a_run_trains_and_leaves_a_folder_that_describes_itself(workplace: Workplace) -> None:
    """Exit 0, a summary with the commands to go on with, and every file of a run."""
    said = workplace.codex("run", "toy.yaml", "--set", "trainer.lr=4")
    assert said.code == 0, said.err
    folder = only_run(workplace)
    assert re.search(r"completed in .*: max_steps reached", said.out)
    assert re.search(r"validation loss\s+\d\.\d{4}", said.out)
    place = folder.path.relative_to(workplace.folder)
    for command in (f"codex runs show {place}", f"codex generate {place} --prompt"):
        assert command in said.out
    assert "codex resume" not in said.out, "nothing is left to do"
    assert {path.name for path in folder.path.iterdir()} == {
        "run.json", "manifest.yaml", "overrides.txt", "resolved.yaml", "environment.json", "plugins.lock.json",
        "data.json", "metrics.ndjson", "events.ndjson", "checkpoints", "outcome.json", "run.lock", "told.txt",
    }  # fmt: skip
    outcome = json.loads(folder.outcome.read_text())
    assert (outcome["status"], outcome["steps"], outcome["samples"]) == ("completed", 6, 48)
    assert outcome["tokens"] > 0
    assert folder.overrides.read_text() == "--set trainer.lr=4\n"
    losses = metrics.series(metrics.read(folder.metrics), "train", "loss")
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert losses[-1][1] < losses[0][1] - 0.5
    lock = json.loads(folder.plugins_lock.read_text())["plugins"]
    assert {"kind": "trainer", "name": "toy", "distribution": "codex-toys"}.items() <= lock[4].items()


def test_the_resolved_manifest_is_the_same_run_again(workplace: Workplace) -> None:
    """Running resolved.yaml gives the same losses to the last bit."""
    workplace.codex("run", "toy.yaml", "--run-dir", "first", "--set", "trainer.lr=4")
    said = workplace.codex("run", "first/resolved.yaml", "--run-dir", "second")
    assert said.code == 0, said.err
    first, second = (
        metrics.series(metrics.read(workplace.folder / name / "metrics.ndjson"), "train", "loss")
        for name in ("first", "second")
    )
    assert first == second
    assert (workplace.folder / "first/resolved.yaml").read_text() == (
        workplace.folder / "second/resolved.yaml"
    ).read_text()


def test_overrides_take_precedence_file_then_override_file_then_set(workplace: Workplace) -> None:
    """The last wins, also where it equals a default."""
    workplace.write("more.yaml", "trainer: {max_steps: 4, lr: 3.0}\nseed: 5\n")
    said = workplace.codex(
        "run",
        "toy.yaml",
        "--override-file",
        "more.yaml",
        "--set",
        "trainer.max_steps=9",
        "--set",
        "trainer.max_steps=5",
    )
    assert said.code == 0, said.err
    resolved = only_run(workplace).resolved.read_text()
    assert "max_steps: 5\n" in resolved
    assert "lr: 3.0\n" in resolved
    assert "seed: 5\n" in resolved


def test_a_stopped_run_saves_exits_with_the_signal_and_is_resumed_to_the_same_end(
    workplace: Workplace,
) -> None:
    """SIGTERM: the step is finished, saved, 143; resume ends where an uninterrupted run ends, each step once."""
    options = ("--set", "trainer.max_steps=40000", "--set", "checkpointer.every_steps=null")
    with workplace.start("run", "toy.yaml", "--run-dir", "stopped", *options) as process:
        path = workplace.folder / "stopped" / "metrics.ndjson"
        while process.poll() is None and (not path.exists() or path.stat().st_size < 2000):
            pass
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped in" in out
    assert "codex resume stopped" in out
    outcome = json.loads((workplace.folder / "stopped/outcome.json").read_text())
    assert outcome["status"] == "stopped"
    steps = outcome["steps"]
    assert 0 < steps < 40000

    resolved = workplace.folder / "stopped" / "resolved.yaml"
    resolved.write_text(resolved.read_text().replace("max_steps: 40000", f"max_steps: {steps + 5}"))
    assert workplace.codex("resume", "stopped").code == 0
    workplace.codex("run", "toy.yaml", "--run-dir", "whole", "--set", f"trainer.max_steps={steps + 5}")
    stopped, whole = (
        metrics.series(metrics.read(workplace.folder / name / "metrics.ndjson"), "train", "loss")
        for name in ("stopped", "whole")
    )
    assert stopped == whole


def test_resume_without_a_checkpoint_exits_4(workplace: Workplace) -> None:
    """Never a silent start at 0."""
    failed = workplace.codex("run", "toy.yaml", "--set", "trainer.fail_at=0")
    assert failed.code == 7
    said = workplace.codex("resume", "toy")
    assert said.code == 4
    assert "has no checkpoint that can be used" in said.err


def test_a_second_process_on_one_run_exits_3_and_names_the_holder(workplace: Workplace) -> None:
    """Both `run --run-dir` and `resume` say who works there."""
    with workplace.start(
        "run", "toy.yaml", "--run-dir", "here", "--set", "trainer.max_steps=100000"
    ) as process:
        path = workplace.folder / "here" / "metrics.ndjson"
        while process.poll() is None and (not path.exists() or not path.stat().st_size):
            pass
        for command in (("run", "toy.yaml", "--run-dir", "here"), ("resume", "here")):
            said = workplace.codex(*command)
            assert said.code == 3, said.err
            assert f"is in use by process {process.pid} on " in said.err
        assert json.loads(workplace.codex("runs", "list", "--runs", ".", "--json").out)["runs"] == []
        assert "running" in workplace.codex("runs", "show", "here").out
        process.kill()
        process.communicate()


def test_a_failing_trainer_is_named_and_the_outcome_says_so(workplace: Workplace) -> None:
    """Exit 7, no traceback without --debug, and the steps done are in the record."""
    said = workplace.codex("run", "toy.yaml", "--set", "trainer.fail_at=3")
    assert said.code == 7
    assert "trainer 'toy' (codex-toys 1.0) failed while training: ValueError: asked to fail" in said.err
    assert "Traceback" not in said.err
    outcome = json.loads(only_run(workplace).outcome.read_text())
    assert (outcome["status"], outcome["steps"], outcome["exit_code"]) == ("failed", 3, 7)
    debugged = workplace.codex("run", "toy.yaml", "--set", "trainer.fail_at=3", "--debug")
    assert "Traceback" in debugged.err


def test_a_run_without_a_step_is_not_completed(workplace: Workplace) -> None:
    """Success without work is a failure."""
    said = workplace.codex("run", "toy.yaml", "--set", "trainer.max_steps=0")
    assert said.code == 1
    assert "returned without an optimizer step" in said.err
    assert json.loads(only_run(workplace).outcome.read_text())["status"] == "failed"


def test_a_failing_logger_is_detached_and_the_run_completes_unless_it_must_not(workplace: Workplace) -> None:
    """The summary and the outcome name what was detached; `on_error: fail` ends the run with 7."""
    said = workplace.codex("run", "toy.yaml", "--set", "loggers.0.fail=true")
    assert said.code == 0
    assert "detached         logger 'toy' (codex-toys 1.0)" in said.out
    strict = workplace.codex(
        "run", "toy.yaml", "--set", "loggers.0.fail=true", "--set", "loggers.0.on_error=fail"
    )
    assert strict.code == 7
    assert "failed in codex_metrics: RuntimeError: the tracker is down" in strict.err


def test_a_preflight_problem_leaves_no_folder(workplace: Workplace) -> None:
    """What a plugin finds wrong beforehand is shown with its place, and nothing is made."""
    said = workplace.codex("run", "toy.yaml", "--set", "dataset.copies=101")
    assert said.code == 2
    assert "toy.yaml:2:1: $.dataset: too many copies" in said.err
    assert not (workplace.folder / "runs").exists()


def test_adapters_of_the_manifest_wrap_the_model(workplace: Workplace) -> None:
    """An adapter works with any model plugin."""
    said = workplace.codex("run", "toy.yaml", "--set", "adapters=[{type: sharpen, factor: 3}, sharpen]")
    assert said.code == 0, said.err


def test_generate_continues_a_prompt_from_arguments_or_standard_input(workplace: Workplace) -> None:
    """Text to standard output, or an object with --json."""
    workplace.codex("run", "toy.yaml", "--set", "trainer.max_steps=200", "--set", "trainer.lr=20")
    said = workplace.codex("generate", "toy", "--prompt", "def f", "--max-new-tokens", "12")
    assert said.code == 0, said.err
    assert re.fullmatch(r"def f.{12}\n", said.out, re.DOTALL)
    piped = workplace.codex(
        "generate", "toy", "--prompt", "-", "--max-new-tokens", "12", "--json", stdin="def f"
    )
    assert json.loads(piped.out)["prompt"] + json.loads(piped.out)["text"] + "\n" == said.out
    empty = workplace.codex("generate", "toy", "--prompt", "-")
    assert (empty.code, "standard input has no prompt" in empty.err) == (2, True)


def test_runs_are_listed_and_shown(workplace: Workplace) -> None:
    """A table for people, an object with schema_version for programs."""
    assert "no runs below runs" in workplace.codex("runs", "list").err
    workplace.codex("run", "toy.yaml")
    (row,) = json.loads(workplace.codex("runs", "list", "--json").out)["runs"]
    assert (row["name"], row["status"], row["steps"]) == ("toy", "completed", 6)
    assert row["run_id"] in workplace.codex("runs", "list").out
    shown = workplace.codex("runs", "show", "toy").out
    assert "codex-toys 1.0" in shown
    assert "perplexity" in shown
    assert json.loads(workplace.codex("runs", "show", row["run_id"], "--json").out)["schema_version"] == 1


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("run.json", "", "run.json cannot be read"),
        ("run.json", '{"schema": 99}', "was written by a newer codex"),
        ("metrics.ndjson", "nonsense\n", "metrics.ndjson:1: not a JSON record"),
        ("metrics.ndjson", '{"step": 1, "spl\n{"step": 2}\n', "metrics.ndjson:1: not a JSON record"),
        ("metrics.ndjson", '{"step": 1, "tokens": 2}\n', "has no 'split'"),
        ("outcome.json", '{"status": "completed"}', "has no 'reason'"),
        ("outcome.json", "[]", "outcome.json cannot be read"),
    ],
)
def test_a_damaged_run_is_listed_as_such_and_hides_no_other(
    workplace: Workplace, name: str, text: str, reason: str
) -> None:
    """One line with the status `damaged`, its reason once on standard error, and exit code 0."""
    good, bad = (runfolder.create(workplace.folder / "runs", name, workplace.folder) for name in "ab")
    (bad.path / name).write_text(text)
    said = workplace.codex("runs", "list", "--json")
    assert said.code == 0, said.err
    rows = {row["run_id"]: row for row in json.loads(said.out)["runs"]}
    assert {run_id: row["status"] for run_id, row in rows.items()} == {
        good.run_id: "interrupted",
        bad.run_id: "damaged",
    }
    assert reason in rows[bad.run_id]["reason"]
    assert said.err.count(reason) == 1
    assert said.err.startswith("warning: ")
    table = workplace.codex("runs", "list")
    assert (table.code, "damaged" in table.out) == (0, True)
    assert workplace.codex("runs", "show", good.run_id).code == 0
    shown = workplace.codex("runs", "show", str(bad.path))
    assert (shown.code, reason in shown.err) == (2, True)


def test_the_manifest_that_was_read_is_the_one_that_is_recorded(workplace: Workplace) -> None:
    """A manifest that can be read only once, from a pipe, is in the run folder whole."""
    text = (workplace.folder / "toy.yaml").read_bytes()
    done = subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} -m codex_kernel run <(cat toy.yaml)"],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert only_run(workplace).manifest.read_bytes() == text


def test_file_names_that_are_not_utf8_are_recorded_as_they_are(workplace: Workplace) -> None:
    """A manifest, an override file and a run folder may be called anything that the file system takes."""
    names = [os.fsdecode(name) for name in (b"t\xff.yaml", b"o\xff.yaml", b"r\xff")]
    workplace.write(names[0], (workplace.folder / "toy.yaml").read_text())
    workplace.write(names[1], "seed: 3\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "codex_kernel",
            "run",
            names[0],
            "--override-file",
            names[1],
            "--run-dir",
            names[2],
        ],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"codex runs show r\xff\n" in done.stdout
    folder = workplace.folder / names[2]
    command = json.loads((folder / "environment.json").read_text())["command"]
    assert [word for word in command if "\udcff" in word] == names
    assert json.loads((folder / "outcome.json").read_text())["status"] == "completed"


def test_a_prompt_that_is_not_utf8_is_refused(workplace: Workplace) -> None:
    """From standard input and as an argument."""
    assert workplace.codex("run", "toy.yaml").code == 0
    for prompt in ("-", os.fsdecode(b"def \xff")):
        done = subprocess.run(
            [sys.executable, "-m", "codex_kernel", "generate", "toy", "--prompt", prompt],
            cwd=workplace.folder,
            env=workplace.environment(),
            input=b"def \xff",
            capture_output=True,
            check=False,
        )
        assert (done.returncode, b"the prompt is not UTF-8" in done.stderr) == (2, True), done.stderr


def test_plan_counts_and_times_without_leaving_a_run(workplace: Workplace) -> None:
    """Parameters, memory, steps, data and time; nothing but the cache is written."""
    said = workplace.codex("plan", "toy.yaml")
    assert said.code == 0, said.err
    assert "66,049 (66,049 trainable)" in said.out
    assert "about 2 s (0.250 s a step" in said.out
    assert "47 documents, 1,402 tokens in 44 blocks" in said.out
    assert "not measured" in workplace.codex("plan", "toy.yaml", "--no-measure").out
    estimate = json.loads(workplace.codex("plan", "toy.yaml", "--json").out)
    assert estimate["estimate"]["seconds"] == 1.5
    assert {path.name for path in workplace.folder.iterdir()} == {"site", "toy.yaml", "cache"}


def test_validate_says_ok_or_all_that_is_wrong(workplace: Workplace) -> None:
    """Every fault with its place; as JSON for editors."""
    assert "toy.yaml: ok, 8 plugins" in workplace.codex("validate", "toy.yaml").out
    said = workplace.codex(
        "validate", "toy.yaml", "--set", "trainer.lr=-1", "--set", "loggers=[tyo]", "--json"
    )
    assert said.code == 2
    problems = json.loads(said.out)["problems"]
    assert [problem["path"] for problem in problems] == ["$.trainer.lr", "$.loggers[0]"]
    assert problems[1]["hint"] == "did you mean 'toy'?"
    assert "error: 2 problems found, nothing was run" in said.err


def test_schema_describes_every_installed_plugin(workplace: Workplace) -> None:
    """The composed JSON Schema accepts the manifest and refuses a wrong one."""
    import jsonschema
    import yaml

    schema = json.loads(workplace.codex("schema").out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    manifest = yaml.safe_load((workplace.folder / "toy.yaml").read_text())
    jsonschema.validate(manifest, schema, cls=jsonschema.Draft202012Validator)
    manifest["trainer"]["max_stepz"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema, cls=jsonschema.Draft202012Validator)
    assert workplace.codex("schema", "--output", "s.json").code == 0
    assert json.loads((workplace.folder / "s.json").read_text()) == schema


def test_the_schema_beside_the_examples_is_that_of_the_first_party_plugins() -> None:
    """An editor that opens an example finds the schema that its first line names; `codex schema` wrote it."""
    written = Path(__file__).parents[1] / "examples" / "codex.schema.json"
    made = subprocess.run(
        [sys.executable, "-m", "codex_kernel", "schema"], capture_output=True, text=True, check=True
    )
    assert json.loads(written.read_text()) == json.loads(made.stdout), (
        "codex schema --output examples/codex.schema.json"
    )


def test_init_writes_a_manifest_that_is_valid_and_never_overwrites(workplace: Workplace) -> None:
    """The starter manifest passes validate; a file that is there is kept."""
    assert workplace.codex("init").code == 0
    assert workplace.codex("validate", "manifest.yaml").code == 0
    workplace.write("manifest.yaml", "mine")
    said = workplace.codex("init")
    assert (said.code, "manifest.yaml exists" in said.err) == (2, True)
    assert (workplace.folder / "manifest.yaml").read_text() == "mine"
    assert workplace.codex("init", "--force").code == 0
    assert (workplace.folder / "manifest.yaml").read_text() != "mine"


def test_plugins_are_listed_for_people_and_programs(workplace: Workplace) -> None:
    """Kind, name, distribution, version, summary and status of everything installed."""
    table = workplace.codex("plugins", "list").out
    assert re.search(r"trainer +toy +codex-toys 1\.0 +ok +Gradient descent on the bigram table\.", table)
    listing = json.loads(workplace.codex("plugins", "list", "--json", "--kind", "trainer").out)
    assert listing["schema_version"] == 1
    toy = next(row for row in listing["plugins"] if row["name"] == "toy")
    assert set(toy) == {"kind", "name", "distribution", "version", "summary", "status", "target"}
    assert workplace.codex("plugins", "list", "--kind", "nonsense").code == 2


@pytest.mark.parametrize(
    "command", [(), ("plugins",), ("runs",), *((name,) for part in SECTIONS.values() for name in part)]
)
def test_every_help_page_is_shown(workplace: Workplace, command: tuple[str, ...]) -> None:
    """--help of each command exits 0 and starts with its usage."""
    said = workplace.codex(*command, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: codex{''.join(' ' + word for word in command)}")


def test_the_table_of_commands_has_the_commands(workplace: Workplace) -> None:
    """Each name in the help can be imported, and every command has a help text."""
    import click

    context = click.Context(codex)
    for name in codex.list_commands(context):
        command = codex.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rnu",), "No such command 'rnu'"),
        (("run",), "Missing argument 'MANIFEST'"),
        (("run", "toy.yaml", "--sett", "a=1"), "No such option"),
        (("generate", "toy"), "Missing option '--prompt'"),
        (("resume", ""), "no run is named"),
        (("resume", "nothing"), "no run 'nothing'"),
        (("runs", "show", "site"), "no run 'site'"),
        (("run", "toy.yaml", "--run-dir", "site"), "is not empty and holds no run"),
    ],
)
def test_wrong_usage_exits_2_with_one_error(
    workplace: Workplace, arguments: tuple[str, ...], message: str
) -> None:
    """Bad arguments are refused before anything is made."""
    said = workplace.codex(*arguments)
    assert said.code == 2
    assert message in said.err
    assert len(said.err.splitlines()) <= 6


def test_the_version_is_the_same_by_all_ways(workplace: Workplace) -> None:
    """`codex`, `codex-kernel` and `python -m codex_kernel` are one command."""
    assert workplace.codex("--version").out == f"codex {__version__}\n"
    for script in ("codex", "codex-kernel"):
        done = subprocess.run(
            [Path(sys.executable).parent / script, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"codex {__version__}\n"


def test_what_the_flags_of_a_line_set_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls `main` in a process of its own finds the variables and the path as they were."""
    monkeypatch.delenv("CODEX_PLUGINS", raising=False)
    monkeypatch.setenv("CODEX_PLUGIN_PATH", str(tmp_path))
    before, path = dict(os.environ), list(sys.path)
    for arguments in (["plugins", "list"], ["runs", "show", "none"], ["nonsense"]):
        main(["--no-plugins", "--plugin-path", str(tmp_path.parent), *arguments])
        assert (dict(os.environ), sys.path) == (before, path)


# ── standard output ───────────────────────────────────────────────────────────────────────────────────────────────


def with_output(
    workplace: Workplace, sink: str, *arguments: str, unbuffered: bool = False
) -> tuple[int, str]:
    """Run `codex` with a file as standard output; return its exit code and what it said on standard error."""
    with Path(sink).open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "codex_kernel", *arguments],
            cwd=workplace.folder,
            env={**workplace.environment(), "PYTHONUNBUFFERED": "1" if unbuffered else ""},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=120,
        )
    return done.returncode, done.stderr


FULL = "error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "plugins list",
        "plugins list --json",
        "plugins show console --json",
        "plugins tree",
        "plugins search console",
        "plugins check bytes",
        "schema",  # more than a buffer holds
        "runs list --json",
        "init full.yaml",
    ],
)
def test_a_full_disk_below_standard_output_is_told_in_a_line(workplace: Workplace, line: str) -> None:
    """Exit code 6, and no traceback, neither from codex nor from Python at its end."""
    code, said = with_output(workplace, "/dev/full", *line.split())
    assert (code, said) == (6, FULL)


@pytest.mark.parametrize(
    "text", ["print('hello')", "print('hello' * 10_000)", "import click; click.echo('hello')"]
)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_what_a_plugins_command_prints_on_a_full_disk_is_told_as_codex_does(
    workplace: Workplace, text: str, *, unbuffered: bool
) -> None:
    """Also where it is written only when the command is over; the plugin is not blamed for it."""
    module = f"import click\n@click.command('say')\ndef say():\n    {text}\n"
    install(
        workplace.site,
        "codex-say",
        {"codex.commands": {"say": "codex_say:say"}},
        modules={"codex_say": module},
    )
    assert with_output(workplace, "/dev/full", "say", unbuffered=unbuffered) == (6, FULL)


def test_another_file_on_a_full_disk_is_not_taken_for_standard_output(workplace: Workplace) -> None:
    """A plugin's command that cannot write its own file is what failed."""
    module = "import click\n@click.command('say')\ndef say():\n    open('/dev/full', 'w', 1).write('x\\n')\n"
    install(
        workplace.site,
        "codex-say",
        {"codex.commands": {"say": "codex_say:say"}},
        modules={"codex_say": module},
    )
    said = workplace.codex("say")
    assert (said.code, "standard output" in said.err) == (7, False)
    assert "command 'say' (codex-say 1.0) failed: OSError" in said.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "text", ["print('hello')", "import os; os.close(1)", "import sys; sys.stdout.close()"]
)
def test_a_reader_that_is_gone_or_an_output_that_is_closed_leaves_no_traceback(
    workplace: Workplace, text: str, unbuffered: str
) -> None:
    """There is nobody to be told, and no message of Python at its end."""
    module = f"import click\n@click.command('say')\ndef say():\n    {text}\n"
    install(
        workplace.site,
        "codex-say",
        {"codex.commands": {"say": "codex_say:say"}},
        modules={"codex_say": module},
    )
    with Workplace(workplace.folder, {"PYTHONUNBUFFERED": unbuffered}).start("say") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) in {0, 1}
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_standard_output_is_as_it_was_when_a_command_is_over(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls the command line in a process of its own has its stream back, and what was printed in order."""
    stream = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as Python opens it
    monkeypatch.setattr(sys, "stdout", stream)
    stream.write("before\n")
    assert main(["--version"]) == 0
    assert sys.stdout is stream
    print("after", flush=True)
    assert capfd.readouterr().out == f"before\ncodex {__version__}\nafter\n"
