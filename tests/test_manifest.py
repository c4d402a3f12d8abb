"""A manifest names plugins, and all that is wrong with it is told at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import VALUES, tree

from codex_kernel.data.options import DataOptions
from codex_kernel.errors import ManifestError
from codex_kernel.interfaces import EvaluateOptions
from codex_kernel.manifest import RUN_NAME, as_mapping, load, parse
from codex_kernel.yaml_reader import plain, read
from codex_kernel.yaml_writer import write

SHORTEST = """\
name: demo
dataset: text-files
tokenizer: bytes
model: toy
trainer: torch
"""
WHOLE = """\
name: demo-2.1_x
seed: 42
dataset: {type: text-files, paths: [a, b]}
tokenizer: bytes
model: {type: codex-hf/hf-causal-lm, hidden: 8}
adapters:
- {type: lora, r: 8}
- quantize
trainer: {type: torch, lr: 1e-3, steps: 3}
data: {seq_len: 64}
checkpointer: {type: safetensors, every: 5}
loggers:
- console
- {type: csv, on_error: fail, every: 2}
evaluate: {every_steps: 10, max_blocks: null, metrics: [perplexity]}
"""


def parsed(text: str):
    """Return the manifest of a text, and the lines of what is wrong with it."""
    problems = []
    manifest = parse(read(text.encode(), "run.yaml"), problems)
    return manifest, [str(problem) for problem in problems]


def faults(text: str) -> list[str]:
    """Return the lines that a user sees of these lines after the shortest manifest."""
    return [line.removeprefix("run.yaml:") for line in parsed(SHORTEST + text)[1]]


def test_a_whole_manifest_is_read():
    """Each section has its plugin's name and options; the kernel's own keys are typed."""
    manifest, problems = parsed(WHOLE)
    assert problems == []
    assert (manifest.name, manifest.seed) == ("demo-2.1_x", 42)
    assert [(s.kind, s.full_type, plain(s.options), s.path) for s in manifest.sections()] == [
        ("dataset", "text-files", {"paths": ["a", "b"]}, "$.dataset"),
        ("tokenizer", "bytes", {}, "$.tokenizer"),
        ("model", "codex-hf/hf-causal-lm", {"hidden": 8}, "$.model"),
        ("adapter", "lora", {"r": 8}, "$.adapters[0]"),
        ("adapter", "quantize", {}, "$.adapters[1]"),
        ("checkpointer", "safetensors", {"every": 5}, "$.checkpointer"),
        ("trainer", "torch", {"lr": 0.001, "steps": 3}, "$.trainer"),
        ("metric", "perplexity", {}, "$.evaluate.metrics[0]"),
        ("logger", "console", {}, "$.loggers[0]"),
        ("logger", "csv", {"every": 2}, "$.loggers[1]"),
    ]
    assert (manifest.model.distribution, manifest.model.type) == ("codex-hf", "hf-causal-lm")
    assert [logger.on_error for logger in manifest.loggers] == ["detach", "fail"]
    assert manifest.data == DataOptions(seq_len=64)
    assert manifest.evaluate.options == EvaluateOptions(every_steps=10, max_blocks=None)
    assert manifest.trainer.where == "run.yaml:9:1"


def test_the_shortest_manifest_has_defaults_for_the_rest():
    """Four plugins and a name are enough."""
    manifest, problems = parsed(SHORTEST)
    assert problems == []
    assert (manifest.seed, manifest.adapters, manifest.data) == (17, (), DataOptions())
    assert [s.full_type for s in (manifest.checkpointer, *manifest.loggers, *manifest.evaluate.metrics)] == [
        "safetensors",
        "console",
        "perplexity",
        "bits-per-byte",
    ]
    assert [s.path for s in manifest.evaluate.metrics] == ["$.evaluate.metrics[0]", "$.evaluate.metrics[1]"]


def test_empty_lists_are_no_defaults():
    """`loggers: []` asks for none."""
    manifest, problems = parsed(SHORTEST + "loggers: []\nevaluate: {metrics: []}\n")
    assert (problems, manifest.loggers, manifest.evaluate.metrics) == ([], (), ())


def test_missing_sections_are_named_and_the_others_still_read():
    """The options of the sections that are there can still be checked."""
    manifest, problems = parsed("trainer: torch\n")
    about_name = "expected a string (Name of the run: its folder is runs/<name>/<run id>.)"
    about_plugin = "expected a plugin's name, or a mapping with its type and options"
    hint = "(codex plugins list shows what is installed)"
    assert problems == [
        f"run.yaml:1:1: $.name: missing required option 'name': {about_name}",
        *[
            f"run.yaml:1:1: $.{kind}: missing section {kind!r}: {about_plugin} {hint}"
            for kind in ("dataset", "tokenizer", "model")
        ],
    ]
    assert (manifest.name, manifest.dataset, manifest.trainer.type) == (None, None, "torch")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("tokeniser: x\n", ["6:1: $.tokeniser: unknown key 'tokeniser' (did you mean 'tokenizer'?)"]),
        ("logger: []\n", ["6:1: $.logger: unknown key 'logger' (did you mean 'loggers'?)"]),
        ("seed: -1\n", ["6:7: $.seed: expected a number >= 0 and <= 9223372036854775807, got -1"]),
        ("seed: '17'\n", ["6:7: $.seed: expected an integer, got '17' (write 17, without quotes)"]),
        (f"seed: {2**63}\n", [f"6:7: $.seed: expected a number >= 0 and <= {2**63 - 1}, got {2**63}"]),
        (
            "adapters: lora\n",
            ["6:11: $.adapters: expected a list of plugins, got 'lora' (start each plugin with a dash)"],
        ),
        ("loggers:\n", ["6:9: $.loggers: expected a list of plugins, got null (write [] for none)"]),
        (
            "checkpointer: 3\n",
            ["6:15: $.checkpointer: expected a plugin's name, or a mapping with its type and options, got 3"],
        ),
        ("loggers:\n- {every: 3}\n", ["7:3: $.loggers[0].type: missing 'type': expected a plugin's name"]),
        (
            "loggers:\n- {typ: csv}\n",
            ["7:3: $.loggers[0].type: missing 'type': expected a plugin's name (is 'typ' meant to be it?)"],
        ),
        (
            "loggers:\n- {type: csv, on_error: ignore}\n",
            ["7:25: $.loggers[0].on_error: expected one of 'detach', 'fail', got 'ignore'"],
        ),
        (
            "checkpointer: {type: safetensors, on_error: fail}\n",
            [
                "6:35: $.checkpointer.on_error: unknown key 'on_error': only a logger may fail without ending the run"
            ],
        ),
        ("data: {seq_len: 0}\n", ["6:17: $.data.seq_len: expected a number > 0, got 0"]),
        ("data:\n", ["6:6: $.data: expected a mapping, got null"]),
        (
            "evaluate: {every_steps: 2.5, max_blocks: 0, metric: []}\n",
            [
                "6:25: $.evaluate.every_steps: expected an integer or null, got 2.5",
                "6:42: $.evaluate.max_blocks: expected a number >= 1, got 0",
                "6:45: $.evaluate.metric: unknown key 'metric' (did you mean 'metrics'?)",
            ],
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, lines):
    """Unknown keys, wrong types, and sections that name no plugin."""
    assert faults(text) == lines


@pytest.mark.parametrize(
    "written", ["torch.optim:Adam", "my_package.Logger", "./logger.py", "a:b", "mlflow.MLflow"]
)
def test_a_python_path_is_no_plugin(written):
    """A manifest cannot make codex import anything but an installed plugin."""
    (line,) = faults(f"checkpointer: {{type: '{written}'}}\n")
    place, hint = (
        "6:22: $.checkpointer.type",
        "install a distribution that has the plugin, codex plugins list shows its name",
    )
    assert line == f"{place}: expected a plugin's name, never a Python path, got {written!r} ({hint})"


@pytest.mark.parametrize(
    "written", ["''", "a b", "-a", "a/", "/a", "a//b", "a/b/c", "${env:X}", "ü", "{{ x }}", "a/../b"]
)
def test_a_type_must_be_a_plugin_s_name(written):
    """Letters and digits, with the distribution before a slash where it is needed."""
    text = written if written == "''" else f"'{written}'"
    (line,) = faults(f"checkpointer: {text}\n")
    assert line.startswith("6:15: $.checkpointer.type: expected a plugin's name, got ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../x", "1 to 100 letters"),
        ("/etc", "1 to 100 letters"),
        ("~", "expected a string, got null"),
        ("-rf", "1 to 100 letters"),
        ("'a\\b'", "1 to 100 letters"),
        ('"a\\nb"', "1 to 100 letters"),
        ("x" * 101, "1 to 100 letters"),
        ("''", "1 to 100 letters"),
        ("${env:USER}", "nothing is filled in"),
        ("con", "device on Windows"),
        ("NUL.txt", "device on Windows"),
        ("12", "expected a string, got 12 (put it in quotes: '12')"),
    ],
)
def test_a_run_name_must_be_a_good_folder_name(name, message):
    """It becomes a folder on any system, inside of the runs folder."""
    manifest, (problem,) = parsed(SHORTEST.replace("demo", name))
    assert manifest.name is None
    assert "$.name: " in problem
    assert message in problem


@given(st.from_regex(RUN_NAME, fullmatch=True))
def test_any_name_by_the_rule_is_taken(name):
    """But for the few that Windows keeps for devices."""
    manifest, problems = parsed(SHORTEST.replace("demo", f"'{name}'"))
    assert manifest.name == name or "device on Windows" in problems[0]


@given(
    st.dictionaries(
        st.sampled_from(["name", "seed", "model", "loggers", "data", "evaluate", "x"]), VALUES, max_size=5
    )
)
def test_any_mapping_is_a_manifest_or_has_reasons(value):
    """Parsing never fails in another way."""
    problems = []
    manifest = parse(tree(value), problems)
    assert problems  # dataset, tokenizer and trainer are missing at least
    assert manifest.dataset is None


def test_a_manifest_is_loaded_with_its_overrides(tmp_path):
    """File, then override files in order, then --set in order; the last one wins, also where it equals a default."""
    (tmp_path / "run.yaml").write_text(WHOLE, encoding="utf-8")
    (tmp_path / "one.yaml").write_text("seed: 1\ntrainer: {lr: 1}\ndata: {seq_len: 32}\n", encoding="utf-8")
    (tmp_path / "two.yaml").write_text("seed: 2\n", encoding="utf-8")
    manifest = load(
        tmp_path / "run.yaml",
        [tmp_path / "one.yaml", tmp_path / "two.yaml"],
        ["seed=17", "trainer.lr=2", "trainer.lr=3"],
    )
    assert (manifest.seed, manifest.data.seq_len) == (17, 32)
    assert plain(manifest.trainer.options) == {"lr": 3, "steps": 3}


def test_faults_of_file_and_overrides_are_told_at_once(tmp_path):
    """With the places of each, in order."""
    (tmp_path / "run.yaml").write_text(SHORTEST + "data: {seq_len: x}\nseeds: 1\n", encoding="utf-8")
    problems = []
    load(tmp_path / "run.yaml", [], ["trainer.lr=", "loggers.5=x", "seed=x"], problems)
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in problems] == [
        """--set trainer.lr=: the value is missing (write trainer.lr=null for none, trainer.lr="''" for empty text)""",
        "--set loggers.5=x: $.loggers: the manifest has no such list, so it has no item 5 (set the whole list)",
        "--set seed=x: $.seed: expected an integer, got 'x'",
        "run.yaml:6:17: $.data.seq_len: expected an integer, got 'x'",
        "run.yaml:7:1: $.seeds: unknown key 'seeds' (did you mean 'seed'?)",
    ]
    with pytest.raises(ManifestError) as caught:
        load(tmp_path / "run.yaml", [], ["trainer.lr="])
    assert len(caught.value.problems) == 3


def test_files_that_are_no_yaml_are_told_together(tmp_path):
    """Nothing more can be said of a manifest that cannot be read, and nothing is made up."""
    (tmp_path / "run.yaml").write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        load(tmp_path / "run.yaml", [tmp_path / "none.yaml"], ["x"], [])
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems] == [
        "run.yaml:2:1: duplicate key 'a', first at line 1",
        "none.yaml: no such file",
        "--set x: expected key=value (such as --set trainer.lr=3e-4)",
    ]


def test_a_manifest_written_out_is_the_same_manifest():
    """What `as_mapping` gives, written and read again, names the same plugins with the same options."""
    manifest, _ = parsed(WHOLE)
    sections = {s.path: {"type": s.full_type, **plain(s.options)} for s in manifest.sections()}
    sections["$.loggers[1]"]["on_error"] = "fail"
    again, problems = parsed(write(as_mapping(manifest, sections)))
    assert problems == []
    assert as_mapping(again, sections) == as_mapping(manifest, sections)
    assert [(s.path, s.full_type, plain(s.options), s.on_error) for s in again.sections()] == [
        (s.path, s.full_type, plain(s.options), s.on_error) for s in manifest.sections()
    ]


def test_reading_a_manifest_imports_nothing_heavy():
    """Neither numpy nor a plugin nor the catalog is needed to read a manifest."""
    code = (
        "import sys, codex_kernel.manifest, codex_kernel.schema;"
        "print(*{'numpy', 'torch', 'difflib', 'cattrs', 'codex_kernel.catalog', 'pluggy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_options_of_the_default_checkpointer_need_no_type(tmp_path):
    """`--set checkpointer.every_steps=100` works on a manifest that leaves the section out."""
    (tmp_path / "run.yaml").write_text(SHORTEST, encoding="utf-8")
    manifest = load(tmp_path / "run.yaml", [], ["checkpointer.every_steps=100"])
    assert (manifest.checkpointer.type, plain(manifest.checkpointer.options)) == (
        "safetensors",
        {"every_steps": 100},
    )
