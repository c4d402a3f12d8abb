import json
import os

import pytest

from codex_kernel.catalog import Catalog
from codex_kernel.cli.manifests import make_plan
from codex_kernel.data.options import DataOptions, FillInTheMiddle
from codex_kernel.loading import load
from codex_kernel.option_types import options_of
from codex_kernel.prepared import built
from codex_kernel.testing import RecordingReporter
from codex_kernel.tokenizers import Place

FIM_TOKENS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|p|>", "<|s|>", "<|m|>"]
MANIFEST = {
    "name": "keys",
    "seed": 1,
    "dataset": {"type": "jsonl", "paths": ["data.jsonl"]},
    "cleaners": [{"type": "near-duplicates"}],
    "tokenizer": {"type": "hf-bpe", "vocab_size": 280, "special_tokens": FIM_TOKENS},
    "data": {"seq_len": 32, "validation_fraction": 0.3, "fim": {}},
    "model": {"type": "hf-causal-lm", "config": {"model_type": "llama"}},
    "trainer": {"type": "torch", "max_steps": 1},
}
OF_DATA = {
    "seq_len": "16",
    "validation_fraction": "0.5",
    "duplicates": "keep",
    "loss_on": "all",
    "on_no_target": "drop",
    "fim": "null",
    "on_overflow": "truncate_left",
    "packing": "whole",
}
OF_FIM = {
    "rate": "0.4",
    "suffix_first": "0.4",
    "prefix_token": "'<|p|>'",
    "suffix_token": "'<|s|>'",
    "middle_token": "'<|m|>'",
}
OF_TOKENIZER = {
    "vocab_size": "300",
    "min_frequency": "1000",  # another value may lead to the same vocabulary, and then to the same tokens
    "special_tokens": json.dumps([*FIM_TOKENS, "<|more|>"]),
    "eos_token": "'<|end|>'",
    "pad_token": "'<|pad|>'",
    "chat_template": "chat.jinja",
}
OTHERS = [
    "seed=2",
    f'tokenizer={{"type": "bytes", "special_tokens": {json.dumps(FIM_TOKENS)}}}',
    'cleaners.0={"type": "near-duplicates", "threshold": 0.6}',
    "cleaners=[]",
]
CHANGES = [
    *(f"data.{name}={value}" for name, value in OF_DATA.items()),
    *(f"data.fim.{name}={value}" for name, value in OF_FIM.items()),
    *(f"tokenizer.{name}={value}" for name, value in OF_TOKENIZER.items()),
]
WITHOUT_EFFECT = ["data.skip_bad=3", "trainer.max_steps=2", "name=another", "trainer.global_batch_size=8"]
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a manifest, its data, and a cache in which both are built."""
    folder = tmp_path_factory.mktemp("keys")
    write_data(folder / "data.jsonl")
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "keys.yaml").write_text(json.dumps(MANIFEST))
    build(folder)
    return folder


def write_data(path, *, last=""):
    """Write some functions, each in a line of its own."""
    texts = [
        f"def f{n}(x):\n    return {' + '.join('xyz'[: 1 + n % 3])} + {n * n}\n" * (1 + n % 4)
        for n in range(40)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, *filter(None, [last])]))


def build(folder, *sets):
    """Build the data of the manifest; return its key and the events."""
    report = RecordingReporter()
    place = Place(folder, folder / "cache", folder / "runs", report, lambda path: make_plan(path, (), sets))
    with built(place.read_plan(folder / "keys.yaml"), place) as prepared:
        return prepared.data.report["key"], {name for name, _ in report.events}


def test_the_tables_name_every_option():
    """A new option of the data or of the tokenizer has to be put into a table here."""
    tokenizer = load(Catalog.scan().find("tokenizer", "hf-bpe"))
    tables = ((DataOptions, OF_DATA), (FillInTheMiddle, OF_FIM), (tokenizer, OF_TOKENIZER))
    for cls, table in tables:
        assert {option.name for option in options_of(cls)} - {"skip_bad", "path"} == set(table)


@pytest.mark.parametrize("change", [*CHANGES, *OTHERS])
def test_what_decides_the_tokens_changes_the_key(folder, change):
    """Another value of any option of data, tokenizer or cleaning, or another seed, is other data: it is built."""
    kept, _ = build(folder)
    key, events = build(folder, change)
    assert key != kept
    assert "data_built" in events


@pytest.mark.parametrize("change", WITHOUT_EFFECT)
def test_what_does_not_decide_the_tokens_builds_nothing(folder, change):
    """Whatever else a manifest says, its data is found in the cache."""
    kept, _ = build(folder)
    key, events = build(folder, change)
    assert (key, events) == (kept, {"tokenizer_reused", "data_reused"})


def test_a_file_that_was_only_touched_builds_nothing(folder):
    """The content of the files counts, never their times."""
    kept, _ = build(folder)
    os.utime(folder / "data.jsonl", (1, 1))
    key, events = build(folder)
    assert (key, events) == (kept, {"tokenizer_reused", "data_reused"})


def test_a_changed_file_changes_the_key_and_its_return_changes_it_back(folder):
    """A record more is other data; without it the kept one is used again."""
    kept, _ = build(folder)
    write_data(folder / "data.jsonl", last="def more():\n    return 0\n")
    key, events = build(folder)
    assert key != kept
    assert {"corpus_built", "data_built"} <= events
    write_data(folder / "data.jsonl")
    assert build(folder) == (kept, {"tokenizer_reused", "data_reused"})


@pytest.mark.parametrize("name", [entry.name for entry in Catalog.scan().entries if entry.kind == "cleaner"])
def test_each_cleaning_step_changes_the_key(folder, name):
    """A step more, and its place among the others, decides the corpus."""
    (folder / "evaluation.txt").write_text("something that is in no document of these\n" * 3)
    options = {"decontaminate": {"files": ["evaluation.txt"]}}.get(name, {})
    step, other = (
        json.dumps({"type": name, **options}),
        json.dumps({"type": "near-duplicates", "threshold": 0.61}),
    )
    orders = (f"[{step}]", f"[{step}, {other}]", f"[{other}, {step}]")
    keys = {build(folder)[0], *(build(folder, f"cleaners={order}")[0] for order in orders)}
    assert len(keys) == len(orders) + (name != "near-duplicates")
