"""The version of the hooks: who is let in, and that what was written for the first one still runs."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_kernel.api import CURRENT_SINCE, OLDEST_API, PLUGIN_API, judge_api
from codex_kernel.catalog import GROUPS, Catalog
from codex_kernel.errors import PluginError
from codex_kernel.hookspecs import SPECS
from tests.command import Said, Workplace, toy_workplace
from tests.toys import TOY_MANIFEST, install

FIRST = Path(__file__).parent / "first"
FIRST_MANIFEST = """\
name: first
dataset: {type: first}
tokenizer: first
data: {seq_len: 32, validation_fraction: 0.2}
model: first
adapters: [first]
trainer: {type: first, max_steps: 6}
checkpointer: {type: first, every_steps: 2}
loggers: [first]
evaluate: {metrics: [first]}
"""
FIRST_HOOKS = {
    "codex_preflight": "base cache",
    "codex_dataset": "run",
    "codex_tokenizer": "run corpus saved",
    "codex_model": "run tokenizer materialize",
    "codex_checkpointer": "run folder read_only",
    "codex_trainer": "run parts",
    "codex_generate": "run model tokenizer state request",
    "codex_metric": "evaluation",
    "codex_run_started": "run settings",
    "codex_activity": "run name done total unit",
    "codex_metrics": "run step metrics split progress",
    "codex_collect_metrics": "run step",
    "codex_event": "run name fields",
    "codex_checkpoint_saved": "run checkpoint",
    "codex_run_finished": "run outcome",
}
"""The hooks of API 1.0 and their arguments."""

APIS = st.tuples(st.integers(0, 5), st.integers(0, 9))


# ── judging ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(APIS, APIS, APIS, APIS)
def test_a_newer_wish_is_never_met_and_an_older_one_never_judged_better(wanted, newest, oldest, since):
    """Outside of what is carried is incompatible; within, only what is older than `current_since` is told so."""
    said = judge_api(wanted, newest=newest, oldest=oldest, current_since=since)
    assert (said == "incompatible") == (wanted > newest or wanted < oldest)
    assert (said == "older") == (oldest <= wanted <= newest and wanted < since)


def test_the_constants_are_in_order():
    """What is current is carried, and this kernel has it; the next version of either number is not there yet."""
    assert OLDEST_API <= CURRENT_SINCE <= PLUGIN_API
    assert judge_api(PLUGIN_API) == "ok"
    assert (
        judge_api((PLUGIN_API[0], PLUGIN_API[1] + 1)) == judge_api((PLUGIN_API[0] + 1, 0)) == "incompatible"
    )
    assert judge_api((OLDEST_API[0] - 1, 99)) == "incompatible"


def made_for(site: Path, api: str, *, requires: str = "codex-kernel") -> None:
    """Put a logger into `site` whose static manifest says this API."""
    plugins = {"codex.loggers": {"mine": "codex_mine:Mine"}}
    source = (
        "from attrs import frozen\nfrom codex_kernel import hookimpl\n\n\n@frozen\nclass Mine:\n"
        "    @hookimpl\n    def codex_metrics(self, step): pass\n"
    )
    metadata = install(site, "codex-mine", plugins, modules={"codex_mine": source}, requires=requires)
    text = f'{{"schema_version": 1, "distribution": "codex-mine", "plugin_api": {api}, "plugins": []}}'
    (site / "codex-plugin.json").write_text(text)
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    with (metadata / "RECORD").open("a") as record:
        record.write(f"codex-plugin.json,sha256={digest},{len(text)}\n")


@pytest.mark.parametrize(
    ("api", "requires", "status", "reason"),
    [
        ("[1, 0]", "codex-kernel", "ok", ""),
        ("[1,1]", "codex-kernel", "ok", ""),
        ("[1, 99]", "codex-kernel", "incompatible", "made for plugin API 1.99, this kernel has 1.0 to 1."),
        ("[2, 0]", "codex-kernel<0.2", "incompatible", "made for plugin API 2.0, this kernel has 1.0 to 1."),
        ("[0, 9]", "codex-kernel", "incompatible", "made for plugin API 0.9, this kernel has 1.0 to 1."),
        ("[1, 1]", "codex-kernel>=9", "incompatible", "needs codex-kernel>=9, this is 0.1"),
        ('"damaged"', "codex-kernel", "ok", ""),
    ],
)
def test_the_api_of_the_static_manifest_is_judged_before_import(tmp_path, api, requires, status, reason):
    """It is read from the file that the distribution's record names; without a readable one Requires-Dist decides."""
    made_for(tmp_path, api, requires=requires)
    catalog = Catalog.scan([str(tmp_path)])
    (entry,) = catalog.entries
    assert entry.status == status
    assert entry.reason.startswith(reason)
    if status == "incompatible":
        with pytest.raises(PluginError) as error:
            catalog.find("logger", "mine")
        assert str(error.value).startswith(f"logger 'mine' (codex-mine 1.0): {reason}")
        assert error.value.remedy == "pip install --upgrade codex-mine codex-kernel"


LATER_KERNEL = "import codex_kernel.api as api\napi.PLUGIN_API = (1, 7)\napi.CURRENT_SINCE = (1, 3)\n"
"""What a later kernel has: additions, and something that is on its way out."""


def test_a_plugin_for_an_older_api_works_with_one_warning_and_an_event(tmp_path):
    """The command says it once on standard error, and the run's events hold it."""
    workplace = toy_workplace(tmp_path)
    made_for(workplace.site, "[1, 2]")
    (workplace.site / "sitecustomize.py").write_text(LATER_KERNEL)
    workplace.write("m.yaml", TOY_MANIFEST.replace("loggers: [toy]", "loggers: [toy, mine]"))
    said = workplace.codex("run", "m.yaml", "--run-dir", "run")
    assert said.code == 0, said.err
    told = [line for line in said.err.splitlines() if "codex-mine" in line]
    made = "codex-mine 1.0 is made for plugin API 1.2, which a later kernel drops; this one has 1.7"
    assert told == [f"warning: {made}; ask its authors"]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.ndjson").read_text().splitlines()]
    (event,) = [event for event in events if event["event"] == "plugin_api_older"]
    assert event["plugin"] == "logger 'mine' (codex-mine 1.0)"


TOLD = (
    "warning: codex-mine 1.0 is made for plugin API 1.2, which a later kernel drops; this one has 1.7; "
    "ask its authors"
)


def older(workplace: Workplace, entry_points: str, source: str) -> None:
    """Put plugins for an older API into the workplace, and a later kernel."""
    made_for(workplace.site, "[1, 2]")
    (metadata,) = workplace.site.glob("codex_mine-*.dist-info")
    (metadata / "entry_points.txt").write_text(entry_points)
    (workplace.site / "codex_mine.py").write_text(source)
    (workplace.site / "sitecustomize.py").write_text(LATER_KERNEL)


def test_every_command_that_uses_an_older_plugin_says_so(tmp_path):
    """Also those that open a tokenizer or the checkpoints of a run by their plugin alone."""
    workplace = toy_workplace(tmp_path)
    older(
        workplace,
        "[codex.tokenizers]\nmine = codex_mine:Mine\n\n[codex.checkpointers]\nolder = codex_mine:Kept\n",
        "from codex_kernel.builtin.bytes_tokenizer import BytesTokenizer as Mine\n"
        "from codex_toys import ToyCheckpointer as Kept\n",
    )
    workplace.write("m.yaml", TOY_MANIFEST.replace("checkpointer: {type: toy", "checkpointer: {type: older"))
    workplace.write("ids.txt", "65 66")
    for words in (
        "run m.yaml --run-dir run",
        "validate m.yaml",
        "plan m.yaml",
        "data build m.yaml",
        "checkpoints list run",
        "checkpoints show run",
        "checkpoints verify run",
        "checkpoints prune run",
        "checkpoints export run --to out",
        "generate run --prompt a --max-new-tokens 1",
        "verify-resume m.yaml",
        "resume run --set trainer.max_steps=8 --allow-change trainer.max_steps",
        "tokenizer encode mine m.yaml",
        "tokenizer decode mine ids.txt",
        "tokenizer fingerprint mine",
        "tokenizer compare mine bytes ids.txt",
    ):
        said = workplace.codex(*words.split())
        assert [line for line in said.err.splitlines() if "made for" in line] == [TOLD], (words, said)


def test_an_older_tokenizer_that_is_trained_is_told_by_each_command_that_opens_it(tmp_path):
    """Where it is trained, where it is opened from its folder, and where a run's own is."""
    workplace = toy_workplace(tmp_path)
    source = "from codex_hf.bpe import HFBPETokenizer as Mine\n"
    older(workplace, "[codex.tokenizers]\nmine = codex_mine:Mine\n", source)
    workplace.write(
        "m.yaml", TOY_MANIFEST.replace("tokenizer: bytes", "tokenizer: {type: mine, vocab_size: 270}")
    )
    workplace.write("text.txt", "some text")
    for words in (
        "tokenizer train m.yaml --output trained",
        "tokenizer encode trained text.txt",
        "tokenizer stats m.yaml",
        "run m.yaml --run-dir run",
        "tokenizer fingerprint run",
    ):
        said = workplace.codex(*words.split())
        assert said.code == 0, (words, said.err)
        assert [line for line in said.err.splitlines() if "made for" in line] == [TOLD], (words, said)


def test_an_older_plugin_whose_name_another_claims_is_told_when_it_is_picked(tmp_path):
    """And in the run's events; its full name does not make it newer."""
    workplace = toy_workplace(tmp_path)
    older(
        workplace,
        "[codex.loggers]\nmine = codex_mine:Mine\n\n[codex.commands]\nmine = codex_mine:command\n",
        "import click\nfrom codex_kernel.builtin.jsonl_logger import JsonlLogger as Mine\n"
        "@click.command()\ndef command(): click.echo('called')\n",
    )
    both = {"codex.loggers": {"mine": "codex_rival:Mine"}, "codex.commands": {"mine": "codex_rival:Mine"}}
    install(workplace.site, "codex-rival", both, modules={"codex_rival": ""})
    workplace.write("m.yaml", TOY_MANIFEST.replace("loggers: [toy]", "loggers: [codex-mine/mine]"))
    said = workplace.codex("run", "m.yaml", "--run-dir", "run")
    assert said.code == 0, said.err
    assert [line for line in said.err.splitlines() if "made for" in line] == [TOLD]
    events = (tmp_path / "run" / "events.ndjson").read_text().splitlines()
    assert [json.loads(line)["event"] for line in events].count("plugin_api_older") == 1
    assert workplace.codex("codex-mine/mine") == Said(0, "called\n", f"{TOLD}\n")


def test_an_older_plugin_is_told_when_its_rival_is_left_out(tmp_path):
    """What is allowed decides who claims a name, and not for which API it was made."""
    workplace = toy_workplace(tmp_path)
    source = "from codex_kernel.builtin.jsonl_logger import JsonlLogger as Mine\n"
    older(workplace, "[codex.loggers]\nmine = codex_mine:Mine\n", source)
    rival = {"codex.loggers": {"mine": "codex_rival:Mine"}}
    install(workplace.site, "codex-rival", rival, modules={"codex_rival": ""})
    allowed = "plugins: {allow: [codex-mine, codex-toys]}\n"
    workplace.write("m.yaml", allowed + TOY_MANIFEST.replace("loggers: [toy]", "loggers: [mine]"))
    said = workplace.codex("validate", "m.yaml")
    assert said.code == 0, said.err
    assert [line for line in said.err.splitlines() if "made for" in line] == [TOLD]


# ── the first API ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_plugins_of_the_first_api_are_as_they_were():
    """They stand for the plugins of others, so the file is the one that its record has the hash of."""
    for line in (FIRST / "codex_first_api-1.0.dist-info" / "RECORD").read_text().splitlines():
        path, digest, _ = line.split(",")
        if digest:
            found = hashlib.sha256((FIRST / path).read_bytes()).digest()
            assert digest == f"sha256={base64.urlsafe_b64encode(found).rstrip(b'=').decode()}", path


def test_there_is_one_of_every_kind_that_the_first_api_had():
    """Cleaners and commands came later."""
    entries = Catalog.scan([str(FIRST)]).entries
    assert {entry.kind for entry in entries} == set(GROUPS) - {"cleaner", "command"}
    assert {entry.status for entry in entries} == {"ok"}


def test_hooks_and_arguments_of_the_first_api_are_all_there():
    """A hook may gain arguments, it never loses one: pluggy passes each by its name."""
    import inspect

    now = {
        name: set(inspect.signature(function).parameters)
        for specs in SPECS
        for name, function in vars(specs).items()
        if name.startswith("codex_")
    }
    for hook, arguments in FIRST_HOOKS.items():
        assert set(arguments.split()) <= now[hook], hook


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Return a workplace with the plugins of the first API and a run of them that was resumed."""
    workplace = Workplace(tmp_path_factory.mktemp("first"))
    shutil.copytree(FIRST, workplace.site)
    workplace.write("first.yaml", FIRST_MANIFEST)
    return workplace


def test_plugins_of_the_first_api_run_resume_and_generate(first):
    """A whole run by them alone: trained, evaluated, observed, resumed for more steps, and continued as text."""
    said = first.codex("run", "first.yaml", "--run-dir", "run", "--set", "trainer.max_steps=4")
    assert said.code == 0, said.err
    assert "warning" not in said.err
    more = ["--set", "trainer.max_steps=6", "--allow-change", "trainer.max_steps"]
    said = first.codex("resume", "run", *more)
    assert said.code == 0, said.err
    run = first.folder / "run"
    outcome = json.loads((run / "outcome.json").read_text())
    assert (outcome["status"], outcome["steps"]) == ("completed", 6)
    assert outcome["metrics"]["validation/nats_per_byte"] > 0
    assert max(path.name for path in (run / "checkpoints").glob("step-*")) == "step-00000006"
    said = first.codex("generate", "run", "--prompt", "def ", "--max-new-tokens", "3")
    assert said.code == 0, said.err
    told = (run / "told.txt").read_text().splitlines()
    for line in (
        "started lr=5.0", "train 6 of 6: ['loss']", "system 6 of 6: ['first_temperature']", "saved 6",
        "event run_resumed", "finished completed",
    ):  # fmt: skip
        assert line in told, told


def test_plugins_of_the_first_api_are_validated_and_planned(first):
    """The commands that only look take them too."""
    assert first.codex("validate", "first.yaml").code == 0
    said = first.codex("plan", "first.yaml")
    assert said.code == 0, said.err
